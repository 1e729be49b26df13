"""Whatever arrives on the DHCP ports, it is a packet or a WireError, and the servers never fail on it."""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dhcp.classify import classify
from netboot.dhcp.leases import LeaseState, LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import Arrival, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.errors import WireError
from netboot.model import BootClient, BootFile, Ignored
from netboot.wire.dhcp import HEADER_BYTES, MAGIC_COOKIE, DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import (
    MESSAGE_TYPE,
    REGISTRY,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    MessageType,
)

SERVER = IPv4Address("10.0.0.1")
NETWORK = IPv4Network("10.0.0.0/28")
EVERYWHERE = IPv4Address("255.255.255.255")

options_area = st.lists(
    st.builds(
        lambda code, value, cut: bytes([code, max(0, len(value) - cut)]) + value,
        st.one_of(st.sampled_from(sorted(REGISTRY)), st.integers(0, 255)),
        st.one_of(st.binary(max_size=20), st.sampled_from([b"PXEClient", b"\0\7", b"\1", b"\3", b"\4", b"iPXE"])),
        st.sampled_from([0, 0, 0, 0, 1]),
    ),
    max_size=12,
).map(b"".join)
almost_packets = st.builds(
    lambda head, area: head[: HEADER_BYTES - 4].ljust(HEADER_BYTES - 4, b"\0") + MAGIC_COOKIE + area,
    st.builds(
        lambda op, hlen, rest: bytes([op, 1, hlen]) + rest,
        st.sampled_from([1, 1, 1, 2, 3]),
        st.sampled_from([6, 6, 6, 16, 17, 255]),
        st.binary(max_size=HEADER_BYTES),
    ),
    options_area,
)


def choose(client: BootClient) -> BootFile | Ignored:
    return BootFile(SERVER, "boot/" + client.firmware)


def a_server() -> tuple[DhcpServer, LeaseTable]:
    leases = LeaseTable()
    subnet = Subnet(NETWORK, (Pool(NETWORK[2], NETWORK[5]),))
    return DhcpServer(ServerConfig(SERVER, subnet, probe=False), leases, choose), leases


def parse_or_none(data: bytes) -> DhcpPacket | None:
    try:
        return parse_dhcp(data)
    except WireError:
        return None


@given(st.one_of(st.binary(max_size=600), almost_packets))
@settings(max_examples=500, deadline=None)
def test_random_bytes_are_a_packet_or_a_wire_error_and_both_servers_answer_or_say_why(data: bytes) -> None:
    packet = parse_or_none(data)
    if packet is None:
        return
    packet.summary()
    assert isinstance(classify(packet), BootClient | Ignored)
    for spec in REGISTRY.values():
        packet.options.get(spec)
    server, _ = a_server()
    for responder in (server, DhcpProxy(SERVER, choose)):
        for port in (67, 4011):
            outcome = responder.respond(packet, Arrival(5.0, IPv4Address(0), 68, EVERYWHERE, port))
            if isinstance(outcome, Reply):
                assert parse_dhcp(build_dhcp(outcome.packet)).xid == packet.xid
            else:
                assert outcome.reason


@given(almost_packets)
@settings(max_examples=300, deadline=None)
def test_what_was_parsed_is_parsed_the_same_after_it_was_built(data: bytes) -> None:
    packet = parse_or_none(data)
    if packet is not None:
        again = parse_dhcp(build_dhcp(packet))
        assert again.options == packet.options
        assert (again.chaddr, again.ciaddr, again.flags) == (packet.chaddr, packet.ciaddr, packet.flags)


events = st.lists(
    st.tuples(
        st.integers(0, 5),  # machine
        st.sampled_from([MessageType.DISCOVER, MessageType.REQUEST, MessageType.RELEASE, MessageType.DECLINE]),
        st.integers(0, 7),  # address that is named
        st.sampled_from(["selecting", "other server", "renewing", "init-reboot"]),
        st.integers(0, 4000),  # seconds that pass
    ),
    max_size=60,
)


@given(events)
@settings(max_examples=300, deadline=None)
def test_no_address_is_ever_held_by_two_machines(history: list[tuple[int, MessageType, int, str, int]]) -> None:
    server, leases = a_server()
    now = 0.0
    holders: dict[IPv4Address, tuple[int, float]] = {}
    for machine, kind, number, state, seconds in history:
        now += seconds
        address = NETWORK[number]
        options = Options().with_option(MESSAGE_TYPE, kind)
        ciaddr = IPv4Address(0)
        if kind is MessageType.RELEASE or state == "renewing":
            ciaddr = address
        else:
            options = options.with_option(REQUESTED_ADDRESS, address)
        if kind is not MessageType.DISCOVER and state in ("selecting", "other server"):
            options = options.with_option(SERVER_IDENTIFIER, SERVER if state == "selecting" else NETWORK[14])
        request = DhcpPacket(op=1, xid=1, chaddr=bytes([2, 0, 0, 0, 0, machine]), ciaddr=ciaddr, options=options)
        outcome = server.respond(request, Arrival(now, IPv4Address(0), 68, EVERYWHERE, 67))
        if isinstance(outcome, Reply):
            given_address = outcome.packet.yiaddr
            if outcome.packet.message_type is not MessageType.NAK:
                assert NETWORK[2] <= given_address <= NETWORK[5]
                holder = holders.get(given_address)
                assert holder is None or holder[0] == machine or holder[1] <= now, "given to two at once"
            if outcome.packet.message_type is MessageType.ACK:
                holders[given_address] = (machine, now + 12 * 3600)
        elif "is free" in outcome.reason or outcome.reason.startswith("DECLINE, "):
            holders.pop(address, None)
        bound = [lease for lease in leases.all() if lease.state is LeaseState.BOUND]
        assert len({lease.mac for lease in bound}) == len(bound)
