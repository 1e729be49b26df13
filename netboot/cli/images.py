"""`roomcast image`: works on the data directory itself, so no appliance need run; one that runs sees the result."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netboot.cli.options import Data, Json, split_image

if TYPE_CHECKING:
    from imager.image.store import ImageStore

Image = Annotated[str, typer.Argument(metavar="IMAGE[:VERSION]", help="The newest version when none is named.")]
Name = Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="Name of the image: a-z, 0-9, dot, dash.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Images: capture, list, show, verify, import, restore.")
    app.add_typer(group, name="image")

    @group.command()
    def capture(
        source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A disk, a volume, or an image file.")],
        name: Name,
        data: Data = None,
    ) -> None:
        """Make the next version of an image from a disk or an image file: its used blocks only, whole or not at all."""
        from imager.image.capture import capture_image
        from netboot.cli.output import progress_bar

        with writable_store(data) as store, progress_bar(f"capture {name}") as tell:
            manifest = capture_image(store, source, name, on_progress=tell)
        _say(manifest)

    @group.command(name="import")
    def import_(
        file: Annotated[Path, typer.Argument(metavar="FILE.wim", help="A WIM file.")],
        name: Annotated[
            str | None, typer.Option("--name", "-n", metavar="NAME", help="Default: the file's name.")
        ] = None,
        data: Data = None,
    ) -> None:
        """Make the next version of an image from a WIM file; machines get it applied to an NTFS volume."""
        from imager.files.wim import import_wim
        from netboot.cli.output import progress_bar

        chosen = name or file.stem.lower().replace(" ", "-")
        with writable_store(data) as store, progress_bar(f"import {chosen}") as tell:
            manifest = import_wim(file, store, chosen, on_progress=tell)
        _say(manifest)

    @group.command(name="list")
    def list_(data: Data = None, as_json: Json = False) -> None:
        """All versions of all images."""
        import dataclasses

        from netboot.cli.output import age_text, bytes_text, console, make_table, print_json

        found = open_store(data, write=False).images()
        if as_json:
            print_json([dataclasses.asdict(image) for image in found])
            return
        if not found:
            console().print("No images yet: roomcast image capture SOURCE --name NAME", markup=False)
            return
        rows = [
            (
                i.name,
                i.version,
                i.kind,
                bytes_text(i.source_bytes),
                bytes_text(i.used_bytes),
                bytes_text(i.stored_bytes),
                i.chunk_count,
                age_text(i.created_s),
            )
            for i in found
        ]
        numbers = ("version", "size", "used", "stored", "chunks")
        columns = ("image", "version", "kind", "size", "used", "stored", "chunks", "made")
        console().print(make_table(columns, rows, right=numbers))

    @group.command()
    def show(image: Image, data: Data = None, as_json: Json = False) -> None:
        """One version: what it was made of, its partitions and facts."""
        from netboot.cli.output import print_json
        from netboot.deployment.describe import describe_manifest

        name, version = split_image(image)
        facts = describe_manifest(open_store(data, write=False).manifest(name, version))
        if as_json:
            print_json(facts)
        else:
            _show(facts)

    @group.command()
    def verify(image: Image, data: Data = None) -> None:
        """Read every chunk of a version and check its hash and the manifest's signature."""
        from imager.image.verify import verify_image
        from netboot.cli.output import bytes_text, console, progress_bar

        name, version = split_image(image)
        store = open_store(data, write=False)
        with progress_bar(f"verify {name}") as tell:
            report = verify_image(store, name, version, on_progress=tell)
        for problem in report.problems:
            windows = f" ({len(problem.windows)} windows lost)" if problem.windows else ""
            typer.echo(f"roomcast: {problem.what}{windows}", err=True)
        if not report.ok:
            raise typer.Exit(1)
        console().print(
            f"{report.name} version {report.version}: {report.chunk_count} chunks, {bytes_text(report.stored_bytes)} "
            f"in {report.packs} packs, all whole",
            soft_wrap=True,
        )

    @group.command()
    def restore(
        image: Image,
        target: Annotated[Path, typer.Argument(metavar="TARGET", help="A disk of this machine, or a file to make.")],
        data: Data = None,
    ) -> None:
        """Write an image to a disk or a file of this machine; what it holds already is not written again."""
        from imager.image.restore import restore_image
        from netboot.cli.output import bytes_text, console, progress_bar

        name, version = split_image(image)
        store = open_store(data, write=False)
        with progress_bar(f"restore {name}") as tell:
            done = restore_image(store, name, version, target, on_progress=lambda _, part, whole: tell(part, whole))
        console().print(
            f"{target}: {done.manifest.name} version {done.manifest.version}, {done.written_chunks} chunks written "
            f"({bytes_text(done.written_bytes)}), {done.skipped_chunks} held before",
            markup=False,
            soft_wrap=True,
        )


