"""The lab's bad line: what becomes of frames, each way by itself."""

import random
import socket
import struct

import pytest
from classroom.bad_line import HELD_S, BadDirection, Troubles, damage, is_cast, is_ipv4


def a_frame(number: int = 0, payload_bytes: int = 600, group: bool = True) -> bytes:
    """Ethernet, IPv4 and UDP with a checksum that fits."""
    source, target = socket.inet_aton("10.0.0.1"), socket.inet_aton("239.77.1.2")
    payload = struct.pack("!I", number) * (payload_bytes // 4)
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", 7000, 7001, length, 0)
    pseudo = source + target + struct.pack("!BBH", 0, 17, length)
    checksum = ~ones_sum(pseudo + udp + payload) & 0xFFFF
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 1, 17, 0, source, target)
    mac = (b"\x01\x00\x5e\x4d\x01\x02" if group else bytes(6)) + bytes(6)
    return mac + b"\x08\x00" + header + udp[:6] + struct.pack("!H", checksum) + payload


def ones_sum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum_holds(frame: bytes) -> bool:
    udp = frame[34:]
    return ones_sum(frame[26:34] + struct.pack("!BBH", 0, 17, len(udp)) + udp) == 0xFFFF


def a_direction(**shares: float) -> BadDirection:
    return BadDirection(Troubles(is_ipv4, **shares), random.Random(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_damage_changes_the_payload_and_nothing_tells(seed: int) -> None:
    frame = a_frame(seed)
    damaged = damage(frame, random.Random(seed))
    assert len(damaged) == len(frame) and damaged[42:] != frame[42:]
    assert damaged[:40] == frame[:40]
    assert checksum_holds(frame) and checksum_holds(damaged)


def test_a_frame_that_is_held_back_arrives_after_the_next_and_in_time_when_none_comes() -> None:
    direction = a_direction(overtaken=1.0)
    assert direction.carry(a_frame(1), 0.0) == ()
    assert list(direction.carry(a_frame(2), 0.0)) == [a_frame(2), a_frame(1)]
    assert direction.carry(a_frame(3), 1.0) == ()
    assert direction.due_s == 1.0 + HELD_S
    assert direction.release(1.0) == []
    assert direction.release(1.0 + HELD_S) == [a_frame(3)]
    assert direction.due_s is None


def test_several_may_be_held_back_and_each_is_overtaken_by_as_many() -> None:
    direction = BadDirection(Troubles(is_ipv4, overtaken=1.0, overtaken_by=3), random.Random(1))
    assert [list(direction.carry(a_frame(number), 0.0)) for number in range(3)] == [[], [], []]
    passed = [list(direction.carry(a_frame(number), 0.0)) for number in range(3, 6)]
    assert passed == [[a_frame(3)], [a_frame(4)], [a_frame(5), a_frame(0), a_frame(1), a_frame(2)]]


def test_each_trouble_befalls_its_share() -> None:
    direction = a_direction(lost=0.1, doubled=0.2)
    counts = [len(direction.carry(a_frame(number), 0.0)) for number in range(2000)]
    assert 150 < counts.count(0) < 250 and 350 < counts.count(2) < 450


def test_what_is_not_meant_passes_as_it_is() -> None:
    assert is_cast(a_frame()) and not is_cast(a_frame(group=False)) and not is_cast(a_frame(payload_bytes=40))
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    assert a_direction(lost=1.0).carry(arp, 0.0) == (arp,)
