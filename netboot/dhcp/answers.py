"""How an answer is put together: its options in the order of their importance, and where it goes. Pure."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from netboot.dhcp.reply import BROADCAST, CLIENT_PORT, SERVER_PORT, Delivery, Destination
from netboot.wire.dhcp import BOOTREPLY, BROADCAST_FLAG, NO_ADDRESS, DhcpPacket, Options
from netboot.wire.dhcp_options import (
    CLIENT_IDENTIFIER,
    PARAMETER_LIST,
    RELAY_AGENT,
    SUBNET_SELECTION,
    MessageType,
)


def order_options(
    request: DhcpPacket, required: Mapping[int, bytes], boot: Mapping[int, bytes], known: Mapping[int, bytes]
) -> Options:
    """What must be there, what the firmware needs, what was asked for in its order, the rest, option 82.

    `build_dhcp` leaves out from the end what the client has no room for.
    """
    asked = request.options.raw
    raw = dict(required)
    for echoed in (CLIENT_IDENTIFIER.code, SUBNET_SELECTION.code):  # RFC 6842; RFC 3011
        if (value := asked.get(echoed)) is not None:
            raw[echoed] = value
    raw.update(boot)
    for code in asked.get(PARAMETER_LIST.code, b""):
        if code not in raw and (value := known.get(code)) is not None:
            raw[code] = value
    for code, value in known.items():
        raw.setdefault(code, value)
    if (relay := asked.get(RELAY_AGENT.code)) is not None:
        raw[RELAY_AGENT.code] = relay  # RFC 3046, section 2.2: echoed, and last
    return Options(raw)


def answer_packet(
    request: DhcpPacket,
    kind: MessageType,
    options: Options,
    yiaddr: IPv4Address = NO_ADDRESS,
    siaddr: IPv4Address = NO_ADDRESS,
    file: bytes = b"",
) -> DhcpPacket:
    """The fields as in table 3 of RFC 2131, section 4.3.1."""
    flags = request.flags
    if kind is MessageType.NAK and request.giaddr != NO_ADDRESS:
        flags |= BROADCAST_FLAG  # section 4.3.2: the relay must not send it to an address that may be wrong
    return DhcpPacket(
        op=BOOTREPLY,
        xid=request.xid,
        chaddr=request.chaddr,
        flags=flags,
        ciaddr=request.ciaddr if kind is MessageType.ACK else NO_ADDRESS,
        yiaddr=yiaddr,
        siaddr=siaddr,
        giaddr=request.giaddr,
        file=file,
        options=options,
    )


def grant_destination(request: DhcpPacket, address: IPv4Address) -> Destination:
    """RFC 2131, section 4.1: relay, known address, broadcast if asked for, else the new address's hardware."""
    if request.giaddr != NO_ADDRESS:
        return Destination(Delivery.UNICAST, request.giaddr, SERVER_PORT)
    if request.ciaddr != NO_ADDRESS:
        return Destination(Delivery.UNICAST, request.ciaddr, CLIENT_PORT)
    if request.wants_broadcast:
        return Destination(Delivery.BROADCAST, BROADCAST, CLIENT_PORT)
    if request.message_type is MessageType.INFORM:
        return Destination(Delivery.UNICAST, address, CLIENT_PORT)
    return Destination(Delivery.RAW, address, CLIENT_PORT, request.chaddr)


def refusal_destination(request: DhcpPacket) -> Destination:
    """The client may hold an address of another network: only a broadcast is sure to arrive (section 4.1)."""
    if request.giaddr != NO_ADDRESS:
        return Destination(Delivery.UNICAST, request.giaddr, SERVER_PORT)
    return Destination(Delivery.BROADCAST, BROADCAST, CLIENT_PORT)
