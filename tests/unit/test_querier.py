"""When the IGMP querier asks, and when it leaves that to another."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from netboot.querier import Asking, LeftTo, Querier
from netboot.wire import mld
from netboot.wire.frame import checksum
from netboot.wire.igmp import build_general_query, read_query

LOWER, OWN, HIGHER = (IPv4Address(f"10.0.0.{n}") for n in (1, 5, 9))


class Clocked:
    """A querier whose time is made to pass."""

    def __init__(self) -> None:
        self.querier = Querier(OWN, 125, 0.0)
        self.asked: list[float] = []
        self.now = 0.0

    def until(self, end: float) -> None:
        while self.querier.next_timeout() <= end:
            self.now = self.querier.next_timeout()
            self.querier.handle_timeout(self.now)
            if self.querier.take_query():
                self.asked.append(self.now)
        self.now = end

    def hear(self, source: IPv4Address) -> None:
        self.querier.hear(source, self.now)


def test_it_looks_first_then_asks_twice_fast_and_then_at_its_interval() -> None:
    clocked = Clocked()
    clocked.until(300)
    assert clocked.asked == [4, 35.25, 160.25, 285.25]
    assert clocked.querier.events() == [Asking()]


@pytest.mark.parametrize("other", [LOWER, HIGHER])
def test_who_asked_already_is_left_to_it_until_it_is_silent(other: IPv4Address) -> None:
    clocked = Clocked()
    for at in (1, 100, 225):
        clocked.until(at)
        clocked.hear(other)
    clocked.until(225 + 254)
    assert clocked.asked == []
    clocked.until(225 + 256)
    assert clocked.asked == [225 + 255]
    assert clocked.querier.events() == [LeftTo(other), Asking()]


def test_of_two_that_ask_the_lower_address_goes_on() -> None:
    clocked = Clocked()
    clocked.until(10)
    clocked.hear(HIGHER)
    clocked.hear(OWN)
    clocked.hear(IPv4Address("0.0.0.0"))
    clocked.until(40)
    assert len(clocked.asked) == 2
    clocked.hear(LOWER)
    clocked.until(250)
    assert len(clocked.asked) == 2
    assert clocked.querier.events() == [Asking(), LeftTo(LOWER)]


def test_query_is_one_of_version_3_with_router_alert_and_true_sums() -> None:
    frame = build_general_query(bytes.fromhex("020000000001"), OWN, 10, 125)
    query = read_query(frame)
    assert query is not None and (query.source, query.version) == (OWN, 3)
    assert frame[:6].hex() == "01005e000001"  # RFC 1112, section 6.4, of 224.0.0.1
    ip, message = frame[14:38], frame[38:]
    assert ip[8] == 1 and ip[20:] == bytes.fromhex("94040000")
    assert checksum(ip) == 0 and checksum(message) == 0
    assert message[1] == 100 and message[9] == 125 and message[4:8] == bytes(4)


def test_mld_query_is_one_of_version_2_with_router_alert_and_a_true_sum() -> None:
    own = IPv6Address("fe80::5")
    frame = mld.build_general_query(bytes.fromhex("020000000001"), own, 10, 125)
    query = mld.read_query(frame)
    assert query is not None and (query.source, query.version, query.mac.hex()) == (own, 2, "020000000001")
    assert frame[:6].hex() == "333300000001"  # RFC 2464, section 7, of ff02::1
    ip, options, message = frame[14:54], frame[54:62], frame[62:]
    assert ip[6:8] == bytes([0, 1]) and int.from_bytes(ip[4:6], "big") == len(options + message)
    assert options == bytes.fromhex("3a00 05020000 0100")
    assert checksum(ip[8:40] + len(message).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + message) == 0
    assert int.from_bytes(message[4:6], "big") == 10_000 and message[25] == 125 and message[8:24] == bytes(16)


def test_mld_queries_of_nobody_on_the_link_and_broken_ones_are_none() -> None:
    whole = mld.build_general_query(bytes(6), IPv6Address("fe80::5"), 10, 125)
    version_1 = bytearray(whole[:-4])
    version_1[19] -= 4
    query = mld.read_query(bytes(version_1) + bytes(4))  # padding of a short frame
    assert query is not None and query.version == 1
    assert mld.read_query(mld.build_general_query(bytes(6), IPv6Address("fd00::5"), 10, 125)) is None
    assert mld.read_query(mld.build_general_query(bytes(6), IPv6Address("::"), 10, 125)) is None
    report = bytearray(whole)
    report[62] = 143
    assert mld.read_query(bytes(report)) is None
    assert all(mld.read_query(whole[:length]) is None for length in range(62 + 24))


def test_of_two_mld_queriers_the_lower_address_goes_on() -> None:
    querier = Querier(IPv6Address("fe80::5"), 125, 0.0)
    querier.handle_timeout(querier.next_timeout())
    assert querier.take_query()
    querier.hear(IPv6Address("fe80::9"), 5)
    querier.handle_timeout(querier.next_timeout())
    assert querier.take_query()
    querier.hear(IPv6Address("fe80::1"), 50)
    querier.handle_timeout(200)
    assert not querier.take_query()
    assert querier.events() == [Asking(), LeftTo(IPv6Address("fe80::1"))]
