"""An address is asked for before it is offered; what answers is left alone."""

from ipaddress import IPv4Address, IPv4Network

from dhcp_builders import (
    MAC,
    NETWORK,
    OTHER_MAC,
    SERVER,
    a_discover,
    a_packet,
    a_request,
    an_arrival,
    choose_by_firmware,
    reply_to,
)

from netboot.dhcp.leases import Lease, LeaseTable
from netboot.dhcp.places import DECLINED_S
from netboot.dhcp.probed import PROBE_FRESH_S
from netboot.dhcp.reply import ProbeFirst, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.model import Ignored
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import SERVER_IDENTIFIER, MessageType

STRANGER = "02:00:00:00:00:99"
FAR = IPv4Network("10.88.0.0/24")


def a_probing_server(leases: LeaseTable | None = None, first: int = 100, last: int = 103) -> DhcpServer:
    subnet = Subnet(NETWORK, (Pool(NETWORK[first], NETWORK[last]),), 3600)
    config = ServerConfig(SERVER, subnet, (Subnet(FAR, (Pool(FAR[10], FAR[12]),)),))
    return DhcpServer(config, LeaseTable() if leases is None else leases, choose_by_firmware)


def probe_of(server: DhcpServer, packet: DhcpPacket, now: float = 1000.0) -> ProbeFirst:
    outcome = server.respond(packet, an_arrival(now))
    assert isinstance(outcome, ProbeFirst), outcome
    return outcome


def lease_after_probe(server: DhcpServer, mac: str = MAC, now: float = 1000.0) -> IPv4Address:
    server.note_probe(probe_of(server, a_discover(mac=mac), now).address, None, now)
    offer = reply_to(server, a_discover(mac=mac), an_arrival(now)).packet
    return reply_to(server, a_request(offer, mac=mac), an_arrival(now)).packet.yiaddr


def test_an_address_is_offered_after_nobody_answered_at_it() -> None:
    server = a_probing_server()
    probe = probe_of(server, a_discover())
    assert probe.is_local
    server.note_probe(probe.address, None, 1000.0)
    assert reply_to(server, a_discover()).packet.yiaddr == probe.address


def test_an_address_that_answers_is_left_alone_for_a_while_and_another_is_tried() -> None:
    server = a_probing_server(last=101)
    first = probe_of(server, a_discover())
    server.note_probe(first.address, STRANGER, 1000.0)
    second = probe_of(server, a_discover())
    assert second.address != first.address
    server.note_probe(second.address, "", 1000.0)
    exhausted = server.respond(a_discover(), an_arrival())
    assert isinstance(exhausted, Ignored) and "pool exhausted" in exhausted.reason
    assert probe_of(server, a_discover(wished=first.address), 1000.0 + DECLINED_S).address == first.address


def test_the_asking_machine_may_answer_at_the_address_that_it_gets() -> None:
    server = a_probing_server()
    probe = probe_of(server, a_discover())
    server.note_probe(probe.address, MAC, 1000.0)
    assert reply_to(server, a_discover()).packet.yiaddr == probe.address
    assert probe_of(server, a_discover(mac=OTHER_MAC, wished=probe.address)).address != probe.address


def test_a_machine_with_a_running_lease_is_not_kept_waiting() -> None:
    server = a_probing_server()
    address = lease_after_probe(server)
    assert reply_to(server, a_discover(), an_arrival(3000.0)).packet.yiaddr == address


def test_an_ended_lease_is_probed_before_its_machine_gets_it_again() -> None:
    server = a_probing_server()
    address = lease_after_probe(server)
    assert probe_of(server, a_discover(), 9000.0).address == address


def test_a_probe_is_good_for_a_minute() -> None:
    server = a_probing_server()
    probe = probe_of(server, a_discover())
    server.note_probe(probe.address, None, 1000.0)
    wish = a_discover(wished=probe.address)
    assert isinstance(server.respond(wish, an_arrival(999.0 + PROBE_FRESH_S)), Reply)
    assert probe_of(server, wish, 1000.0 + PROBE_FRESH_S).address == probe.address


def test_what_is_probed_ahead_is_offered_at_once() -> None:
    server = a_probing_server()
    ahead = server.addresses_to_probe(1000.0, 64)
    local = [probe.address for probe in ahead if probe.is_local]
    assert local == [NETWORK[number] for number in range(100, 104)]
    assert [probe.address for probe in ahead if not probe.is_local] == [FAR[10], FAR[11], FAR[12]]
    for probe in ahead:
        server.note_probe(probe.address, None, 1000.0)
    assert server.addresses_to_probe(1001.0, 64) == []
    offers = [reply_to(server, a_discover(mac=f"52:54:00:00:02:{number:02x}")) for number in range(4)]
    assert {offer.packet.yiaddr for offer in offers} == set(local)
    assert len(server.addresses_to_probe(1055.0, 64)) == 7  # before they are stale; none of the offers was taken


def test_no_more_is_probed_ahead_than_was_asked_for_however_large_the_pool() -> None:
    network = IPv4Network("10.64.0.0/16")
    subnet = Subnet(network, (Pool(network[2], network[-2]),))
    server = DhcpServer(ServerConfig(network[1], subnet), LeaseTable(), choose_by_firmware)
    asked = [probe.address for round_ in range(20) for probe in server.addresses_to_probe(1000.0 + round_, 64)]
    assert len(asked) == 20 * 64
    assert len(set(asked)) <= 512


def test_without_a_pool_of_free_addresses_nothing_is_probed_ahead() -> None:
    leases = LeaseTable([Lease(STRANGER, NETWORK[100], 1e9)])
    server = DhcpServer(
        ServerConfig(SERVER, Subnet(NETWORK, (Pool(NETWORK[100], NETWORK[100]),))), leases, choose_by_firmware
    )
    assert server.addresses_to_probe(1000.0, 64) == []


def test_a_lease_that_answers_is_left_to_its_holder() -> None:
    server = a_probing_server()
    address = lease_after_probe(server)
    server.note_probe(address, STRANGER, 1001.0)
    renewal = a_packet(MessageType.REQUEST, ciaddr=address)
    assert reply_to(server, renewal, an_arrival(1002.0)).packet.message_type is MessageType.ACK


def test_an_offer_is_void_when_its_address_answers_meanwhile() -> None:
    server = a_probing_server()
    probe = probe_of(server, a_discover())
    server.note_probe(probe.address, None, 1000.0)
    offer = reply_to(server, a_discover()).packet
    server.note_probe(probe.address, STRANGER, 1001.0)
    assert offer.options.get(SERVER_IDENTIFIER) == SERVER
    nak = reply_to(server, a_request(offer), an_arrival(1002.0)).packet
    assert nak.message_type is MessageType.NAK
