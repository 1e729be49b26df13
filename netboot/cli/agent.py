"""`roomcast agent`."""

from typing import Annotated

import typer

from netboot.cli.options import Data


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="The program that runs on the booted machines.")
    app.add_typer(group, name="agent")

    @group.callback()
    def agent() -> None:
        """The program that runs on the booted machines."""

    @group.command()
    def build(
        fresh: Annotated[bool, typer.Option("--fresh", help="Fetch its Debian packages anew.")] = False,
        data: Data = None,
    ) -> None:
        """Make the agent's kernel and initramfs from Debian packages, by this machine's apt. Needs root."""
        from imager.agent.build import build_agent
        from imager.image.ownership import handing_over
        from netboot.cli.output import bytes_text, console, duration_text
        from netboot.config import data_directory

        output = console()
        directory = data_directory(data) / "agent"
        with handing_over(directory.parent):
            built = build_agent(
                directory, fresh=fresh, say=lambda line: output.print(line, markup=False, soft_wrap=True)
            )
        total = built.kernel_bytes + built.initramfs_bytes
        output.print(
            f"Agent {built.agent_version} with Linux {built.kernel_version} in {directory}: "
            f"kernel {bytes_text(built.kernel_bytes)}, initramfs {bytes_text(built.initramfs_bytes)}, "
            f"together {bytes_text(total)}, in {duration_text(built.build_s)}",
            markup=False,
            soft_wrap=True,
        )
