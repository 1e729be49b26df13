"""[S] The ways home of a running appliance: a lock, the clock and the database around `WaysHome`.

Called from the event loop and from the threads that render boot files; only `run` writes to the disk.
"""

import asyncio
import threading

import structlog

from netboot.deployment.outcomes import Clock
from netboot.deployment.records import Machine
from netboot.deployment.way_home import Model, Tally, WaysHome
from netboot.dhcp.classify import AGENT_CLASS
from netboot.errors import NetbootError
from netboot.model import Way
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.ways import WayRepository
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import CLIENT_ARCH, VENDOR_CLASS, MessageType

EVERY_S = 5.0
_BOOT_CLASSES = ("PXEClient", "HTTPClient", AGENT_CLASS)

log = structlog.get_logger()


class Homecoming:
    """Thread-safe. `run` keeps what was learnt."""

    def __init__(self, database: Database, machines: MachineRepository, clock: Clock) -> None:
        self._database = database
        self._machines = machines
        self._repository = WayRepository(database)
        self._clock = clock
        self._lock = threading.Lock()
        self._ways = WaysHome(self._repository.load())

    def choose(self, mac: str, *, has_agent: bool) -> Way | None:
        """See WaysHome.choose. A machine that is not known has the first way of all."""
        machine = self._machines.find_by_mac(mac)
        if machine is None:
            return Way.CHAINLOAD
        with self._lock:
            return self._ways.choose(machine, self._clock.monotonic(), self._clock.wall(), has_agent=has_agent)

    def way_failed(self, mac: str, way: Way, *, has_agent: bool) -> Way | None:
        """See WaysHome.way_failed."""
        machine = self._machines.find_by_mac(mac)
        if machine is None:
            return None
        with self._lock:
            after = self._ways.way_failed(machine, way, self._clock.monotonic(), has_agent=has_agent)
        log.info("way home leads nowhere", machine=machine.name, way=str(way), next=after and str(after))
        return after

    def forget(self, machine_id: int) -> None:
        """The machine has a task."""
        with self._lock:
            self._ways.forget(machine_id)

    def hand_over(self, machine_id: int) -> bool:
        """See WaysHome.hand_over."""
        with self._lock:
            return self._ways.hand_over(machine_id, self._clock.monotonic())

    def packet_seen(self, packet: DhcpPacket) -> None:
        """Of any machine, answered or not. Quick: called for each packet."""
        if not is_of_a_system(packet):
            return
        with self._lock:
            self._ways.system_seen(packet.mac, self._clock.wall())

    def known(self, machine: Machine) -> tuple[tuple[Way, Tally], ...]:
        """The ways of this machine in the order in which it tries them, with how they did on its model."""
        with self._lock:
            tallies = self._ways.tallies(Model.of(machine))
            return tuple((way, tallies.get(way, Tally())) for way in self._ways.order(machine))

    async def run(self) -> None:
        """Until cancelled; what was learnt till then is kept."""
        try:
            while True:
                await asyncio.sleep(EVERY_S)
                await self.keep()
        finally:
            await asyncio.shield(self.keep())

    async def keep(self) -> None:
        """Write down what was learnt since the last call."""
        with self._lock:
            self._ways.tick(self._clock.monotonic(), self._clock.wall())
            changes = self._ways.take_changes()
        if not changes:
            return
        try:
            await self._database.run(self._repository.save, changes)
        except NetbootError as error:  # it is known in memory, and the next result of this model brings it along
            log.warning("ways home are not kept", reason=str(error))


def is_of_a_system(packet: DhcpPacket) -> bool:
    """Whether an installed system asks for its address: neither firmware, nor a boot program, nor our agent."""
    if packet.message_type not in (MessageType.DISCOVER, MessageType.REQUEST) or CLIENT_ARCH in packet.options:
        return False
    return not (packet.options.get(VENDOR_CLASS) or "").startswith(_BOOT_CLASSES)
