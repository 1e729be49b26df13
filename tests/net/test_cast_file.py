"""Files cast between network namespaces: real sockets, real loss, real processes that are stopped and killed."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netns import Host, Lan

from imager.wire.announce import Announce, build_announce

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

PROGRAM = Path(__file__).with_name("cast_program.py")
MIB = 1 << 20


class Running:
    """A program that casts, on a host."""

    def __init__(self, host: Host, *arguments: str, log: Path, **options: Any) -> None:
        self.log = log
        with log.open("wb") as output:
            command = [sys.executable, str(PROGRAM), *arguments, json.dumps(options)]
            self.process = host.popen(*command, output=output.fileno())

    def wait(self, timeout_s: float = 60) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"did not end within {timeout_s} s: {self.log.read_text()}")

    def result(self, timeout_s: float = 60) -> dict[str, Any]:
        """What it reports at its good end."""
        assert self.wait(timeout_s) == 0, self.log.read_text()
        report: dict[str, Any] = json.loads(self.log.read_text().splitlines()[-1])
        return report


class Room:
    """A sender's and several receivers' files and programs on one Lan."""

    def __init__(self, lan: Lan, directory: Path, size: int) -> None:
        self.lan = lan
        self.directory = directory
        self.source = directory / "source.bin"
        self.source.write_bytes(random.Random(size).randbytes(size))

    def output(self, number: int) -> Path:
        return self.directory / f"received{number}" / "file.bin"

    def send(self, **options: Any) -> Running:
        return Running(self.lan.hosts[0], "send", str(self.source), log=self.directory / "send.log", **options)

    def receive(self, number: int, **options: Any) -> Running:
        self.output(number).parent.mkdir(exist_ok=True)
        log = self.directory / f"receive{number}.log"
        return Running(self.lan.hosts[number], "receive", str(self.output(number)), log=log, **options)

    def holds(self, number: int) -> bool:
        """The receiver's directory has the file, byte for byte, and nothing else."""
        output = self.output(number)
        return [entry.name for entry in output.parent.iterdir()] == [output.name] and digest(output) == digest(
            self.source
        )

    def has_nothing(self, number: int) -> bool:
        return not list(self.output(number).parent.iterdir())


def digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.01)


@pytest.mark.parametrize(("receivers", "loss", "mib"), [(1, 0, 48), (4, 0, 24), (1, 1, 48), (4, 1, 24), (2, 10, 8)])
def test_every_receiver_holds_the_same_file(tmp_path: Path, receivers: int, loss: float, mib: int) -> None:
    with Lan(receivers + 1, loss_percent=loss) as lan:
        room = Room(lan, tmp_path, mib * MIB + 12_345)
        programs = [room.receive(number) for number in range(1, receivers + 1)]
        report = room.send(min_receivers=receivers).result()
        assert report["receivers_done"] == receivers
        assert report["failed"] == {}
        received = [program.result() for program in programs]
        assert all(room.holds(number) for number in range(1, receivers + 1))
        wire = lan.hosts[0].statistic("tx bytes") / room.source.stat().st_size
        assert wire < {0: 1.056, 1: 1.086, 10: 1.5}[loss]
        assert any(entry["repair_packets"] for entry in received) == bool(loss)


@pytest.mark.parametrize("size", [0, 1, 1440, 1_152_001])
def test_a_file_of_any_size_arrives(tmp_path: Path, size: int) -> None:
    with Lan(2) as lan:
        room = Room(lan, tmp_path, size)
        receiver = room.receive(1)
        assert room.send().result()["receivers_done"] == 1
        assert receiver.result()["file_bytes"] == size
        assert room.holds(1)


def test_a_receiver_that_joins_late_gets_the_whole_file(tmp_path: Path) -> None:
    with Lan(3, loss_percent=1) as lan:
        room = Room(lan, tmp_path, 16 * MIB)
        first = room.receive(1)
        sender = room.send(max_bitrate_bps=100_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 6 * MIB)
        late = room.receive(2)
        assert sender.result()["receivers_done"] == 2
        first.result()
        assert late.result()["received_bytes"] < 18 * MIB
        assert room.holds(1) and room.holds(2)


