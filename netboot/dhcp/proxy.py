"""The proxyDHCP server: tells PXE clients what to boot, beside a server that gives them addresses. Pure.

Implements PXE 2.1, sections 2.2.2 (offers on port 67) and 2.2.3 (requests on port 4011). It gives no address, keeps no
state, and never answers a client that is not PXE.
"""

from ipaddress import IPv4Address

from netboot.dhcp.boot_options import boot_options
from netboot.dhcp.classify import classify
from netboot.dhcp.reply import (
    BROADCAST,
    CLIENT_PORT,
    SERVER_PORT,
    Arrival,
    BootChooser,
    Delivery,
    Destination,
    Reply,
)
from netboot.model import Ignored
from netboot.wire.dhcp import (
    BOOTREPLY,
    BOOTREQUEST,
    ETHERNET,
    ETHERNET_ADDRESS_BYTES,
    NO_ADDRESS,
    DhcpPacket,
    Options,
)
from netboot.wire.dhcp_options import CLIENT_IDENTIFIER, MESSAGE_TYPE, RELAY_AGENT, SERVER_IDENTIFIER, MessageType
from netboot.wire.pxe import PXE_PORT


class DhcpProxy:
    """Answers PXE clients on one interface."""

    def __init__(self, server_address: IPv4Address, choose_boot: BootChooser) -> None:
        self._server_address = server_address
        self._choose_boot = choose_boot

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored:
        """OFFER to a DISCOVER on port 67; ACK to a REQUEST or INFORM on port 4011; nothing else."""
        if request.op != BOOTREQUEST:
            return Ignored("not a request: op is BOOTREPLY")
        if request.htype != ETHERNET or len(request.chaddr) != ETHERNET_ADDRESS_BYTES:
            return Ignored(f"not Ethernet: hardware type {request.htype}, {len(request.chaddr)} address bytes")
        kind = request.message_type
        if arrival.local_port == PXE_PORT:
            if kind not in (MessageType.REQUEST, MessageType.INFORM):
                return Ignored(f"not answered on port 4011: {kind.name if kind else 'BOOTP'}")
            answer = MessageType.ACK
        elif kind is MessageType.DISCOVER:
            answer = MessageType.OFFER
        else:
            return Ignored(f"for the network's DHCP server, not for a proxy: {kind.name if kind else 'BOOTP'}")
        client = classify(request)
        if isinstance(client, Ignored):
            return client
        boot = self._choose_boot(client)
        if isinstance(boot, Ignored):
            return boot
        siaddr, file, more = boot_options(request, client, boot, as_proxy=True)
        options = Options().with_option(MESSAGE_TYPE, answer).with_option(SERVER_IDENTIFIER, self._server_address)
        options = Options({**options.raw, **more.raw})
        identifier = request.options.get(CLIENT_IDENTIFIER)
        if identifier is not None:
            options = options.with_option(CLIENT_IDENTIFIER, identifier)  # RFC 6842: echoed
        relay = request.options.get(RELAY_AGENT)
        if relay is not None:
            options = options.with_option(RELAY_AGENT, relay)  # RFC 3046, section 2.2: echoed, and last
        packet = DhcpPacket(
            op=BOOTREPLY,
            xid=request.xid,
            chaddr=request.chaddr,
            flags=request.flags,
            ciaddr=request.ciaddr if answer is MessageType.ACK else NO_ADDRESS,
            siaddr=siaddr,
            giaddr=request.giaddr,
            file=file,
            options=options,
        )
        return Reply(packet, _destination(request, arrival), boot)


def _destination(request: DhcpPacket, arrival: Arrival) -> Destination:
    if request.giaddr != NO_ADDRESS:
        return Destination(Delivery.UNICAST, request.giaddr, SERVER_PORT)
    if arrival.local_port == PXE_PORT and arrival.source != NO_ADDRESS:
        # To the port it came from: BIOS ROMs ask from 68, OVMF from 4011.
        return Destination(Delivery.UNICAST, arrival.source, arrival.source_port)
    if request.ciaddr != NO_ADDRESS:
        return Destination(Delivery.UNICAST, request.ciaddr, CLIENT_PORT)
    # The client has no address and we have none for it, so a unicast frame would carry one nobody has: broadcast.
    return Destination(Delivery.BROADCAST, BROADCAST, CLIENT_PORT)
