"""docs/wire.md is enough to write a receiver: one written from it takes a recorded cast, and what our sender sends.

As a program it records a cast anew, which is only right when the wire has changed.
"""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from plain_receiver import PlainReceiver, bitmap, hello, read_catalogue, split

from imager.multicast.erasure import load_code
from imager.multicast.events import ReceiverDone, ReceiverJoined, SenderEvent
from imager.multicast.layout import CastLayout
from imager.multicast.payload import PayloadFiller
from imager.multicast.sender import SenderSession, SenderSettings
from imager.wire.session import Phase

RECORDED = Path(__file__).parents[1] / "data" / "cast" / "recorded.txt"
"""A cast of 5,000 bytes in chunks of 2,400 and packets of 512, whose third packet was lost. A line a message: `tcp`
what its sender said there, `group` and `ack` its datagrams, `join`, `nack` and `done` what was said to it."""
CONTENT = random.Random(7).randbytes(5000)
PACKET_BYTES, CHUNK_BYTES = 512, 2400
CHUNKS = [CONTENT[at : at + CHUNK_BYTES] for at in range(0, len(CONTENT), CHUNK_BYTES)]
HASHES = b"".join(blake3(chunk).digest() for chunk in CHUNKS)
CAST_KEY, CONTROL_KEY = bytes(range(32)), bytes(range(100, 132))
SESSION, NUMBER = 0x5EED0001, 7
THIRD = 2


def test_a_recorded_cast_gives_the_file_back_with_a_block_repaired() -> None:
    receiver, repaired = None, 0
    for line in RECORDED.read_text().splitlines():
        what, data = line.split(" ")[0], bytes.fromhex(line.split(" ")[1])
        if what == "tcp":
            receiver = PlainReceiver(*read_catalogue(data))
            continue
        assert receiver is not None
        match what:
            case "group":
                repaired += data[1] & 15 == 1
                receiver.hear_group(data)
            case "ack":
                receiver.hear_sender(data)
            case "join":
                assert receiver.join() == data
            case "nack":
                assert 0 not in receiver.chunks
                assert receiver.nack() == data
            case _:
                assert receiver.done() == data
    assert receiver is not None
    assert b"".join(receiver.chunks[chunk] for chunk in range(3)) == CONTENT
    assert repaired == 1 and receiver.accepted and receiver.over and not receiver.rejected


def a_catalogue() -> bytes:
    """What an open sender says by TCP."""
    cast = {
        "session": SESSION, "receiver": NUMBER, "group": "239.77.5.5", "data_port": 7711, "sender": "",
        "control_port": 7712, "packet_bytes": PACKET_BYTES,
        "cast_key": CAST_KEY.hex(), "control_key": CONTROL_KEY.hex(),
    }  # fmt: skip
    root = blake3(len(CONTENT).to_bytes(8, "big") + HASHES).hexdigest()
    catalogue = {"name": "file", "file_bytes": len(CONTENT), "chunk_bytes": CHUNK_BYTES, "root": root, "cast": cast}
    frames = [json.dumps({**catalogue, "unicast": False}).encode(), HASHES]
    return b"RCF1\0" + bytes(16) + b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def cast(lost: set[int]) -> tuple[PlainReceiver, list[SenderEvent], list[str]]:
    """Our sender and the document's receiver, which does not get these packets of the first pass. All that was said."""
    layout = CastLayout([len(chunk) for chunk in CHUNKS], PACKET_BYTES)
    nothing = np.zeros(len(CHUNKS), np.bool_)
    sender = SenderSession(layout, SenderSettings(SESSION, CAST_KEY), nothing, 0.0)

    def read(index: int, out: memoryview) -> None:
        out[:] = CHUNKS[index]

    filler = PayloadFiller(layout, read, load_code())
    sender.admit(NUMBER, CONTROL_KEY, None, 0.0)
    said = [f"tcp {a_catalogue().hex()}"]
    receiver = PlainReceiver(*read_catalogue(a_catalogue()))
    now = 0.0

    def tell(what: str, datagram: bytes) -> None:
        said.append(f"{what} {datagram.hex()}")
        sender.receive_datagram(datagram, ("10.0.0.7", 999), now)
        for answer, _ in sender.replies():
            said.append(f"ack {answer.hex()}")
            receiver.hear_sender(answer)

    tell("join", receiver.join())
    sender.begin(now)
    asked = is_done = False
    while not sender.closed:
        now += 0.01
        assert now < 10
        burst = sender.datagrams_to_send(now)
        if burst is None:
            continue
        if burst.runs:
            filler.fill(burst)
        for packet in burst.packets:
            data = packet.tobytes()
            if data[1] & 15 == 0 and int.from_bytes(data[12:16], "big") in lost:
                continue
            said.append(f"group {data.hex()}")
            receiver.hear_group(data)
        if sender.phase is Phase.REPAIRING and lost and not asked:
            if not burst.runs:
                asked = True
                tell("nack", receiver.nack())
        elif len(receiver.chunks) == len(CHUNKS) and not is_done:
            is_done = True
            tell("done", receiver.done())
    return receiver, sender.events(), said


@pytest.mark.parametrize("lost", [set(), {THIRD}, {0, 3, 6, 10}, set(range(11))], ids=["none", "one", "some", "all"])
def test_our_sender_serves_the_receiver_of_the_document(lost: set[int]) -> None:
    receiver, events, _ = cast(lost)
    assert b"".join(receiver.chunks[chunk] for chunk in range(3)) == CONTENT
    assert ReceiverJoined(NUMBER, "10.0.0.7") in events and ReceiverDone(NUMBER) in events
    assert receiver.over and not receiver.rejected


@pytest.mark.parametrize("symbols", [1, 199, 200, 201, 399, 400, 401, 1000, 1001])
def test_chunks_are_cut_into_blocks_as_the_document_says(symbols: int) -> None:
    assert CastLayout([symbols * 480], PACKET_BYTES).block_symbols.tolist() == split(symbols)


def test_what_is_said_by_tcp_has_these_bytes() -> None:
    assert hello(bytes(range(16))).hex() == "524346310000000102030405060708090a0b0c0d0e0f"
    assert bitmap(3).hex() == "00000001e0"
    assert bitmap(9).hex() == "00000002ff80"


if __name__ == "__main__":
    RECORDED.write_text("".join(line + "\n" for line in cast({THIRD})[2]))
