"""Programs that cast one file to many, measured side by side: `roomcast send`, udpcast, UFTP, and the machine's limit.

Each is timed from its sender's start until its last receiver holds the file, which is then compared. The limit is what
the same super-packets and receives give when nobody looks at what is in them.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from classroom.cast_room import INTERFACE, CastRoom
from classroom.errors import LabError
from classroom.processes import last_lines
from classroom.run import Run, inside
from classroom.timed_process import TimedProcess
from imager.multicast.pace import FRAME_BYTES
from imager.programs import run as run_program
from imager.wire.session import SYMBOL_BYTES

ROOMCAST = Path(sys.executable).parent / "roomcast"
HEADERS = FRAME_BYTES / SYMBOL_BYTES
"""Bytes of our frames for each of payload."""
_START_S = 60.0
_SETTLE_S = 0.5
_TIMEOUT_S = 300.0
LEFT_S = 20.0
"""Receivers whose sender has ended get so long to see that they are done."""
STAYS_S = 5.0
"""A sender whose receivers are all done gets so long to see it."""
_POLL_S = 0.002
TRIES = 3
"""For a peer: udpcast's programs now and then miss that the other is done, and wait for ever."""


@dataclass(frozen=True, slots=True)
class Casting:
    """One file that was cast to some receivers."""

    file_bytes: int
    seconds_each: tuple[float, ...]
    """From the sender's start until each receiver held it."""
    wire_bytes: int
    """Ethernet frames that left the sender."""
    sender_cpu_s: float
    receiver_cpu_s: float
    """Of all receivers. Neither has what the kernel does in interrupts."""
    cast_s: float | None
    """What `cast_alone_s` tells, where the sender says it."""

    @property
    def seconds(self) -> float:
        return max(self.seconds_each)

    @property
    def cast_alone_s(self) -> float:
        """From the first packet until the last receiver was done. Raises LabError when the sender did not say it."""
        if self.cast_s is None:
            raise LabError("the sender did not say how long the cast took")
        return self.cast_s

    @property
    def goodput_bps(self) -> float:
        return self.file_bytes * 8 / self.seconds

    @property
    def wire_share(self) -> float:
        """Bytes on the sender's line for each byte of the file."""
        return self.wire_bytes / self.file_bytes


@dataclass(frozen=True, slots=True)
class Tool:
    """How a program is used: for a file and so many receivers, and for one receiver's output and number."""

    name: str
    send: Callable[[Path, int], list[str]]
    receive: Callable[[Path, int], list[str]]
    sender_knows: bool = False
    """Its receivers are daemons that never end: the sender's end is the end."""
    sender_may_stay: bool = False
    """Its work is done when the receivers hold the file; it is ended then when it does not see that."""


def limited(tool: Tool, rate: str) -> Tool:
    """Ours, with a maximum."""
    return replace(tool, send=lambda source, receivers: [*tool.send(source, receivers), "--max-bitrate", rate])


class WrongImages(LabError):
    """Receivers ended well without the file, or with another."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} receivers ended well, and have not what was sent")
        self.count = count


def _udpcast_send(source: Path, receivers: int) -> list[str]:
    words = ["--interface", INTERFACE, "--portbase", "9000", "--min-receivers", str(receivers), "--nopointopoint"]
    words += ["--rexmit-hello-interval", "500"]  # a receiver that misses its first hello waits for ever otherwise
    return ["udp-sender", "--file", str(source), *words, "--nokbd", "--no-progress"]


def _udpcast_receive(output: Path, _: int) -> list[str]:
    words = ["--interface", INTERFACE, "--portbase", "9000", "--exit-wait", "100", "--rcvbuf", "4194304"]
    return ["udp-receiver", "--file", str(output), *words, "--nokbd", "--no-progress"]


def _uftp_send(source: Path, receivers: int) -> list[str]:
    names = ",".join(f"0x{number:08X}" for number in range(1, receivers + 1))
    return ["uftp", "-I", INTERFACE, "-H", names, "-R", "-1", "-b", "1440", "-B", "8388608", str(source)]


def _uftp_receive(output: Path, number: int) -> list[str]:
    words = ["-D", str(output.parent), "-U", f"0x{number:08X}", "-q", "-B", "8388608"]
    return ["uftpd", "-d", "-I", INTERFACE, *words]


def _roomcast_send(source: Path, receivers: int) -> list[str]:
    return [str(ROOMCAST), "send", str(source), "-i", INTERFACE, "--min-receivers", str(receivers), "--quiet"]


def _roomcast_receive(output: Path, _: int) -> list[str]:
    return [str(ROOMCAST), "receive", "--output", str(output), "-i", INTERFACE, "--quiet"]


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("roomcast", _roomcast_send, _roomcast_receive),
        Tool("udpcast", _udpcast_send, _udpcast_receive, sender_may_stay=True),
        Tool("UFTP", _uftp_send, _uftp_receive, sender_knows=True),
    )
}


def of_file(size: int) -> str:
    """The end of a figure's name."""
    return f", {size >> 20} MiB"


def file_in_memory(lab: Run, size: int) -> Path:
    """A file of random bytes in memory, beside which the receivers put theirs: no disk takes part."""
    memory = lab.directory / "memory"
    if not memory.exists():
        memory.mkdir()
        run_program(["mount", "-t", "tmpfs", "-o", "size=16g", "tmpfs", memory])
    path = memory / f"{size >> 20}.bin"
    if not path.exists():
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
    return path


