"""`roomcast send` and `roomcast receive`: one file to many machines, without an appliance."""

from pathlib import Path
from typing import Annotated

import typer

Interface = Annotated[
    str | None, typer.Option("--interface", "-i", metavar="IF", help="Network interface (default: that of the route).")
]

Port = Annotated[int, typer.Option(metavar="PORT", min=1024, max=65535, help="UDP port where casts are announced.")]


def register(app: typer.Typer) -> None:
    @app.command()
    def send(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="Any file.")],
        interface: Interface = None,
        min_receivers: Annotated[int, typer.Option(metavar="N", min=1, help="Begin when so many have joined.")] = 1,
        max_wait: Annotated[
            float,
            typer.Option(metavar="SECONDS", min=0, help="Begin so long after the first (default: wait for all N)."),
        ] = 0,
        max_bitrate: Annotated[
            str | None, typer.Option(metavar="RATE", help="Bits a second at most: 900m, 2.5g (default: no limit).")
        ] = None,
        ttl: Annotated[int, typer.Option(metavar="N", min=1, max=255, help="Routers to pass, and one.")] = 1,
        port: Port = 7710,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ) -> None:
        """Send a file to every `roomcast receive` on the network, by multicast, each part checked by its hash."""
        from imager.transport.file_cast import send_file
        from netboot.cli.bitrate import bitrate_option
        from netboot.cli.file_progress import file_progress

        limit = bitrate_option(max_bitrate)
        with file_progress(quiet) as tell:
            result = send_file(
                file,
                interface=interface,
                min_receivers=min_receivers,
                max_wait_s=max_wait,
                max_bitrate_bps=limit,
                ttl=ttl,
                port=port,
                on_progress=tell,
            )
        rate = result.file_bytes * 8 / 1e6 / result.elapsed_s if result.elapsed_s else 0.0
        typer.echo(
            f"{result.receivers_done} receivers hold {file.name}: {result.file_bytes} bytes in "
            f"{result.elapsed_s:.2f} s, {rate:.0f} Mbit/s, {result.sent_bytes} bytes sent"
        )
        for receiver, reason in result.failed.items():
            typer.echo(f"roomcast: {receiver} failed: {reason}", err=True)
        if result.failed or not result.receivers_done:
            raise typer.Exit(1)

    @app.command()
    def receive(
        output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where it goes; must not exist.")],
        interface: Interface = None,
        max_wait: Annotated[
            float,
            typer.Option(metavar="SECONDS", min=0, help="Give up without a sender after so long (default: never)."),
        ] = 0,
        port: Port = 7710,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    ) -> None:
        """Receive a file that `roomcast send` casts on the network."""
        from imager.transport.file_cast import receive_file
        from netboot.cli.file_progress import file_progress

        with file_progress(quiet) as tell:
            result = receive_file(output, interface=interface, max_wait_s=max_wait, port=port, on_progress=tell)
        rate = result.file_bytes * 8 / 1e6 / result.elapsed_s if result.elapsed_s else 0.0
        typer.echo(
            f"{result.output}: {result.file_bytes} bytes in {result.elapsed_s:.2f} s, {rate:.0f} Mbit/s, "
            f"{result.lost_packets} packets lost, {result.repair_packets} repair packets"
        )
