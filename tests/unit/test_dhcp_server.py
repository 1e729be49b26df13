"""How the DHCP server takes what a client says, state by state of RFC 2131: to lease, renew, start anew, inform."""

from ipaddress import IPv4Address

import pytest
from dhcp_builders import (
    BROADCAST,
    MAC,
    NETWORK,
    OTHER_MAC,
    SERVER,
    a_discover,
    a_packet,
    a_renewal,
    a_request,
    a_server,
    an_arrival,
    an_init_reboot,
    lease_address,
    reason_of,
    reply_to,
)

from netboot.dhcp.leases import Lease, LeaseState, LeaseTable
from netboot.dhcp.reply import Delivery, Destination
from netboot.dhcp.server import OFFER_S
from netboot.wire.dhcp_options import (
    HOST_NAME,
    LEASE_TIME,
    MESSAGE,
    REQUESTED_ADDRESS,
    ROUTERS,
    SERVER_IDENTIFIER,
    MessageType,
)


def test_a_repeated_discover_gets_the_same_offer() -> None:
    server = a_server()
    first = reply_to(server, a_discover()).packet.yiaddr
    assert reply_to(server, a_discover(), an_arrival(1010)).packet.yiaddr == first


def test_an_offer_that_was_not_taken_is_void_after_its_time() -> None:
    server = a_server(first=100, last=100)
    offer = reply_to(server, a_discover()).packet
    assert reply_to(server, a_discover(mac=OTHER_MAC)).packet.yiaddr == NETWORK[100]
    late = an_arrival(1000 + OFFER_S)
    assert reply_to(server, a_request(offer), late).packet.message_type is MessageType.NAK


def test_a_request_binds_the_offer_and_keeps_the_lease() -> None:
    leases = LeaseTable()
    address = lease_address(a_server(leases), now=1000)
    assert leases.get_by_mac(MAC) == Lease(MAC, address, 4600, LeaseState.BOUND)


def test_the_lease_is_saved_before_the_ack_and_no_ack_is_sent_when_it_cannot_be() -> None:
    class FullDisk(LeaseTable):
        def save(self, lease: Lease) -> None:
            raise RuntimeError("disk full")

    server = a_server(FullDisk())
    offer = reply_to(server, a_discover()).packet
    with pytest.raises(RuntimeError, match="disk full"):
        server.respond(a_request(offer), an_arrival())


def test_the_hostname_of_the_client_is_kept_with_its_lease() -> None:
    leases = LeaseTable()
    server = a_server(leases)
    offer = reply_to(server, a_discover()).packet
    request = a_packet(
        MessageType.REQUEST, (SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, offer.yiaddr), (HOST_NAME, "x" * 80)
    )
    reply_to(server, request)
    assert leases.all()[0].hostname == "x" * 63


def test_a_repeated_request_is_acknowledged_again() -> None:
    server = a_server()
    offer = reply_to(server, a_discover()).packet
    assert reply_to(server, a_request(offer)).packet.yiaddr == reply_to(server, a_request(offer)).packet.yiaddr


def test_a_request_for_another_server_frees_the_offer_and_gets_no_answer() -> None:
    server = a_server(first=100, last=100)
    offer = reply_to(server, a_discover()).packet
    assert "another server" in reason_of(server, a_request(offer, server=NETWORK[2]))
    assert reply_to(server, a_discover(mac=OTHER_MAC)).packet.yiaddr == NETWORK[100]


def test_a_request_for_what_was_not_offered_gets_a_nak() -> None:
    server = a_server()
    reply_to(server, a_discover())
    request = a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, NETWORK[7]))
    nak = reply_to(server, request)
    assert nak.packet.message_type is MessageType.NAK
    assert nak.packet.yiaddr == nak.packet.ciaddr == IPv4Address(0)
    assert nak.packet.options.get(MESSAGE) == "10.77.0.7 was not offered to you"
    assert nak.packet.options.get(SERVER_IDENTIFIER) == SERVER
    assert LEASE_TIME not in nak.packet.options
    assert nak.destination == Destination(Delivery.BROADCAST, BROADCAST, 68)


def test_renewing_extends_the_lease_by_unicast() -> None:
    leases = LeaseTable()
    server = a_server(leases)
    address = lease_address(server, now=1000)
    ack = reply_to(server, a_renewal(address), an_arrival(2800, source=address))
    assert ack.packet.message_type is MessageType.ACK
    assert ack.packet.ciaddr == ack.packet.yiaddr == address
    assert ack.destination == Destination(Delivery.UNICAST, address, 68)
    assert leases.all()[0].expires_s == 6400


def test_an_expired_lease_may_still_be_renewed_by_its_holder() -> None:
    server = a_server()
    address = lease_address(server, now=1000)
    ack = reply_to(server, a_renewal(address), an_arrival(99_000))
    assert ack.packet.message_type is MessageType.ACK


def test_init_reboot_confirms_the_address_that_is_leased() -> None:
    server = a_server()
    address = lease_address(server)
    assert reply_to(server, an_init_reboot(address)).packet.yiaddr == address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (IPv4Address("192.168.1.5"), "not of this network"),
        (NETWORK[123], "your address is"),
    ],
)
def test_init_reboot_with_a_wrong_address_gets_a_nak(address: IPv4Address, why: str) -> None:
    server = a_server(first=100, last=101)
    lease_address(server)
    nak = reply_to(server, an_init_reboot(address)).packet
    assert nak.message_type is MessageType.NAK
    assert why in (nak.options.get(MESSAGE) or "")


def test_a_lease_that_nobody_knows_gets_a_nak() -> None:
    nak = reply_to(a_server(), a_renewal(NETWORK[120])).packet
    assert nak.options.get(MESSAGE) == "no lease of 10.77.0.120 is known for you"


def test_a_request_without_an_address_is_ignored() -> None:
    assert "names no address" in reason_of(a_server(), a_packet(MessageType.REQUEST))
    assert "names no address" in reason_of(a_server(), a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, SERVER)))


def test_inform_is_answered_without_address_or_lease_time() -> None:
    leases = LeaseTable()
    ack = reply_to(a_server(leases, routers=(SERVER,)), a_packet(MessageType.INFORM, ciaddr=NETWORK[9]))
    assert ack.packet.message_type is MessageType.ACK
    assert ack.packet.yiaddr == IPv4Address(0)
    assert LEASE_TIME not in ack.packet.options
    assert ack.packet.options.get(ROUTERS) == (SERVER,)
    assert ack.destination == Destination(Delivery.UNICAST, NETWORK[9], 68)
    assert leases.all() == ()


def test_inform_from_another_network_is_ignored() -> None:
    packet = a_packet(MessageType.INFORM, ciaddr=IPv4Address("192.0.2.1"))
    assert "not of this network" in reason_of(a_server(), packet)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (a_packet(None), "BOOTP"),
        (a_packet(MessageType.OFFER), "not a client's message"),
        (a_discover(op=2), "not a request"),
        (a_discover(htype=6), "not Ethernet"),
        (a_discover(chaddr=b"\2\2\2"), "not Ethernet"),
        (a_discover(mac="00:00:00:00:00:00"), "no machine's hardware address"),
        (a_discover(mac="01:00:5e:00:00:01"), "no machine's hardware address"),
    ],
)
def test_what_is_not_for_a_server_is_ignored_with_a_reason(packet: object, reason: str) -> None:
    assert reason in reason_of(a_server(), packet)  # type: ignore[arg-type]
