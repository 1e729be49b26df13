"""How a machine without a task comes from the network boot to its own disk, and what worked on its model. [P]

One way is tried a boot. It failed when GRUB says that it led nowhere, or when the machine is back in the network boot
so soon that it cannot have been at home. It worked when the machine's own system asks DHCP; a machine that stays
silent came home too, most likely: not every system asks. A failure counts against the model only when the same machine
then came home another way: a blank disk says nothing of a firmware.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from imager.wire.messages import FirmwareKind
from netboot.deployment.records import Machine
from netboot.model import Way

WAYS: Mapping[FirmwareKind, tuple[Way, ...]] = {
    FirmwareKind.BIOS: (Way.CHAINLOAD, Way.EXIT),
    # `exit` is last: some firmware takes it for success and waits in its setup menu (seen on: OVMF 2022.11).
    FirmwareKind.UEFI: (Way.CHAINLOAD, Way.BOOTNEXT, Way.EXIT),
}
"""What each firmware can do, in the order in which it is tried."""

SAME_BOOT_S = 8.0
"""A machine that asks so soon again asks the same question once more: firmware asks for a file's size first."""
FAILED_WITHIN_S = 120.0
"""One that boots from the network again so soon was not at home; later, somebody has restarted it."""
HOME_AFTER_S = 300.0
"""One that was silent so long is at home."""
FAILURES_IN_A_ROW = 2
"""So often a way must have failed on a model to be tried last: once may be a person at the reset button."""
MOST_MODELS = 1000
"""Whoever reaches the agents' port can make up models."""


@dataclass(frozen=True, slots=True)
class Model:
    """Machines that are expected to behave alike; manufacturer and product as SMBIOS tells."""

    manufacturer: str
    product: str
    firmware: FirmwareKind

    @classmethod
    def of(cls, machine: Machine) -> "Model":
        inventory = machine.inventory
        return cls(inventory.manufacturer, inventory.product, inventory.firmware)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a way worked on a model."""

    worked: int = 0
    """The machine's own system was heard after."""
    silent: int = 0
    """Nothing was heard after, not even another network boot."""
    failed: int = 0
    failed_in_a_row: int = 0
    last_s: float = 0.0
    """Unix seconds of the last of these."""

    @property
    def fails(self) -> bool:
        return self.failed_in_a_row >= FAILURES_IN_A_ROW


@dataclass(slots=True)
class _Journey:
    """A machine since it was last at home."""

    machine: Machine
    macs: frozenset[str]
    way: Way | None
    """Tried now; None: none of them, it waits."""
    told_s: float
    asked_s: float
    failed: list[Way] = field(default_factory=list)
    handed: bool = False
    """BOOTNEXT: its agent was told to restart it."""


def order_ways(firmware: FirmwareKind, tallies: Mapping[Way, Tally], preferred: Iterable[Way] = ()) -> tuple[Way, ...]:
    """Every way of this firmware: those `preferred`, then those that do not fail on the model, then those that do."""
    able = WAYS[firmware]
    ranked = [*preferred, *sorted(able, key=lambda way: tallies.get(way, Tally()).fails)]
    return tuple(dict.fromkeys(way for way in ranked if way in able))


