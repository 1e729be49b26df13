"""`roomcast database`."""

import typer

from netboot.cli.options import Data


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="The database of machines, groups and sessions.")
    app.add_typer(group, name="database")

    @group.command()
    def recover(data: Data = None) -> None:
        """Make a whole database of what can be read of a damaged one, which is kept. The appliance must not run."""
        from imager.image.ownership import handing_over
        from netboot.config import data_directory
        from netboot.config.settings import DATABASE_FILE
        from netboot.persistence.database_recovery import recover_database
        from netboot.persistence.only_one import only_one_uses

        directory = data_directory(data)
        path = directory / DATABASE_FILE
        with handing_over(directory), only_one_uses(directory):
            counts = recover_database(path)
        told = ", ".join(f"{counts.get(table, 0)} {words}" for table, words in _WORDS.items())
        typer.echo(f"{path}: {told} recovered; the damaged file is kept beside it")


_WORDS = {"machine": "machines", "machine_group": "groups", "cast_session": "sessions", "task": "tasks"}
