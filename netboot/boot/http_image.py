"""The volume that UEFI HTTP boot starts from: shim, GRUB, a configuration and the agent on one FAT file system.

The firmware downloads it whole and keeps it in memory as a disk (UEFI 2.10, section 24.7.3.1), so every program on it
is one that Secure Boot accepts, and nothing more is fetched. Files are kept by what they are made of; few are kept.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from netboot.boot.fat import fat_volume

_CONFIGURATION = "EFI/DEBIAN/GRUB.CFG"
_KEPT = 12
"""Four for each architecture (agent, chainload, exit, no way); one with the agent is 40 MB, the others are small."""


def build(directory: Path, configuration: bytes, files: Mapping[str, Path]) -> Path:
    """The volume with `files` (by their path on it) and GRUB's configuration, made now unless it is there. OSError."""
    digest = hashlib.sha256(configuration)
    for name, file in files.items():
        status = file.stat()
        digest.update(f"\0{name} {status.st_size} {status.st_mtime_ns}".encode())
    image = directory / f"{digest.hexdigest()[:32]}.img"
    if image.is_file():
        return image
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {_CONFIGURATION: len(configuration), **{name: file.stat().st_size for name, file in files.items()}}
    descriptor, temporary = tempfile.mkstemp(prefix=".making-", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as output:
            for part in fat_volume(sizes):
                if isinstance(part, bytes):
                    output.write(part)
                elif part == _CONFIGURATION:
                    output.write(configuration)
                else:
                    with files[part].open("rb") as source:
                        shutil.copyfileobj(source, output, 1 << 20)
        Path(temporary).replace(image)
    finally:
        Path(temporary).unlink(missing_ok=True)
    for old in sorted(directory.glob("*.img"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return image