def test_a_killed_receiver_is_failed_and_the_others_do_not_wait_for_it(tmp_path: Path) -> None:
    with Lan(4, loss_percent=1) as lan:
        room = Room(lan, tmp_path, 24 * MIB)
        programs = {number: room.receive(number) for number in (1, 2, 3)}
        sender = room.send(min_receivers=3, max_bitrate_bps=150_000_000, silence_timeout_s=4)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 4 * MIB)
        lan.set_cable(lan.hosts[2], connected=False)  # so that nobody can say good-bye for it
        programs[2].process.kill()
        began = time.monotonic()
        programs[1].result()
        programs[3].result()
        assert time.monotonic() - began < 3.5
        sender.wait()
        report = json.loads(sender.log.read_text())
        assert report["receivers_done"] == 2
        assert report["failed"] == {lan.hosts[2].ip: "silent for 4 s"}
        assert room.holds(1) and room.holds(3)
        assert not room.output(2).exists()


def test_a_receiver_whose_program_is_killed_leaves_at_once(tmp_path: Path) -> None:
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 16 * MIB)
        programs = {number: room.receive(number) for number in (1, 2)}
        sender = room.send(min_receivers=2, max_bitrate_bps=100_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 4 * MIB)
        programs[2].process.kill()
        programs[1].result()
        assert sender.wait(5) == 0
        assert json.loads(sender.log.read_text())["failed"] == {lan.hosts[2].ip: "its program ended"}
        assert room.holds(1)


def test_a_stopped_receiver_goes_on_when_it_wakes(tmp_path: Path) -> None:
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 16 * MIB)
        programs = {number: room.receive(number) for number in (1, 2)}
        sender = room.send(min_receivers=2, max_bitrate_bps=200_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 2 * MIB)
        os.kill(programs[1].process.pid, signal.SIGSTOP)
        programs[2].result()
        os.kill(programs[1].process.pid, signal.SIGCONT)
        programs[1].result()
        assert sender.result()["receivers_done"] == 2
        assert room.holds(1) and room.holds(2)


def test_a_pulled_cable_is_no_more_than_loss(tmp_path: Path) -> None:
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 16 * MIB)
        programs = {number: room.receive(number) for number in (1, 2)}
        sender = room.send(min_receivers=2, max_bitrate_bps=200_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 2 * MIB)
        lan.set_cable(lan.hosts[1], connected=False)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 8 * MIB)
        lan.set_cable(lan.hosts[1], connected=True)
        for program in programs.values():
            program.result()
        assert sender.result()["receivers_done"] == 2
        assert room.holds(1) and room.holds(2)


def test_a_killed_sender_is_noticed_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    with Lan(2) as lan:
        room = Room(lan, tmp_path, 16 * MIB)
        receiver = room.receive(1, sender_timeout_s=2)
        sender = room.send(max_bitrate_bps=50_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 2 * MIB)
        sender.process.kill()
        assert receiver.wait() == 1
        said = receiver.log.read_text()
        assert said.startswith(
            ("nothing more came from the sender for 2 s", "the sender ended the session before all was received")
        )
        assert "no sender of the same file came back" in said
        assert room.has_nothing(1)


def test_a_receiver_whose_sender_is_killed_goes_on_with_the_next_sender_of_its_file(tmp_path: Path) -> None:
    with Lan(2) as lan:
        room = Room(lan, tmp_path, 32 * MIB)
        receiver = room.receive(1)
        first = room.send(max_bitrate_bps=60_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 16 * MIB)
        first.process.kill()
        first.process.wait()
        second = room.send()
        report = receiver.result()
        assert second.result()["receivers_done"] == 1
        assert room.holds(1)
        assert report["received_bytes"] < 1.1 * 32 * MIB, "what it held was sent again"


def test_a_receiver_that_was_killed_goes_on_where_its_file_is_when_it_is_started_again(tmp_path: Path) -> None:
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 32 * MIB)
        killed, other = room.receive(1), room.receive(2)
        sender = room.send(min_receivers=2, max_bitrate_bps=60_000_000)
        until(lambda: lan.hosts[0].statistic("tx bytes") > 16 * MIB)
        killed.process.kill()
        killed.process.wait()
        (part,) = room.output(1).parent.iterdir()
        with part.open("r+b") as file:  # and its disk lost a part
            file.write(bytes(4096))
        again = room.receive(1)
        report = again.result()
        assert other.result()["file_bytes"] == 32 * MIB
        assert sender.result()["receivers_done"] == 2
        assert room.holds(1) and room.holds(2)
        assert report["received_bytes"] < 0.75 * 32 * MIB, "what it held was sent again"


