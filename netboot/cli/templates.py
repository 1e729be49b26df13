"""`roomcast template`."""

from typing import Annotated

import typer

from netboot.cli.options import Socket


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Templates: what a machine would get.")
    app.add_typer(group, name="template")

    @group.callback()
    def template() -> None:
        """Templates: what a machine would get."""

    @group.command()
    def render(
        name: Annotated[str, typer.Argument(metavar="NAME", help="For example: unattend.")],
        machine: Annotated[str, typer.Option("--machine", "-m", metavar="MACHINE", help="Its name or a MAC of it.")],
        socket: Socket = None,
    ) -> None:
        """Print a template as it is rendered for a machine."""
        from urllib.parse import quote

        from netboot.cli.client import ApplianceClient
        from netboot.deployment.templates import check_template_name

        check_template_name(name)
        with ApplianceClient(socket) as appliance:
            text = appliance.post_for_text(f"/api/v1/templates/{quote(name, safe='')}/render", {"machine": machine})
        typer.echo(text, nl=not text.endswith("\n"))
