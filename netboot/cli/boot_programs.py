"""`roomcast boot-programs`."""

from typing import Annotated

import typer

from netboot.cli.options import Data


def register(app: typer.Typer) -> None:
    @app.command("boot-programs")
    def boot_programs(
        fetch: Annotated[
            list[str] | None,
            typer.Option("--fetch", metavar="ARCH", help="ia32 or arm64: fetch its Debian packages. Needs root."),
        ] = None,
        data: Data = None,
    ) -> None:
        """What firmware there are boot programs for, and what fetches the others."""
        from imager.image.ownership import handing_over
        from netboot.boot.debian_packages import FETCHABLE, debian_files, fetch_packages
        from netboot.boot.selection import UefiArch
        from netboot.cli.output import console
        from netboot.config import data_directory

        output = console()
        directory = data_directory(data) / "boot-packages"
        known = {arch.name.lower(): arch for arch in FETCHABLE}
        for name in fetch or ():
            if name not in known:
                raise typer.BadParameter(
                    f"{name!r} cannot be fetched, only {' and '.join(known)}", param_hint="--fetch"
                )
        for name in fetch or ():
            with handing_over(directory.parent):
                fetch_packages(directory, known[name])
            output.print(f"fetched: {name}; `roomcast serve` takes it up when it starts")
        files = debian_files(directory)
        missing = {package for file, package in files.needed() if not file.is_file()}
        there = f"missing: apt install {' '.join(sorted(missing))}" if missing else "there"
        output.print(f"BIOS         {there}\nUEFI x64     {there}")
        for arch in UefiArch:
            if arch is not UefiArch.X64:
                name = arch.name.lower()
                there = "there" if arch in files.arches else f"missing: roomcast boot-programs --fetch {name}"
                output.print(f"UEFI {name:8}{there}")
