"""`roomcast machine`."""

from typing import Annotated, Any

import typer

from netboot.cli.options import Json, Socket

Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="Its name or a MAC of it.")]

LONGEST_NAME = 63


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Machines: list, show, rename, group, boot-way.")
    app.add_typer(group, name="machine")

    @group.command(name="list")
    def list_(socket: Socket = None, as_json: Json = False) -> None:
        """Every machine that has registered: each does when it boots from the network for the first time."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import age_text, bytes_text, console, make_table, print_json

        with ApplianceClient(socket) as appliance:
            machines = appliance.get("/api/v1/machines")
        if as_json:
            print_json(machines)
            return
        if not machines:
            console().print("No machine has registered yet: boot one from the network.")
            return
        rows = []
        for machine in machines:
            facts = machine["inventory"]
            disks = ", ".join(bytes_text(disk["size_bytes"]) for disk in facts["disks"] if not disk["removable"])
            rows.append(
                (
                    machine["name"],
                    state_of(machine),
                    facts["boot_mac"],
                    facts["address"],
                    facts["firmware"],
                    disks,
                    ", ".join(machine["groups"]),
                    age_text(machine["seen_s"]),
                )
            )
        columns = ("machine", "state", "MAC", "address", "firmware", "disks", "groups", "registered")
        console().print(make_table(columns, rows))

    @group.command()
    def show(machine: Machine, socket: Socket = None, as_json: Json = False) -> None:
        """One machine: its parts, and what it does."""
        from netboot.cli.client import ApplianceClient
        from netboot.cli.output import print_json

        with ApplianceClient(socket) as appliance:
            found = appliance.get(f"/api/v1/machines/{_quoted(machine)}")
        if as_json:
            print_json(found)
        else:
            _show(found)

    @group.command()
    def rename(
        machine: Machine,
        name: Annotated[str, typer.Argument(metavar="NAME", help="A host name: a-z, 0-9, dashes.")],
        socket: Socket = None,
    ) -> None:
        """Give a machine another name: it becomes its host name with the next deployment."""
        from netboot.cli.client import ApplianceClient

        with ApplianceClient(socket) as appliance:
            appliance.post(f"/api/v1/machines/{_quoted(machine)}/rename", {"name": name})
        typer.echo(f"{machine} is {name} now")

    @group.command(name="boot-way")
    def boot_way(
        machine: Machine,
        way: Annotated[
            str, typer.Argument(metavar="auto|chainload|bootnext|exit", help="auto: what works on its model.")
        ],
        socket: Socket = None,
    ) -> None:
        """Choose how a machine without a task gets to its own disk; other ways follow when this one fails."""
        from netboot.cli.client import ApplianceClient

        with ApplianceClient(socket) as appliance:
            changed = appliance.post(f"/api/v1/machines/{_quoted(machine)}/boot-way", {"way": way})
        typer.echo(f"{changed['name']} goes by {', then '.join(row['way'] for row in changed['ways_home'])}")

    @group.command(name="group")
    def group_(
        room: Annotated[str, typer.Argument(metavar="GROUP", help="A room, a row: a-z, 0-9, dot, dash.")],
        machines: Annotated[list[str], typer.Argument(metavar="MACHINE...", help="Their names or a MAC of each.")],
        remove: Annotated[bool, typer.Option("--remove", "-r", help="Take them out of it instead.")] = False,
        socket: Socket = None,
    ) -> None:
        """Put machines into a group, all of them or none. Every machine is in the group `all`."""
        from netboot.cli.client import ApplianceClient

        with ApplianceClient(socket) as appliance:
            body = {"machines": machines, "remove": remove}
            changed = appliance.post(f"/api/v1/groups/{_quoted(room)}/members", body)
        for name, groups in changed.items():
            typer.echo(f"{name}: {', '.join(groups) or 'in no group'}")


def state_of(machine: dict[str, Any]) -> str:
    """What a machine does, in a few words."""
    task = machine["task"]
    if task is not None and task["state"] in ("pending", "running"):
        step = task["progress"]["step"] if task["progress"] else task["state"]
        return f"{task['kind']} {task['image']}: {step}"
    if machine["agent_waits"]:
        return "waits for a task"
    if task is not None:
        return f"{task['kind']} {task['image']}: {task['state']}"
    return "registered"


def _way_text(row: dict[str, Any]) -> str:
    tally = row["tally"]
    counts = [f"{tally[name]} {name}" for name in ("worked", "silent", "failed") if tally[name]]
    return str(row["way"]) + (f" ({', '.join(counts)} on this model)" if counts else "")


def _quoted(name: str) -> str:
    """A name as a part of a path. Raises UserError for what no path can carry: nothing has such a name."""
    from urllib.parse import quote

    from netboot.errors import UserError

    if not name or "/" in name or name in (".", "..") or len(name) > LONGEST_NAME:
        raise UserError(f"{name!r} is no name of a machine or group: see `roomcast machine list`")
    return quote(name, safe="")


def _show(machine: dict[str, Any]) -> None:
    from netboot.cli.output import age_text, bytes_text, console, make_table, memory_text

    facts = machine["inventory"]
    secure = ", Secure Boot on" if facts["secure_boot"] else ""
    rows = [
        ("machine", machine["name"]),
        ("state", state_of(machine)),
        ("groups", ", ".join(machine["groups"])),
        ("model", " ".join(filter(None, (facts["manufacturer"], facts["product"])))),
        ("serial", facts["serial"]),
        ("UUID", facts["system_uuid"]),
        ("firmware", facts["firmware"] + secure),
        ("processor", f"{facts['cpu_count']} x {facts['cpu_model']}"),
        ("memory", memory_text(facts["memory_bytes"])),
        ("address", facts["address"]),
        ("registered", f"{age_text(machine['seen_s'])}, first {age_text(machine['registered_s'])}"),
        ("agent", f"{facts['agent_version']}, up {facts['boot_s']:.1f} s after its kernel"),
    ]
    rows.append(("way to its disk", ", then ".join(map(_way_text, machine["ways_home"]))))
    rows += [
        (
            "NIC",
            f"{nic['name']} {nic['mac']} {nic['driver']}"
            + (f" {nic['speed_mbps']} Mbit/s" if nic["speed_mbps"] else ""),
        )
        for nic in facts["nics"]
    ]
    rows += [
        ("disk", f"{d['device']} {bytes_text(d['size_bytes'])} {d['bus']} {d['model']} {d['serial']}".rstrip())
        for d in facts["disks"]
    ]
    if machine["task"] is not None and machine["task"]["error"]:
        rows.append(("last error", machine["task"]["error"]))
    console().print(make_table(("", ""), [row for row in rows if row[1]]))
