"""All that `vm-lab/bench cast` measured of each program: a table, JSON, and the picture that README shows."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from classroom.cast_peers import Casting
from classroom.errors import LabError

_COLOURS = {"roomcast": "#1f6f5c", "UFTP": "#c08a3e", "udpcast": "#8a8f98"}
_INK, _FAINT = "#24292f", "#d5d8dc"


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of one program's castings to one room."""

    program: str
    receivers: int
    loss_percent: float
    file_bytes: int
    goodput_mbps: float
    to_limit: float | None
    """Of what one receiver takes in when nobody looks at the packets."""
    wire_to_file: float
    """Bytes of Ethernet frames that left the sender, for each of the file."""
    sender_cpu_s_per_gb: float
    receiver_cpu_s_per_gb: float
    """Of one receiver."""

    def __str__(self) -> str:
        to_limit = f"{self.to_limit:.2f}" if self.to_limit is not None else ""
        room = f"{self.receivers} receiver{'s' if self.receivers > 1 else ''}"
        return (
            f"{self.program:<10}{room:<12}{self.loss_percent:>5g} %"
            f"{self.goodput_mbps:>10.0f}{to_limit:>10}{self.wire_to_file:>12.3f}"
            f"{self.sender_cpu_s_per_gb:>10.2f}{self.receiver_cpu_s_per_gb:>12.2f}"
        )


_HEAD = f"{'':<29}{'Mbit/s':>10}{'of limit':>10}{'wire / file':>12}{'sender':>10}{'receiver':>12}  CPU s/GB"


class CastRecord:
    """Castings by program, number of receivers and percent of loss; medians over the runs."""

    def __init__(self) -> None:
        self._castings: dict[tuple[str, int, float], list[Casting]] = {}
        self.limits_bps: list[float] = []
        """What one receiver takes in when nobody looks at the packets, of each run."""

    def add(self, name: str, receivers: int, loss: float, casting: Casting) -> None:
        self._castings.setdefault((name, receivers, loss), []).append(casting)

    def text(self) -> str:
        rows = self._rows()
        return "\n".join(["", _HEAD, *map(str, rows)]) if rows else ""

    def as_json(self) -> dict[str, Any]:
        return {"limit_mbps": [limit / 1e6 for limit in self.limits_bps], "castings": list(map(asdict, self._rows()))}

    def _rows(self) -> list[Row]:
        limit = median(self.limits_bps) if self.limits_bps else None
        return [_row(*key, runs, limit) for key, runs in self._castings.items()]

    def draw(self, path: Path) -> None:
        """Goodput by number of receivers, a panel for each loss. Raises LabError without matplotlib or castings."""
        try:
            import matplotlib
            from matplotlib.figure import Figure
        except ImportError as error:
            raise LabError("--plot needs matplotlib: .venv/bin/pip install -c constraints.txt -e '.[plot]'") from error
        rows = self._rows()
        if not rows:
            raise LabError("there is nothing to draw: --plot needs the bench `goodput`")
        matplotlib.rcParams["svg.hashsalt"] = "roomcast"
        losses = sorted({row.loss_percent for row in rows})
        rooms = sorted({row.receivers for row in rows})
        gbps = {(row.program, row.receivers, row.loss_percent): row.goodput_mbps / 1e3 for row in rows}
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        panels = figure.subplots(1, len(losses), sharey=True, squeeze=False)[0]
        for panel, loss in zip(panels, losses, strict=True):
            for number, name in enumerate(_COLOURS):
                heights = [gbps.get((name, room, loss), 0.0) for room in rooms]  # 0: it never came to its end
                places = [at + (number - 1) * 0.27 for at in range(len(rooms))]
                bars = panel.bar(places, heights, 0.25, color=_COLOURS[name], label=name)
                panel.bar_label(bars, fmt=_bar_text, fontsize=6, color=_INK)
            panel.set_title(f"{loss:g} % loss", fontsize=10, color=_INK)
            panel.set_xticks(range(len(rooms)), [str(room) for room in rooms])
            panel.set_xlabel("receivers", color=_INK)
            panel.grid(axis="y", color=_FAINT, linewidth=0.6)
            panel.set_axisbelow(True)
            panel.spines[["top", "right", "left"]].set_visible(False)
            panel.tick_params(length=0, colors=_INK)
        panels[0].set_ylabel("Gbit/s of the file", color=_INK)
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False, fontsize=9
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


def _bar_text(gbps: float) -> str:
    """Narrow, as a bar is: 2.6, .47."""
    return f"{gbps:.1f}" if gbps >= 1 else f"{gbps:.2f}".lstrip("0")


def _row(program: str, receivers: int, loss: float, runs: list[Casting], limit_bps: float | None) -> Row:
    def middle(quantity: Callable[[Casting], float]) -> float:
        return median(map(quantity, runs))

    goodput_bps = middle(lambda one: one.goodput_bps)
    return Row(
        program,
        receivers,
        loss,
        runs[0].file_bytes,
        goodput_bps / 1e6,
        goodput_bps / limit_bps if limit_bps else None,
        middle(lambda one: one.wire_share),
        middle(lambda one: one.sender_cpu_s / one.file_bytes * 1e9),
        middle(lambda one: one.receiver_cpu_s / receivers / one.file_bytes * 1e9),
    )
