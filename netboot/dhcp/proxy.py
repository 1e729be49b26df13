"""The proxyDHCP server: tells PXE clients what to boot, beside a server that gives them addresses. Pure.

Implements PXE 2.1, sections 2.2.2 (offers on port 67) and 2.2.3 (requests on port 4011). It gives no address, keeps no
state, and never answers a client that is not PXE.
"""

from ipaddress import IPv4Address

from netboot.dhcp.answers import answer_packet, order_options
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
from netboot.model import Firmware, Ignored
from netboot.wire.dhcp import (
    BOOTREQUEST,
    ETHERNET,
    ETHERNET_ADDRESS_BYTES,
    NO_ADDRESS,
    DhcpPacket,
    message_limit,
)
from netboot.wire.dhcp_options import MESSAGE_TYPE, SERVER_IDENTIFIER, VENDOR_OPTIONS, MessageType
from netboot.wire.pxe import PXE_PORT, boot_item, build_boot_server_options


class DhcpProxy:
    """Answers PXE clients on one interface."""

    def __init__(self, server_address: IPv4Address, choose_boot: BootChooser) -> None:
        self._server_address = server_address
        self._choose_boot = choose_boot

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored:
        """OFFER to a DISCOVER on port 67; ACK to a search for a boot server, on port 4011 or by broadcast."""
        if request.op != BOOTREQUEST:
            return Ignored("not a request: op is BOOTREPLY")
        if request.htype != ETHERNET or len(request.chaddr) != ETHERNET_ADDRESS_BYTES:
            return Ignored(f"not Ethernet: hardware type {request.htype}, {len(request.chaddr)} address bytes")
        kind = request.message_type
        item = boot_item(request.options.raw.get(VENDOR_OPTIONS.code, b""))
        if arrival.local_port == PXE_PORT:
            if kind not in (MessageType.REQUEST, MessageType.INFORM):
                return Ignored(f"not answered on port 4011: {kind.name if kind else 'BOOTP'}")
            answer = MessageType.ACK
        elif kind is MessageType.DISCOVER:
            answer = MessageType.OFFER
        elif is_boot_server_search(request):
            answer = MessageType.ACK
        else:
            return Ignored(f"for the network's DHCP server, not for a proxy: {kind.name if kind else 'BOOTP'}")
        client = classify(request)
        if isinstance(client, Ignored):
            return client
        boot = self._choose_boot(client)
        if isinstance(boot, Ignored):
            return boot
        siaddr, file, more = boot_options(request, client, boot, as_proxy=True)
        boot_raw = dict(more.raw)
        if VENDOR_OPTIONS.code in boot_raw and (item or client.firmware is Firmware.BIOS):
            boot_raw[VENDOR_OPTIONS.code] = build_boot_server_options(self._server_address, item)
        required = {MESSAGE_TYPE.code: bytes((answer,)), SERVER_IDENTIFIER.code: self._server_address.packed}
        options = order_options(request, required, boot_raw, {})
        packet = answer_packet(request, answer, options, siaddr=siaddr, file=file)
        return Reply(packet, _destination(request, arrival), boot, message_limit(request))


def is_boot_server_search(request: DhcpPacket) -> bool:
    """Whether a REQUEST on port 67, as a rule a broadcast, is for a boot server and not for an address."""
    is_request = request.message_type is MessageType.REQUEST
    return is_request and bool(boot_item(request.options.raw.get(VENDOR_OPTIONS.code, b"")))


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
