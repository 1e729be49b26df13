"""One host does not take the pool, or the server's time, from the others."""

from ipaddress import IPv4Address

from dhcp_builders import (
    NETWORK,
    SERVER,
    a_discover,
    a_packet,
    a_renewal,
    a_request,
    a_server,
    an_arrival,
    choose_by_firmware,
    lease_address,
    reason_of,
    reply_to,
)

from netboot.dhcp.intake import PER_MACHINE_BURST, PER_SOURCE_BURST, STRANGERS_BURST, Allowances
from netboot.dhcp.leases import Lease, LeaseTable
from netboot.dhcp.places import DECLINED_S
from netboot.dhcp.reply import Reply
from netboot.dhcp.server import OFFER_S, TRIAL_S, DhcpServer
from netboot.dhcp.subnets import Pool, Reservation, ServerConfig, Subnet
from netboot.model import Ignored
from netboot.wire.dhcp_options import (
    LEASE_TIME,
    RELAY_AGENT,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    MessageType,
)


def made_up(number: int) -> str:
    return ":".join(f"{byte:02x}" for byte in (0x06_00_00_00_00_00 + number).to_bytes(6, "big"))


def machine(number: int) -> str:
    return f"52:54:00:00:03:{number:02x}"


def take_all(server: DhcpServer, now: float, start: int = 0, count: int = 300) -> int:
    """A host that makes up machines until nothing is given any more; how many leases it has."""
    got = 0
    for number in range(start, start + count):
        mac = made_up(number)
        offer = server.respond(a_discover(mac=mac), an_arrival(now))
        if isinstance(offer, Reply):
            ack = reply_to(server, a_request(offer.packet, mac=mac), an_arrival(now))
            got += ack.packet.message_type is MessageType.ACK
    return got


def test_a_host_that_empties_the_pool_disturbs_no_known_machine() -> None:
    leases = LeaseTable()
    server = a_server(leases)  # 100 addresses, leases of an hour
    away = {machine(number): lease_address(server, machine(number), 1000.0) for number in range(25)}
    for mac, address in away.items():
        reply_to(server, a_renewal(address, mac=mac), an_arrival(1001.0))
    present = {machine(number): lease_address(server, machine(number), 4500.0) for number in range(100, 130)}
    now = 5000.0  # the first 25 are switched off, their leases ended at 4601
    assert take_all(server, now) == 45
    assert "kept for machines that had one" in reason_of(server, a_discover(), an_arrival(now))
    for mac, address in present.items():
        assert reply_to(server, a_renewal(address, mac=mac), an_arrival(now)).packet.message_type is MessageType.ACK
    for mac, address in away.items():
        assert lease_address(server, mac, now) == address


def test_a_host_that_goes_on_and_on_gets_nothing_of_what_is_kept() -> None:
    server = a_server()
    away = {machine(number): lease_address(server, machine(number), 1000.0) for number in range(25)}
    for mac, address in away.items():
        reply_to(server, a_renewal(address, mac=mac), an_arrival(1001.0))
    for round_ in range(30):
        take_all(server, 5000.0 + round_ * TRIAL_S, round_ * 300)
    now = 5000.0 + 30 * TRIAL_S
    for mac, address in away.items():
        assert lease_address(server, mac, now) == address


def test_first_leases_are_short_while_addresses_are_scarce_and_grow_when_they_are_renewed() -> None:
    server = a_server()
    take_all(server, 1000.0, count=60)
    offer = reply_to(server, a_discover()).packet
    assert offer.options.get(LEASE_TIME) == TRIAL_S
    ack = reply_to(server, a_request(offer)).packet
    assert ack.options.get(LEASE_TIME) == TRIAL_S
    assert reply_to(server, a_request(offer)).packet.options.get(LEASE_TIME) == TRIAL_S  # its ACK was lost
    renewed = reply_to(server, a_renewal(ack.yiaddr), an_arrival(1300.0)).packet
    assert renewed.options.get(LEASE_TIME) == 3600


def test_what_was_made_up_and_not_renewed_is_free_again_soon() -> None:
    leases = LeaseTable()
    server = a_server(leases)
    assert take_all(server, 1000.0) == 100
    assert "exhausted" in reason_of(server, a_discover(), an_arrival(1001.0))
    assert lease_address(server, now=1001.0 + TRIAL_S) in NETWORK
    assert len(leases.all()) < 60  # and forgotten


def test_a_relay_port_that_holds_a_quarter_of_the_pool_lets_others_go_first() -> None:
    server = a_server()

    def ask(number: int, port: bytes) -> Reply | Ignored:
        option = (RELAY_AGENT, bytes([1, len(port)]) + port)
        mac = made_up(number)
        offer = server.respond(a_packet(MessageType.DISCOVER, option, mac=mac), an_arrival())
        if not isinstance(offer, Reply):
            assert isinstance(offer, Ignored)
            return offer
        wish = ((SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, offer.packet.yiaddr), option)
        return reply_to(server, a_packet(MessageType.REQUEST, *wish, mac=mac))

    assert isinstance(ask(999, b"port 2"), Reply)
    refused = [outcome for number in range(100) if isinstance(outcome := ask(number, b"port 1"), Ignored)]
    assert len(refused) > 40 and "relay port" in refused[0].reason
    assert isinstance(ask(998, b"port 2"), Reply)