class WaysHome:
    """Chooses ways, and learns. Times are of a monotonic clock, `wall_s` is Unix time. Not thread-safe."""

    def __init__(self, tallies: Mapping[tuple[Model, Way], Tally]) -> None:
        self._tallies: dict[Model, dict[Way, Tally]] = {}
        for (model, way), tally in tallies.items():
            self._tallies.setdefault(model, {})[way] = tally
        self._journeys: dict[int, _Journey] = {}
        self._machine_at: dict[str, int] = {}
        self._changes: dict[tuple[Model, Way], Tally] = {}

    def tallies(self, model: Model) -> Mapping[Way, Tally]:
        return self._tallies.get(model, {})

    def order(self, machine: Machine) -> tuple[Way, ...]:
        """The ways as this machine tries them."""
        preferred = () if machine.boot_way is None else (machine.boot_way,)
        model = Model.of(machine)
        return order_ways(model.firmware, self.tallies(model), preferred)

    def choose(self, machine: Machine, now: float, wall_s: float, *, has_agent: bool = True) -> Way | None:
        """What a machine that asks how to boot shall try. None: each way has failed, let it ask again in a while.

        `has_agent`: there is an agent for it. BOOTNEXT needs one: without, it is left out, and has not failed.
        """
        journey = self._journeys.get(machine.id)
        if journey is not None and _can_go(journey.way, has_agent):
            if now - journey.asked_s < SAME_BOOT_S:
                journey.asked_s = now
                return journey.way
            self._came_back(journey, now, wall_s)
        return self._next(machine, now, has_agent)

    def way_failed(self, machine: Machine, way: Way, now: float, *, has_agent: bool = True) -> Way | None:
        """The machine's GRUB says that `way` leads nowhere: what it shall try in the same boot."""
        journey = self._journeys.get(machine.id)
        if journey is not None and journey.way is way:
            journey.failed.append(way)
        elif journey is not None and _can_go(journey.way, has_agent):
            return journey.way
        return self._next(machine, now, has_agent)

    def hand_over(self, machine_id: int, now: float) -> bool:
        """Whether the agent that asks for a task shall restart its machine by BootNext. It is told once: an agent that
        asks again could not, because no disk holds what its firmware could start, and waits for a task.
        """
        journey = self._journeys.get(machine_id)
        if journey is None or journey.way is not Way.BOOTNEXT:
            return False
        if journey.handed:
            self._end(journey)
            return False
        journey.handed = True
        journey.told_s = journey.asked_s = now
        return True

    def system_seen(self, mac: str, wall_s: float) -> None:
        """A system that is neither firmware nor our agent asked DHCP with this card."""
        journey = self._journeys.get(self._machine_at.get(mac, -1))
        if journey is not None and (journey.way is not Way.BOOTNEXT or journey.handed):
            self._home(journey, wall_s, heard=True)

    def forget(self, machine_id: int) -> None:
        """The machine does something else: its disk may be another one after."""
        if (journey := self._journeys.get(machine_id)) is not None:
            self._end(journey)

    def tick(self, now: float, wall_s: float) -> None:
        """Call every few seconds."""
        for journey in [each for each in self._journeys.values() if now - each.asked_s >= HOME_AFTER_S]:
            self._silent(journey, wall_s)

    def take_changes(self) -> dict[tuple[Model, Way], Tally]:
        """The tallies that changed since the last call."""
        changes, self._changes = self._changes, {}
        return changes

    def _next(self, machine: Machine, now: float, has_agent: bool) -> Way | None:
        journey = self._journeys.get(machine.id)
        failed = [] if journey is None else journey.failed
        if journey is not None:
            self._end(journey)
        able = [way for way in self.order(machine) if _can_go(way, has_agent)]
        way = next((way for way in able if way not in failed), None)
        macs = frozenset((machine.inventory.boot_mac, *(nic.mac for nic in machine.inventory.nics)))
        self._journeys[machine.id] = _Journey(machine, macs, way, now, now, failed if way is not None else [])
        self._machine_at.update(dict.fromkeys(macs, machine.id))
        return way

    def _came_back(self, journey: _Journey, now: float, wall_s: float) -> None:
        started = journey.way is not Way.BOOTNEXT or journey.handed
        if started and now - journey.told_s >= FAILED_WITHIN_S:
            self._silent(journey, wall_s)
        elif journey.way is not None:
            journey.failed.append(journey.way)

    def _silent(self, journey: _Journey, wall_s: float) -> None:
        # Firmware that found no disk waits in silence too, as does a machine whose agent never came.
        unknown = journey.way is Way.EXIT or (journey.way is Way.BOOTNEXT and not journey.handed)
        if journey.way is None or unknown:
            self._end(journey)
        else:
            self._home(journey, wall_s, heard=False)

    def _home(self, journey: _Journey, wall_s: float, *, heard: bool) -> None:
        self._end(journey)
        if journey.way is None:
            return
        model = Model.of(journey.machine)
        for way in set(journey.failed):
            tally = self.tallies(model).get(way, Tally())
            row = tally.failed_in_a_row + 1
            self._keep(model, way, replace(tally, failed=tally.failed + 1, failed_in_a_row=row, last_s=wall_s))
        tally = self.tallies(model).get(journey.way, Tally())
        worked, silent = tally.worked + heard, tally.silent + (not heard)
        self._keep(model, journey.way, replace(tally, worked=worked, silent=silent, failed_in_a_row=0, last_s=wall_s))

    def _end(self, journey: _Journey) -> None:
        del self._journeys[journey.machine.id]
        for mac in journey.macs:
            if self._machine_at.get(mac) == journey.machine.id:
                del self._machine_at[mac]

    def _keep(self, model: Model, way: Way, tally: Tally) -> None:
        if model in self._tallies or len(self._tallies) < MOST_MODELS:
            self._tallies.setdefault(model, {})[way] = tally
            self._changes[(model, way)] = tally


def _can_go(way: Way | None, has_agent: bool) -> bool:
    return way is not Way.BOOTNEXT or has_agent
