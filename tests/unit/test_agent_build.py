"""How the initramfs is put together: what goes in, what stays out, and archives that other programs read."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

import imager
from imager.agent import base, contents
from imager.agent.base import AgentBuildError, apt_settings, apt_sources, blank_constants
from imager.agent.build import ENTRY_MODULES, build_agent, build_layer, imported_sources
from imager.agent.cpio import ArchiveWriter

TOP = Path(imager.__file__).parents[1]


def unpack(archive: bytes, directory: Path) -> Path:
    directory.mkdir()
    command = ["cpio", "--extract", "--quiet", "--make-directories", "--no-absolute-filenames"]
    subprocess.run(command, input=archive, cwd=directory, check=True)
    return directory


def test_cpio_unpacks_what_we_pack(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/tool").write_bytes(b"\x7fELF" + bytes(range(256)) * 5)
    (tree / "usr/bin/tool").chmod(0o755)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "empty").touch(mode=0o600)
    raw = io.BytesIO()
    archive = ArchiveWriter(raw)
    archive.tree(tree)
    archive.close()
    found = unpack(raw.getvalue(), tmp_path / "out")
    assert (found / "usr/bin/tool").read_bytes() == (tree / "usr/bin/tool").read_bytes()
    assert (found / "usr/bin/tool").stat().st_mode & 0o777 == 0o755
    assert os.readlink(found / "bin") == "usr/bin"  # noqa: PTH115
    assert (found / "empty").stat().st_size == 0
    assert len(raw.getvalue()) % 4 == 0


def test_the_same_tree_makes_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name, order in (("one", "abc"), ("two", "cab")):
        for file in order:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text(file)
        raw = io.BytesIO()
        archive = ArchiveWriter(raw)
        archive.tree(tmp_path / name)
        archive.close()
        made.append(raw.getvalue())
    assert made[0] == made[1]


def test_a_module_brings_all_it_needs_and_nothing_else() -> None:
    dependencies = """kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/ata/pata_legacy.ko: kernel/drivers/ata/libata.ko
