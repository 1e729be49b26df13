"""WIM files: kept in the store as file images, applied onto NTFS volumes by wimlib.

wimlib writes an unmounted NTFS volume itself (through libntfs-3g), with security descriptors, streams and short
names, so no kernel driver is needed.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from imager.disk.devices import NotADisk, fsync_device, inspect, user_of
from imager.disk.partitions import has_partition_table, probe_filesystem
from imager.errors import SourceError, TargetError, ToolError
from imager.image.capture import read_chunks
from imager.image.manifest import DEFAULT_WINDOW_BYTES, Extent, ImageKind, Manifest, check_name
from imager.image.store import ImageStore
from imager.programs import run

OnProgress = Callable[[int, int], None]
"""(bytes done, bytes in all)"""

_WIMLIB = ("env", "LC_ALL=C.UTF-8", "wimlib-imagex")
"""wimlib turns file names into the locale's characters; with LC_ALL=C it would refuse those that are not ASCII."""
_MAGIC = {b"MSWIM\0\0\0": False, b"WLPWM\0\0\0": True}
"""First 8 bytes: whether the file can be applied from a pipe."""
_LARGEST_XML_BYTES = 16 << 20
_OUTPUT_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class WimImage:
    """One of the images in a WIM."""

    index: int
    """From 1."""
    name: str
    description: str
    total_bytes: int
    """Of its files, before compression; a file with several names counts once."""
    edition: str
    """Of Windows (`Professional`); empty for other trees."""


@dataclass(frozen=True, slots=True)
class WimInfo:
    """What a WIM says of itself."""

    images: tuple[WimImage, ...]
    is_pipable: bool
    """It can be applied from a pipe, without being whole in a file."""


def read_wim_info(file: Path) -> WimInfo:
    """Ask wimlib. Raises SourceError when `file` is no WIM, or is one part of a split one."""
    try:
        with file.open("rb") as opened:
            head = opened.read(8)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}") from error
    if head not in _MAGIC:
        raise SourceError(f"{file} is not a WIM: it does not begin with MSWIM or WLPWM")
    with tempfile.TemporaryDirectory(prefix="roomcast-wim-") as directory:
        target = Path(directory) / "info.xml"
        try:
            summary = run([*_WIMLIB, "info", file, f"--extract-xml={target}"])
            header = run([*_WIMLIB, "info", file, "--header"])
            raw = target.read_bytes()[:_LARGEST_XML_BYTES]
        except ToolError as error:
            raise SourceError(f"{file} is not a WIM that wimlib can read: {error}") from error
        except OSError as error:
            raise SourceError(f"wimlib gave no description of {file}: {error} ({summary.strip()})") from error
    if _field(header, "Total Parts") != "1":
        raise SourceError(f"{file} is one part of a split WIM; join its parts with `wimlib-imagex join` first")
    return WimInfo(_parse_images(file, raw), _MAGIC[head])


