"""`roomcast deploy` and `roomcast session`."""

from typing import Annotated

import typer

from netboot.cli.options import Floor, Json, Slow, Socket, slow_option, split_image

SessionId = Annotated[int | None, typer.Argument(metavar="[SESSION]", min=1, help="The latest when none is named.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Sessions: list, show, cancel.")
    app.add_typer(group, name="session")

    @app.command()
    def deploy(
        image: Annotated[str, typer.Argument(metavar="IMAGE[:VERSION]", help="The newest version when none is named.")],
        to: Annotated[
            list[str],
            typer.Option("--to", "-t", metavar="MACHINE|GROUP", help="Names, MACs or groups; `all` is every machine."),
        ],
        more: Annotated[list[str] | None, typer.Argument(metavar="[MORE]...", help="More of what --to names.")] = None,
        target: Annotated[
            str, typer.Option(metavar="DEVICE", help="Disk to write (default: the only one that is not removable).")
        ] = "",
        min_receivers: Annotated[
            int, typer.Option(metavar="N", min=0, help="Begin when so many are ready (default: all).")
        ] = 0,
        max_wait: Annotated[
            float | None,
            typer.Option(metavar="SECONDS", min=0, help="Begin so long after the first is ready (default: 120)."),
        ] = None,
        max_bitrate: Annotated[
            str | None, typer.Option(metavar="RATE", help="Bits a second at most: 900m, 2.5g (default: no limit).")
        ] = None,
        slow: Slow = "demote",
        floor: Floor = None,
        unicast: Annotated[
            bool | None,
            typer.Option("--unicast/--multicast", help="Let each machine fetch the image: no multicast here."),
        ] = None,
        after: Annotated[
            str, typer.Option(metavar="reboot|poweroff|stay", help="What each machine does then.")
        ] = "reboot",
        watch: Annotated[
            bool, typer.Option("--watch", "-w", help="Show the progress of every machine to the end.")
        ] = False,
        socket: Socket = None,
    ) -> None:
        """Write one image to machines, all at once by multicast. Who boots later joins; none waits for another."""
        from netboot.cli.bitrate import bitrate_option
        from netboot.cli.client import ApplianceClient
        from netboot.cli.watch import watch_session

        name, version = split_image(image)
        targets = [part for text in (*to, *(more or ())) for part in text.split(",") if part]
        body = {
            "image": name,
            "version": version,
            "to": targets,
            "target": target,
            "min_receivers": min_receivers,
            "max_wait_s": max_wait,
            "max_bitrate_bps": bitrate_option(max_bitrate),
            "slow": slow_option(slow),
            "floor_bps": bitrate_option(floor),
            "unicast": unicast,
            "after": after,
        }
        with ApplianceClient(socket) as appliance:
            session = appliance.post("/api/v1/deploy", body)
            count = len(session["tasks"])
            machines = "1 machine" if count == 1 else f"{count} machines"
            typer.echo(f"session {session['id']}: {session['image']} version {session['version']} to {machines}")
            if watch:
                raise typer.Exit(0 if watch_session(appliance, session["id"]) else 1)
        typer.echo(f"roomcast session show {session['id']} --watch")

    @group.command(name="list")
    def list_(socket: Socket = None, as_json: Json = False) -> None:
        """The latest sessions, the newest first."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import age_text, console, make_table, print_json

        with ApplianceClient(socket) as appliance:
            sessions = appliance.get("/api/v1/sessions")
        if as_json:
            print_json(sessions)
            return
        if not sessions:
            console().print("No sessions yet: roomcast deploy IMAGE --to MACHINE", markup=False)
            return
        rows = []
        for session in sessions:
            states = [task["state"] for task in session["tasks"]]
            done, failed = states.count("succeeded"), states.count("failed") + states.count("cancelled")
            rows.append(
                (
                    session["id"],
                    f"{session['image']}:{session['version']}",
                    session["state"],
                    len(states),
                    done,
                    failed,
                    age_text(session["created_s"]),
                )
            )
        columns = ("session", "image", "state", "machines", "done", "failed", "opened")
        console().print(make_table(columns, rows, right=("session", "machines", "done", "failed")))

    @group.command()
    def show(
        session_id: SessionId = None,
        watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
        socket: Socket = None,
        as_json: Json = False,
    ) -> None:
        """One session with every machine: step, progress, rate, losses, and the proof when it is done."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import console, print_json
        from netboot.cli.watch import draw_session, watch_session

        with ApplianceClient(socket) as appliance:
            number = session_id or latest_session(appliance)
            if watch and not as_json:
                raise typer.Exit(0 if watch_session(appliance, number) else 1)
            session = appliance.get(f"/api/v1/sessions/{number}")
        if as_json:
            print_json(session)
        else:
            console().print(draw_session(session))

    @group.command()
    def cancel(session_id: SessionId = None, socket: Socket = None) -> None:
        """Cancel every machine of a session that is not done yet."""
        from netboot.cli.client import ApplianceClient

        with ApplianceClient(socket) as appliance:
            number = session_id or latest_session(appliance)
            session = appliance.post(f"/api/v1/sessions/{number}/cancel")
        typer.echo(f"session {session['id']} is {session['state']}")


def latest_session(appliance: object) -> int:
    """The number of the newest session. Raises UnknownError when there is none."""
    from netboot.cli.client import ApplianceClient
    from netboot.errors import UnknownError

    assert isinstance(appliance, ApplianceClient)
    sessions = appliance.get("/api/v1/sessions", limit=1)
    if not sessions:
        raise UnknownError("no sessions yet: roomcast deploy IMAGE --to MACHINE")
    number: int = sessions[0]["id"]
    return number
