"""The sending end of a file cast: announces itself, gives the catalogue, casts, and gives chunks by TCP to who asks."""

import contextlib
import dataclasses
import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from imager.errors import CastError, SourceError
from imager.multicast.events import (
    PhaseChanged,
    RateChanged,
    ReceiverCounts,
    ReceiverDemoted,
    ReceiverDone,
    ReceiverFailed,
    ReceiverJoined,
    ReceiverProbed,
    ReceiverProgress,
    SenderEvent,
    SenderStatistics,
    SessionEnded,
)
from imager.transport.admissions import Admissions
from imager.transport.budget import Budget
from imager.transport.caster import CastProcess, SenderAddress, SenderOptions
from imager.transport.catalogue import Catalogue, full_bitmap, root_hash
from imager.transport.catalogue_server import CatalogueServer
from imager.transport.discovery import Announcer
from imager.transport.file_cast import (
    CHUNK_BYTES,
    STREAM,
    FileCastNote,
    FileCastProgress,
    NoteCallback,
    ProgressCallback,
    SendOptions,
    SendResult,
    ignore,
)
from imager.transport.file_source import FileChunks, Spool
from imager.transport.interfaces import USUAL_MTU, group_packet_bytes
from imager.transport.own_end import find_own_end
from imager.wire.announce import Announce, build_announce
from imager.wire.groups import (
    DISCOVERY_GROUP,
    checked_group,
    discovery_group,
    is_ipv6,
    random_group,
    without_interface,
)
from imager.wire.messages import CastAddress
from imager.wire.session import KEY_BYTES, MAX_RECEIVER, Phase

_ANNOUNCE_S = 0.1
_ANNOUNCE_BUSY_S = 0.5
_LOOK_S = 0.05
_HEARING_S = 2.0
"""Whom longer packets reach has told so by then: a beacon is sent to each who joins, and others four times a second."""
_RETIRED_S = 5.0
"""A cast that was given up tells those who were in it, at their next word, at most a second later."""
_BY_TCP = "multicast does not reach it: it gets the file by TCP"
_MOST_TOLD = 256
"""Addresses of which it is told that they were refused."""