kernel/drivers/gpu/drm/amdgpu.ko: kernel/drivers/gpu/drm/drm.ko
kernel/drivers/gpu/drm/drm.ko:
"""
    assert contents.needed_modules(dependencies) == [
        "kernel/drivers/net/virtio_net.ko",
        "kernel/drivers/virtio/virtio.ko",
        "kernel/drivers/virtio/virtio_ring.ko",
        "kernel/net/core/failover.ko",
    ]


@pytest.mark.parametrize(
    "module",
    ["net/ethernet/intel/e1000e/e1000e", "net/ethernet/realtek/r8169", "net/ethernet/broadcom/tg3", "net/usb/r8152",
     "net/ethernet/aquantia/atlantic/atlantic", "net/ethernet/intel/igc/igc", "nvme/host/nvme", "ata/ahci",
     "scsi/sd_mod", "usb/storage/uas", "block/virtio_blk", "hv/hv_vmbus", "mmc/host/sdhci-pci"],
)  # fmt: skip
def test_what_a_classroom_has_is_driven(module: str) -> None:
    assert contents.is_wanted_module(f"kernel/drivers/{module}.ko")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("usr/lib/python3.11/json", True),
        ("usr/lib/python3/dist-packages/numpy/core/numeric.py", True),
        ("usr/lib/python3.11/test", False),
        ("usr/lib/python3/dist-packages/numpy/linalg/tests", False),
        ("usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", False),
        ("usr/lib/python3.11/lib-dynload/_hashlib.cpython-311-x86_64-linux-gnu.so", True),
    ],
)
def test_pythons_own_ballast_stays_out(path: str, wanted: bool) -> None:
    assert contents.is_wanted_python(path) is wanted


def test_the_agent_carries_what_it_imports_and_no_appliance() -> None:
    found = {str(path.relative_to(TOP)) for path in imported_sources(ENTRY_MODULES, TOP)}
    assert {"imager/agent/main.py", "imager/agent/deploy.py", "imager/transport/receive_process.py"} <= found
    assert {"imager/__init__.py", "imager/disk/writer.py", "imager/customise/linux.py"} <= found
    assert not any(name.startswith("netboot") for name in found)
    assert "imager/agent/build.py" not in found
    assert "imager/transport/caster.py" not in found


def test_an_entry_that_is_not_there_is_our_mistake() -> None:
    with pytest.raises(ValueError, match=r"imager\.agent\.nothing"):
        imported_sources(["imager.agent.nothing"], TOP)


def test_the_layer_starts_as_the_agent_does(tmp_path: Path) -> None:
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(build_layer())
    found = unpack(raw, tmp_path / "out")
    assert os.access(found / "init", os.X_OK)
    assert (found / "etc/roomcast-version").read_text()
    for script in ("init", "etc/udhcpc.script"):
        subprocess.run(["busybox", "sh", "-n", found / script], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(found / base.SITE)!r}); import imager.agent.main as m; print(m.__file__)"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(found / base.SITE / "imager/agent/main.py")


def test_package_sources_that_are_switched_off_are_not_used(tmp_path: Path) -> None:
    parts = tmp_path / "etc/apt/sources.list.d"
    parts.mkdir(parents=True)
    (tmp_path / "etc/apt/sources.list").write_text("# deb nothing here\n")
    (parts / "debian.sources").write_text("Types: deb\nURIs: file:/x\n")
    (parts / "old.list.disabled").write_text("deb file:/y bookworm main\n")
    (parts / "more.list").write_text("deb [trusted=yes] file:/z bookworm main\n")
    assert [path.name for path in apt_sources(tmp_path)] == ["debian.sources", "more.list"]


def test_a_machine_without_package_sources_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "etc/apt/sources.list.d").mkdir(parents=True)
    with pytest.raises(AgentBuildError, match="no package sources"):
        apt_sources(tmp_path)


def test_apts_own_settings_are_carried_over(monkeypatch: pytest.MonkeyPatch) -> None:
    dump = [
        'APT "";', 'APT::Architecture "amd64";', 'Acquire "";', 'Acquire::http::Proxy "http://cache.invalid:3142";',
        'Acquire::Check-Valid-Until "false";', 'Acquire::Languages:: "none";', 'Acquire::cdrom "";',
        'Acquire::IndexTargets::deb::Packages::MetaKey "x";', 'Dir::Etc "etc/apt";',
    ]  # fmt: skip
    monkeypatch.setattr(base, "_apt_dump", lambda: dump)
    assert apt_settings().splitlines() == [
        'Acquire::http::Proxy "http://cache.invalid:3142";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::Languages:: "none";',
    ]


def test_a_blanked_library_is_still_one_and_loads(tmp_path: Path) -> None:
    library = next(Path("/usr/lib").glob("x86_64-linux-gnu/libz.so.1*"), None)
    if library is None:
        pytest.skip("no library to blank")
    copy = tmp_path / "lib.so"
    copy.write_bytes(library.read_bytes())
    blank_constants(copy)
    before, after = library.read_bytes(), copy.read_bytes()
    assert len(before) == len(after)
    assert before != after
    assert after.count(b"\0") > before.count(b"\0")
    code = f"import ctypes; ctypes.CDLL({str(copy)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes nobody first")
def test_building_without_root_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(AgentBuildError, match="needs root"):
        build_agent(tmp_path / "agent")
    assert not (tmp_path / "agent").exists()


def test_a_failed_build_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "initrd.img").write_bytes(b"the one before")
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def fail(*arguments: object) -> None:
        raise AgentBuildError("the mirror is away")

    monkeypatch.setattr("imager.agent.build.build_base", fail)
    with pytest.raises(AgentBuildError, match="mirror"):
        build_agent(tmp_path)
    assert (tmp_path / "initrd.img").read_bytes() == b"the one before"


def test_an_agent_that_grew_too_large_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(archive: Path, kernel: Path, facts: Path, say: object) -> None:
        archive.write_bytes(bytes(60_000_000))
        kernel.write_bytes(b"kernel")
        facts.write_text('{"kernel": "6.1", "packages": {}}')

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("imager.agent.build.build_base", too_much)
    with pytest.raises(AgentBuildError, match="more than 60,000,000"):
        build_agent(tmp_path)
    assert not (tmp_path / "initrd.img").exists()


def test_what_a_killed_build_left_is_removed_and_an_old_base_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(archive: Path, kernel: Path, facts: Path, say: object) -> None:
        archive.write_bytes(b"base")
        kernel.write_bytes(b"kernel")
        facts.write_text('{"kernel": "6.1", "packages": {"busybox": "1"}}')

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("imager.agent.build.build_base", build)
    (tmp_path / "cache/agent-killed/root").mkdir(parents=True)
    (tmp_path / "cache/0123456789abcdef.cpio.zst").write_bytes(b"of older packages")
    said: list[str] = []
    first = build_agent(tmp_path, say=said.append)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == ["", ".json", ".vmlinuz", ".zst"]
    assert (tmp_path / "initrd.img").read_bytes().startswith(b"base")
    assert (first.kernel_bytes, first.base_bytes, first.packages) == (6, 4, {"busybox": "1"})
    build_agent(tmp_path, say=said.append)
    assert "base: unchanged, taken from the cache" in said
