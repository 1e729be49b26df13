"""One file to any number of machines that find it by themselves: what `roomcast send` and `roomcast receive` do.

The sender announces itself on a discovery group; a receiver fetches the catalogue (size, hashes, addresses) by TCP and
joins the cast. Every chunk is checked against its hash before it is written, the list of hashes against the whole's.
"""

import contextlib
import dataclasses
import math
import mmap
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from imager.errors import CastError, PacketError, SourceError, TargetError
from imager.multicast.events import (
    PhaseChanged,
    ReceiverDone,
    ReceiverFailed,
    ReceiverJoined,
    ReceiverProgress,
    SenderEvent,
    SessionEnded,
)
from imager.multicast.memory import DEFAULT_BYTES, divide_memory
from imager.transport.caster import CastProcess, SenderAddress, SenderOptions
from imager.transport.catalogue import Catalogue, CatalogueServer, fetch_catalogue, root_hash
from imager.transport.file_source import FileChunks
from imager.transport.interfaces import interface_address
from imager.transport.receive import PreparedReceiver, ReceivedChunk, ReceiveProcess
from imager.transport.workers import Storing, Take, take_chunks
from imager.wire.announce import Announce, build_announce, parse_announce
from imager.wire.session import SYMBOL_BYTES, Phase

DISCOVERY_GROUP = "239.77.0.1"
DEFAULT_PORT = 7710
"""UDP port of the announcements; the data goes to the next one."""
CHUNK_BYTES = 4 * 200 * SYMBOL_BYTES
"""Four blocks of the longest size: no padding, and the least repair."""
_ANNOUNCE_S = 0.1
_ANNOUNCE_BUSY_S = 0.5
_FAILED_S = 2.0
"""A sender whose catalogue could not be had is left alone so long: others are heard meanwhile."""
_MOST_FAILED = 1024
_CATALOGUE_S = 60.0
_UNFLUSHED_BYTES = 32 << 20
"""Written and not yet on the disk, for each thread that writes."""
_WORKERS = 2
_MAX_WRONG = 5
"""A chunk that arrives wrong so often is wrong at its source."""


@dataclass(frozen=True, slots=True)
class FileCastProgress:
    """How far a file cast is."""

    step: str
    """hash, wait, send, repair; discover, receive."""
    done_bytes: int
    total_bytes: int
    """0: not known."""
    receivers: int = 0
    """Sender: receivers that have joined."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """How a sending ended."""

    receivers_done: int
    failed: dict[str, str]
    """Reasons, by the receivers' addresses."""
    file_bytes: int
    sent_bytes: int
    """UDP payload to the group."""
    elapsed_s: float
    """From the first byte until the last receiver was done."""


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """What was received."""

    output: Path
    file_bytes: int
    elapsed_s: float
    """From the catalogue until the file was whole and in its place."""
    received_bytes: int
    """UDP payload of the group that arrived."""
    repair_packets: int
    lost_packets: int


ProgressCallback = Callable[[FileCastProgress], None]


def send_file(
    path: Path,
    *,
    interface: str | None = None,
    min_receivers: int = 1,
    max_wait_s: float = 0,
    max_bitrate_bps: int = 0,
    group: str | None = None,
    port: int = DEFAULT_PORT,
    ttl: int = 1,
    silence_timeout_s: float = 30,
    on_progress: ProgressCallback | None = None,
) -> SendResult:
    """Send a file to every receiver on the network; returns when each that joined holds it or has failed.

    Begins when `min_receivers` have joined, or `max_wait_s` after the first (0: only then). Receivers may join until
    the end. `group`: multicast group of the data, None: one of our range by chance. Raises SourceError for a file
    that cannot be read, CastError for what the network refuses.
    """
    return _Sending(path, interface, group, port, ttl, max_bitrate_bps, silence_timeout_s, on_progress).run(
        min_receivers, max_wait_s
    )


