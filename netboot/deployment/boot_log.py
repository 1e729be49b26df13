"""The boot log as it is shown: a machine found by any of its names, its boots in words, what is wrong with them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from netboot.bootlog.diagnosis import AGENT_WAIT_S, LOOP_BOOTS, diagnose
from netboot.bootlog.documents import boot_document
from netboot.bootlog.events import parse_mac
from netboot.bootlog.timeline import BootRecord
from netboot.bootlog.words import firmware_of, lines_of, shown, summary_of
from netboot.deployment.near_names import MOST_NEAR, by_uuid, near_names
from netboot.deployment.records import Machine
from netboot.errors import UnknownError
from netboot.persistence.boot_log import BootRepository
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository
from netboot.services.boot_log import BootRecorder

SETTLED_S = 2 * AGENT_WAIT_S
"""After so long a silence no rule finds anything new in a boot."""


class BootHistory:
    """Reads; changes nothing."""

    def __init__(
        self, database: Database, machines: MachineRepository, repository: BootRepository, recorder: BootRecorder
    ) -> None:
        self._database = database
        self._machines = machines
        self._repository = repository
        self.recorder = recorder
        self._kept: dict[str, BootRecord] | None = None
        """The last boots before this appliance started, by MAC."""
        self._summaries: dict[str, tuple[float, dict[str, Any]]] = {}
        """With the time of the last event, by MAC."""

    async def macs(self, name: str) -> set[str]:
        """The MACs of a machine by its name, a MAC in any spelling, its address, or the beginning of its system UUID.

        Raises UnknownError, which names machines that may be meant.
        """
        mac = parse_mac(name)
        try:
            machine = await self._database.run(self._machines.find, mac or name)
        except UnknownError:
            mac = mac or self.recorder.mac_at(name)
            if mac is not None:
                return {mac}
            machine = await self._meant(name)
        return {machine.inventory.boot_mac, *(nic.mac for nic in machine.inventory.nics)}

    async def _meant(self, name: str) -> Machine:
        machines = await self._database.run(self._machines.all)
        match by_uuid(name, machines):
            case [machine]:
                return machine
            case []:
                near = near_names(name, [machine.name for machine in machines])
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                raise UnknownError(
                    f"no machine {shown(name)}: {hint}name it by its MAC, or see `roomcast machine list`"
                )
            case several:
                names = ", ".join(machine.name for machine in several[:MOST_NEAR])
                more = f" and {len(several) - MOST_NEAR} more" if len(several) > MOST_NEAR else ""
                raise UnknownError(f"{len(several)} machines have a UUID that begins with {shown(name)}: {names}{more}")

    async def boots(self, macs: set[str], count: int = 1) -> list[dict[str, Any]]:
        """The last boots, the oldest first, as JSON can tell them."""
        kept = await self._database.run(self._repository.boots, macs, count + LOOP_BOOTS)
        live = [boot for mac in macs for boot in self.recorder.boots(mac)]
        by_start = {(boot.mac, round(boot.started_s * 1000)): boot for boot in (*kept, *live)}
        boots = sorted(by_start.values(), key=lambda boot: boot.started_s)
        first = max(0, len(boots) - count)
        return [boot_view(boots[i], boots[:i], self.recorder.now_s) for i in range(first, len(boots))]

    async def latest(self, limit: int) -> list[dict[str, Any]]:
        """The last boot of each machine in a few words, the latest first."""
        if self._kept is None:
            self._kept = {boot.mac: boot for boot in await self._database.run(self._repository.latest, limit)}
        live = {boot.mac: boot for boot in self.recorder.latest(limit)}
        boots = sorted((self._kept | live).values(), key=lambda boot: boot.started_s, reverse=True)[:limit]
        self._summaries = {boot.mac: (boot.last_s, self._summary(boot)) for boot in boots}
        return [summary for _, summary in self._summaries.values()]

    def _summary(self, boot: BootRecord) -> dict[str, Any]:
        """Made once when nothing more will be said of it: a list of many boots is looked at twice a second."""
        now = self.recorder.now_s
        last_s, summary = self._summaries.get(boot.mac, (0.0, {}))
        if last_s == boot.last_s and now - last_s > SETTLED_S and summary["settled"]:
            return summary
        return {
            "mac": boot.mac,
            "machine": boot.machine,
            "started_s": boot.started_s,
            "firmware": firmware_of(boot),
            "summary": summary_of(boot),
            "diagnoses": [dataclasses.asdict(diagnosis) for diagnosis in diagnose(boot, now)],
            "settled": now - boot.last_s > SETTLED_S,
        }


def boot_view(boot: BootRecord, earlier: Sequence[BootRecord], now: float) -> dict[str, Any]:
    """A boot as the API, the pages and the command line show it. `earlier`: those before it, the oldest first."""
    return {
        **boot_document(boot),
        "firmware": firmware_of(boot),
        "summary": summary_of(boot),
        "lines": [dataclasses.asdict(line) for line in lines_of(boot)],
        "diagnoses": [dataclasses.asdict(diagnosis) for diagnosis in diagnose(boot, now, earlier)],
    }
