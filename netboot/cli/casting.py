"""`roomcast send` and `roomcast receive`: one file to many machines, without an appliance."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from netboot.cli.options import Floor, Slow

Interface = Annotated[
    str | None, typer.Option("--interface", "-i", metavar="IF", help="Network interface (default: that of the route).")
]
Port = Annotated[
    int,
    typer.Option(
        "--port",
        "-p",
        metavar="PORT",
        min=1024,
        max=65534,
        help="UDP port where casts are announced; data takes the next.",
    ),
]
Key = Annotated[
    Path | None,
    typer.Option("--key", "-k", metavar="FILE", help="Pre-shared key: without it a receiver is given nothing."),
]
SpoolDirectory = Annotated[
    Path | None,
    typer.Option("--spool", metavar="DIR", help="Where `-` keeps a whole file meanwhile (default: TMPDIR or /tmp)."),
]
JsonLines = Annotated[bool, typer.Option("--json", help="Tell every event as a JSON object on a line of its own.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def register(app: typer.Typer) -> None:
    @app.command()
    def send(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="Any file; `-` is standard input.")],
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
        mtu: Annotated[
            int | None,
            typer.Option(
                metavar="BYTES",
                min=540,
                max=9263,
                help="Longest packets (default: what the interface carries, if all get it).",
            ),
        ] = None,
        data_address: Annotated[
            str | None,
            typer.Option(
                metavar="GROUP",
                help="Multicast group of the data, of IPv4 or IPv6 (default: one of 239.77.0.0/16 by chance).",
            ),
        ] = None,
        with_ipv6: Annotated[
            bool, typer.Option("--ipv6", "-6", help="A group of IPv6 by chance: ff12::/16, or ff15::/16 with a TTL.")
        ] = False,
        port: Port = 7710,
        fec: Annotated[
            float,
            typer.Option(
                metavar="PERCENT",
                min=0,
                max=100,
                help="Repair data sent unasked, beside what is asked for (default: none).",
            ),
        ] = 0,
        slow: Slow = "demote",
        floor: Floor = None,
        key: Key = None,
        unicast: Annotated[
            bool, typer.Option("--unicast", help="Cast nothing: for a network that carries no multicast.")
        ] = False,
        spool: SpoolDirectory = None,
        as_json: JsonLines = False,
        quiet: Quiet = False,
    ) -> None:
        """Send a file to every `roomcast receive` on the network, by multicast, each part checked by its hash."""
        from imager.transport.file_cast import SendOptions, read_key
        from imager.transport.file_send import send_file
        from netboot.cli.bitrate import bitrate_option
        from netboot.cli.file_progress import file_progress, json_line
        from netboot.cli.options import slow_option

        options = SendOptions(
            interface=interface,
            min_receivers=min_receivers,
            max_wait_s=max_wait,
            max_bitrate_bps=bitrate_option(max_bitrate),
            group=data_address,
            with_ipv6=with_ipv6,
            port=port,
            ttl=ttl,
            mtu=mtu,
            fec_share=fec / 100,
            slow=slow_option(slow),
            floor_bps=bitrate_option(floor),
            key=None if key is None else read_key(key),
            unicast=unicast,
            spool=spool,
        )
        with file_progress(quiet, as_json) as (tell, note):
            result = send_file(file, options, tell, note)
        if as_json:
            json_line("sent", asdict(result), sys.stdout)
        else:
            name = "standard input" if str(file) == "-" else file.name
            typer.echo(
                f"{result.receivers_done} receivers hold {name}: {result.file_bytes} bytes "
                f"in {result.elapsed_s:.2f} s, "
                f"{_mbps(result.file_bytes, result.elapsed_s):.0f} Mbit/s, {result.sent_bytes} bytes sent"
                + (f", {result.unicast_bytes} bytes by TCP" if result.unicast_bytes else "")
            )
        if result.failed or not result.receivers_done:
            raise typer.Exit(1)

    @app.command()
    def receive(
        output: Annotated[
            Path,
            typer.Option("--output", "-o", metavar="FILE", help="Where it goes; must not exist. `-`: standard output."),
        ],
        interface: Interface = None,
        max_wait: Annotated[
            float,
            typer.Option(metavar="SECONDS", min=0, help="Give up without a sender after so long (default: never)."),
        ] = 0,
        sender: Annotated[
            str | None,
            typer.Option(metavar="ADDRESS", help="Address of the sender, where its announcements do not come."),
        ] = None,
        port: Port = 7710,
        key: Key = None,
        spool: SpoolDirectory = None,
        memory: Annotated[
            int, typer.Option(metavar="MIB", min=96, help="What it may take in all: programs, buffers, queues.")
        ] = 256,
        as_json: JsonLines = False,
        quiet: Quiet = False,
    ) -> None:
        """Receive a file that `roomcast send` casts on the network."""
        from imager.transport.file_cast import ReceiveOptions, read_key
        from imager.transport.file_receive import receive_file
        from netboot.cli.file_progress import file_progress, json_line

        options = ReceiveOptions(
            interface=interface,
            port=port,
            sender=sender,
            max_wait_s=max_wait,
            key=None if key is None else read_key(key),
            spool=spool,
            memory_bytes=memory << 20,
        )
        words = sys.stderr if str(output) == "-" else sys.stdout  # standard output has the file
        with file_progress(quiet, as_json, words) as (tell, note):
            result = receive_file(output, options, tell, note)
        if as_json:
            json_line("received", asdict(result), words)
            return
        way = (
            "by TCP"
            if result.unicast
            else f"{result.lost_packets} packets lost, {result.repair_packets} repair packets"
        )
        print(
            f"{result.output}: {result.file_bytes} bytes in {result.elapsed_s:.2f} s, "
            f"{_mbps(result.file_bytes, result.elapsed_s):.0f} Mbit/s, {way}",
            file=words,
        )


def _mbps(count: int, seconds: float) -> float:
    return count * 8 / 1e6 / seconds if seconds else 0.0