@contextmanager
def writable_store(data: Path | None) -> Iterator["ImageStore"]:
    """The image store, to write; what root makes in it belongs to the data directory's owner."""
    from imager.image.ownership import handing_over
    from netboot.config import data_directory

    with handing_over(data_directory(data)):
        yield open_store(data, write=True)


def open_store(data: Path | None, *, write: bool) -> "ImageStore":
    """The image store of the data directory. To write it makes the signing key when there is none yet."""
    from imager.image.keys import PUBLIC_NAME, load_or_create_signing_key
    from imager.image.store import ImageStore
    from netboot.config import data_directory
    from netboot.errors import ServiceError
    from netboot.persistence.private import PRIVATE_UMASK, make_private

    directory = data_directory(data)
    if write:
        os.umask(PRIVATE_UMASK)
        try:
            make_private(directory)
        except OSError as error:
            raise ServiceError(f"{directory}: {error.strerror}; run this with sudo, or name another --data") from error
        return ImageStore(directory / "images", load_or_create_signing_key(directory / "keys"))
    if not directory.is_dir():
        raise ServiceError(
            f"there is no data directory {directory}: name the right one with --data, or make its first image with "
            "`roomcast image capture`"
        )
    public = directory / "keys" / PUBLIC_NAME
    try:
        key = bytes.fromhex(public.read_text()) if public.exists() else None
    except (OSError, ValueError) as error:
        raise ServiceError(f"{public} cannot be read: {error}; run this with sudo") from error
    return ImageStore(directory / "images", None, key)


def _say(manifest: Any) -> None:
    from netboot.cli.output import bytes_text, console

    console().print(
        f"{manifest.name} version {manifest.version}: {len(manifest.chunks)} chunks, {bytes_text(manifest.used_bytes)} "
        f"used of {bytes_text(manifest.source_bytes)}, stored in {bytes_text(sum(manifest.stored_lengths))}",
        markup=False,
        soft_wrap=True,
    )


def _show(facts: dict[str, Any]) -> None:
    from netboot.cli.output import age_text, bytes_text, console, make_table

    output = console()
    rows = [
        ("image", f"{facts['name']} version {facts['version']} ({facts['kind']})"),
        ("made", age_text(facts["created_s"])),
        ("size", f"{bytes_text(facts['source_bytes'])}, sectors of {facts['sector_bytes']} B"),
        ("used", f"{bytes_text(facts['used_bytes'])} in {facts['chunk_count']} chunks"),
        ("stored", bytes_text(facts["stored_bytes"])),
        ("manifest", facts["manifest_hash"]),
        *sorted(facts["facts"].items()),
    ]
    output.print(make_table(("", ""), rows))
    if facts["layout"]:
        output.print(f"\n{facts['table']} partitions", markup=False)
        columns = ("number", "start", "size", "file system", "type", "name")
        parts = [
            (p["number"], p["start_bytes"], bytes_text(p["size_bytes"]), p["filesystem"], p["type"], p["name"])
            for p in facts["layout"]
        ]
        output.print(make_table(columns, parts, right=("number", "start", "size")))
