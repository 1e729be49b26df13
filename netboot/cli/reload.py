"""`roomcast reload`."""

import typer

from netboot.cli.options import Json, Socket


def register(app: typer.Typer) -> None:
    @app.command()
    def reload(socket: Socket = None, as_json: Json = False) -> None:
        """Have the running appliance read its settings again; leases, transfers and sessions go on."""
        import json

        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import console

        with ApplianceClient(socket) as appliance:
            told = appliance.post("/api/v1/reload")
        if as_json:
            print(json.dumps(told, indent=2))
            return
        output = console()
        for key, what in (("changed", "in effect"), ("waiting", "at the next start")):
            for change in told[key]:
                line = f"{change['key']}: {change['old'] or 'not set'} -> {change['new'] or 'not set'} ({what})"
                output.print(line, soft_wrap=True, markup=False, highlight=False)
        if not told["changed"] and not told["waiting"]:
            output.print("nothing has changed")
        if told["waiting"]:
            output.print("start `roomcast serve` again for the rest", soft_wrap=True, markup=False, highlight=False)
