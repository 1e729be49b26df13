"""Which bytes are in use: partclone's maps, and what lies around partitions."""

from pathlib import Path

import pytest
from image_builders import MIB, a_tree, make_ext4, partition_file

from imager.disk.partitions import Layout, has_partition_table, read_layout
from imager.disk.used_blocks import find_used_blocks, parse_domain_map
from imager.image.manifest import Extent
from imager.programs import run

MAP = """# Domain logfile created by unset_name v0.3.23
# Source: /dev/loop0
# Offset: 0x00000000
# current_pos  current_status
0x04000000     ?
#      pos        size  status
0x00000000  0x00448400  +
0x00448400  0x003B8000  ?
0x00800400  0x00040800  +
"""


def test_a_map_that_partclone_made_is_read() -> None:
    assert parse_domain_map(MAP) == [
        (0, 0x448400, True),
        (0x448400, 0x3B8000, False),
        (0x800400, 0x40800, True),
    ]


@pytest.mark.parametrize("text", ["", "# only\n0x0 ?\n", "0x0 ?\n0x0 0x10 *\n", "0x0 ?\nnonsense\n"])
def test_what_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_domain_map(text)


def covers(extents: tuple[Extent, ...], offset: int, length: int) -> bool:
    return any(e.offset <= offset and offset + length <= e.offset + e.length for e in extents)


def test_an_ext4_image_without_a_table_keeps_used_blocks_only(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"")
    with disk.open("r+b") as file:
        file.truncate(64 * MIB)
    make_ext4(disk, 0, 64 * MIB, a_tree(tmp_path))
    layout = read_layout(disk, 64 * MIB)
    assert (layout.table, layout.filesystem) == ("none", "ext4")
    used = find_used_blocks(disk, 64 * MIB, 512, layout)
    assert used.raw_parts == {}
    assert covers(used.extents, 0, 4096)
    assert 1 * MIB < sum(e.length for e in used.extents) < 20 * MIB
    assert all(e.offset % 512 == 0 and e.length % 512 == 0 for e in used.extents)


def test_a_disk_without_anything_known_is_kept_whole(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"unknown" * 1000)
    layout = read_layout(disk, 7000)
    assert layout == Layout("none", (), "")
    used = find_used_blocks(disk, 7000, 512, layout)
    assert used.extents == (Extent(0, 7000),) and used.raw_parts == {0: "no known file system"}


def test_an_empty_file_has_no_used_bytes(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"")
    assert find_used_blocks(tmp_path / "disk", 0, 512, read_layout(tmp_path / "disk", 0)).extents == ()


@pytest.mark.root
def test_tables_boot_code_and_unknown_partitions_of_a_gpt_disk_are_kept(tmp_path: Path) -> None:
    script = "label: gpt\nsize=1MiB,type=21686148-6449-6E6F-744E-656564454649\nsize=4MiB,type=S\nsize=40MiB,type=L\n"
    disk = partition_file(tmp_path / "disk", 64 * MIB, script)
    make_ext4(disk, 6 * MIB, 40 * MIB, a_tree(tmp_path))
    layout = read_layout(disk, 64 * MIB)
    assert layout.table == "gpt"
    assert [p.filesystem for p in layout.partitions] == ["", "", "ext4"]
    assert [p.start_bytes for p in layout.partitions] == [MIB, 2 * MIB, 6 * MIB]
    used = find_used_blocks(disk, 64 * MIB, 512, layout)
    assert set(used.raw_parts) == {1, 2}
    assert covers(used.extents, 0, 6 * MIB + 4096)  # MBR, GPT, gap, boot partition, swap, start of ext4
    assert covers(used.extents, 64 * MIB - 33 * 512, 33 * 512)
    assert not covers(used.extents, 50 * MIB, MIB)
    assert has_partition_table(disk)


@pytest.mark.root
def test_the_links_between_logical_partitions_are_kept(tmp_path: Path) -> None:
    rows = ["2MiB,4MiB,83", "8MiB,50MiB,5", "10MiB,8MiB,83", "20MiB,8MiB,83"]
    disk = partition_file(tmp_path / "disk", 64 * MIB, "label: dos\n" + "\n".join(rows) + "\n")
    layout = read_layout(disk, 64 * MIB)
    assert [p.number for p in layout.partitions] == [1, 5, 6]
    assert len(layout.containers) == 1 and len(layout.boot_records) == 2
    data = disk.read_bytes()
    assert all(data[record + 510 : record + 512] == b"\x55\xaa" for record in layout.boot_records)
    used = find_used_blocks(disk, 64 * MIB, 512, layout)
    assert all(covers(used.extents, record, 512) for record in layout.boot_records)


def test_a_partition_table_outlives_the_superblock_of_a_former_whole_disk_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)
    run(["mkfs.ext4", "-q", "-F", disk])
    run(["sfdisk", "-q", disk], stdin=b"label: dos\nstart=4096, size=40960, type=83\n")
    layout = read_layout(disk, 32 * MIB)
    assert layout.table == "dos"
    assert [partition.start_bytes for partition in layout.partitions] == [4096 * 512]