def cast(
    lab: Run,
    room: CastRoom,
    tool: Tool,
    source: Path,
    watch: Callable[[], None] = lambda: None,
    within_s: float = _TIMEOUT_S,
) -> Casting:
    """Cast a file to all receivers of the room, and compare what they got. Raises LabError when one has not got it.

    `watch` is called every few milliseconds meanwhile.
    """
    directory = source.parent / f"cast-{time.monotonic_ns()}"
    outputs = [directory / str(number) / source.name for number in range(1, len(room.receivers) + 1)]
    for output in outputs:
        output.parent.mkdir(parents=True)
    log = lab.logs / f"{directory.name}-{tool.name}.log"
    sender_log = log.with_suffix(".sender.log")
    try:
        with ExitStack() as stack:
            receivers = [
                TimedProcess(namespace, tool.receive(output, number), log, stack)
                for number, (namespace, output) in enumerate(zip(room.receivers, outputs, strict=True), 1)
            ]
            _wait_until_listening(room, receivers)
            sent_before, began = room.sent_bytes(), time.monotonic()
            sender = TimedProcess(room.sender, tool.send(source, len(outputs)), sender_log, stack)
            waited_for = [sender] if tool.sender_knows else receivers
            try:
                ended = _ends(waited_for, sender, began, within_s, watch)
                _end_sender(tool, sender)
            except LabError as error:
                told = "\n".join(filter(None, (last_lines(each, 5) for each in (sender_log, log))))
                raise LabError(f"{tool.name}: {error}; see {sender_log}", error.log or told) from error
            wire_bytes = room.sent_bytes() - sent_before
            for process in (sender, *receivers):
                process.end()
            cpu_s = sum(receiver.cpu_s for receiver in receivers)
        check_outputs(source, outputs)
    finally:
        for output in outputs:
            output.unlink(missing_ok=True)
    said = re.search(r" in ([\d.]+) s,", sender_log.read_text())
    return Casting(
        source.stat().st_size, tuple(ended), wire_bytes, sender.cpu_s, cpu_s, float(said[1]) if said else None
    )


def _wait_until_listening(room: CastRoom, receivers: Sequence[TimedProcess]) -> None:
    deadline = time.monotonic() + _START_S
    for namespace, receiver in zip(room.receivers, receivers, strict=True):
        while not run_program([*inside(namespace), "ss", "-Hlun"]).strip():
            receiver.look()
            if time.monotonic() > deadline:
                raise LabError("a receiver did not come up")
            time.sleep(0.05)
    time.sleep(_SETTLE_S)


def _ends(
    waited_for: Sequence[TimedProcess],
    sender: TimedProcess,
    began: float,
    within_s: float = _TIMEOUT_S,
    watch: Callable[[], None] = lambda: None,
) -> list[float]:
    """When each has ended, in seconds. Raises LabError when one has not within its time, or badly."""
    ended = [0.0] * len(waited_for)
    left_at: float | None = None
    while not all(ended):
        now = time.monotonic() - began
        for number, process in enumerate(waited_for):
            if not ended[number] and process.look():
                ended[number] = now
        if left_at is None and sender.look():
            left_at = now
        if left_at is not None and now - left_at > LEFT_S:
            raise LabError(f"its sender ended, and {ended.count(0.0)} of its receivers wait for more")
        if now > within_s:
            raise LabError(f"{ended.count(0.0)} of {len(ended)} were not done after {within_s:.0f} s")
        watch()
        time.sleep(_POLL_S)
    return ended


def _end_sender(tool: Tool, sender: TimedProcess) -> None:
    try:
        sender.wait(STAYS_S)
    except LabError:
        if not tool.sender_may_stay or sender.has_ended:
            raise


def cast_peer(lab: Run, room: CastRoom, tool: Tool, source: Path, within_s: float) -> Casting | None:
    """As `cast`, again when it does not come to its end; None when it never does."""
    for _ in range(TRIES):
        try:
            return cast(lab, room, tool, source, within_s=within_s)
        except LabError as error:
            print(f"bench: {error}", file=sys.stderr)
    return None


def check_outputs(source: Path, outputs: Sequence[Path]) -> None:
    """Raises WrongImages when one is not the source, byte for byte."""
    wanted = _digest(source)
    if wrong := sum(not output.exists() or _digest(output) != wanted for output in outputs):
        raise WrongImages(wrong)


def _digest(file: Path) -> bytes:
    return blake3(max_threads=1).update_mmap(file).digest()


def limit_bps(lab: Run, room: CastRoom, total_bytes: int) -> float:
    """Payload bits a second that the slowest receiver of the room takes in when super-packets are blasted at it."""
    log = lab.logs / f"blast-{time.monotonic_ns()}.log"
    module = [sys.executable, "-m", "classroom.blast"]
    with ExitStack() as stack:
        logs = [log.with_suffix(f".{number}.log") for number in range(len(room.receivers))]
        receivers = [
            TimedProcess(namespace, [*module, "receive"], own, stack)
            for namespace, own in zip(room.receivers, logs, strict=True)
        ]
        _wait_until_listening(room, receivers)
        sender = TimedProcess(room.sender, [*module, "send", str(total_bytes)], log, stack)
        _ends(receivers, sender, time.monotonic())
    return min(float(own.read_text()) for own in logs)
