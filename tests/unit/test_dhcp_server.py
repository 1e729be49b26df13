"""The DHCP server's answers, state by state of RFC 2131."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from dhcp_builders import (
    BROADCAST,
    MAC,
    MACHINE_ID,
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
    pxe_options,
    reason_of,
    reply_to,
)

from netboot.dhcp.leases import Lease, LeaseState, LeaseTable
from netboot.dhcp.places import DECLINED_S
from netboot.dhcp.reply import Arrival, Delivery, Destination, Reply
from netboot.dhcp.server import OFFER_S, DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.model import BootFile, Ignored
from netboot.wire.dhcp import parse_dhcp
from netboot.wire.dhcp_options import (
    BOOT_FILE_NAME,
    BROADCAST_ADDRESS,
    CLIENT_IDENTIFIER,
    CLIENT_MACHINE_ID,
    DNS_SERVERS,
    DOMAIN_NAME,
    HOST_NAME,
    LEASE_TIME,
    MAX_MESSAGE_BYTES,
    MESSAGE,
    PARAMETER_LIST,
    REBINDING_TIME,
    RELAY_AGENT,
    RENEWAL_TIME,
    REQUESTED_ADDRESS,
    ROUTERS,
    SERVER_IDENTIFIER,
    SUBNET_MASK,
    TFTP_SERVER_NAME,
    VENDOR_CLASS,
    VENDOR_OPTIONS,
    MessageType,
)

WISHED = NETWORK[150]


def test_a_discover_gets_an_address_of_the_pool_and_its_network() -> None:
    server = a_server(routers=(SERVER,), dns_servers=(SERVER, IPv4Address("9.9.9.9")), domain="lab.test")
    offer = reply_to(server, a_discover()).packet
    assert offer.message_type is MessageType.OFFER
    assert NETWORK[100] <= offer.yiaddr <= NETWORK[199]
    assert offer.xid == 0x12345678
    assert offer.options.get(SERVER_IDENTIFIER) == SERVER
    assert offer.options.get(SUBNET_MASK) == IPv4Address("255.255.255.0")
    assert offer.options.get(BROADCAST_ADDRESS) == NETWORK[255]
    assert offer.options.get(ROUTERS) == (SERVER,)
    assert offer.options.get(DNS_SERVERS) == (SERVER, IPv4Address("9.9.9.9"))
    assert offer.options.get(DOMAIN_NAME) == "lab.test"
    times = [offer.options.get(spec) for spec in (RENEWAL_TIME, REBINDING_TIME, LEASE_TIME)]
    assert times == [1800, 3150, 3600]


def test_an_ordinary_client_is_told_nothing_to_boot() -> None:
    reply = reply_to(a_server(), a_discover())
    assert isinstance(reply.boot, Ignored)
    assert reply.packet.file == b""
    assert reply.packet.siaddr == IPv4Address(0)
    assert VENDOR_CLASS not in reply.packet.options


@pytest.mark.parametrize(("arch", "name"), [(0, "bios/core.0"), (7, "uefi/shimx64.efi"), (9, "uefi/shimx64.efi")])
def test_firmware_is_told_its_boot_file(arch: int, name: str) -> None:
    reply = reply_to(a_server(), a_discover(arch))
    assert reply.boot == BootFile(SERVER, name)
    assert reply.packet.file == name.encode()
    assert reply.packet.siaddr == SERVER
    assert reply.packet.options.get(VENDOR_CLASS) == "PXEClient"
    assert reply.packet.options.get(VENDOR_OPTIONS) == bytes.fromhex("060108ff")
    assert reply.packet.options.get(CLIENT_MACHINE_ID) == MACHINE_ID


def test_ipxe_gets_the_file_without_the_options_of_pxe() -> None:
    packet = reply_to(a_server(), a_discover(0, ipxe=True)).packet
    assert packet.file == b"bios/core.0"
    assert VENDOR_CLASS not in packet.options
    assert VENDOR_OPTIONS not in packet.options


def test_a_machine_without_a_boot_file_still_gets_an_address() -> None:
    reply = reply_to(a_server(), a_discover(7, ipxe=True))
    assert reply.packet.yiaddr in NETWORK
    assert reply.packet.file == b""
    assert reply.boot == Ignored("no file for ipxe-uefi-x64")


def test_options_66_and_67_are_sent_to_who_asks_for_them() -> None:
    asked = a_discover(0)
    asked = a_packet(MessageType.DISCOVER, (VENDOR_CLASS, "PXEClient:Arch:00000"), (PARAMETER_LIST, (1, 66, 67)))
    options = reply_to(a_server(), asked).packet.options
    assert options.get(TFTP_SERVER_NAME) == "10.77.0.1"
    assert options.get(BOOT_FILE_NAME) == "bios/core.0"
    assert BOOT_FILE_NAME not in reply_to(a_server(), a_discover(0)).packet.options


def test_a_repeated_discover_gets_the_same_offer() -> None:
    server = a_server()
    first = reply_to(server, a_discover()).packet.yiaddr
    assert reply_to(server, a_discover(), an_arrival(1010)).packet.yiaddr == first


def test_two_machines_never_get_the_same_offer() -> None:
    server = a_server(first=100, last=101)
    offers = {reply_to(server, a_discover(mac=mac)).packet.yiaddr for mac in (MAC, OTHER_MAC)}
    assert offers == {NETWORK[100], NETWORK[101]}


def test_an_exhausted_pool_is_a_reason() -> None:
    server = a_server(first=100, last=100)
    lease_address(server)
    assert "pool exhausted" in reason_of(server, a_discover(mac=OTHER_MAC))


def test_an_offer_that_was_not_taken_is_void_after_its_time() -> None:
    server = a_server(first=100, last=100)
    offer = reply_to(server, a_discover()).packet
    assert reply_to(server, a_discover(mac=OTHER_MAC)).packet.yiaddr == NETWORK[100]
    late = an_arrival(1000 + OFFER_S)
    assert reply_to(server, a_request(offer), late).packet.message_type is MessageType.NAK


def test_a_wished_address_is_offered_when_free() -> None:
    assert reply_to(a_server(), a_discover(wished=WISHED)).packet.yiaddr == WISHED


@pytest.mark.parametrize("wished", [SERVER, NETWORK[99], NETWORK[200], IPv4Address("192.0.2.1")])
def test_a_wish_outside_the_pool_is_passed_over(wished: IPv4Address) -> None:
    assert reply_to(a_server(), a_discover(wished=wished)).packet.yiaddr in list(NETWORK)[100:200]


def test_the_servers_own_and_the_routers_address_are_never_offered() -> None:
    server = a_server(first=1, last=3, routers=(NETWORK[2],))
    assert reply_to(server, a_discover(wished=NETWORK[1])).packet.yiaddr == NETWORK[3]
    assert reply_to(server, a_discover(mac=OTHER_MAC, wished=NETWORK[2])).packet.yiaddr == NETWORK[3]


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
    assert leases.all() == ()
    assert lease_address(server, OTHER_MAC) == address


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
    assert leases.all() == ()


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


def test_a_client_without_an_address_gets_a_frame_to_its_hardware_address() -> None:
    reply = reply_to(a_server(), a_discover())
    assert reply.destination == Destination(Delivery.RAW, reply.packet.yiaddr, 68, bytes.fromhex("525400000001"))


def test_a_client_that_asks_for_broadcast_gets_it() -> None:
    reply = reply_to(a_server(), a_discover(flags=0x8000))
    assert reply.destination == Destination(Delivery.BROADCAST, BROADCAST, 68)
    assert reply.packet.flags == 0x8000


def test_a_relayed_request_goes_back_to_its_relay_with_its_option() -> None:
    packet = a_packet(MessageType.DISCOVER, (RELAY_AGENT, b"\1\1x"), giaddr=NETWORK[2])
    reply = reply_to(a_server(), packet)
    assert reply.destination == Destination(Delivery.UNICAST, NETWORK[2], 67)
    assert reply.packet.giaddr == NETWORK[2]
    assert list(reply.packet.options.raw.items())[-1] == (82, b"\1\1x")
    assert "without a pool" in reason_of(a_server(), a_discover(giaddr=IPv4Address("192.0.2.1")))


def test_the_client_identifier_is_echoed() -> None:
    packet = a_packet(MessageType.DISCOVER, (CLIENT_IDENTIFIER, b"\1abc"))
    assert reply_to(a_server(), packet).packet.options.get(CLIENT_IDENTIFIER) == b"\1abc"


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


def codes_of(reply: Reply) -> list[int]:
    return list(reply.packet.options.raw)


def test_what_a_client_asks_for_comes_in_its_order_after_what_must_be_there() -> None:
    server = a_server(routers=(SERVER,), dns_servers=(SERVER,), domain="lab.test", options={42: SERVER.packed})
    asked = a_packet(MessageType.DISCOVER, (PARAMETER_LIST, (42, 15, 3, 1, 99)))
    codes = codes_of(reply_to(server, asked))
    assert codes[:4] == [53, 54, 51, 1]
    assert codes[4:7] == [42, 15, 3]
    assert set(codes[7:]) == {6, 28, 58, 59}


def test_what_firmware_needs_goes_before_what_it_asks_for() -> None:
    server = a_server(routers=(SERVER,), options={66: b"elsewhere", 67: b"another"})
    asked = a_packet(MessageType.DISCOVER, *pxe_options(0), (PARAMETER_LIST, (3, 66, 67, 43, 60)))
    reply = reply_to(server, asked)
    assert codes_of(reply).index(3) > max(codes_of(reply).index(code) for code in (60, 43, 97, 66, 67))
    assert reply.packet.options.get(BOOT_FILE_NAME) == "bios/core.0"  # not what is configured for others


@pytest.mark.parametrize("arch", [None, 0, 7])
def test_an_answer_is_as_short_as_its_client_wants_and_keeps_what_matters(arch: int | None) -> None:
    server = a_server(routers=(SERVER,), dns_servers=(SERVER,), options={200 + n: bytes(60) for n in range(20)})
    for size in (None, 576, 700, 1500):
        options = list(pxe_options(arch)) if arch is not None else []
        if size is not None:
            options.append((MAX_MESSAGE_BYTES, size))
        reply = reply_to(server, a_packet(MessageType.DISCOVER, *options, (RELAY_AGENT, bytes(100)), giaddr=NETWORK[2]))
        data = reply.build()
        assert len(data) <= (size or 576) - 28
        read = parse_dhcp(data)
        assert {53, 54, 51, 1, 3, 6, 82} <= set(read.options.raw)
        if arch is not None:
            assert {60, 43, 97} <= set(read.options.raw)
            assert read.file == reply.packet.file != b""


def test_a_nak_echoes_the_client_identifier_too() -> None:
    nak = reply_to(a_server(), a_packet(MessageType.REQUEST, (CLIENT_IDENTIFIER, b"\1abc"), ciaddr=NETWORK[100]))
    assert nak.packet.message_type is MessageType.NAK
    assert nak.packet.options.get(CLIENT_IDENTIFIER) == b"\1abc"


def test_addresses_are_given_away_in_the_order_of_the_specification() -> None:
    server = a_server(first=100, last=102)
    first, second = lease_address(server, now=1000), lease_address(server, OTHER_MAC, now=1100)
    reply_to(server, a_renewal(first), an_arrival(1001))
    reply_to(server, a_renewal(second, mac=OTHER_MAC), an_arrival(1101))
    late = 99_000.0
    third = "52:54:00:00:00:03"
    assert lease_address(server, third, late) == NETWORK[102]  # never used
    assert reply_to(server, a_discover(wished=second), an_arrival(late)).packet.yiaddr == first  # the last one it had