def receive_file(
    output: Path,
    *,
    interface: str | None = None,
    port: int = DEFAULT_PORT,
    max_wait_s: float = 0,
    sender_timeout_s: float = 60,
    memory_bytes: int = DEFAULT_BYTES,
    on_progress: ProgressCallback | None = None,
) -> ReceiveResult:
    """Receive the file that a sender announces, waiting for one up to `max_wait_s` (0: as long as it takes).

    `memory_bytes` bounds what all of it takes (see imager.multicast.memory).
    `output` appears whole or not at all, and must not exist. Raises TargetError for an output that cannot be written,
    CastError when no sender came, or it fell silent for `sender_timeout_s`.
    """
    if output.exists():
        raise TargetError(f"{output} exists; remove it, or choose another name")
    if not output.parent.is_dir():
        raise TargetError(f"there is no directory {output.parent}; make it first")
    tell = on_progress or _ignore
    with contextlib.ExitStack() as stack:
        prepared = PreparedReceiver()  # comes up while we wait for a sender
        stack.callback(prepared.close)
        address = _local_address(interface)
        tell(FileCastProgress("discover", 0, 0))
        sender, catalogue, hashes = _find_sender(address, port, max_wait_s)
        began_s = time.monotonic()
        cast = dataclasses.replace(catalogue.cast, sender=sender)
        lengths = FileChunks(output, catalogue.file_bytes, catalogue.chunk_bytes).stored_lengths
        process = ReceiveProcess(
            cast,
            address,
            lengths,
            memory=divide_memory(memory_bytes),
            sender_timeout_s=sender_timeout_s,
            prepared=prepared,
        )
        part = stack.enter_context(_PartFile(output, catalogue.file_bytes))
        try:
            process.start()
            take_chunks(process, _Taking(part, catalogue, hashes, tell).make_take, workers=_WORKERS)
            part.publish()
            process.done()
        finally:
            process.stop()
        counters = process.statistics()
        return ReceiveResult(
            output,
            catalogue.file_bytes,
            time.monotonic() - began_s,
            counters.received_bytes,
            counters.repair_packets,
            counters.lost_packets,
        )


class _Taking:
    """Chunks become parts of the file when their hash holds; others are asked for again."""

    def __init__(self, part: "_PartFile", catalogue: Catalogue, hashes: list[bytes], tell: ProgressCallback) -> None:
        self._part = part
        self._catalogue = catalogue
        self._hashes = hashes
        self._tell = tell
        self._lock = threading.Lock()
        self._done = 0
        self._wrong: dict[int, int] = {}

    def make_take(self, storing: Storing) -> Take:
        def take(chunk: ReceivedChunk) -> bool:
            if blake3(chunk.data).digest() != self._hashes[chunk.index]:
                self._note_wrong(chunk.index)
                return False
            with storing():
                self._part.write(chunk, self._catalogue.chunk_bytes)
            with self._lock:
                self._done += len(chunk.data)
                self._tell(FileCastProgress("receive", self._done, self._catalogue.file_bytes))
            return True

        return take

    def _note_wrong(self, index: int) -> None:
        with self._lock:
            self._wrong[index] = wrong = self._wrong.get(index, 0) + 1
        if wrong >= _MAX_WRONG:
            raise CastError(
                f"chunk {index} of {self._catalogue.name} came {_MAX_WRONG} times with a wrong hash; send it anew"
            )