def send_file(
    path: Path,
    options: SendOptions | None = None,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> SendResult:
    """Send a file to every receiver on the network; returns when each that joined holds it or has failed.

    Receivers may join until the end. STREAM: standard input, which is read to its end first. Raises SourceError for a
    file that cannot be read, CastError for what the network refuses.
    """
    options = options or SendOptions()
    tell = on_progress or ignore
    with contextlib.ExitStack() as stack:
        name = path.name
        if path == STREAM:
            tell(FileCastProgress("spool", 0, 0))
            name, path = "stdin", stack.enter_context(Spool(sys.stdin.fileno(), options.spool))
        return _Sending(name, path, options, tell, on_note or ignore).run()


@dataclass(slots=True)
class _Party:
    """Receivers of one sending, as its program counts them. Under the lock of who uses it."""

    addresses: dict[int, str] = field(default_factory=dict)
    keys: dict[int, bytes] = field(default_factory=dict)
    """Control keys."""
    joined: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons, by address."""
    declined: set[int] = field(default_factory=set)
    """Looked for another file."""
    admissions: Admissions = field(default_factory=Admissions)
    refused: set[str] = field(default_factory=set)
    """Addresses whose receivers shall not come again."""
    told: set[str] = field(default_factory=set)
    """Addresses of which it was told that they were refused."""
    unicast: set[int] = field(default_factory=set)
    """Are being served by TCP."""
    by_tcp: set[int] = field(default_factory=set)
    """Were, at some time."""
    joined_s: dict[int, float] = field(default_factory=dict)
    """When those joined of whom it is not known whether packets reach them."""
    offered_s: dict[int, float] = field(default_factory=dict)
    """When each was given the catalogue."""
    chunks_done: dict[int, int] = field(default_factory=dict)
    """By receiver, of those that are waited for."""
    unicast_bytes: int = 0
    ended_s: float = 0.0
    """When the last of them was done."""


class _Sending:
    """One file's sending; the Offerer of its catalogue."""

    def __init__(self, name: str, path: Path, options: SendOptions, tell: ProgressCallback, note: NoteCallback) -> None:
        try:
            self._file_bytes = path.stat().st_size
            if not path.is_file():
                raise SourceError(f"{path} is not a file")
            with path.open("rb"):
                pass
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        self._name = name
        self._path = path
        self._options = options
        self._tell = tell
        self._say = note
        self._source = FileChunks(path, self._file_bytes, CHUNK_BYTES)
        group = _group(options)
        own = find_own_end(options.interface)
        self._address = own.address_for(group)
        self._addresses = [self._address]
        if is_ipv6(group) and own.ipv4:  # who has no IPv6 finds the sender too, and gets the file by TCP
            self._addresses.append(own.ipv4)
        packet_bytes = group_packet_bytes(self._address, options.mtu)
        session = secrets.randbits(32)
        self._cast = SenderAddress(session, group, options.port + 1, self._address, packet_bytes=packet_bytes)
        self._usual_bytes = min(packet_bytes, group_packet_bytes(self._address, USUAL_MTU))
        self._sender_options = SenderOptions(
            options.max_bitrate_bps,
            options.silence_timeout_s,
            options.ttl,
            options.fec_share,
            options.slow,
            options.floor_bps,
        )
        self._nothing = bytes(len(full_bitmap(len(self._source.stored_lengths))) if self._file_bytes else 0)
        self._process = None
        if not options.unicast:  # what receivers say that they lack is sent
            self._process = CastProcess(self._source, self._cast, self._sender_options, self._nothing)
        self._retired: tuple[CastProcess, float] | None = None
        """The process before, which tells its receivers to come again, and when it stops."""
        self._party = _Party()
        self._lock = threading.RLock()
        self._root = ""
        self._begun_s: float | None = None
        self._phase = Phase.WAITING
        self._budget = Budget(options.max_bitrate_bps)
        self._cast_bps = options.max_bitrate_bps
        self._pace: tuple[float, str] = (0.0, "")  # bit/s, and why no more
        self._reading = threading.Lock()

    def run(self) -> SendResult:
        options = self._options
        with contextlib.ExitStack() as stack:
            if self._process is not None:
                self._process.prepare()
                stack.callback(self._stop)
            hashes = self._source.hashes(lambda begun: self._tell(FileCastProgress("hash", begun, self._file_bytes)))
            if self._process is not None:
                self._process.wait_ready()
            self._root = root_hash(self._file_bytes, hashes)
            announcers = []
            for address in self._addresses:
                server = CatalogueServer(address, options.port, self, hashes, options.key)
                stack.callback(server.close)
                where = discovery_group(self._cast.group) if is_ipv6(address) else DISCOVERY_GROUP
                announcer = stack.enter_context(Announcer(address, where, options.port, options.ttl))
                announcers.append((announcer, server.port))
            return self._until_ended(announcers)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
        if self._retired is not None:
            self._retired[0].stop()

    def _announce(self, catalogue_port: int) -> bytes:
        cast = self._cast
        name = self._name if self._options.key is None else ""
        return build_announce(
            Announce(cast.session, catalogue_port, cast.data_port, self._control_port, cast.group, name)
        )

    @property
    def _control_port(self) -> int:
        return 0 if self._process is None else self._process.control_port

    # what the catalogue's threads ask

    def offer(self, peer: str) -> Catalogue:
        now = time.monotonic()
        with self._lock:
            reason = self._party.admissions.refusal(peer, now)
            if peer in self._party.refused:
                reason = f"{peer} was too slow"
            if reason:
                self._refuse(peer, reason)
            cast = self._number_only() if self._process is None else self._process.admit(self._nothing)
            self._party.admissions.admit(cast.receiver, peer, now)
            self._party.addresses[cast.receiver] = peer
            self._party.keys[cast.receiver] = bytes.fromhex(cast.control_key)
            self._party.offered_s[cast.receiver] = now
        return Catalogue(self._name, self._file_bytes, CHUNK_BYTES, self._root, cast, self._options.unicast)

    def _refuse(self, peer: str, reason: str) -> NoReturn:
        told = self._party.told
        if peer not in told and len(told) < _MOST_TOLD:
            told.add(peer)
            self._say(FileCastNote("refused", f"is not admitted: {reason}", peer))
        raise CastError(reason)

    def _number_only(self) -> CastAddress:
        """Of a receiver that gets the file by TCP: nothing is cast."""
        receiver = len(self._party.addresses) + 1
        if receiver > MAX_RECEIVER:
            raise CastError(f"{MAX_RECEIVER} receivers have come, which is all that one sending can have")
        cast = self._cast
        return CastAddress(
            cast.session,
            receiver,
            cast.group,
            cast.data_port,
            without_interface(cast.interface_address),
            0,
            cast.packet_bytes,
            secrets.token_hex(KEY_BYTES),
            secrets.token_hex(KEY_BYTES),
        )

    def wants(self, receiver: int, wanted: bytes) -> None:
        with self._lock:
            if self._process is not None and self._file_bytes:
                self._process.want(wanted)

    def declined(self, receiver: int) -> None:
        with self._lock:
            self._party.declined.add(receiver)
            self._party.lost.add(receiver)
            if self._process is not None:
                self._process.remove(receiver, "it wants another file")

    def control_key(self, receiver: int) -> bytes | None:
        with self._lock:
            return self._party.keys.get(receiver)

    def fetches(self, receiver: int) -> None:
        """Multicast does not reach it."""
        with self._lock:
            party = self._party
            if receiver in party.unicast | party.done:
                return
            party.admissions.join(receiver)
            party.unicast.add(receiver)
            party.by_tcp.add(receiver)
            party.joined.add(receiver)
            party.chunks_done[receiver] = 0
            if self._process is not None:
                self._process.remove(receiver, _BY_TCP)
                self._note("unicast", receiver, _BY_TCP)

    def read(self, receiver: int, index: int) -> memoryview:
        data = memoryview(bytearray(self._source.stored_lengths[index]))
        with self._lock:
            now = time.monotonic()
            casts = self._process is not None and self._phase in (Phase.SENDING, Phase.REPAIRING)
            due = self._budget.fetch(len(data), casts, now)
            self._limit_cast(now)
        time.sleep(due - now)
        with self._reading:  # the source has one file
            self._source.read_into(index, data)
        with self._lock:
            self._party.chunks_done[receiver] = self._party.chunks_done.get(receiver, 0) + 1
            self._party.unicast_bytes += len(data)
        return data

    def _limit_cast(self, now: float) -> None:
        """What goes by TCP and what is cast share the operator's limit."""
        limit_bps = self._budget.cast_bps(now)
        if self._process is not None and limit_bps != self._cast_bps:
            self._cast_bps = limit_bps
            self._process.limit(limit_bps)

    def asked_all(self, receiver: int, done: bool) -> None:
        with self._lock:
            party = self._party
            party.unicast.discard(receiver)
            party.chunks_done.pop(receiver, None)
            party.ended_s = time.monotonic()
            if done:
                self._finish(receiver)
            else:
                party.joined.discard(receiver)
                self._fail(receiver, "it stopped fetching the file by TCP")

    # the sending

    def _until_ended(self, announcers: list[tuple[Announcer, int]]) -> SendResult:
        first_at: float | None = None
        announce_at = 0.0
        ended = SenderStatistics() if self._process is None else None
        while True:
            now = time.monotonic()
            if now >= announce_at:
                for announcer, catalogue_port in announcers:
                    announcer.announce(self._announce(catalogue_port))
                announce_at = now + (_ANNOUNCE_BUSY_S if self._begun_s else _ANNOUNCE_S)
            if not self._party.joined:
                first_at = None
            elif first_at is None:
                first_at = now
            if self._long_packets_arrive(now):
                self._begin_when_due(first_at, now)
            with self._lock:
                self._limit_cast(now)
            wait_s = max(0.0, announce_at - time.monotonic())
            if ended is None:
                ended = self._hear_all(wait_s)
            else:  # receivers by TCP are left
                time.sleep(min(wait_s, _LOOK_S))
            if ended is not None and (result := self._result(ended)) is not None:
                return result
            self._tell_progress()

    def _hear_all(self, wait_s: float) -> SenderStatistics | None:
        """What the sending process says; what it counted when it has ended. Raises CastError when it broke off."""
        assert self._process is not None
        for event in self._process.events(wait_s):
            with self._lock:
                self._hear(event)
            if isinstance(event, SessionEnded):
                if event.error:
                    raise CastError(event.error)
                return event.statistics
        return None

    def _result(self, ended: SenderStatistics) -> SendResult | None:
        """None while receivers are waited for. What was cast has `ended`."""
        with self._lock:
            party = self._party
            if self._process is None:
                self._fail_silent()
                waited_for = party.addresses.keys() - party.done - party.lost
            else:
                waited_for = set(party.unicast)
            if self._begun_s is None or waited_for:
                return None
            elapsed_s = max(ended.elapsed_s, party.ended_s - self._begun_s)
            return SendResult(
                len(party.done), party.failed, self._file_bytes, ended.sent_bytes, elapsed_s, party.unicast_bytes
            )

    def _fail_silent(self) -> None:
        """Those who were given the catalogue and ask for nothing."""
        party = self._party
        late_s = time.monotonic() - self._options.silence_timeout_s
        for receiver in party.addresses.keys() - party.by_tcp - party.done - party.lost:
            if party.offered_s[receiver] < late_s:
                party.admissions.note_in_vain(party.addresses[receiver])
                self._fail(receiver, f"silent for {self._options.silence_timeout_s:g} s")

    def _long_packets_arrive(self, now: float) -> bool:
        """Whether packets longer than usual reach those who are there, as far as it has to be known: before it begins.

        When some do not get them, the cast starts anew, with packets of the usual length for all.
        """
        if self._retired is not None and now >= self._retired[1]:
            self._retired[0].stop()
            self._retired = None
        if self._process is None or self._begun_s is not None or self._cast.packet_bytes <= self._usual_bytes:
            return True
        with self._lock:
            deaf = {each: since for each, since in self._party.joined_s.items() if each in self._party.joined}
            if not deaf:
                return True
            late = [receiver for receiver, since in deaf.items() if now - since >= _HEARING_S]
            if late:
                self._shorten(late, now)
            return False

    def _shorten(self, deaf: list[int], now: float) -> None:
        """Another cast for all, by a process of its own: who was admitted to this one is told to come again."""
        assert self._process is not None
        long, short = self._cast.packet_bytes, self._usual_bytes
        for receiver in deaf:
            self._note("shorter", receiver, f"no packets of {long} bytes arrive, so all get packets of {short}")
        for receiver in self._party.addresses:
            self._process.remove(receiver, "the cast starts anew with shorter packets")
        self._retired = self._process, now + _RETIRED_S
        self._cast = dataclasses.replace(self._cast, session=secrets.randbits(32), packet_bytes=short)
        self._process = CastProcess(self._source, self._cast, self._sender_options, self._nothing)
        self._process.start()
        self._cast_bps = self._options.max_bitrate_bps
        self._party = _Party(refused=self._party.refused)

    def _begin_when_due(self, first_at: float | None, now: float) -> None:
        options = self._options
        waited = first_at is not None and options.max_wait_s > 0 and now - first_at >= options.max_wait_s
        if self._begun_s is None and (len(self._party.joined) >= options.min_receivers or waited):
            self._begun_s = now
            self._phase = Phase.SENDING
            if self._process is not None:
                self._process.begin()

    def _hear(self, event: SenderEvent) -> None:
        party = self._party
        match event:
            case ReceiverJoined(receiver=receiver):
                party.joined.add(receiver)
                party.joined_s[receiver] = time.monotonic()
                party.admissions.join(receiver)
                self._note("joined", receiver, "joined the cast")
            case ReceiverProbed(receiver=receiver):
                self._note("probed", receiver, event.words)
            case ReceiverProgress(receiver=receiver, chunks_done=chunks, hears=hears):
                if hears:
                    party.joined_s.pop(receiver, None)
                if receiver not in party.by_tcp:
                    party.chunks_done[receiver] = chunks
            case ReceiverDone(receiver=receiver):
                party.ended_s = time.monotonic()
                self._finish(receiver)
            case ReceiverDemoted(receiver=receiver, reason=reason):
                self._note("slow", receiver, f"is slow, and gets the rest after the others: {reason}")
            case ReceiverCounts(receiver=receiver, reason=reason):
                self._note("counts", receiver, f"is served like the others: {reason}")
            case ReceiverFailed(receiver=receiver, reason=reason, is_final=is_final):
                if is_final:
                    party.refused.add(party.addresses[receiver])
                if receiver not in party.by_tcp | party.done | party.declined:
                    if receiver not in party.joined:
                        party.admissions.note_in_vain(party.addresses[receiver])
                    party.joined.discard(receiver)
                    party.chunks_done.pop(receiver, None)
                    party.ended_s = time.monotonic()
                    self._fail(receiver, reason)
            case PhaseChanged(phase=phase):
                self._phase = phase
            case RateChanged(sent_bps=sent_bps, reason=reason):
                address = "" if reason.receiver is None else party.addresses.get(reason.receiver, "")
                self._pace = sent_bps, reason.words(address)
            case SessionEnded():
                pass

    def _finish(self, receiver: int) -> None:
        party = self._party
        party.done.add(receiver)
        party.lost.discard(receiver)
        party.chunks_done.pop(receiver, None)
        party.failed.pop(party.addresses.get(receiver, ""), None)
        self._note("done", receiver, "holds the file")

    def _fail(self, receiver: int, reason: str) -> None:
        self._party.lost.add(receiver)
        self._party.failed[self._party.addresses.get(receiver, str(receiver))] = reason
        self._note("failed", receiver, reason)

    def _note(self, what: str, receiver: int, text: str) -> None:
        self._say(FileCastNote(what, text, self._party.addresses.get(receiver, str(receiver))))

    def _tell_progress(self) -> None:
        step = {Phase.WAITING: "wait", Phase.SENDING: "send"}.get(self._phase, "repair")
        with self._lock:
            total = len(self._source.stored_lengths)
            slowest = min(self._party.chunks_done.values(), default=total if self._party.done else 0)
            joined = len(self._party.joined)
        done = min(slowest * CHUNK_BYTES, self._file_bytes)
        self._tell(FileCastProgress(step, done, self._file_bytes, joined, *self._pace))


def _group(options: SendOptions) -> str:
    """Of the data. Raises CastError for options that contradict each other."""
    if options.group is None:
        return random_group(options.with_ipv6, options.ttl)
    group = checked_group(options.group, options.ttl)
    if options.with_ipv6 and not is_ipv6(group):
        raise CastError(
            f"{group} is a group of IPv4, and IPv6 is asked for: take ff12::a000:5, or leave out one of both"
        )
    return group
