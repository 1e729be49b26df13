"""`roomcast serve`."""

from pathlib import Path
from typing import Annotated

import typer

from netboot.cli.options import Data, Socket


def register(app: typer.Typer) -> None:
    @app.command()
    def serve(
        interface: Annotated[
            list[str] | None,
            typer.Option("--interface", "-i", metavar="IF", help="Network interface of the machines; may be repeated."),
        ] = None,
        mode: Annotated[
            str | None,
            typer.Option(
                metavar="server|proxy|auto|off",
                help="[bold]server[/bold] gives addresses (the default); [bold]proxy[/bold] tells only what to boot, "
                "beside the network's own DHCP server; [bold]auto[/bold] is the one or the other, by whether it finds "
                "another server; [bold]off[/bold] leaves DHCP alone.",
            ),
        ] = None,
        pool: Annotated[
            str | None,
            typer.Option(metavar="FIRST-LAST", help="Addresses to give (default: the upper half of the network)."),
        ] = None,
        lease: Annotated[
            int | None, typer.Option("--lease", metavar="SECONDS", help="Length of a lease (default: 3600).")
        ] = None,
        router: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Router to tell the machines.")] = None,
        dns: Annotated[
            str | None, typer.Option(metavar="ADDRESS,...", help="Name servers to tell the machines.")
        ] = None,
        http_port: Annotated[
            int | None, typer.Option(metavar="PORT", help="Boot files and agents (default: 80).")
        ] = None,
        page: Annotated[
            str | None,
            typer.Option(
                "--page", "--page-address", metavar="ADDRESS:PORT", help="The page, or off (default: 127.0.0.1:8670)."
            ),
        ] = None,
        silence: Annotated[
            float | None,
            typer.Option(
                metavar="SECONDS",
                help="A running machine that is silent for longer has failed; one that lost its power needs "
                "some minutes to come back (default: 300).",
            ),
        ] = None,
        data: Data = None,
        socket: Socket = None,
        config: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Settings file (default: /etc/roomcast/roomcast.toml); flags go first."),
        ] = None,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every packet's fate.")] = False,
    ) -> None:
        """Serve one network: DHCP or proxyDHCP, TFTP, HTTP, the agents, the casts and the page. Needs root."""
        from netboot.config import load

        flags = {
            "interfaces": interface or None,
            "mode": mode,
            "pool": pool,
            "lease_s": lease,
            "router": router,
            "dns": dns,
            "http_port": http_port,
            "page": page,
            "silence_s": silence,
            "data": data,
            "socket": socket,
        }
        load(flags, config)  # its mistakes are told before the slow imports

        import asyncio

        from netboot import app as appliance
        from netboot.cli.logs import set_up_logs
        from netboot.cli.output import console

        set_up_logs(verbose=verbose)
        output = console()
        asyncio.run(appliance.serve(lambda: load(flags, config), lambda line: output.print(line, soft_wrap=True)))
