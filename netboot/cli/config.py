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
    from netboot.config.mistakes import Mistake

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
        for warning in _check_this_machine(loaded):
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
        if server is None:
            settings = _load(config_file).settings
            address = find_interface(settings.interface).address
        else:
            try:
                address = IPv4Address(server)
            except ValueError:
                raise UserError(f"--server: {server!r} is not an IPv4 address") from None
            settings = _load(config_file, interfaces=["none"]).settings  # of the appliance there, and no need of ours
        print(render_snippet(chosen, address, settings.http_port, settings.own_programs), end="")


def _load(file: Path | None, **flags: Any) -> "Loaded":
    from netboot.config.loading import load

    return load(flags, file)


def _running(loaded: "Loaded") -> list[dict[str, str]] | None:
    """What the appliance that runs here is on each interface at this moment; None: none runs, or we may not ask."""
    from netboot.cli.client import ApplianceClient

    try:
        with ApplianceClient(loaded.settings.socket) as appliance:
            found: list[dict[str, str]] = appliance.get("/api/v1/status")["interfaces"]
            return found
    except ServiceError:
        return None


def _check_this_machine(loaded: "Loaded") -> list[str]:
    """Hold the settings against the interfaces and files of this machine; interfaces that are missing are told.

    Raises ConfigError with every mistake.
    """
    from netboot.config.mistakes import ConfigError
    from netboot.dhcp_settings import check_settings
    from netboot.services.interface import find_interface

    found, missing = [], []
    for name in loaded.settings.interfaces:
        try:
            found.append(find_interface(name))
        except ServiceError as error:
            missing.append(str(error))
    mistakes = _missing_programs(loaded)
    if not missing:
        try:
            check_settings(loaded.settings, found, loaded)
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return missing


def _missing_programs(loaded: "Loaded") -> "list[Mistake]":
    from netboot.config.mistakes import Mistake, spell

    mistakes = []
    for firmware, file in loaded.settings.boot_programs:
        if not file.is_file():
            key = ("boot-programs", str(firmware))
            where = loaded.document.place(key) if loaded.document else ""
            mistakes.append(Mistake(where, spell(key), f"there is no file {file}: install it, or take it out"))
    return mistakes


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
