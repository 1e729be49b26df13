"""The sender's and the receiver's process of a cast on the loopback interface."""

import dataclasses
import os
import pickle
import random
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from imager.errors import CastError, SourceError
from imager.multicast.events import ReceiverDone, ReceiverFailed, ReceiverJoined, SenderEvent, SessionEnded
from imager.multicast.memory import divide_memory
from imager.transport.caster import CastProcess, SenderAddress, SenderOptions
from imager.transport.endpoint import GroupReceiver
from imager.transport.file_source import FileChunks
from imager.transport.receive import MIN_SLOTS, ReceiveProcess
from imager.wire.messages import CastAddress
from imager.wire.packets import Ack, Answer, Head, Join, build_control, build_head, parse_ack, parse_beacon
from imager.wire.seal import AesGcm
from imager.wire.session import PACKET_BYTES, Kind, Phase

GROUP = "239.77.99.1"
LOOPBACK = "127.0.0.1"
SESSION = 4711


def a_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


class Chunks:
    """A source in memory."""

    def __init__(self, chunks: list[bytes], fail_at: int = -1) -> None:
        self._chunks = chunks
        self._fail_at = fail_at
        self.stored_lengths = [len(chunk) for chunk in chunks]

    def read_into(self, index: int, out: memoryview) -> None:
        if index == self._fail_at:
            raise SourceError(f"chunk {index} is gone")
        out[:] = self._chunks[index]


CHUNKS = [random.Random(5).randbytes(length) for length in (300_000, 1, 40_000, 1440, 288_000, 77_777)]


@pytest.fixture
def start() -> Iterator[Callable[..., CastProcess]]:
    processes: list[CastProcess] = []

    def make(source: Chunks, packet_bytes: int = PACKET_BYTES, **options: float) -> CastProcess:
        address = SenderAddress(SESSION, GROUP, a_port(), LOOPBACK, packet_bytes=packet_bytes)
        process = CastProcess(source, address, SenderOptions(ttl=0, **options))  # type: ignore[arg-type]
        processes.append(process)
        process.start()
        return process

    yield make
    for process in processes:
        process.stop()


def a_receiver(process: CastProcess, wanted: bytes | None = None, **options: Any) -> ReceiveProcess:
    """Admitted to the cast."""
    lengths = [len(chunk) for chunk in CHUNKS]
    return ReceiveProcess(process.admit(wanted), LOOPBACK, lengths, wanted, **options)


def until_ended(process: CastProcess) -> list[SenderEvent]:
    events: list[SenderEvent] = []
    while not (events and isinstance(events[-1], SessionEnded)):
        found = process.events(10)
        assert found, f"nothing more after {events}"
        events += found
    return events


def an_address(**fields: Any) -> CastAddress:
    """Of a cast that is not there."""
    address = CastAddress(SESSION, 1, GROUP, a_port(), LOOPBACK, a_port(), PACKET_BYTES, "00" * 32, "11" * 32)
    return dataclasses.replace(address, **fields)


