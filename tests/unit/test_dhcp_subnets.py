"""Several subnets, relay agents and reservations."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from dhcp_builders import (
    MAC,
    NETWORK,
    OTHER_MAC,
    SERVER,
    a_discover,
    a_packet,
    a_renewal,
    a_request,
    an_arrival,
    an_init_reboot,
    choose_by_firmware,
    lease_address,
    reason_of,
    reply_to,
)

from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.offers import OpenOffers
from netboot.dhcp.reply import Arrival, Delivery, Destination
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, Reservation, ServerConfig, Subnet
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import (
    CLIENT_IDENTIFIER,
    DOMAIN_NAME,
    HOST_NAME,
    LEASE_TIME,
    MESSAGE,
    RELAY_AGENT,
    RENEWAL_TIME,
    REQUESTED_ADDRESS,
    ROUTERS,
    SERVER_IDENTIFIER,
    SUBNET_MASK,
    SUBNET_SELECTION,
    MessageType,
)

FAR = IPv4Network("10.88.4.0/22")
LOCAL = Subnet(NETWORK, (Pool(NETWORK[100], NETWORK[101]), Pool(NETWORK[150], NETWORK[151])), 3600, domain="near.test")
REMOTE = Subnet(FAR, (Pool(FAR[10], FAR[900]),), 600, routers=(FAR[1],), domain="far.test", options={42: FAR[1].packed})


def a_wide_server(*reservations: Reservation, leases: LeaseTable | None = None) -> DhcpServer:
    config = ServerConfig(SERVER, LOCAL, (REMOTE,), reservations, probe=False)
    return DhcpServer(config, LeaseTable() if leases is None else leases, choose_by_firmware)


def relay_option(**sub_options: bytes) -> tuple[Any, bytes]:
    codes = {"circuit": 1, "remote": 2, "link": 5}
    return RELAY_AGENT, b"".join(bytes([codes[name], len(value)]) + value for name, value in sub_options.items())


def test_every_pool_of_a_subnet_is_given_away_and_nothing_between_them() -> None:
    server = a_wide_server()
    got = {lease_address(server, f"52:54:00:00:01:{number:02x}") for number in range(4)}
    assert got == {NETWORK[100], NETWORK[101], NETWORK[150], NETWORK[151]}
    assert "10.77.0.100-10.77.0.101, 10.77.0.150-10.77.0.151" in reason_of(server, a_discover())


def test_a_relayed_machine_gets_what_its_own_network_is_told() -> None:
    reply = reply_to(a_wide_server(), a_discover(giaddr=FAR[1]))
    options = reply.packet.options
    assert reply.packet.yiaddr in FAR
    assert options.get(SUBNET_MASK) == FAR.netmask
    assert options.get(ROUTERS) == (FAR[1],)
    assert options.get(DOMAIN_NAME) == "far.test"
    assert options.get(LEASE_TIME) == 600
    assert options.raw[42] == FAR[1].packed
    assert reply.destination == Destination(Delivery.UNICAST, FAR[1], 67)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (a_discover(giaddr=IPv4Address("10.99.0.1")), "giaddr 10.99.0.1; add a [[subnet]] whose network holds"),
        (
            a_packet(MessageType.DISCOVER, relay_option(link=bytes([10, 99, 0, 0])), giaddr=FAR[1]),
            "link selection of the relay 10.88.4.1; add a [[subnet]] whose network holds 10.99.0.0",
        ),
        (a_packet(MessageType.DISCOVER, (SUBNET_SELECTION, IPv4Address("10.99.0.0"))), "option 118; add a [[subnet]]"),
    ],
)  # fmt: skip
def test_a_network_that_is_not_configured_is_told_with_what_to_configure(packet: Any, words: str) -> None:
    assert words in reason_of(a_wide_server(), packet)


def test_the_link_selection_of_a_relay_goes_before_its_address() -> None:
    packet = a_packet(MessageType.DISCOVER, relay_option(link=FAR[0].packed), giaddr=NETWORK[9])
    reply = reply_to(a_wide_server(), packet)
    assert reply.packet.yiaddr in FAR
    assert reply.destination == Destination(Delivery.UNICAST, NETWORK[9], 67)


def test_link_selection_without_a_relay_is_not_obeyed() -> None:
    packet = a_packet(MessageType.DISCOVER, relay_option(link=FAR[0].packed))
    assert reply_to(a_wide_server(), packet).packet.yiaddr in NETWORK


def test_the_subnet_that_is_selected_by_option_118_is_used_and_echoed() -> None:
    reply = reply_to(a_wide_server(), a_packet(MessageType.DISCOVER, (SUBNET_SELECTION, FAR[0])))
    assert reply.packet.yiaddr in FAR
    assert reply.packet.options.get(SUBNET_SELECTION) == FAR[0]


def test_a_relayed_machine_renews_and_releases_past_its_relay() -> None:
    leases = LeaseTable()
    server = a_wide_server(leases=leases)
    offer = reply_to(server, a_discover(giaddr=FAR[1])).packet
    request = a_packet(
        MessageType.REQUEST, (SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, offer.yiaddr), giaddr=FAR[1]
    )
    address = reply_to(server, request).packet.yiaddr
    direct = Arrival(1300, address, 68, SERVER, 67)
    ack = reply_to(server, a_renewal(address), direct)
    assert ack.packet.message_type is MessageType.ACK
    assert ack.destination == Destination(Delivery.UNICAST, address, 68)
    release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address)
    assert "is free" in reason_of(server, release, direct)
    assert not any(lease.is_active(1300.0) for lease in leases.all())


def test_a_machine_that_rebinds_in_another_network_gets_a_nak() -> None:
    server = a_wide_server()
    nak = reply_to(server, a_renewal(FAR[20]), an_arrival())  # broadcast on the local network
    assert nak.packet.message_type is MessageType.NAK
    assert nak.packet.options.get(MESSAGE) == "10.88.4.20 is not of this network"


def test_a_refusal_by_a_relay_asks_it_to_broadcast() -> None:
    nak = reply_to(a_wide_server(), a_packet(MessageType.REQUEST, ciaddr=NETWORK[100], giaddr=FAR[1]))
    assert nak.packet.message_type is MessageType.NAK
    assert nak.packet.flags & 0x8000
    assert nak.destination == Destination(Delivery.UNICAST, FAR[1], 67)


@pytest.mark.parametrize(("asked", "given"), [(300, 300), (59, 60), (0, 60), (99_999, 3600), (0xFFFFFFFF, 3600)])
def test_a_shorter_lease_is_given_when_asked_for_and_never_a_longer_one(asked: int, given: int) -> None:
    options = reply_to(a_wide_server(), a_packet(MessageType.DISCOVER, (LEASE_TIME, asked))).packet.options
    assert options.get(LEASE_TIME) == given
    assert options.get(RENEWAL_TIME) == given // 2


# Reservations


def test_a_reserved_address_goes_to_its_machine_with_its_name_and_to_nobody_else() -> None:
    server = a_wide_server(Reservation(NETWORK[100], mac=MAC, hostname="pc-01"))
    assert NETWORK[100] != reply_to(server, a_discover(mac=OTHER_MAC, wished=NETWORK[100])).packet.yiaddr
    offer = reply_to(server, a_discover()).packet
    assert offer.yiaddr == NETWORK[100]
    assert offer.options.get(HOST_NAME) == "pc-01"
    assert reply_to(server, a_request(offer)).packet.message_type is MessageType.ACK


def test_a_reservation_may_lie_outside_the_pools_and_in_a_relayed_network() -> None:
    server = a_wide_server(Reservation(NETWORK[7], mac=MAC), Reservation(FAR[5], mac=OTHER_MAC))
    assert lease_address(server) == NETWORK[7]
    assert reply_to(server, a_discover(mac=OTHER_MAC, giaddr=FAR[1])).packet.yiaddr == FAR[5]
    assert reply_to(server, a_discover(mac=OTHER_MAC)).packet.yiaddr == NETWORK[100]


def test_a_reservation_by_client_identifier_holds_whatever_the_mac() -> None:
    server = a_wide_server(Reservation(NETWORK[9], client_id=b"\0lab-1"))
    named = a_packet(MessageType.DISCOVER, (CLIENT_IDENTIFIER, b"\0lab-1"), mac=OTHER_MAC)
    assert reply_to(server, named).packet.yiaddr == NETWORK[9]
    assert reply_to(server, a_discover()).packet.yiaddr == NETWORK[100]


def test_a_machine_moves_to_the_address_that_is_reserved_for_it_when_it_renews() -> None:
    leases = LeaseTable()
    held = lease_address(a_wide_server(leases=leases))
    server = a_wide_server(Reservation(NETWORK[7], mac=MAC), leases=leases)
    nak = reply_to(server, a_renewal(held))
    assert nak.packet.options.get(MESSAGE) == "10.77.0.7 is reserved for you"
    assert lease_address(server) == NETWORK[7]
    assert leases.get_by_address(held) is None


def test_a_reserved_address_that_another_holds_still_is_waited_for_with_a_reason() -> None:
    leases = LeaseTable()
    held = lease_address(a_wide_server(leases=leases), OTHER_MAC)
    server = a_wide_server(Reservation(held, mac=MAC), leases=leases)
    offer = reply_to(server, a_discover())
    assert offer.packet.yiaddr != held
    assert offer.note == f"{held} is reserved for it and in use by another machine still"
    got = reply_to(server, a_request(offer.packet)).packet.yiaddr
    assert reply_to(server, a_renewal(got)).packet.message_type is MessageType.ACK
    evicted = reply_to(server, a_renewal(held, mac=OTHER_MAC)).packet
    assert evicted.options.get(MESSAGE) == f"{held} is not given away any more"
    release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=held, mac=OTHER_MAC)
    reason_of(server, release)
    assert reply_to(server, a_renewal(got)).packet.options.get(MESSAGE) == f"{held} is reserved for you"
    assert lease_address(server) == held


def test_an_init_reboot_with_an_address_that_is_reserved_for_another_gets_a_nak() -> None:
    leases = LeaseTable()
    held = lease_address(a_wide_server(leases=leases))
    server = a_wide_server(Reservation(held, mac=OTHER_MAC), leases=leases)
    assert reply_to(server, an_init_reboot(held)).packet.message_type is MessageType.NAK


@pytest.mark.parametrize(
    ("reservations", "words"),
    [
        ((Reservation(IPv4Address("10.99.0.1"), mac=MAC),), "not a machine's address in any subnet"),
        ((Reservation(NETWORK[255], mac=MAC),), "not a machine's address in any subnet"),
        ((Reservation(SERVER, mac=MAC),), "the appliance's own"),
        ((Reservation(NETWORK[5], mac=MAC), Reservation(NETWORK[5], mac=OTHER_MAC)), "reserved twice"),
        ((Reservation(NETWORK[5], mac=MAC), Reservation(NETWORK[6], mac=MAC)), "two reservations"),
    ],
)
def test_reservations_that_contradict_each_other_are_refused(reservations: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        a_wide_server(*reservations)


def test_a_reservation_names_a_mac_or_a_client_identifier() -> None:
    for more in ({}, {"mac": MAC, "client_id": b"x"}):
        with pytest.raises(ValueError, match="one of the two"):
            Reservation(NETWORK[5], **more)  # type: ignore[arg-type]


def test_subnets_and_pools_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        Subnet(NETWORK, (Pool(NETWORK[5], NETWORK[9]), Pool(NETWORK[9], NETWORK[12])))
    with pytest.raises(ValueError, match="overlap"):
        ServerConfig(SERVER, LOCAL, (Subnet(IPv4Network("10.77.0.0/16"), ()),))


def test_servers_of_two_interfaces_share_offers_and_do_not_spoil_each_others() -> None:
    """A relay agent that is told both addresses brings every packet to both servers."""
    leases, offers = LeaseTable(), OpenOffers()
    second = IPv4Address("10.78.0.1")
    far = Subnet(IPv4Network("10.90.0.0/24"), (Pool(IPv4Address("10.90.0.10"), IPv4Address("10.90.0.20")),))
    locals_ = {SERVER: LOCAL, second: Subnet(IPv4Network("10.78.0.0/24"), ())}
    one, two = (
        DhcpServer(
            ServerConfig(own, local, (far,), probe=False, other_addresses=frozenset(locals_) - {own}),
            leases,
            choose_by_firmware,
            offers,
        )
        for own, local in locals_.items()
    )
    relay = IPv4Address("10.90.0.1")
    offered = {reply_to(server, a_discover(giaddr=relay)).packet.yiaddr for server in (one, two)}
    assert len(offered) == 1
    (address,) = offered
    request = a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, second), (REQUESTED_ADDRESS, address), giaddr=relay)
    assert "another interface" in reason_of(one, request)
    assert reply_to(two, request).packet.message_type is MessageType.ACK


def test_two_servers_of_one_far_network_give_and_offer_no_address_twice_and_refuse_nobody() -> None:
    """Its relay agent sends to both: they share leases and offers, and each knows its own part of what was given."""
    leases, offers = LeaseTable(), OpenOffers()
    config = ServerConfig(SERVER, LOCAL, (REMOTE,), (), probe=False)
    first, second = (DhcpServer(config, leases, choose_by_firmware, offers) for _ in range(2))

    def offered_by(server: DhcpServer, mac: str) -> DhcpPacket:
        return reply_to(server, a_discover(mac=mac, giaddr=FAR[1])).packet

    for number in range(60):
        mac = f"52:54:00:00:01:{number:02x}"
        request = replace(a_request(offered_by(first, mac), mac=mac), giaddr=FAR[1])
        assert reply_to(first, request).packet.message_type is MessageType.ACK
    open_offers = [
        (server, mac, offered_by(server, mac))
        for number in range(40)
        for server, mac in ((first, f"52:54:00:00:02:{number:02x}"), (second, f"52:54:00:00:03:{number:02x}"))
    ]
    assert len({offer.yiaddr for _, _, offer in open_offers}) == 80
    for server, mac, offer in open_offers:
        request = replace(a_request(offer, mac=mac), giaddr=FAR[1])
        assert reply_to(server, request).packet.message_type is MessageType.ACK
    assert len(leases.all()) == 140
