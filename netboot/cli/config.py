"""`roomcast config`: look over the settings file before it is used."""

import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netboot.cli.options import Json
from netboot.errors import ServiceError, UserError

if TYPE_CHECKING:
    from netboot.config.loading import Loaded

_File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: /etc/roomcast/roomcast.toml.")]


def register(app: typer.Typer) -> None:
    config = typer.Typer(help="Check and show the settings; what to tell another DHCP server.", no_args_is_help=True)
    app.add_typer(config, name="config")

    @config.command()
    def check(file: _File = None) -> None:
        """Tell every mistake in the settings with its line. Exit code 2 when there is one."""
        from netboot.cli.output import console

        loaded = _load(file)
        output = console()
        for warning in loaded.warnings:
            output.print(f"warning: {warning}", soft_wrap=True, markup=False, highlight=False)
        for warning in _check_interfaces(loaded):
            output.print(f"warning: {warning}", soft_wrap=True, markup=False, highlight=False)
        output.print(f"{loaded.file or 'no file'}: no mistakes", soft_wrap=True, markup=False, highlight=False)

    @config.command()
    def show(file: _File = None, as_json: Json = False) -> None:
        """Show the settings that `roomcast serve` would take, and where each comes from."""
        from rich.table import Table

        from netboot.cli.output import console
        from netboot.config.keys import KEYS
        from netboot.config.shown import plain, shown

        loaded = _load(file)
        rows = [
            (key.name, plain(getattr(loaded.settings, key.field)), loaded.places.get(key.field, "default"))
            for key in KEYS
        ]
        running = _running(loaded)
        if as_json:
            tree: dict[str, Any] = {name: {"value": value, "from": place} for name, value, place in rows}
            if running is not None:
                tree["running"] = running
            print(json.dumps(tree, indent=2))
            return
        table = Table("setting", "value", "from")
        for name, value, place in rows:
            table.add_row(*(_escaped(text) for text in (name, shown(value), place)))
        output = console()
        output.print(table)
        for each in running or ():
            line = f"running: {each['name']} ({each['address']}) is {each['role']} now: {each['why']}"
            output.print(line, soft_wrap=True, markup=False, highlight=False)

    @config.command()
    def snippet(
        peer: Annotated[str, typer.Argument(metavar="dnsmasq|kea|isc|windows", help="The other DHCP server.")],
        server: Annotated[
            str | None,
            typer.Option(metavar="ADDRESS", help="The appliance (default: the address of its first interface)."),
        ] = None,
        config_file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings file.")] = None,
    ) -> None:
        """Print what another DHCP server needs so that machines boot from here without proxyDHCP."""
        from netboot.boot.snippets import Peer, render_snippet
        from netboot.services.interface import find_interface

        try:
            chosen = Peer(peer)
        except ValueError:
            raise UserError(f"{peer!r} is not dnsmasq, kea, isc or windows") from None
        own = {}
        if server is None:
            settings = _load(config_file).settings
            address, http_port = find_interface(settings.interface).address, settings.http_port
            own = settings.own_programs
        else:
            http_port = 80
            try:
                address = IPv4Address(server)
            except ValueError:
                raise UserError(f"--server: {server!r} is not an IPv4 address") from None
        print(render_snippet(chosen, address, http_port, own), end="")


def _load(file: Path | None) -> "Loaded":
    from netboot.config.loading import load

    return load({}, file)


def _running(loaded: "Loaded") -> list[dict[str, str]] | None:
    """What the appliance that runs here is on each interface at this moment; None: none runs, or we may not ask."""
    from netboot.cli.client import ApplianceClient

    try:
        with ApplianceClient(loaded.settings.socket) as appliance:
            found: list[dict[str, str]] = appliance.get("/api/v1/status")["interfaces"]
            return found
    except ServiceError:
        return None


def _check_interfaces(loaded: "Loaded") -> list[str]:
    """Hold the settings against the interfaces of this machine; those that are missing are told."""
    from netboot.dhcp_settings import check_settings
    from netboot.services.interface import find_interface

    found, missing = [], []
    for name in loaded.settings.interfaces:
        try:
            found.append(find_interface(name))
        except ServiceError as error:
            missing.append(str(error))
    if not missing:
        check_settings(loaded.settings, found, loaded)
    return missing


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
