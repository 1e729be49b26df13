"""The process that serves TFTP: `python -m netboot.services.tftp_process CONTROL REQUESTS OPTIONS`.

One loop over epoll, without asyncio: a Python callback a packet costs more than the packet. Each transfer has a socket
that is connected to its client, on one of a few ports; what anybody else sends to such a port comes to the lobby, the
unconnected socket of the same port. Files come from the appliance as descriptors: this process opens none. It ends when
its appliance's end of the control socket closes.
"""

import contextlib
import heapq
import itertools
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque

from netboot.errors import WireError
from netboot.model import Ignored
from netboot.services.tftp_link import COUNTERS_EVERY_S, ApplianceLink
from netboot.services.tftp_messages import ProcessOptions
from netboot.services.tftp_ports import GSO_REFUSED, TransferPorts, stop_segmenting
from netboot.services.tftp_rights import drop_rights, take_rights
from netboot.tftp.blocks import BlockCache, PreparedBlocks
from netboot.tftp.denial import FAILED, NOT_OPENED_IN_TIME, Denial
from netboot.tftp.options import Limits, negotiate
from netboot.tftp.reception import Address, Reception, Refused, Replaces
from netboot.tftp.transfer import ReadTransfer, TransferEvent, TransferFailed
from netboot.wire.tftp import ErrorCode, ReadRequest, build_error

_MAX_DATAGRAM_BYTES = 2048
_MAX_REQUESTS_PER_TURN = 64
_OPEN_WITHIN_S = 30.0
SPIN_S = 60e-6
"""So long an answer is polled for instead of slept for: to be woken costs more than that on a virtual machine."""
SPIN_ROUND_TRIP_S = 200e-6
"""Only where answers come that fast,"""
SPIN_TRANSFERS = 2
"""and while so few transfers run: more keep the loop awake by themselves."""
GATHER_TRANSFERS = 4
"""While more transfers run than this,"""
GATHER_ANSWERS = 6
"""and fewer answers wait, the clients go first: their answers are then served in one go, with fewer task switches."""


class _FileContent:
    """A file by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.size = status.st_size
        self.identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)


class _Transfer:
    """One transfer's socket and file; before its file is open, only its request."""

    def __init__(self, number: int, peer: Address, request: ReadRequest, now: float) -> None:
        self.number = number
        self.peer = peer
        self.request = request
        self.asked_s = now
        self.armed_s = float("inf")
        """When its earliest entry among the timers is due."""
        self.core: ReadTransfer | None = None
        self.content: _FileContent | None = None
        self.sock: socket.socket | None = None
        self.is_segmented = False
        self.waits_for_room = False
        self.waiting: deque[bytes | memoryview] = deque()
        """Bursts that the socket had no room for: at most a window."""

    @property
    def is_confirmed(self) -> bool:
        return self.core is not None and self.core.is_confirmed


