"""The table of proof, for a person: one column a machine, a few machines a table."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from classroom.proof import ImageFacts, MachineProof

MACHINES_A_TABLE = 4
LONGEST_DOUBT = 160


def proof_tables(
    machines: Sequence[MachineProof], image: ImageFacts, doubts: Mapping[str, Sequence[str]], loss_percent: float
) -> list[Table]:
    """The tables for these machines."""
    title = f"{image.name} version {image.version}: {image.chunks} chunks, manifest {image.manifest_hash[:12]}"
    if loss_percent:
        title += f", {loss_percent:g} % loss"
    tables = []
    for first in range(0, len(machines), MACHINES_A_TABLE):
        some = machines[first : first + MACHINES_A_TABLE]
        table = Table(title=title, title_style="bold", show_lines=False)
        table.add_column("")
        for machine in some:
            table.add_column(machine.name, style="bold red" if doubts[machine.name] else None)
        for label, cells in _rows(some, image, loss_percent):
            table.add_row(label, *cells)
        table.add_section()
        table.add_row("proven", *(_shortened("; ".join(doubts[m.name])) or "yes" for m in some))
        tables.append(table)
    return tables


def _rows(some: Sequence[MachineProof], image: ImageFacts, loss_percent: float) -> list[tuple[str, list[str]]]:
    reports = [machine.report for machine in some]
    rows = [
        ("firmware", [machine.firmware.upper() for machine in some]),
        ("power-on to registered", [_seconds(machine.register_s) for machine in some]),
    ]
    steps = dict.fromkeys(step for report in reports if report for step in report.phases_s)
    rows += [(step, [_seconds(report.phases_s.get(step) if report else None) for report in reports]) for step in steps]
    rows += [
        ("own disk booted after", [_seconds(machine.boot_s) for machine in some]),
        ("chunks verified", [f"{r.chunks_verified} of {image.chunks}" if r else "-" for r in reports]),
        ("of them on its disk before", [f"{r.chunks_skipped:,}" if r else "-" for r in reports]),
        ("bytes received", [f"{r.received_bytes:,}" if r else "-" for r in reports]),
        ("repair packets", [f"{r.repair_packets:,}" if r else "-" for r in reports]),
        ("packets lost", [f"{r.lost_packets:,}" if r else "-" for r in reports]),
    ]
    if loss_percent:
        rows.append(("packets dropped on the way", [f"{machine.dropped_packets:,}" for machine in some]))
    rows += [
        ("hostname it printed", [m.booted.hostname if m.booted else "-" for m in some]),
        ("machine-id it printed", [m.booted.machine_id[:12] if m.booted else "-" for m in some]),
        ("SSH host key it printed", [f"...{m.booted.host_key[-9:]}" if m.booted else "-" for m in some]),
        ("root file system on", [m.booted.root if m.booted else "-" for m in some]),
    ]
    return rows


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_DOUBT else text[: LONGEST_DOUBT - 3] + "..."
