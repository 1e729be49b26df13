"""Listens to the services and writes the boot log: into memory at once, into the database in batches. [S]

Every method that a service calls returns at once and raises nothing: a boot does not wait for its log.
"""

import asyncio
import functools
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol

import structlog

from imager.wire.messages import Inventory
from netboot.boot.contexts import BootKind, NextBoot
from netboot.bootlog.events import (
    Agent,
    AgentStep,
    BootEvent,
    Configured,
    Fetch,
    FetchState,
    Registered,
    Span,
    Told,
    cut,
)
from netboot.bootlog.exchange import exchange_of, is_boot_class
from netboot.bootlog.file_ranges import ranges_of
from netboot.bootlog.ignored import IgnoredPacket, IgnoredPackets
from netboot.bootlog.timeline import BootLog, BootRecord, Role, role_of
from netboot.deployment.live import Changes
from netboot.dhcp.leases import Lease
from netboot.dhcp.reply import Arrival, Reply
from netboot.dhcp.watch import OtherServer
from netboot.errors import NetbootError
from netboot.model import Ignored
from netboot.persistence.boot_log import BootRepository
from netboot.persistence.database import Database
from netboot.services.tftp import TransferReport
from netboot.tftp.transfer import TransferDeclined, TransferFailed, TransferFinished
from netboot.wire.dhcp import NO_ADDRESS, DhcpPacket
from netboot.wire.dhcp_options import REQUESTED_ADDRESS, MessageType

TICK_S = 0.25
"""Followers hear of news at most so often."""
WRITE_EVERY_S = 2.0
WRITE_AT_ONCE = 50
"""Boots a batch: a room that is switched on at once is written over the next seconds."""
MAX_ADDRESSES = 8192
ARP_TABLE = Path("/proc/net/arp")
ARP_FRESH_S = 1.0

log = structlog.get_logger()

Given = ParamSpec("Given")


class Leases(Protocol):
    """Who has which address."""

    def get_by_address(self, address: IPv4Address) -> Lease | None: ...

    def gives(self, address: IPv4Address) -> bool:
        """Whether the addresses there are this appliance's to give."""


