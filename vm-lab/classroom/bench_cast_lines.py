"""`vm-lab/bench cast` on slower networks: a line of 1 Gbit/s, a port with a small buffer, TCP on the same line."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

from classroom.bench import failure
from classroom.cast_peers import HEADERS, TOOLS, cast, file_in_memory, of_file
from classroom.cast_room import CastRoom
from classroom.errors import LabError
from classroom.figures import Failure, Figure
from classroom.run import Run, inside

FILE_BYTES = 1 << 30
NARROW_FILE_BYTES = TCP_FILE_BYTES = 512 << 20
LINE_BPS = 10**9
OF_LINE = {0.0: 0.99, 1.0: 0.97}
"""By loss: share of what the packets' headers leave of a line."""
NARROW = "500mbit"
BUFFERS_KIB = (16, 32, 64, 128)
MOST_LOST_PERCENT = 1.0
ADAPT_S = 2.0
"""What is lost in the first seconds is how a rate is found."""
_LOOK_S = 0.2
TCP_FLOWS = (1, 4)
TCP_BUFFER_BYTES = 256 << 10
LEAST_SHARE, MOST_SHARE = 0.5, 2.0
"""Of what each would have if all flows had the same."""
_TCP_S = 300
"""Longer than any cast."""


def bench_line(lab: Run) -> Iterator[Figure | Failure]:
    """A sender on a line of 1 Gbit/s."""
    source = file_in_memory(lab, FILE_BYTES)
    with CastRoom(lab, "line", 1) as room:
        room.shape_sender(f"{LINE_BPS}bit")
        for loss, least in OF_LINE.items():
            room.set_loss(loss)
            name = f"cast at 1 Gbit/s, {loss:g} % loss{of_file(FILE_BYTES)}"
            try:
                ours = cast(lab, room, TOOLS["roomcast"], source)
            except LabError as error:
                yield failure(name, error)
                continue
            told = f"{least:g} x what headers leave of 1 Gbit/s"
            goal = least * LINE_BPS / HEADERS / 1e6
            goodput_mbps = ours.file_bytes * 8 / ours.cast_alone_s / 1e6
            yield Figure(name, goodput_mbps, " Mbit/s", goal, is_least=True, peer=told)


class _PortWatch:
    """How many packets a port has let through and dropped, some seconds after the first and at the end."""

    def __init__(self, room: CastRoom, port: str) -> None:
        self._room = room
        self._port = port
        self._looked_at = 0.0
        self._began: float | None = None
        self._at_first = room.passed_and_dropped(port)
        self._settled: tuple[int, int] | None = None

    def look(self) -> None:
        now = time.monotonic()
        if self._settled is not None or now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        counts = self._room.passed_and_dropped(self._port)
        if self._began is None and counts[0] > self._at_first[0] + 100:
            self._began = now
        elif self._began is not None and now - self._began >= ADAPT_S:
            self._settled = counts

    def lost_percent(self) -> float:
        """Since it settled. Raises LabError when the cast was over before."""
        if self._settled is None:
            raise LabError("a cast over a narrow port was over before its rate was found: the file is too small")
        passed, dropped = (
            end - start for end, start in zip(self._room.passed_and_dropped(self._port), self._settled, strict=True)
        )
        return 100 * dropped / (passed + dropped)


def bench_narrow(lab: Run) -> Iterator[Figure | Failure]:
    """A receiver's port slower than the sender, with a small buffer."""
    source = file_in_memory(lab, NARROW_FILE_BYTES)
    with CastRoom(lab, "narrow", 1) as room:
        (port,) = room.ports
        for buffer in BUFFERS_KIB:
            room.shape(port, NARROW, buffer << 10)
            watch = _PortWatch(room, port)
            name = f"cast to {NARROW}, {buffer} KiB, lost{of_file(NARROW_FILE_BYTES)}"
            try:
                cast(lab, room, TOOLS["roomcast"], source, watch.look)
                lost_percent = watch.lost_percent()
            except LabError as error:
                yield failure(name, error)
            else:
                yield Figure(name, lost_percent, " %", MOST_LOST_PERCENT, is_least=False, digits=2)


def bench_tcp(lab: Run) -> Iterator[Figure | Failure]:
    """A cast beside TCP on a line of 1 Gbit/s: what it takes of what would be its part."""
    source = file_in_memory(lab, TCP_FILE_BYTES)
    with CastRoom(lab, "tcp", 1) as room:
        (port,) = room.ports
        room.shape(port, f"{LINE_BPS}bit", TCP_BUFFER_BYTES)
        for flows in TCP_FLOWS:
            name = f"cast beside {flows} TCP flow{'s' * (flows > 1)}, of its part"
            try:
                with _tcp(room, flows):
                    ours = cast(lab, room, TOOLS["roomcast"], source)
            except LabError as error:
                yield failure(name, error)
                continue
            share = ours.file_bytes * 8 * HEADERS / ours.cast_alone_s / LINE_BPS * (flows + 1)
            told = f"{TCP_FILE_BYTES >> 20} MiB"
            yield Figure(name, share, " x", LEAST_SHARE, is_least=True, peer=told, digits=2)
            yield Figure(f"{name}, most", share, " x", MOST_SHARE, is_least=False, peer=told, digits=2)


@contextlib.contextmanager
def _tcp(room: CastRoom, flows: int) -> Iterator[None]:
    """Flows from the sender to its receiver. Raises LabError when iperf3 did not send."""
    words = [*inside(room.receivers[0]), "iperf3", "--server", "--one-off"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        words = ["iperf3", "--client", room.receiver_address(1), "--parallel", str(flows), "--time", str(_TCP_S)]
        words = [*inside(room.sender), *words, "--json"]
        client = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            time.sleep(2)
            yield
        finally:
            client.send_signal(signal.SIGINT)  # it tells what it has sent
            told = client.communicate()[0]
    finally:
        server.terminate()
        server.wait()
    if b'"end"' not in told:
        raise LabError(f"iperf3 did not send: {told[-200:]!r}")
