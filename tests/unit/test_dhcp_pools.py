"""Which address of its pools the DHCP server offers, and to whom, when they are many and when they are few."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from dhcp_builders import (
    MAC,
    NETWORK,
    OTHER_MAC,
    SERVER,
    a_discover,
    a_renewal,
    a_request,
    a_server,
    an_arrival,
    lease_address,
    reason_of,
    reply_to,
)

from netboot.dhcp.leases import Lease, LeaseTable
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.model import Ignored
from netboot.wire.dhcp_options import (
    MessageType,
)

WISHED = NETWORK[150]


def test_two_machines_never_get_the_same_offer() -> None:
    server = a_server(first=100, last=101)
    offers = {reply_to(server, a_discover(mac=mac)).packet.yiaddr for mac in (MAC, OTHER_MAC)}
    assert offers == {NETWORK[100], NETWORK[101]}


def test_an_exhausted_pool_is_a_reason() -> None:
    server = a_server(first=100, last=100)
    lease_address(server)
    assert "pool exhausted" in reason_of(server, a_discover(mac=OTHER_MAC))


def test_a_wished_address_is_offered_when_free() -> None:
    assert reply_to(a_server(), a_discover(wished=WISHED)).packet.yiaddr == WISHED


@pytest.mark.parametrize("wished", [SERVER, NETWORK[99], NETWORK[200], IPv4Address("192.0.2.1")])
def test_a_wish_outside_the_pool_is_passed_over(wished: IPv4Address) -> None:
    assert reply_to(a_server(), a_discover(wished=wished)).packet.yiaddr in list(NETWORK)[100:200]


def test_the_servers_own_and_the_routers_address_are_never_offered() -> None:
    server = a_server(first=1, last=3, routers=(NETWORK[2],))
    assert reply_to(server, a_discover(wished=NETWORK[1])).packet.yiaddr == NETWORK[3]
    assert reply_to(server, a_discover(mac=OTHER_MAC, wished=NETWORK[2])).packet.yiaddr == NETWORK[3]


def test_a_machine_comes_back_to_its_address_after_its_lease_ended() -> None:
    server = a_server()
    address = lease_address(server, now=1000)
    assert reply_to(server, a_discover(), an_arrival(99_000)).packet.yiaddr == address


def test_an_expired_address_goes_to_another_and_its_earlier_holder_gets_a_nak() -> None:
    server = a_server(first=100, last=100)
    address = lease_address(server, now=1000)
    assert "exhausted" in reason_of(server, a_discover(mac=OTHER_MAC), an_arrival(4599))
    assert lease_address(server, OTHER_MAC, now=4601) == address
    nak = reply_to(server, a_renewal(address), an_arrival(4602))
    assert nak.packet.message_type is MessageType.NAK


@pytest.mark.parametrize(("first", "last"), [(5, 4), (0, 4), (4, 255)])
def test_a_pool_that_makes_no_sense_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="pool"):
        Subnet(NETWORK, (Pool(NETWORK[first], NETWORK[last]),))
    with pytest.raises(ValueError, match="not inside"):
        Subnet(NETWORK, (Pool(NETWORK[4], IPv4Address("10.78.0.1")),))


def a_mac(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in (0x02_00_00_00_00_00 + number).to_bytes(6, "big"))


def test_made_up_machines_do_not_close_the_pool() -> None:
    server = a_server()
    for number in range(500):
        assert reply_to(server, a_discover(mac=a_mac(number))).packet.message_type is MessageType.OFFER
    offer = reply_to(server, a_discover()).packet
    acknowledged = reply_to(server, a_request(offer)).packet
    assert acknowledged.message_type is MessageType.ACK and acknowledged.yiaddr == offer.yiaddr


def test_machine_whose_offer_made_room_still_gets_its_address_when_it_asks() -> None:
    leases = LeaseTable()
    server = a_server(leases)
    offer = reply_to(server, a_discover()).packet
    taker = None
    for number in range(300):
        if reply_to(server, a_discover(mac=a_mac(number))).packet.yiaddr == offer.yiaddr:
            taker = a_mac(number)
    assert taker is not None
    assert reply_to(server, a_request(offer)).packet.message_type is MessageType.ACK
    assert reply_to(server, a_request(offer, mac=taker)).packet.message_type is MessageType.NAK
    holder = leases.get_by_address(offer.yiaddr)
    assert holder is not None and holder.mac == MAC


def test_address_of_a_lease_that_is_offered_anew_to_its_holder_is_never_given_to_another() -> None:
    server = a_server()
    held = lease_address(server)
    assert reply_to(server, a_discover()).packet.yiaddr == held
    for number in range(300):
        assert reply_to(server, a_discover(mac=a_mac(number))).packet.yiaddr != held


class CountingLeases(LeaseTable):
    """Counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.walks = 0

    def get_by_address(self, address: IPv4Address) -> Lease | None:
        self.looks += 1
        return super().get_by_address(address)

    def all(self) -> tuple[Lease, ...]:
        self.walks += 1
        return tuple(super().all())


def test_flood_of_discovers_on_a_large_full_pool_looks_at_few_addresses_each() -> None:
    network = IPv4Network("10.64.0.0/16")
    leases = CountingLeases()
    subnet = Subnet(network, (Pool(network[2], network[-2]),))
    for number in range(2, 65_000):
        leases.save(Lease(a_mac(1_000_000 + number), network[number], 1e9))
    server = DhcpServer(
        ServerConfig(network[1], subnet, probe=False), leases, lambda client: Ignored("nothing to boot")
    )
    flood = 2000
    for number in range(flood):
        answer = server.respond(a_discover(mac=a_mac(number)), an_arrival(1000 + number / 10_000))
        assert not isinstance(answer, Ignored)
    assert leases.walks == 1  # when the server starts
    assert leases.looks <= flood * 8


def test_addresses_are_given_away_in_the_order_of_the_specification() -> None:
    server = a_server(first=100, last=102)
    first, second = lease_address(server, now=1000), lease_address(server, OTHER_MAC, now=1100)
    reply_to(server, a_renewal(first), an_arrival(1001))
    reply_to(server, a_renewal(second, mac=OTHER_MAC), an_arrival(1101))
    late = 99_000.0
    third = "52:54:00:00:00:03"
    assert lease_address(server, third, late) == NETWORK[102]  # never used
    assert reply_to(server, a_discover(wished=second), an_arrival(late)).packet.yiaddr == first  # the last one it had
