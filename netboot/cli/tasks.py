"""`roomcast task` and `roomcast capture`: what single machines do."""

from typing import Annotated

import typer

from netboot.cli.options import Json, Socket


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Tasks: list, show, cancel.")
    app.add_typer(group, name="task")

    @app.command()
    def capture(
        machine: Annotated[str, typer.Argument(metavar="MACHINE", help="Its name or a MAC of it.")],
        name: Annotated[
            str, typer.Option("--name", "-n", metavar="NAME", help="Name of the image: a-z, 0-9, dot, dash.")
        ],
        source: Annotated[
            str,
            typer.Option(metavar="DEVICE", help="Disk of the machine (default: its only disk that is not removable)."),
        ] = "",
        after: Annotated[str, typer.Option(metavar="reboot|poweroff|stay", help="What it does then.")] = "stay",
        watch: Annotated[bool, typer.Option("--watch", "-w", help="Show its progress to the end.")] = False,
        socket: Socket = None,
    ) -> None:
        """Read a machine's disk into the next version of an image. It begins when the machine's agent runs."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.watch import watch_task

        with ApplianceClient(socket) as appliance:
            body = {"machine": machine, "image": name, "source": source, "after": after}
            task = appliance.post("/api/v1/capture", body)
            typer.echo(f"task {task['id']}: {task['machine']} captures {task['image']}")
            if watch:
                raise typer.Exit(0 if watch_task(appliance, task["id"]) else 1)

    @group.command(name="list")
    def list_(
        open_only: Annotated[bool, typer.Option("--open", help="Only those that are pending or running.")] = False,
        socket: Socket = None,
        as_json: Json = False,
    ) -> None:
        """Tasks, the oldest first."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import age_text, console, make_table, print_json

        with ApplianceClient(socket) as appliance:
            tasks = appliance.get("/api/v1/tasks", open_only=open_only)
        if as_json:
            print_json(tasks)
            return
        if not tasks:
            console().print("No tasks.")
            return
        rows = [
            (
                task["id"],
                task["machine"],
                task["kind"],
                task["image"] + (f":{task['version']}" if task["version"] else ""),
                task["session_id"] or "",
                task["progress"]["step"] if task["progress"] else task["state"],
                age_text(task["created_s"]),
                task["error"],
            )
            for task in tasks
        ]
        columns = ("task", "machine", "kind", "image", "session", "state", "given", "error")
        console().print(make_table(columns, rows, right=("task", "session")))

    @group.command()
    def show(
        task_id: Annotated[int, typer.Argument(metavar="TASK", min=1)], socket: Socket = None, as_json: Json = False
    ) -> None:
        """One task with the agent's last log lines and its proof."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import console, make_table, print_json

        with ApplianceClient(socket) as appliance:
            task = appliance.get(f"/api/v1/tasks/{task_id}")
        if as_json:
            print_json(task)
            return
        rows = [(key, task[key]) for key in ("machine", "kind", "image", "version", "state", "error") if task[key]]
        for key, value in (task["proof"] or {}).items():
            if key == "phases_s":
                value = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in value.items())
            rows.append((key.replace("_", " "), value))
        console().print(make_table(("", ""), rows))
        for line in task["log"]:
            console().print("  " + line, markup=False)

    @group.command()
    def cancel(task_id: Annotated[int, typer.Argument(metavar="TASK", min=1)], socket: Socket = None) -> None:
        """End a task that is pending or running; the machine's agent stops at its next word."""
        from netboot.cli.client import ApplianceClient

        with ApplianceClient(socket) as appliance:
            task = appliance.post(f"/api/v1/tasks/{task_id}/cancel")
        typer.echo(f"task {task['id']} of {task['machine']} is {task['state']}")
