"""Whatever arrives on the DHCP ports, it is a packet or a WireError, and the servers never fail on it."""

from ipaddress import IPv4Address, IPv4Network

from construct import Byte, Bytes, Const, FixedSized, GreedyBytes, Int16ub, Int32ub, NullStripped, Padded, Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from netboot.dhcp.classify import classify
from netboot.dhcp.leases import Lease, LeaseState, LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import Arrival, ProbeFirst, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, Reservation, ServerConfig, Subnet
from netboot.errors import WireError
from netboot.model import BootClient, BootFile, Ignored
from netboot.wire.dhcp import HEADER_BYTES, MAGIC_COOKIE, DhcpPacket, Options, build_dhcp, message_limit, parse_dhcp
from netboot.wire.dhcp_options import (
    CLIENT_IDENTIFIER,
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
                data = outcome.build()
                assert len(data) <= message_limit(packet)
                assert parse_dhcp(data).message_type is outcome.packet.message_type
            else:
                assert outcome.reason


addresses = st.integers(0, 0xFFFFFFFF).map(IPv4Address)
without_nul = st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b""))
packets = st.builds(
    DhcpPacket,
    op=st.sampled_from([1, 2]),
    xid=st.integers(0, 0xFFFFFFFF),
    chaddr=st.binary(max_size=16),
    htype=st.integers(0, 255),
    hops=st.integers(0, 255),
    secs=st.integers(0, 0xFFFF),
    flags=st.integers(0, 0xFFFF),
    ciaddr=addresses,
    yiaddr=addresses,
    siaddr=addresses,
    giaddr=addresses,
    sname=without_nul,
    file=without_nul,
    options=st.dictionaries(
        st.integers(1, 254).filter(lambda code: code not in REGISTRY), st.binary(max_size=600), max_size=8
    ).map(Options),
)


@given(packets)
@settings(max_examples=300, deadline=None)
def test_what_was_built_is_parsed_to_the_same_packet(packet: DhcpPacket) -> None:
    assert parse_dhcp(build_dhcp(packet)) == packet


HEADER = Struct(
    "op" / Byte,
    "htype" / Byte,
    "hlen" / Byte,
    "hops" / Byte,
    "xid" / Int32ub,
    "secs" / Int16ub,
    "flags" / Int16ub,
    "ciaddr" / Bytes(4),
    "yiaddr" / Bytes(4),
    "siaddr" / Bytes(4),
    "giaddr" / Bytes(4),
    "chaddr" / Padded(16, Bytes(lambda this: this.hlen)),
    "sname" / FixedSized(64, NullStripped(GreedyBytes)),
    "file" / FixedSized(128, NullStripped(GreedyBytes)),
    "cookie" / Const(MAGIC_COOKIE),
)
"""RFC 2131, section 2, figure 1."""


@given(packets)
@settings(max_examples=300, deadline=None)
def test_header_is_laid_out_as_the_rfc_draws_it(packet: DhcpPacket) -> None:
    read = HEADER.parse(build_dhcp(packet))
    for name in ("op", "htype", "hops", "xid", "secs", "flags", "chaddr", "sname", "file"):
        assert read[name] == getattr(packet, name), name
    for name in ("ciaddr", "yiaddr", "siaddr", "giaddr"):
        assert read[name] == getattr(packet, name).packed, name
    assert read.hlen == len(packet.chaddr)


@given(packets, st.integers(548, 1472))
@settings(max_examples=300, deadline=None)
def test_a_shortened_packet_fits_and_says_nothing_that_the_whole_one_does_not(packet: DhcpPacket, limit: int) -> None:
    data = build_dhcp(packet, limit)
    assert len(data) <= limit
    read = parse_dhcp(data)
    assert read.options.raw.items() <= packet.options.raw.items()
    assert read.file in (packet.file, b"") and read.sname in (packet.sname, b"")
    if len(build_dhcp(packet)) <= limit:
        assert read == packet


@given(almost_packets)
@settings(max_examples=300, deadline=None)
def test_what_was_parsed_is_parsed_the_same_after_it_was_built(data: bytes) -> None:
    packet = parse_or_none(data)
    if packet is not None:
        again = parse_dhcp(build_dhcp(packet))
        assert again.options == packet.options
        assert (again.chaddr, again.ciaddr, again.flags) == (packet.chaddr, packet.ciaddr, packet.flags)


RELAYED = IPv4Network("10.1.0.0/28")
RESERVED = (NETWORK[9], RELAYED[9])
GIVEN = {NETWORK[2], NETWORK[3], NETWORK[5], NETWORK[9], RELAYED[2], RELAYED[3], RELAYED[9]}
LEASE_S = 3600

