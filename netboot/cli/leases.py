"""`roomcast lease`."""

import typer

from netboot.cli.options import Data, Json, Socket


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Leases: which machine has which address.")
    app.add_typer(group, name="lease")

    @group.command(name="list")
    def list_(socket: Socket = None, as_json: Json = False) -> None:
        """Every address that was given: to which machine, and for how much longer."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import console, duration_text, make_table, print_json

        with ApplianceClient(socket) as appliance:
            leases = appliance.get("/api/v1/leases")
        if as_json:
            print_json(leases)
            return
        if not leases:
            console().print("No address was given yet.")
            return
        rows = [
            (
                lease["address"],
                lease["mac"],
                lease["machine"] or lease["hostname"],
                lease["state"],
                duration_text(lease["remaining_s"]) if lease["remaining_s"] else "",
            )
            for lease in leases
        ]
        console().print(make_table(("address", "MAC", "machine", "state", "left"), rows, right=("left",)))

    @group.command()
    def recover(data: Data = None) -> None:
        """Make a whole lease file of what can be read of a damaged one, which is kept. The appliance must not run."""
        from imager.image.ownership import handing_over
        from netboot.config import data_directory
        from netboot.config.settings import LEASE_FILE
        from netboot.persistence.lease_file import backup_of, recover_leases
        from netboot.persistence.only_one import only_one_uses
        from netboot.services.lease_clock import LeaseClock

        directory = data_directory(data)
        path = directory / LEASE_FILE
        with handing_over(directory), only_one_uses(directory):
            count = recover_leases(path, LeaseClock().read())
        typer.echo(f"{path}: {count} leases recovered; the damaged file is kept beside it")
        typer.echo(f"{backup_of(path).name} will be made anew by `roomcast serve`")
