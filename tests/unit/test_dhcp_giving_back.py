"""How addresses come back: DECLINE and RELEASE (RFC 2131, sections 4.3.3 and 4.3.4)."""

from ipaddress import IPv4Address

from dhcp_builders import (
    MAC,
    NETWORK,
    OTHER_MAC,
    SERVER,
    a_discover,
    a_packet,
    a_renewal,
    a_server,
    an_arrival,
    an_init_reboot,
    lease_address,
    reason_of,
    reply_to,
)

from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.places import DECLINED_S
from netboot.dhcp.reply import Arrival
from netboot.wire.dhcp_options import (
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    MessageType,
)


def a_decline(address: IPv4Address, mac: str = MAC) -> object:
    return a_packet(MessageType.DECLINE, (SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, address), mac=mac)


def test_a_declined_address_is_left_alone_for_a_while() -> None:
    server = a_server(first=100, last=100)
    address = lease_address(server)
    assert "DECLINE" in reason_of(server, a_decline(address))  # type: ignore[arg-type]
    assert "exhausted" in reason_of(server, a_discover())
    assert "exhausted" in reason_of(server, a_discover(mac=OTHER_MAC, wished=address))
    after = an_arrival(1000 + DECLINED_S)
    assert reply_to(server, a_discover(mac=OTHER_MAC), after).packet.yiaddr == address


def test_only_its_holder_can_decline_an_address() -> None:
    server = a_server(first=100, last=100)
    address = lease_address(server)
    assert "does not hold" in reason_of(server, a_decline(address, OTHER_MAC))  # type: ignore[arg-type]
    assert reply_to(server, a_renewal(address)).packet.message_type is MessageType.ACK


def test_a_released_address_is_free_at_once() -> None:
    leases = LeaseTable()
    server = a_server(leases, first=100, last=100)
    address = lease_address(server)
    release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address)
    assert "is free" in reason_of(server, release)
    assert not leases.all()[0].is_active(1000.0)
    assert lease_address(server, OTHER_MAC) == address


def test_who_released_its_address_gets_it_again_when_nobody_took_it() -> None:
    """RFC 2131, section 4.3.4: the record is kept."""
    server = a_server(first=100, last=109)
    address = lease_address(server)
    release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address)
    for now in (1000.0, 90_000.0):
        reason_of(server, release, an_arrival(now))
        assert lease_address(server, OTHER_MAC, now=now + 1) != address
        assert lease_address(server, now=now + 2) == address
    reason_of(server, release, an_arrival(90_003.0))
    assert reply_to(server, an_init_reboot(address), an_arrival(90_004.0)).packet.message_type is MessageType.ACK


def test_addresses_that_strangers_lease_and_release_are_to_be_had_by_other_strangers() -> None:
    server = a_server(first=100, last=107)
    for number in range(40):
        mac = f"02:00:00:00:00:{number:02x}"
        address = lease_address(server, mac, now=1000.0 + number)
        release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address, mac=mac)
        assert "is free" in reason_of(server, release, an_arrival(1000.5 + number))


def test_who_was_but_offered_an_address_cannot_release_it_from_its_machine() -> None:
    leases = LeaseTable()
    server = a_server(leases, first=100, last=100)
    address = lease_address(server)
    ended = an_arrival(1000.0 + 3601)
    assert reply_to(server, a_discover(mac=OTHER_MAC), ended).packet.yiaddr == address
    release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address, mac=OTHER_MAC)
    reason_of(server, release, ended)
    assert [(lease.mac, lease.address) for lease in leases.all()] == [(MAC, address)]


def test_only_its_holder_can_release_an_address() -> None:
    leases = LeaseTable()
    server = a_server(leases)
    address = lease_address(server)
    release = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address, mac=OTHER_MAC)
    assert "does not hold" in reason_of(server, release)
    elsewhere = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, NETWORK[2]), ciaddr=address)
    assert "not for this server" in reason_of(server, elsewhere)
    unnamed = a_packet(MessageType.RELEASE, ciaddr=address)  # a broadcast that names no server
    assert "not for this server" in reason_of(server, unnamed)
    assert len(leases.all()) == 1


def test_a_release_that_names_no_server_is_for_the_one_that_it_is_sent_to() -> None:
    """Seen on: systemd-networkd 252."""
    leases = LeaseTable()
    server = a_server(leases)
    address = lease_address(server)
    arrival = Arrival(1000.0, address, 68, SERVER, 67)
    assert "is free" in reason_of(server, a_packet(MessageType.RELEASE, ciaddr=address), arrival)
    assert not leases.all()[0].is_active(1000.0)
