"""A file that comes: under another name until it is whole, and taken over from a program that was killed."""

import os
from pathlib import Path

import pytest

from imager.errors import TargetError
from imager.transport.file_sink import PartFile

MIB = 1 << 20


def killed(output: Path, part: bytes, at: int, size: int) -> Path:
    """What a program leaves that was killed when it had written so much."""
    sink = PartFile(output, size)
    sink.__enter__()
    sink.write(part, at)
    os.close(sink._descriptor)
    (path,) = output.parent.iterdir()
    return path


def test_what_a_killed_program_left_is_there_and_where_it_left_nothing_is_nothing(tmp_path: Path) -> None:
    output = tmp_path / "lab.iso"
    killed(output, b"x" * MIB, MIB, 4 * MIB)
    with PartFile(output, 4 * MIB) as again:
        assert [again.left(at * MIB, MIB)[:1] for at in range(4)] == [b"", b"x", b"", b""]
        again.write(b"y" * MIB, 0)
        again.publish()
    assert output.read_bytes() == b"y" * MIB + b"x" * MIB + bytes(2 * MIB)
    assert [path.name for path in tmp_path.iterdir()] == ["lab.iso"]


def test_a_file_of_another_size_gets_its_own(tmp_path: Path) -> None:
    output = tmp_path / "lab.iso"
    killed(output, b"x" * MIB, 0, 4 * MIB)
    with PartFile(output, MIB // 2) as again:
        assert again.left(0, MIB // 2) == b"x" * (MIB // 2)
        again.publish()
    assert output.stat().st_size == MIB // 2


def test_a_new_file_has_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with PartFile(tmp_path / "lab.iso", MIB) as sink:
        assert sink.left(0, MIB) == b""
        sink.write(b"x", 0)
        assert sink.left(0, MIB) == b""
    assert list(tmp_path.iterdir()) == []


def test_two_programs_do_not_receive_the_same_file(tmp_path: Path) -> None:
    output = tmp_path / "lab.iso"
    with PartFile(output, MIB) as first:
        with (
            pytest.raises(TargetError, match=r"another program receives .*lab\.iso at this moment"),
            PartFile(output, MIB),
        ):
            pass
        first.write(b"x" * MIB, 0)
        first.publish()
    assert output.read_bytes() == b"x" * MIB


@pytest.mark.parametrize("how", ["symbolic link", "second name", "of another user"])
def test_nobody_elses_file_is_written(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output, other = tmp_path / "lab.iso", tmp_path / "precious"
    path = killed(output, b"x", 0, MIB)
    path.unlink()
    other.write_bytes(b"precious")
    if how == "symbolic link":
        path.symlink_to(other)
    else:
        os.link(other, path)
    if how == "of another user":
        other.unlink()
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(TargetError), PartFile(output, MIB):
        pass
    if how != "of another user":
        assert other.read_bytes() == b"precious"
    assert path.is_symlink() or path.read_bytes() == b"precious"