def import_wim(
    file: Path,
    store: ImageStore,
    name: str,
    *,
    window_bytes: int = DEFAULT_WINDOW_BYTES,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Keep a WIM as the next version of image `name`, whole or not at all.

    Its facts name its images (`wim.images`: their number; `wim.1.name`, `wim.1.bytes` ...) and whether it can be
    applied from a pipe (`wim.pipable`). Raises SourceError, ManifestError, StoreError.
    """
    check_name(name)
    info = read_wim_info(file)
    facts = {"wim.images": str(len(info.images)), "wim.pipable": "yes" if info.is_pipable else "no"}
    for image in info.images:
        facts[f"wim.{image.index}.name"] = image.name
        facts[f"wim.{image.index}.bytes"] = str(image.total_bytes)
        if image.edition:
            facts[f"wim.{image.index}.edition"] = image.edition
    size = file.stat().st_size
    with store.writer() as writer:
        chunks = []
        for chunk, stored in read_chunks(
            file, (Extent(0, size),), window_bytes=window_bytes, on_progress=on_progress, is_known=writer.has
        ):
            if stored:
                writer.put(chunk.hash, stored, chunk.raw_bytes)
            chunks.append(chunk)
        if file.stat().st_size != size:
            raise SourceError(f"{file} changed while it was read; import it again when it is whole")
        manifest = Manifest(
            name, 0, ImageKind.FILE, int(time.time()), size, 1, window_bytes, (), "none", facts, tuple(chunks)
        )
        return writer.publish(manifest)


def check_wim_target(device: Path, needed_bytes: int, *, make_volume: bool = False) -> None:
    """Refuse, with TargetError, what a WIM cannot be applied to: in use, too small, not NTFS. Writes nothing."""
    try:
        found = inspect(device)
    except NotADisk as error:
        raise TargetError(f"{error}; nothing was written") from error
    if found.read_only:
        raise TargetError(f"{device} is read-only; nothing was written")
    user = user_of(device)
    if user is not None:
        raise TargetError(f"{user}; unmount it first; nothing was written")
    if found.size_bytes < needed_bytes:
        raise TargetError(
            f"{device} has {found.size_bytes} bytes, the WIM's image needs {needed_bytes} for its files alone; "
            "nothing was written"
        )
    filesystem = probe_filesystem(device, 0, found.size_bytes)
    if make_volume and not filesystem and has_partition_table(device):
        raise TargetError(f"{device} has a partition table; name one of its partitions; nothing was written")
    if not make_volume and filesystem != "ntfs":
        raise TargetError(
            f"{device} holds {filesystem or 'no file system'}, not an NTFS volume; make one first; nothing was written"
        )


def make_ntfs_volume(device: Path, label: str = "") -> None:
    """Make an empty NTFS volume on `device`: what it held is lost. Raises ToolError."""
    command: list[str | Path] = ["mkntfs", "--quick", "--quiet"]
    if label:
        command += ["--label", label]
    if not inspect(device).is_block:
        command.append("--force")
    run([*command, device])


def apply_wim(source: Path | BinaryIO, device: Path, index: int, *, make_volume: bool = False, label: str = "") -> None:
    """Apply image `index` of a WIM onto the unmounted NTFS volume `device`; with `make_volume`, make that first.

    `source`: a file, or a stream of a pipable WIM. The volume is flushed when this returns. Raises SourceError when
    the WIM has no such image, TargetError before anything is written, ToolError when wimlib fails.
    """
    needed, head = 0, b""
    if not isinstance(source, Path):
        head = source.read(8)
        if not _MAGIC.get(head, False):
            raise SourceError("the stream is not a pipable WIM; apply this one from a file")
    else:
        images = {image.index: image for image in read_wim_info(source).images}
        if index not in images:
            raise SourceError(f"{source} has no image {index}; it has {', '.join(map(str, images)) or 'none'}")
        needed = images[index].total_bytes
    check_wim_target(device, needed, make_volume=make_volume)
    if make_volume:
        make_ntfs_volume(device, label)
    command = [*_WIMLIB, "apply", str(source) if isinstance(source, Path) else "-", str(index), str(device)]
    if isinstance(source, Path):
        run(command)
    else:
        _run_with_stream(command, head, source)
    fsync_device(device)


def _run_with_stream(command: Sequence[str], head: bytes, stream: BinaryIO) -> None:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early: its status says why
                process.stdin.write(head)
                shutil.copyfileobj(stream, process.stdin, 1 << 20)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            output.seek(max(0, output.seek(0, 2) - _OUTPUT_TAIL_BYTES))
            raise ToolError(" ".join(command), status, output.read().decode(errors="replace"))


def _field(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == name:
            return value.strip()
    return ""


def _parse_images(file: Path, raw: bytes) -> tuple[WimImage, ...]:
    text = raw.decode("utf-16", errors="replace").lstrip("\ufeff")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(f"{file} describes itself with a document type; a WIM has none")
    try:
        root = ElementTree.fromstring(text)
        images = tuple(
            WimImage(
                int(element.attrib["INDEX"]),
                element.findtext("NAME", "") or element.findtext("DISPLAYNAME", ""),
                element.findtext("DESCRIPTION", ""),
                int(element.findtext("TOTALBYTES", "0")) - int(element.findtext("HARDLINKBYTES", "0")),
                element.findtext("WINDOWS/EDITIONID", ""),
            )
            for element in root.findall("IMAGE")
        )
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise SourceError(f"{file} describes itself in XML that does not parse: {error}") from error
    if not images:
        raise SourceError(f"{file} holds no image")
    return images