class TestProcesses:
    def test_chunks_come_through_and_both_sides_count_them(self, start: Callable[..., CastProcess]) -> None:
        process = start(Chunks(CHUNKS))
        receiver = a_receiver(process)
        receiver.start()
        process.begin()
        found = {}
        for chunk in receiver.chunks():
            found[chunk.index] = bytes(chunk.data)
            receiver.release(chunk.index, True)
        receiver.done()
        assert found == dict(enumerate(CHUNKS))
        assert receiver.statistics().chunks_done == len(CHUNKS)
        receiver.stop()
        events = until_ended(process)
        assert ReceiverJoined(1, LOOPBACK) in events
        assert ReceiverDone(1) in events

    @pytest.mark.parametrize("packet_bytes", [512, 1_001, 1_452, 8_972, 9_215])
    def test_packets_are_as_long_as_the_cast_says(self, start: Callable[..., CastProcess], packet_bytes: int) -> None:
        process = start(Chunks(CHUNKS), packet_bytes)
        receiver = a_receiver(process)
        receiver.start()
        process.begin()
        for chunk in receiver.chunks():
            assert bytes(chunk.data) == CHUNKS[chunk.index]
            receiver.release(chunk.index, True)
        receiver.done()
        received = receiver.statistics()
        assert received.received_bytes == received.received_packets * packet_bytes
        receiver.stop()
        assert ReceiverDone(1) in until_ended(process)

    @pytest.mark.parametrize("packet_bytes", [0, 511, 9_216])
    def test_packets_of_an_impossible_length_are_not_begun(self, packet_bytes: int) -> None:
        address = SenderAddress(SESSION, GROUP, 1, LOOPBACK, packet_bytes=packet_bytes)
        with pytest.raises(ValueError, match="is possible"):
            CastProcess(Chunks(CHUNKS), address)

    def test_numbers_are_given_once_and_end(self, start: Callable[..., CastProcess]) -> None:
        process = start(Chunks(CHUNKS))
        first, second = process.admit(), process.admit()
        assert first.receiver != second.receiver and first.control_key != second.control_key
        process._admitted = 65_535
        with pytest.raises(CastError, match="start another"):
            process.admit()

    @pytest.mark.root
    def test_an_answer_that_cannot_be_sent_does_not_make_the_sender_deaf(
        self, start: Callable[..., CastProcess]
    ) -> None:
        process = start(Chunks(CHUNKS))
        address = process.admit()
        cipher = AesGcm(bytes.fromhex(address.control_key))

        def a_join(counter: int) -> bytes:
            return cipher.seal(build_head(Head(Kind.JOIN, 1, SESSION, counter)), build_control(Join(1)))

        nowhere = process.admit()
        from_nowhere = AesGcm(bytes.fromhex(nowhere.control_key)).seal(
            build_head(Head(Kind.JOIN, nowhere.receiver, SESSION, 0)), build_control(Join(1))
        )
        header = struct.pack(">HHHH", 0, process.control_port, 8 + len(from_nowhere), 0)  # source port 0: no way back
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            raw.sendto(header + from_nowhere, (LOOPBACK, 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, 0))
            sock.settimeout(5)
            for counter in range(3):
                sock.sendto(a_join(counter), (LOOPBACK, process.control_port))
                assert parse_ack(cipher.open(sock.recv(2048))) == Ack(Kind.JOIN, Answer.ACCEPTED, 0)

    def test_a_chunk_released_as_wrong_comes_again(self, start: Callable[..., CastProcess]) -> None:
        process = start(Chunks(CHUNKS))
        receiver = a_receiver(process, wanted=bytes([0b10100000]))
        receiver.start()
        process.begin()
        seen: list[int] = []
        for chunk in receiver.chunks():
            seen.append(chunk.index)
            assert bytes(chunk.data) == CHUNKS[chunk.index]
            receiver.release(chunk.index, ok=seen.count(2) != 1 or chunk.index != 2)
        receiver.done()
        receiver.stop()
        assert sorted(seen) == [0, 2, 2]

    def test_release_may_come_from_other_threads_and_late(self, start: Callable[..., CastProcess]) -> None:
        process = start(Chunks(CHUNKS))
        receiver = a_receiver(process, memory=divide_memory(1))
        receiver.start()
        process.begin()
        held: list[int] = []
        threads = []
        for chunk in receiver.chunks():
            held.append(chunk.index)
            if len(held) >= MIN_SLOTS or len(held) + len(threads) >= len(CHUNKS):
                for index in held:
                    thread = threading.Thread(target=receiver.release, args=(index, True))
                    thread.start()
                    threads.append(thread)
                held.clear()
        for thread in threads:
            thread.join()
        receiver.done()
        receiver.stop()
        assert len(threads) == len(CHUNKS)
        assert ReceiverDone(1) in until_ended(process)

    def test_a_receiver_that_wants_nothing_is_done_at_once(self, start: Callable[..., CastProcess]) -> None:
        process = start(Chunks(CHUNKS))
        receiver = a_receiver(process, wanted=bytes(1))
        other = process.admit()
        receiver.start()
        assert list(receiver.chunks()) == []
        receiver.done()
        receiver.stop()
        process.begin()
        process.remove(other.receiver, "not needed")
        events = until_ended(process)
        assert ReceiverDone(1) in events
        assert ReceiverFailed(other.receiver, "not needed") in events

    def test_a_source_that_cannot_be_read_ends_the_session_with_its_reason(
        self, start: Callable[..., CastProcess]
    ) -> None:
        process = start(Chunks(CHUNKS, fail_at=3))
        process.admit()
        process.begin()
        ended = until_ended(process)[-1]
        assert isinstance(ended, SessionEnded)
        assert ended.error == "chunk 3 is gone"

    def test_a_port_in_use_is_one_clear_line(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, 0))
            port = sock.getsockname()[1]
            address = SenderAddress(SESSION, GROUP, a_port(), LOOPBACK, control_port=port)
            process = CastProcess(Chunks(CHUNKS), address)
            with pytest.raises(CastError, match=f"cannot use UDP port {port} of {LOOPBACK}: Address already in use"):
                process.start()

    def test_a_receiver_without_a_sender_says_so(self) -> None:
        address = an_address()
        receiver = ReceiveProcess(address, LOOPBACK, [10], sender_timeout_s=0.3)
        receiver.start()
        with pytest.raises(CastError, match=r"no answer from the sender for 0\.3 s"):
            list(receiver.chunks())
        receiver.stop()

    @pytest.mark.parametrize(
        "fields",
        [{"cast_key": "00"}, {"control_key": "x" * 64}, {"packet_bytes": 100}, {"packet_bytes": 10**6}],
        ids=str,
    )
    def test_an_address_that_cannot_be_is_one_clear_line(self, fields: dict[str, Any]) -> None:
        with pytest.raises(CastError, match="is it of another version"):
            ReceiveProcess(an_address(**fields), LOOPBACK, [10])

    def test_a_group_that_cannot_be_joined_is_one_clear_line(self) -> None:
        address = an_address()
        receiver = ReceiveProcess(address, "192.0.2.1", [10])
        receiver.start()
        with pytest.raises(CastError, match=f"cannot join {GROUP} on 192.0.2.1"):
            list(receiver.chunks())
        receiver.stop()

    def test_nothing_is_left_running_when_the_program_is_killed(self) -> None:
        program = (
            "import sys; sys.path.insert(0, 'tests/unit')\n"
            "from test_cast_transport import *\n"
            "process = CastProcess(Chunks(CHUNKS), SenderAddress(1, GROUP, a_port(), LOOPBACK))\n"
            "process.start()\n"
            "receiver = ReceiveProcess(process.admit(), LOOPBACK, [10])\n"
            "receiver.start()\n"
            "print(process._child.process.pid, receiver._prepared.child.process.pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            children = [int(word) for word in running.stdout.readline().split()]
            assert len(children) == 2
            watched = [os.pidfd_open(child) for child in children]
            running.kill()
            for descriptor in watched:
                assert select.select([descriptor], [], [], 10)[0], "a child outlived its program"

    def test_a_sender_whose_program_was_killed_does_not_tell_its_receivers_that_the_session_ended(self) -> None:
        port = a_port()
        program = (
            "import sys; sys.path.insert(0, 'tests/unit')\n"
            "from test_cast_transport import *\n"
            f"address = SenderAddress(SESSION, GROUP, {port}, LOOPBACK)\n"
            "process = CastProcess(Chunks(CHUNKS), address, SenderOptions(ttl=0))\n"
            "process.start()\n"
            "print(process._child.process.pid, process.admit().cast_key, flush=True)\n"
            "sys.stdin.read()\n"
            "if sys.argv[1:]: process.stop()\n"
        )
        for how, ended in ((["stop"], True), ([], False)):
            group = GroupReceiver(GROUP, port, LOOPBACK)
            with subprocess.Popen(
                [sys.executable, "-c", program, *how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as running:
                assert running.stdout is not None and running.stdin is not None
                child, key = running.stdout.readline().split()
                watched = os.pidfd_open(int(child))
                if how:
                    running.stdin.close()
                else:
                    running.kill()
                assert select.select([watched], [], [], 10)[0]
            phases = set()
            while select.select([group], [], [], 0.2)[0]:
                opened = [AesGcm(bytes.fromhex(key)).open(packet.tobytes()) for packet in group.receive()]
                phases |= {parse_beacon(body).phase for body in opened}
            group.close()
            assert Phase.WAITING in phases
            assert (Phase.ENDED in phases) is ended


def test_a_file_travels_as_a_source_and_its_shrinking_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdefghij")
    source = pickle.loads(pickle.dumps(FileChunks(path, 10, 4)))
    assert source.stored_lengths == [4, 4, 2]
    data = bytearray(10)
    for index in range(3):
        source.read_into(index, memoryview(data)[4 * index : 4 * index + 4])
    assert data == b"abcdefghij"
    path.write_bytes(b"abc")
    with pytest.raises(SourceError, match="changed while it was sent"):
        source.read_into(0, memoryview(data)[:4])


def test_hashes_of_a_file_are_those_of_its_chunks_whichever_thread_took_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = random.Random(6).randbytes(100_000)
    path.write_bytes(data)
    begun: list[int] = []
    hashes = FileChunks(path, len(data), 999).hashes(begun.append)
    assert hashes == [blake3(data[at : at + 999]).digest() for at in range(0, len(data), 999)]
    assert set(begun) <= set(range(0, len(data), 999))
    path.write_bytes(data[:50_000])
    with pytest.raises(SourceError, match="changed while it was sent"):
        FileChunks(path, len(data), 999).hashes(begun.append)
    assert FileChunks(path, 0, 999).hashes(begun.append) == []


def test_programs_that_start_the_processes_load_no_numpy() -> None:
    """It takes 0.1 s, which every `roomcast send` would wait for."""
    check = "import imager.transport.file_receive, imager.transport.file_send, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
