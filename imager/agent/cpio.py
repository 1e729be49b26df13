"""Archives in the "newc" format that the Linux kernel unpacks as its first root file system.

The same tree always makes the same bytes: names sorted, owner root, no times. No other format, no reading.
Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


class ArchiveWriter:
    """Writes one archive to `output`; `close()` ends it and leaves `output` open."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._inode = 0
        self._written = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._entry(name, stat.S_IFCHR | mode, b"", (major, minor))

    def tree(self, root: Path, prefix: str = "") -> None:
        """Everything below `root`, which itself becomes `prefix` (its parents are the caller's to write)."""
        for entry in sorted(os.scandir(root), key=lambda item: item.name):
            name = f"{prefix}{entry.name}"
            mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
            if entry.is_symlink():
                self.link(name, str(Path(entry.path).readlink()))
            elif entry.is_dir():
                self.directory(name, mode)
                self.tree(Path(entry.path), f"{name}/")
            elif entry.is_file():
                self.file(name, Path(entry.path).read_bytes(), mode)

    def close(self) -> None:
        """Write the trailer. The archive's length is a multiple of 4, so another may follow it."""
        self._entry(_TRAILER, 0, b"")

    def _entry(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        inode = 0 if name == _TRAILER else self._inode
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = _MAGIC + b"".join(b"%08x" % field for field in fields)
        self._write(header + encoded)
        self._write(data)

    def _write(self, data: bytes) -> None:
        padding = -len(data) % 4
        self._output.write(data + bytes(padding))
        self._written += len(data) + padding