def _quietly(
    method: Callable[Concatenate["BootRecorder", Given], None],
) -> Callable[Concatenate["BootRecorder", Given], None]:
    """A boundary: what goes wrong in the log stays in the log."""

    def guarded(self: "BootRecorder", /, *args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            with self._lock:
                method(self, *args, **kwargs)
        except Exception:
            log.exception("boot log failed", hook=method.__name__)

    return functools.update_wrapper(guarded, method)


class BootRecorder:
    """The log of one appliance. Its hooks may be called from any thread."""

    def __init__(
        self,
        database: Database,
        repository: BootRepository,
        leases: Leases,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`clock`: Unix seconds that never jump; the machine's own from now on when None."""
        self._database = database
        self._repository = repository
        self._leases = leases
        self._clock = clock or _steady_clock()
        self._lock = threading.Lock()
        self._log = BootLog()
        self._ignored = IgnoredPackets()
        self._mac_at: OrderedDict[str, str] = OrderedDict()
        """What DHCP packets and GRUB's questions told of addresses that another server gives."""
        self._mac_of_machine: OrderedDict[int, str] = OrderedDict()
        self._arp: dict[str, str] = {}
        self._arp_read_s = float("-inf")
        self._unplaced: deque[tuple[int, BootEvent]] = deque(maxlen=100)
        """Words of agents that registered before this appliance started."""
        self.changes = Changes()

    @property
    def now_s(self) -> float:
        return self._clock()

    # DHCP

    @_quietly
    def exchanged(self, request: DhcpPacket, arrival: Arrival, outcome: Reply | Ignored) -> None:
        """For `DhcpService(on_exchange=...)`."""
        now, mac = self._clock(), request.mac
        if isinstance(outcome, Ignored):
            kind = request.message_type
            self._ignored.add(mac, f"DHCP {kind.name if kind else 'BOOTP'}", cut(outcome.reason), now)
        if not is_boot_class(request) and not self._log.knows(mac):
            return
        if request.message_type is MessageType.REQUEST:
            address = request.options.get(REQUESTED_ADDRESS) or request.ciaddr
            is_ours = isinstance(outcome, Reply) and outcome.packet.yiaddr == address  # the leases know it
            if address != NO_ADDRESS and not is_ours:
                self._learn(str(address), mac)
        self._log.record(mac, exchange_of(request, arrival, outcome), now)

    @_quietly
    def junk(self, source: str, reason: str) -> None:
        """For `DhcpService(on_junk=...)`: what no parser takes."""
        self._ignored.add(source, "DHCP port", cut(f"not a DHCP packet: {reason}"), self._clock())

    @_quietly
    def other_server(self, interface: str, other: OtherServer, follows: str) -> None:
        """Another DHCP server appeared on an interface."""
        reason = f"another DHCP server: {other.server} gives out addresses on {interface}, {follows}"
        self._ignored.add(other.mac, "DHCP server", reason, self._clock())

    # Files

    @_quietly
    def transfer_started(self, peer: str, path: str, size: int) -> None:
        """For `serve_tftp(on_start=...)`."""
        self._fetch(peer, Fetch("tftp", cut(path), FetchState.RUNNING, size))

    @_quietly
    def transferred(self, report: TransferReport) -> None:
        """For `serve_tftp(on_transfer=...)`."""
        common: dict[str, Any] = {
            "size": report.size,
            "seconds": report.seconds,
            "block_bytes": report.block_bytes,
            "blocks": report.blocks_acknowledged,
        }
        path = cut(report.path)
        match report.outcome:
            case TransferFinished(size, resent):
                event = Fetch("tftp", path, FetchState.DONE, sent=size, resent=resent, **common)
            case TransferFailed(reason, done):
                event = Fetch("tftp", path, FetchState.FAILED, sent=done, why=cut(reason), **common)
            case TransferDeclined(size, _):
                event = Fetch("tftp", path, FetchState.SIZED, size)
            case Ignored(reason):
                event = Fetch("tftp", path, FetchState.REFUSED, why=cut(reason))
        self._fetch(report.peer, event)

    @_quietly
    def tftp_ignored(self, sender: str, reason: str, count: int) -> None:
        """For `serve_tftp(on_ignored=...)`."""
        now = self._clock()
        self._ignored.add(self._mac_of_peer(sender, now) or sender, "TFTP port", cut(reason), now, count)

    @_quietly
    def http_started(self, peer: str, path: str, size: int, span: Span) -> None:
        """A boot file of `size` bytes, or a span of it, is about to be sent by HTTP."""
        self._fetch(peer, Fetch("http", cut(path), FetchState.RUNNING, size, ranges=ranges_of(span, size)))

    @_quietly
    def http_ended(self, peer: str, path: str, size: int, span: Span, sent: int, seconds: float, why: str) -> None:
        """It was sent; `why` is empty when all of it went out."""
        ranges = ranges_of(span, size)
        state = FetchState.FAILED if why else FetchState.PART if ranges else FetchState.DONE
        event = Fetch("http", cut(path), state, size, sent, seconds, why=cut(why), ranges=ranges, parts=len(ranges))
        self._fetch(peer, event)

    @_quietly
    def http_refused(self, peer: str, path: str, reason: str) -> None:
        self._fetch(peer, Fetch("http", cut(path), FetchState.REFUSED, why=cut(reason)))

    def _fetch(self, peer: str, event: Fetch) -> None:
        now = self._clock()
        source = self._mac_of_peer(peer, now) or peer
        if event.state is FetchState.REFUSED and role_of(event.path) is not Role.OPTIONAL:
            self._ignored.add(source, f"{event.transport.upper()} {event.path}", event.why, now)
        self._log.record(source, event, now)
        self._log.set_address(source, peer)

    @_quietly
    def configured(self, peer: str, mac: str, step: NextBoot) -> None:
        """GRUB's configuration for this MAC was rendered, for `peer`."""
        if not mac:
            return
        now = self._clock()
        if self._mac_of_peer(peer, now) is None and not self._leases.gives(IPv4Address(peer)):
            self._learn(peer, mac)
        told = Told.LOCAL if step.kind is BootKind.LOCAL else Told.AGENT
        way = str(step.way or "none") if told is Told.LOCAL else ""
        self._log.record(mac, Configured(told, cut(step.machine), cut(step.reason), way), now)

    # Agents

    @_quietly
    def registered(self, inventory: Inventory, peer: str, machine_id: int, name: str, is_new: bool) -> None:
        """An agent registered."""
        mac = inventory.boot_mac
        _put(self._mac_of_machine, machine_id, mac)
        self._learn(peer, mac)
        event = Registered(
            name, is_new, inventory.boot_s, str(inventory.firmware), inventory.secure_boot, inventory.memory_bytes
        )
        self._log.record(mac, event, self._clock())
        self._log.set_address(mac, peer)

    @_quietly
    def registration_refused(self, inventory: Inventory, peer: str, reason: str) -> None:
        self._log.record(inventory.boot_mac, Registered("", refused=cut(reason)), self._clock())

    @_quietly
    def agent(self, machine_id: int, step: AgentStep, task: str = "", why: str = "") -> None:
        """The agent of a machine asked for its task, or told its end."""
        event, mac = Agent(step, cut(task), cut(why)), self._mac_of_machine.get(machine_id)
        if mac is None:
            self._unplaced.append((machine_id, event))
        else:
            self._log.record_news(mac, event, self._clock())

    # Reading

    def boots(self, mac: str) -> list[BootRecord]:
        """What is in memory of a machine, the oldest boot first."""
        with self._lock:
            return self._log.boots(mac)

    def latest(self, limit: int) -> list[BootRecord]:
        """The last boot of each machine that was heard, the latest first."""
        with self._lock:
            return self._log.latest(limit)

    def ignored(self) -> list[IgnoredPacket]:
        with self._lock:
            return self._ignored.latest()

    def mac_at(self, address: str) -> str | None:
        """The MAC of a machine, or None, by its address."""
        with self._lock:
            return self._mac_of_peer(address, self._clock()) or self._log.mac_at(address)

    # Running

    async def run(self) -> None:
        """Tell followers, write to the database; cancel to end. What is not written yet is written then."""
        told = -1
        write_s = 0.0
        try:
            while True:
                await asyncio.sleep(TICK_S)
                if self._unplaced:
                    await self._place_agents()
                if self._log.version != told:
                    told = self._log.version
                    self.changes.tell()
                write_s += TICK_S
                if write_s >= WRITE_EVERY_S:
                    write_s = 0.0
                    await self._write(all_of_them=False)
        finally:
            self.changes.stop()
            await asyncio.shield(self._write(all_of_them=True))

    async def _write(self, *, all_of_them: bool) -> None:
        with self._lock:
            limit = 2000 if all_of_them else WRITE_AT_ONCE
            due = self._log.take_due(self._clock(), limit, all_of_them=all_of_them)
        if not due:
            return
        try:
            await self._database.run(self._repository.save, due)
        except NetbootError as error:  # the database is away: what was not written is written with the next change
            log.warning("boot log not written", boots=len(due), cause=str(error))

    async def _place_agents(self) -> None:
        with self._lock:
            waiting = list(self._unplaced)
            self._unplaced.clear()
        try:
            macs = await self._database.run(self._repository.boot_macs, {machine_id for machine_id, _ in waiting})
        except NetbootError as error:
            log.warning("agents of unknown machines", cause=str(error))
            return
        with self._lock:
            for machine_id, event in waiting:
                if mac := macs.get(machine_id):
                    _put(self._mac_of_machine, machine_id, mac)
                    self._log.record_news(mac, event, self._clock())

    # Who is at an address

    def _learn(self, address: str, mac: str) -> None:
        _put(self._mac_at, address, mac)

    def _mac_of_peer(self, peer: str, now: float) -> str | None:
        """By lease, by what machines told, by the kernel's ARP table."""
        try:
            lease = self._leases.get_by_address(IPv4Address(peer))
        except AddressValueError:
            return None
        if lease is not None:
            return lease.mac
        if (told := self._mac_at.get(peer)) is not None:
            return told
        if now - self._arp_read_s > ARP_FRESH_S:
            self._arp_read_s = now
            self._arp = read_arp_table()
        return self._arp.get(peer)


def read_arp_table(path: Path = ARP_TABLE) -> dict[str, str]:
    """MACs by address, as the kernel knows its neighbours at this moment."""
    found: dict[str, str] = {}
    try:
        rows = path.read_text("ascii", "replace").splitlines()[1:]
    except OSError:
        return found
    for row in rows:
        columns = row.split()
        if len(columns) >= 6 and columns[3] != "00:00:00:00:00:00":
            found[columns[0]] = columns[3].lower()
    return found


def _put(table: OrderedDict[Any, str], key: Any, value: str) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MAX_ADDRESSES:
        table.popitem(last=False)


def _steady_clock() -> Callable[[], float]:
    offset_s = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset_s