events = st.lists(
    st.tuples(
        st.integers(0, 5),  # machine
        st.sampled_from(
            [MessageType.DISCOVER, MessageType.REQUEST, MessageType.RELEASE, MessageType.DECLINE, MessageType.INFORM]
        ),
        st.sampled_from([*sorted(GIVEN), NETWORK[4], RELAYED[12], IPv4Address("192.0.2.1")]),  # address that is named
        st.sampled_from(["selecting", "other server", "renewing", "init-reboot", "what was offered"]),
        st.sampled_from([None, RELAYED[1], IPv4Address("192.0.2.7")]),  # relay
        st.sampled_from(["nobody", "a stranger", "the machine"]),  # who answers a probe
        st.sampled_from([0, 1, 20, 300, 700, 4000]),  # seconds that pass
    ),
    max_size=80,
)


def a_server_of_two_networks() -> tuple[DhcpServer, LeaseTable]:
    local = Subnet(NETWORK, (Pool(NETWORK[2], NETWORK[3]), Pool(NETWORK[5], NETWORK[5])), LEASE_S)
    relayed = Subnet(RELAYED, (Pool(RELAYED[2], RELAYED[3]),), LEASE_S)
    reservations = (Reservation(RESERVED[0], mac=a_mac(0)), Reservation(RESERVED[1], client_id=b"\0five"))
    leases = LeaseTable()
    return DhcpServer(ServerConfig(SERVER, local, (relayed,), reservations), leases, choose), leases


def a_mac(machine: int) -> str:
    return f"02:00:00:00:00:{machine:02x}"


@given(events)
@settings(max_examples=400, deadline=None, print_blob=True)
def test_no_address_is_ever_held_by_two_machines(
    history: list[tuple[int, MessageType, IPv4Address, str, IPv4Address | None, str, int]],
) -> None:
    server, leases = a_server_of_two_networks()
    now = 0.0
    offered: dict[int, IPv4Address] = {}
    kept: dict[IPv4Address, Lease] = {}  # as whoever keeps the leases knows them
    for machine, kind, address, state, relay, answers, seconds in history:
        now += seconds
        if state == "what was offered":
            address = offered.get(machine, address)
        options = Options().with_option(MESSAGE_TYPE, kind)
        ciaddr = IPv4Address(0)
        if kind in (MessageType.RELEASE, MessageType.INFORM) or state == "renewing":
            ciaddr = address
        else:
            options = options.with_option(REQUESTED_ADDRESS, address)
        if kind is not MessageType.DISCOVER and state in ("selecting", "other server", "what was offered"):
            options = options.with_option(SERVER_IDENTIFIER, NETWORK[14] if state == "other server" else SERVER)
        if machine == 5:
            options = options.with_option(CLIENT_IDENTIFIER, b"\0five")
        giaddr = relay or IPv4Address(0)
        chaddr = bytes.fromhex(a_mac(machine).replace(":", ""))
        request = DhcpPacket(op=1, xid=1, chaddr=chaddr, ciaddr=ciaddr, giaddr=giaddr, options=options)
        arrival = Arrival(now, ciaddr, 68, SERVER if ciaddr != IPv4Address(0) else EVERYWHERE, 67)
        outcome = server.respond(request, arrival)
        for _ in range(8):
            if not isinstance(outcome, ProbeFirst):
                break
            holder = {"nobody": None, "a stranger": "06:00:00:00:00:01", "the machine": a_mac(machine)}[answers]
            server.note_probe(outcome.address, holder, now)
            outcome = server.respond(request, arrival)
        assert not isinstance(outcome, ProbeFirst)
        server.addresses_to_probe(now, 4)
        before = dict(kept)
        for change in leases.take_changes():
            if change.lease is None:
                kept.pop(change.address, None)
            else:
                kept[change.address] = change.lease
        assert kept == {lease.address: lease for lease in leases.all()}
        if isinstance(outcome, Reply) and outcome.packet.message_type is not MessageType.NAK:
            given_address = outcome.packet.yiaddr
            if kind is MessageType.INFORM:
                assert given_address == IPv4Address(0)
                continue
            assert given_address in GIVEN
            assert (given_address == RESERVED[0]) <= (machine == 0)
            assert (given_address == RESERVED[1]) <= (machine == 5)
            holder_before = before.get(given_address)
            assert holder_before is None or holder_before.mac == a_mac(machine) or not holder_before.is_active(now)
            if outcome.packet.message_type is MessageType.ACK:
                assert kept[given_address].mac == a_mac(machine)
            else:
                offered[machine] = given_address
        bound = [lease for lease in leases.all() if lease.state is LeaseState.BOUND]
        assert len({lease.mac for lease in bound}) == len(bound)