def test_one_machine_cannot_decline_its_way_through_the_pool() -> None:
    leases = LeaseTable()
    server = a_server(leases)
    for _ in range(20):
        address = lease_address(server)
        options = ((SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, address))
        server.respond(a_packet(MessageType.DECLINE, *options), an_arrival())
        if "too many" in reason_of(server, a_packet(MessageType.DECLINE, *options)):
            break
    assert sum(lease.expires_s == 1000.0 + DECLINED_S for lease in leases.all()) <= 3


def test_made_up_machines_together_decline_a_quarter_of_the_pool_at_most() -> None:
    server = a_server()
    reasons = []
    for number in range(60):
        mac = made_up(number)
        offer = reply_to(server, a_discover(mac=mac)).packet
        options = ((SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, offer.yiaddr))
        reasons.append(reason_of(server, a_packet(MessageType.DECLINE, *options, mac=mac)))
    assert sum("left alone" in reason for reason in reasons) == 25


def test_one_machine_is_answered_so_often_and_no_more() -> None:
    server = a_server()
    answered = sum(isinstance(server.respond(a_discover(), an_arrival()), Reply) for _ in range(3000))
    assert answered == PER_MACHINE_BURST
    assert "too many packets of one machine" in reason_of(server, a_discover())
    assert isinstance(server.respond(a_discover(mac=machine(1)), an_arrival()), Reply)
    assert isinstance(server.respond(a_discover(), an_arrival(1002.0)), Reply)


def test_one_address_that_speaks_for_many_machines_is_answered_so_often_and_no_more() -> None:
    server = a_server()
    source = NETWORK[9]
    packets = [a_packet(MessageType.INFORM, mac=made_up(number), ciaddr=source) for number in range(400)]
    outcomes = [server.respond(packet, an_arrival(source=source)) for packet in packets]
    assert sum(isinstance(outcome, Reply) for outcome in outcomes) == PER_SOURCE_BURST


def test_who_sends_in_the_name_of_an_address_does_not_keep_its_machine_from_renewing() -> None:
    server = a_server()
    address = lease_address(server)
    arrival = an_arrival(1500.0, source=address)
    for number in range(400):
        server.respond(a_packet(MessageType.INFORM, mac=made_up(number), ciaddr=address), arrival)
    assert reply_to(server, a_renewal(address), arrival).packet.message_type is MessageType.ACK


def a_server_with_two_machines_away(now: float, strangers: int) -> tuple[DhcpServer, list[IPv4Address]]:
    """Of eight addresses; the leases of two machines have ended, and strangers hold others."""
    server = a_server(last=107)
    addresses = [lease_address(server, machine(number), 1000.0) for number in range(2)]
    for number, address in enumerate(addresses):
        reply_to(server, a_renewal(address, mac=machine(number)), an_arrival(1001.0))
    assert take_all(server, now, count=strangers) == strangers
    return server, addresses


def test_what_is_offered_to_the_machine_that_had_it_is_no_strangers_either() -> None:
    server, (address, _) = a_server_with_two_machines_away(5000.0, strangers=6)
    offer = reply_to(server, a_discover(mac=machine(0)), an_arrival(5000.0)).packet
    assert offer.yiaddr == address
    assert "kept for machines that had one" in reason_of(server, a_discover(mac=made_up(99)), an_arrival(5000.0))
    ack = reply_to(server, a_request(offer, mac=machine(0)), an_arrival(5001.0)).packet
    assert (ack.message_type, ack.yiaddr) == (MessageType.ACK, address)


def test_what_was_offered_to_the_machine_that_had_it_is_kept_when_it_takes_another_servers_offer() -> None:
    server, (address, _) = a_server_with_two_machines_away(5000.0, strangers=3)
    reply_to(server, a_discover(mac=machine(0)), an_arrival(5000.0))
    wish = a_discover(mac=made_up(99), wished=address)
    assert reply_to(server, wish, an_arrival(5000.0 + OFFER_S + 1)).packet.yiaddr != address


def test_an_address_whose_machine_has_another_for_good_is_kept_for_nobody() -> None:
    subnet = Subnet(NETWORK, (Pool(NETWORK[100], NETWORK[103]),), 3600)
    config = ServerConfig(SERVER, subnet, reservations=(Reservation(NETWORK[150], machine(0)),), probe=False)
    leases = LeaseTable([Lease(machine(0), NETWORK[100], 900.0)])  # from before it had a reservation
    server = DhcpServer(config, leases, choose_by_firmware)
    assert take_all(server, 1000.0, count=3) == 3
    assert "kept for machines that had one" in reason_of(server, a_discover(), an_arrival(1000.0))
    assert lease_address(server, machine(0)) == NETWORK[150]
    assert lease_address(server) == NETWORK[100]


def test_a_flood_of_new_machines_leaves_the_known_ones_their_turn() -> None:
    server = a_server()
    address = lease_address(server)
    outcomes = [server.respond(a_discover(mac=made_up(number)), an_arrival()) for number in range(6000)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, Ignored)]
    assert len(refused) >= 6000 - STRANGERS_BURST - 1
    assert "known ones go first" in refused[-1].reason
    assert reply_to(server, a_discover()).packet.yiaddr == address


def test_what_is_remembered_of_strangers_is_bounded() -> None:
    allowances = Allowances(1.0, 2.0, most=100)
    for number in range(1000):
        assert allowances.take(number, 0.0)
    assert len(allowances._full_s) == 100
    assert IPv4Address(1) not in allowances._full_s