class TftpLoop:
    """Serves until the control socket ends."""

    def __init__(self, control: socket.socket, requests: socket.socket, options: ProcessOptions) -> None:
        self._requests = requests
        self._limits = Limits(block_bytes=options.max_block_bytes)
        self._reception = Reception(options.max_transfers)
        self._cache = BlockCache()
        self._numbers = itertools.count(1)
        self._transfers: dict[int, _Transfer] = {}
        """By number: all that are open or wait for their file."""
        self._sockets: dict[int, _Transfer] = {}
        """By descriptor: those that send."""
        self._timers: list[tuple[float, int, _Transfer]] = []
        self._spin_until_s = 0.0
        self._may_spin = len(os.sched_getaffinity(0)) > 1
        self._epoll = select.epoll()
        self._appliance = ApplianceLink(control, self._epoll)
        self._epoll.register(requests.fileno(), select.EPOLLIN)
        self._ports = TransferPorts(options.interface, options.address)
        for descriptor in self._ports.lobbies:
            self._epoll.register(descriptor, select.EPOLLIN)

    def run(self) -> None:
        appliance = self._appliance
        appliance.tell_ready()
        control, requests = appliance.fileno(), self._requests.fileno()
        sockets, lobbies, poll, clock = self._sockets, self._ports.lobbies, self._epoll.poll, time.monotonic
        while not appliance.is_over:
            now = clock()
            spins = now < self._spin_until_s
            happened = poll(0 if spins else self._wait_s(now))
            if spins and not happened:
                os.sched_yield()
            elif 0 < len(happened) < GATHER_ANSWERS and len(sockets) > GATHER_TRANSFERS:
                os.sched_yield()
                happened = poll(0)
            now = clock()
            for descriptor, what in happened:
                transfer = sockets.get(descriptor)
                if transfer is not None:
                    try:
                        self._serve(transfer, what, now)
                    except Exception:  # one transfer's failure never ends its service
                        self._break_off(transfer, now)
                elif descriptor == requests:
                    self._take_requests(now)
                elif descriptor == control:
                    if what & select.EPOLLOUT:
                        appliance.flush()
                    if what & ~select.EPOLLOUT:
                        self._take_orders(now)
                elif descriptor in lobbies:
                    self._take_stray(lobbies[descriptor], now)
            if self._timers and self._timers[0][0] <= now:
                self._fire_timers(now)
            if appliance.is_dirty:
                appliance.tell_counters_when_due(now)

    def close(self) -> None:
        """Tell the clients, and end."""
        for transfer in list(self._transfers.values()):
            if transfer.core is not None:
                transfer.core.abort("the appliance is shutting down")
                self._advance(transfer, time.monotonic())

    def _wait_s(self, now: float) -> float:
        wait = self._timers[0][0] - now if self._timers else -1.0
        if self._appliance.is_dirty:
            wait = min(wait, COUNTERS_EVERY_S) if self._timers else COUNTERS_EVERY_S
        return max(wait, 0.0) if self._timers or self._appliance.is_dirty else -1.0

    # Requests

    def _take_requests(self, now: float) -> None:
        for _ in range(_MAX_REQUESTS_PER_TURN):
            try:
                data, source = self._requests.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._appliance.count_failed(f"receive: {error.strerror}")
                return
            self._appliance.count_request()
            peer = (source[0], source[1])
            try:
                verdict = self._reception.receive_request(data, peer, now)
            except WireError as error:
                self._appliance.count_junk(peer[0], f"not TFTP: {error}")
                continue
            if isinstance(verdict, Refused):
                self._refuse(peer, verdict.answer)
                self._appliance.count_ignored(verdict.reason, sender=peer[0])
            elif isinstance(verdict, Ignored):
                self._appliance.count_ignored(verdict.reason, sender=peer[0])
            elif peer[1]:
                self._ask(verdict, peer, now)

    def _ask(self, verdict: ReadRequest | Replaces, peer: Address, now: float) -> None:
        """Have the appliance open the file."""
        request = verdict.request if isinstance(verdict, Replaces) else verdict
        if isinstance(verdict, Replaces):
            for old in [transfer for transfer in self._transfers.values() if transfer.peer == peer]:
                self._end(old, now, _failed(old, "the client asked anew"))
        number = next(self._numbers)
        if not self._appliance.ask_file(number, peer[0], request.path, request.mode):
            self._appliance.count_ignored("the appliance is busy", sender=peer[0])
            return
        transfer = self._transfers[number] = _Transfer(number, peer, request, now)
        self._reception.started(peer, request, transfer)
        self._arm(transfer, now + _OPEN_WITHIN_S)

    def _take_stray(self, lobby: socket.socket, now: float) -> None:
        try:
            data, source = lobby.recvfrom(_MAX_DATAGRAM_BYTES)
        except OSError:
            return
        verdict = self._reception.receive_stray(data, (source[0], source[1]), now)
        self._appliance.count_ignored(verdict.reason, sender=source[0])
        if isinstance(verdict, Refused):
            with contextlib.suppress(OSError):
                lobby.sendto(verdict.answer, source)

    def _refuse(self, peer: Address, answer: bytes) -> None:
        try:
            self._requests.sendto(answer, peer)
        except OSError as error:
            self._appliance.count_failed(f"send: {error.strerror}")

    def _deny(self, peer: Address, denial: Denial) -> None:
        self._refuse(peer, build_error(denial.code, denial.text))

    def _take_orders(self, now: float) -> None:
        for message, descriptors in self._appliance.orders():
            transfer = self._transfers.get(message["number"])
            if transfer is None or transfer.core is not None:
                for descriptor in descriptors:
                    os.close(descriptor)
            elif descriptors:
                self._start(transfer, descriptors[0], now, shared=message["shared"])
            else:
                self._deny(transfer.peer, Denial(ErrorCode(message["code"]), message["text"]))
                self._drop(transfer)

    # Transfers

    def _start(self, transfer: _Transfer, descriptor: int, now: float, *, shared: bool) -> None:
        content = _FileContent(descriptor)
        terms = negotiate(transfer.request.options, content.size, self._limits)
        identity = content.identity if shared else None
        blocks = PreparedBlocks(content, terms.block_bytes, self._cache, identity)
        transfer.content = content
        transfer.core = ReadTransfer(transfer.peer, content, terms, now, blocks)
        try:
            transfer.sock, transfer.is_segmented = self._ports.connect(transfer.peer, blocks.packet_bytes)
        except OSError as error:
            self._appliance.count_failed(f"socket: {error.strerror}")
            self._end(transfer, now, _failed(transfer, f"no socket for it: {error.strerror}"))
            return
        self._sockets[transfer.sock.fileno()] = transfer
        self._epoll.register(transfer.sock.fileno(), select.EPOLLIN)
        self._appliance.tell_start(transfer.number, content.size)
        self._advance(transfer, now)

    def _serve(self, transfer: _Transfer, what: int, now: float) -> None:
        core, sock = transfer.core, transfer.sock
        assert core is not None and sock is not None
        if transfer.waiting and what & select.EPOLLOUT:
            self._send(transfer)
        if not what & ~select.EPOLLOUT:
            return
        try:
            data = sock.recv(_MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            core.receive_refusal()
            self._advance(transfer, now)
            return
        except OSError as error:
            self._appliance.count_failed(f"receive: {error.strerror}")
            return
        burst = None if transfer.waiting or not transfer.is_segmented else core.receive_expected(data, now)
        if burst is None:
            core.receive_datagram(data, transfer.peer, now)
            self._advance(transfer, now)
            return
        try:
            sock.send(burst)
        except OSError:
            transfer.waiting.append(burst)
            self._send(transfer)
        self._spin(core, now)

    def _spin(self, core: ReadTransfer, now: float) -> None:
        round_trip_s = core.round_trip_s
        if (
            len(self._sockets) <= SPIN_TRANSFERS
            and self._may_spin
            and round_trip_s is not None
            and round_trip_s < SPIN_ROUND_TRIP_S
        ):
            self._spin_until_s = now + SPIN_S + round_trip_s

    def _advance(self, transfer: _Transfer, now: float) -> None:
        core = transfer.core
        assert core is not None
        if bursts := core.bursts_to_send(now):
            transfer.waiting = deque(bursts)  # a newer window replaces what an older one still had to send
            if not transfer.is_segmented:
                self._cut(transfer)
            self._send(transfer)
            self._spin(core, now)
        for event in core.events():
            for reason, count in core.ignored.items():
                self._appliance.count_ignored(reason, count)
            self._end(transfer, now, event)
            return
        deadline_s = core.next_timeout()
        if deadline_s is not None and deadline_s < transfer.armed_s:
            self._arm(transfer, deadline_s)

    def _send(self, transfer: _Transfer) -> None:
        sock, core, waiting = transfer.sock, transfer.core, transfer.waiting
        assert sock is not None and core is not None
        had_to_wait = False
        while waiting:
            try:
                sock.send(waiting[0])
            except BlockingIOError:
                had_to_wait = True
                break
            except ConnectionRefusedError:
                core.receive_refusal()  # told by the next timer or packet, at the latest
            except OSError as error:
                if transfer.is_segmented and error.errno in GSO_REFUSED:
                    self._stop_segmenting(transfer)
                    waiting = transfer.waiting
                    continue
                # unreachable for now: as good as lost on the way, the core sends it again or gives up
            waiting.popleft()
        if had_to_wait != transfer.waits_for_room:
            transfer.waits_for_room = had_to_wait
            self._epoll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if had_to_wait else 0))

    def _stop_segmenting(self, transfer: _Transfer) -> None:
        """The kernel does not cut bursts for this client's way (no checksum offload, a small MTU): one by one then."""
        assert transfer.sock is not None and transfer.core is not None
        transfer.is_segmented = False
        stop_segmenting(transfer.sock)
        self._cut(transfer)

    def _cut(self, transfer: _Transfer) -> None:
        assert transfer.core is not None
        transfer.waiting = deque(packet for burst in transfer.waiting for packet in transfer.core.cut(burst))

    def _arm(self, transfer: _Transfer, deadline_s: float) -> None:
        transfer.armed_s = deadline_s
        heapq.heappush(self._timers, (deadline_s, transfer.number, transfer))

    def _fire_timers(self, now: float) -> None:
        """Timers are not moved later at every packet: they fire early, find that nothing is due, and are set again."""
        while self._timers and self._timers[0][0] <= now:
            due_s, number, transfer = heapq.heappop(self._timers)
            if number not in self._transfers or due_s > transfer.armed_s:
                continue
            transfer.armed_s = float("inf")
            if transfer.core is None:
                self._deny(transfer.peer, NOT_OPENED_IN_TIME)
                self._end(transfer, now, _failed(transfer, "the appliance did not open the file in time"))
                continue
            try:
                transfer.core.handle_timeout(now)
                self._advance(transfer, now)
            except Exception:
                self._break_off(transfer, now)

    def _break_off(self, transfer: _Transfer, now: float) -> None:
        traceback.print_exc()
        self._appliance.count_failed("transfer")
        self._deny(transfer.peer, FAILED)
        self._end(transfer, now, _failed(transfer, "the appliance failed"))

    def _end(self, transfer: _Transfer, now: float, event: TransferEvent) -> None:
        core = transfer.core
        self._appliance.tell_counters(now)  # whoever hears of the end can read what was counted until then
        block_bytes, blocks = (core.block_bytes, core.blocks_acknowledged) if core else (0, 0)
        self._appliance.tell_end(transfer.number, event, now - transfer.asked_s, block_bytes, blocks)
        self._drop(transfer)

    def _drop(self, transfer: _Transfer) -> None:
        self._transfers.pop(transfer.number, None)
        self._reception.ended(transfer.peer)
        if transfer.sock is not None:
            self._sockets.pop(transfer.sock.fileno(), None)
            transfer.sock.close()
        if transfer.content is not None:
            transfer.content.close()
        # It stays among the timers for a while: without what it had in memory.
        transfer.core = transfer.content = None
        transfer.waiting = deque()


def _failed(transfer: _Transfer, reason: str) -> TransferFailed:
    return TransferFailed(reason, transfer.core.bytes_acknowledged if transfer.core else 0)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # the appliance's to handle: we end with it, and tell the clients
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    requests = socket.socket(fileno=int(sys.argv[2]))
    control.setblocking(False)
    requests.setblocking(False)
    take_rights(requests)
    loop = TftpLoop(control, requests, ProcessOptions(**json.loads(sys.argv[3])))
    try:
        drop_rights()
    except OSError as error:
        print(f"the TFTP process keeps rights that it does not need: {error.strerror}", file=sys.stderr, flush=True)
    try:
        loop.run()
    finally:
        loop.close()


if __name__ == "__main__":
    main()
