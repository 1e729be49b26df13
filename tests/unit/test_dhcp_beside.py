"""The server that steps back beside another one: what it gave is kept, nothing new is given, nobody is refused."""

from ipaddress import IPv4Address

from dhcp_builders import (
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
    choose_by_firmware,
    lease_address,
    pxe_options,
    reason_of,
    reply_to,
)

from netboot.dhcp.beside import ServerOrProxy
from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import ProbeFirst
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.wire.dhcp import NO_ADDRESS
from netboot.wire.dhcp_options import REQUESTED_ADDRESS, SERVER_IDENTIFIER, VENDOR_OPTIONS, MessageType

RIVAL = IPv4Address("10.77.0.9")


class Site:
    """One interface; another server comes and goes with `is_beside`."""

    def __init__(self, server: DhcpServer | None = None, leases: LeaseTable | None = None) -> None:
        self.is_beside = False
        self.leases = leases if leases is not None else LeaseTable()
        self.server = server or a_server(self.leases)
        self.responder = ServerOrProxy(
            self.server, DhcpProxy(SERVER, choose_by_firmware), self.leases, SERVER, lambda: self.is_beside
        )

    def respond(self, *arguments: object) -> object:
        return self.responder.respond(*arguments)  # type: ignore[arg-type]


def test_alone_it_is_the_server() -> None:
    site = Site()
    assert lease_address(site.responder) in NETWORK  # type: ignore[arg-type]
    at_4011 = a_packet(MessageType.REQUEST, *pxe_options(0), ciaddr=NETWORK[100])
    assert "port 4011" in reason_of(site, at_4011, an_arrival(local_port=4011))


def test_beside_another_server_new_machines_get_boot_information_alone() -> None:
    site = Site()
    site.is_beside = True
    offer = reply_to(site, a_discover(0)).packet
    assert offer.yiaddr == NO_ADDRESS and offer.file == b"bios/core.0"
    assert "not a boot client" in reason_of(site, a_discover())
    second = reply_to(
        site, a_packet(MessageType.REQUEST, *pxe_options(0), ciaddr=NETWORK[9]), an_arrival(local_port=4011)
    )
    assert second.packet.message_type is MessageType.ACK


def test_lease_that_was_given_is_renewed_rebound_and_released() -> None:
    site = Site()
    address = lease_address(site.responder)  # type: ignore[arg-type]
    site.is_beside = True
    for request in (a_renewal(address), an_init_reboot(address)):
        ack = reply_to(site, request, an_arrival(2000.0)).packet
        assert ack.message_type is MessageType.ACK and ack.yiaddr == address
    released = a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, SERVER), ciaddr=address)
    assert "is free" in reason_of(site, released, an_arrival(2001.0))
    assert not site.leases.all()[0].is_active(2001.0)


def test_whose_lease_has_ended_is_told_by_broadcast_where_to_boot() -> None:
    """It asks for a boot server on port 67, which is no request for an address."""
    site = Site()
    address = lease_address(site.responder)  # type: ignore[arg-type]
    site.is_beside = True
    item = (VENDOR_OPTIONS, bytes.fromhex("470480000000ff"))
    search = a_packet(MessageType.REQUEST, *pxe_options(0), item, ciaddr=NETWORK[9])
    for now in (1001.0, 1000.0 + 3601):
        ack = reply_to(site, search, an_arrival(now)).packet
        assert ack.message_type is MessageType.ACK and ack.file == b"bios/core.0" and ack.yiaddr == NO_ADDRESS
    assert [(lease.mac, lease.address) for lease in site.leases.all()] == [(MAC, address)]


def test_offer_made_just_before_is_good_still() -> None:
    site = Site()
    offer = reply_to(site, a_discover()).packet
    site.is_beside = True
    ack = reply_to(site, a_request(offer)).packet
    assert ack.message_type is MessageType.ACK and ack.yiaddr == offer.yiaddr


def test_lease_that_has_ended_is_not_given_again() -> None:
    site = Site()
    address = lease_address(site.responder)  # type: ignore[arg-type]
    site.is_beside = True
    assert "has ended" in reason_of(site, a_renewal(address), an_arrival(1000.0 + 3601))
    inform = a_packet(MessageType.INFORM, ciaddr=NETWORK[50])
    assert reply_to(site, inform, an_arrival(2000.0, source=NETWORK[50])).packet.message_type is MessageType.ACK
    late = an_arrival(1000.0 + 3601, source=NETWORK[50])
    assert "not for a proxy" in reason_of(site, inform, late)  # router and DNS are the other server's to tell


def test_clients_of_the_other_server_never_get_a_nak() -> None:
    site = Site()
    taken = lease_address(site.responder)  # type: ignore[arg-type]
    site.is_beside = True
    stranger, ours = NETWORK[77], IPv4Address("192.168.7.7")
    for request in (
        a_renewal(stranger, mac=OTHER_MAC),
        an_init_reboot(stranger, mac=OTHER_MAC),
        an_init_reboot(taken, mac=OTHER_MAC),
        an_init_reboot(ours),  # of a machine with a lease of ours, which has been elsewhere meanwhile
        a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, RIVAL), (REQUESTED_ADDRESS, NETWORK[60]), mac=OTHER_MAC),
        a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, NETWORK[60]), mac=OTHER_MAC),
    ):
        reason_of(site, request)
    assert [lease.address for lease in site.leases.all()] == [taken]


def test_it_is_the_server_again_when_the_other_is_gone() -> None:
    site = Site()
    address = lease_address(site.responder)  # type: ignore[arg-type]
    site.is_beside = True
    reply_to(site, a_discover(0))
    site.is_beside = False
    assert lease_address(site.responder, now=2000.0) == address  # type: ignore[arg-type]


def test_beside_another_server_no_address_is_probed() -> None:
    subnet = Subnet(NETWORK, (Pool(NETWORK[100], NETWORK[110]),))
    leases = LeaseTable()
    site = Site(DhcpServer(ServerConfig(SERVER, subnet), leases, choose_by_firmware), leases)
    assert len(site.responder.addresses_to_probe(1000.0, 4)) == 4
    site.is_beside = True
    assert site.responder.addresses_to_probe(1000.0, 4) == []
    assert not isinstance(site.respond(a_discover(0), an_arrival()), ProbeFirst)