def test_a_receiver_without_a_sender_says_so(tmp_path: Path) -> None:
    with Lan(2) as lan:
        room = Room(lan, tmp_path, 1)
        receiver = room.receive(1, max_wait_s=0.5)
        assert receiver.wait() == 1
        assert receiver.log.read_text().strip() == (
            "no sender announced a file within 0.5 s; is it on the same network?"
        )
        assert room.has_nothing(1)


@pytest.mark.parametrize(
    ("prepare", "line"),
    [
        (lambda output: output.write_bytes(b"precious"), "exists; remove it, or choose another name"),
        (lambda output: output.parent.rmdir(), "there is no directory"),
    ],
    ids=["output exists", "no directory"],
)
def test_an_output_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, prepare: Callable[[Path], Any], line: str
) -> None:
    with Lan(1) as lan:
        directory = tmp_path / "received"
        directory.mkdir()
        output = directory / "file.bin"
        prepare(output)
        receiver = Running(lan.hosts[0], "receive", str(output), log=tmp_path / "log")
        assert receiver.wait() == 1
        assert line in receiver.log.read_text()
        assert receiver.log.read_text().count("\n") == 1
        assert not output.exists() or output.read_bytes() == b"precious"


def test_a_source_that_is_no_file_is_one_clear_line(tmp_path: Path) -> None:
    with Lan(1) as lan:
        for path, line in ((tmp_path, "is not a file"), (tmp_path / "none", "No such file or directory")):
            sender = Running(lan.hosts[0], "send", str(path), log=tmp_path / "log")
            assert sender.wait() == 1
            assert sender.log.read_text().strip().endswith(line)


def test_junk_on_every_port_changes_nothing(tmp_path: Path) -> None:
    with Lan(3) as lan:
        room = Room(lan, tmp_path, 8 * MIB)
        chance = random.Random(1)
        with lan.hosts[2].entered():
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:

            def throw(target: tuple[str, int]) -> None:
                heads = [b"", *(bytes([0xCA, 0x10 | kind]) for kind in range(16))]
                for head in heads:
                    for size in (0, 1, 7, 30, 1454, 1454 - 2 * len(head)):
                        stranger.sendto(head + chance.randbytes(size), target)

            throw(("239.77.0.1", 7710))
            receiver = room.receive(1)
            throw(("239.77.0.1", 7710))
            sender = room.send(group="239.77.5.5", max_bitrate_bps=60_000_000)
            until(lambda: lan.hosts[0].statistic("tx bytes") > MIB)
            control_ports = udp_ports(lan.hosts[0])
            assert control_ports
            for _ in range(10):
                throw(("239.77.5.5", 7711))
                for port in control_ports:
                    throw((lan.hosts[0].ip, port))
            assert sender.result()["receivers_done"] == 1
            receiver.result()
            assert room.holds(1)


def udp_ports(host: Host) -> list[int]:
    """Ports of the host's UDP sockets that are bound to its address."""
    lines = host.run("ss", "-Hlun").splitlines() + host.run("ss", "-Hun").splitlines()
    return [int(line.split()[3].rpartition(":")[2]) for line in lines if host.ip in line.split()[3]]


def test_a_forged_announcement_of_a_sender_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with Lan(2) as lan:
        room = Room(lan, tmp_path, 1)
        receiver = room.receive(1, max_wait_s=2)
        with lan.hosts[0].entered():
            liar = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with liar:
            datagram = build_announce(Announce(1, 9, 7711, 7712, "239.77.1.1", "nothing"))

            def told() -> bool:
                liar.sendto(datagram, ("239.77.0.1", 7710))
                return receiver.process.poll() is not None

            until(told)
        assert receiver.wait() == 1
        told_why = " ".join(receiver.log.read_text().split())
        assert "no sender announced a file within 2 s that could be used" in told_why
        assert "cannot fetch the catalogue" in told_why
        assert room.has_nothing(1)