class _PartFile:
    """The output under another name, until it is whole. As a context it leaves nothing else behind.

    Written by several threads. What the kernel has not yet written to the disk is bounded: whoever comes across the
    bound waits for the disk, so that a slow one shows as what it is, and publish() has little left to flush.
    """

    def __init__(self, output: Path, file_bytes: int) -> None:
        self._output = output
        self._path = output.with_name(f".{output.name}.{secrets.token_hex(4)}.part")
        self._file_bytes = file_bytes
        self._descriptor = -1
        self._unflushed = 0

    def __enter__(self) -> "_PartFile":
        try:
            space = os.statvfs(self._output.parent)
            free = space.f_bavail * space.f_frsize
            if free < self._file_bytes:
                raise TargetError(f"{self._output.parent} has {free} bytes free, {self._file_bytes} are needed")
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._descriptor, self._file_bytes)
        except OSError as error:
            self._remove()
            raise TargetError(f"cannot write {self._output}: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(FileNotFoundError):  # it was published
                self._path.unlink()

    def write(self, chunk: ReceivedChunk, chunk_bytes: int) -> None:
        data, at = chunk.data, chunk.index * chunk_bytes
        try:
            while data:
                written = os.pwrite(self._descriptor, data, at)
                data, at = data[written:], at + written
                self._unflushed += written  # two threads at once may lose a chunk here: the bound stays one
            if self._unflushed >= _UNFLUSHED_BYTES:
                self._unflushed = 0
                os.fdatasync(self._descriptor)
        except OSError as error:
            raise TargetError(f"cannot write {self._output}: {error.strerror}") from error

    def publish(self) -> None:
        """Give the file its name, once it is on the disk."""
        try:
            os.fsync(self._descriptor)
            os.link(self._path, self._output)  # unlike rename, does not replace a file that came up meanwhile
        except FileExistsError as error:
            raise TargetError(f"{self._output} has come up meanwhile and is left alone; choose another name") from error
        except OSError as error:
            raise TargetError(f"cannot write {self._output}: {error.strerror}") from error


def _local_address(interface: str | None) -> str:
    """The address of an interface; of the one that the system would send multicast by, when none is named."""
    if interface is not None:
        return interface_address(interface)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((DISCOVERY_GROUP, DEFAULT_PORT))
        except OSError as error:
            raise CastError("no route for multicast; name an interface: --interface IF") from error
        address: str = sock.getsockname()[0]
        return address


def _find_sender(address: str, port: int, max_wait_s: float) -> tuple[str, Catalogue, list[bytes]]:
    """The address and the catalogue of the first sender that announces itself and gives one.

    Anyone can announce anything: one whose catalogue cannot be had is passed over, and may try again later.
    """
    end = time.monotonic() + max_wait_s if max_wait_s else math.inf
    again_s: dict[tuple[str, int], float] = {}
    failure: CastError | None = None
    with _announcements(address, port) as sock:
        while True:
            left = end - time.monotonic()
            if left <= 0:
                told = f" that could be used; the last: {failure}" if failure else "; is it on the same network?"
                raise CastError(f"no sender announced a file within {max_wait_s:g} s{told}")
            sock.settimeout(None if left == math.inf else left)
            with contextlib.suppress(TimeoutError, PacketError):  # foreign datagrams are not for us
                data, (sender, _) = sock.recvfrom(2048)
                catalogue_port = parse_announce(data).catalogue_port
                source = sender, catalogue_port
                if time.monotonic() < again_s.get(source, 0.0):
                    continue
                try:
                    return sender, *fetch_catalogue(sender, catalogue_port, min(_CATALOGUE_S, left))
                except CastError as error:
                    failure = error
                if len(again_s) >= _MOST_FAILED:
                    again_s.clear()
                again_s[source] = time.monotonic() + _FAILED_S


def _announcements(address: str, port: int) -> socket.socket:
    """A socket that hears what senders announce."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((DISCOVERY_GROUP, port))
        membership = socket.inet_aton(DISCOVERY_GROUP) + socket.inet_aton(address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        sock.close()
        raise CastError(f"cannot listen on {DISCOVERY_GROUP} port {port}: {error.strerror}") from error
    return sock


def _ignore(_: FileCastProgress) -> None:
    pass


def _random_group() -> str:
    """A group of ours: its low 23 bits are never of 0.0.x, which switches flood, and it is not the discovery group."""
    return f"239.77.{1 + secrets.randbelow(255)}.{secrets.randbelow(256)}"


@dataclass(slots=True)
class _Party:
    """Receivers of one sending, as its program counts them."""

    addresses: dict[int, str] = field(default_factory=dict)
    joined: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    chunks_done: dict[int, int] = field(default_factory=dict)


class _Sending:
    def __init__(
        self,
        path: Path,
        interface: str | None,
        group: str | None,
        port: int,
        ttl: int,
        max_bitrate_bps: int,
        silence_timeout_s: float,
        on_progress: ProgressCallback | None,
    ) -> None:
        try:
            self._file_bytes = path.stat().st_size
            if not path.is_file():
                raise SourceError(f"{path} is not a file")
            with path.open("rb"):
                pass
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        self._path = path
        self._address = _local_address(interface)
        self._port = port
        self._ttl = ttl
        self._tell = on_progress or _ignore
        self._source = FileChunks(path, self._file_bytes, CHUNK_BYTES)
        session = secrets.randbits(32)
        self._cast = SenderAddress(session, group or _random_group(), port + 1, self._address)
        options = SenderOptions(max_bitrate_bps, silence_timeout_s, ttl)
        self._process = CastProcess(self._source, self._cast, options)
        self._party = _Party()
        self._admitting = threading.Lock()
        self._phase = Phase.WAITING

    def run(self, min_receivers: int, max_wait_s: float) -> SendResult:
        with contextlib.ExitStack() as stack:
            self._process.prepare()
            stack.callback(self._process.stop)
            hashes = self._hash()
            self._process.wait_ready()
            root = root_hash(self._file_bytes, hashes)
            server = CatalogueServer(self._address, lambda peer: self._offer(peer, root), hashes)
            stack.callback(server.close)
            announcer = _Announcer(self._address, self._port, self._ttl, self._announce(server.port))
            stack.enter_context(announcer)
            return self._until_ended(announcer, min_receivers, max_wait_s)

    def _hash(self) -> list[bytes]:
        """The chunks' hashes, while the sending process comes up."""
        hashes: list[bytes] = []
        if not self._file_bytes:
            return hashes
        with (
            self._path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory,
            memoryview(memory) as view,
        ):
            for start in range(0, self._file_bytes, CHUNK_BYTES):
                with view[start : start + CHUNK_BYTES] as chunk:
                    hashes.append(blake3(chunk).digest())
                self._tell(FileCastProgress("hash", start, self._file_bytes))
        return hashes

    def _announce(self, catalogue_port: int) -> bytes:
        cast = self._cast
        return build_announce(
            Announce(
                cast.session, catalogue_port, cast.data_port, self._process.control_port, cast.group, self._path.name
            )
        )

    def _offer(self, peer: str, root: str) -> Catalogue:
        """The catalogue for a new receiver, which is admitted with it. From the threads of the server."""
        with self._admitting:
            address = self._process.admit()
            self._party.addresses[address.receiver] = peer
        return Catalogue(self._path.name, self._file_bytes, CHUNK_BYTES, root, address)

    def _until_ended(self, announcer: "_Announcer", min_receivers: int, max_wait_s: float) -> SendResult:
        begun = False
        first_at: float | None = None
        announce_at = 0.0
        party = self._party
        while True:
            now = time.monotonic()
            if now >= announce_at:
                announcer.announce()
                announce_at = now + (_ANNOUNCE_BUSY_S if begun else _ANNOUNCE_S)
            if party.joined and first_at is None:
                first_at = now
            waited = first_at is not None and max_wait_s > 0 and now - first_at >= max_wait_s
            if not begun and (len(party.joined) >= min_receivers or waited):
                begun = True
                self._process.begin()
            for event in self._process.events(max(0.0, announce_at - time.monotonic())):
                self._note(event)
                if isinstance(event, SessionEnded):
                    if event.error:
                        raise CastError(event.error)
                    statistics = event.statistics
                    return SendResult(
                        len(party.done), party.failed, self._file_bytes, statistics.sent_bytes, statistics.elapsed_s
                    )
            self._tell_progress()

    def _note(self, event: SenderEvent) -> None:
        party = self._party
        match event:
            case ReceiverJoined(receiver=receiver):
                party.joined.add(receiver)
            case ReceiverProgress(receiver=receiver, chunks_done=chunks):
                party.chunks_done[receiver] = chunks
            case ReceiverDone(receiver=receiver):
                party.done.add(receiver)
                party.chunks_done[receiver] = len(self._source.stored_lengths)
            case ReceiverFailed(receiver=receiver, reason=reason):
                party.failed[party.addresses.get(receiver, str(receiver))] = reason
                party.joined.discard(receiver)
                party.chunks_done.pop(receiver, None)
            case PhaseChanged(phase=phase):
                self._phase = phase
            case SessionEnded():
                pass

    def _tell_progress(self) -> None:
        step = {Phase.WAITING: "wait", Phase.SENDING: "send"}.get(self._phase, "repair")
        slowest = min(self._party.chunks_done.values(), default=0)
        done = min(slowest * CHUNK_BYTES, self._file_bytes)
        self._tell(FileCastProgress(step, done, self._file_bytes, len(self._party.joined)))


class _Announcer:
    """Sends the announcement, also out of the machine's own loopback for receivers on it."""

    def __init__(self, address: str, port: int, ttl: int, datagram: bytes) -> None:
        self._datagram = datagram
        self._target = (DISCOVERY_GROUP, port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)

    def __enter__(self) -> "_Announcer":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def announce(self) -> None:
        with contextlib.suppress(OSError):  # no cable: the next one may get out
            self._socket.sendto(self._datagram, self._target)
