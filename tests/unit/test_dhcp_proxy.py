"""The proxy's answers beside another DHCP server."""

from ipaddress import IPv4Address

import pytest
from dhcp_builders import (
    BROADCAST,
    MACHINE_ID,
    NETWORK,
    SERVER,
    a_discover,
    a_packet,
    an_arrival,
    choose_by_firmware,
    pxe_options,
    reason_of,
    reply_to,
)

from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import Delivery, Destination
from netboot.wire.dhcp_options import (
    CLIENT_IDENTIFIER,
    CLIENT_MACHINE_ID,
    LEASE_TIME,
    RELAY_AGENT,
    SERVER_IDENTIFIER,
    VENDOR_CLASS,
    VENDOR_OPTIONS,
    MessageType,
)
from netboot.wire.pxe import vendor_sub_options

PROXY = DhcpProxy(SERVER, choose_by_firmware)


@pytest.mark.parametrize(("arch", "ipxe"), [(0, False), (7, False), (0, True)])
def test_a_pxe_client_gets_an_offer_without_an_address(arch: int, ipxe: bool) -> None:
    reply = reply_to(PROXY, a_discover(arch, ipxe=ipxe))
    packet = reply.packet
    assert packet.message_type is MessageType.OFFER
    assert packet.yiaddr == IPv4Address(0)
    assert LEASE_TIME not in packet.options
    assert packet.siaddr == SERVER
    assert packet.file == (b"uefi/shimx64.efi" if arch else b"bios/core.0")
    assert packet.options.get(SERVER_IDENTIFIER) == SERVER
    assert packet.options.get(VENDOR_CLASS) == "PXEClient"
    assert vendor_sub_options(packet.options.raw[43])[6][0] & 0x08  # take the file of this packet
    assert packet.options.get(CLIENT_MACHINE_ID) == MACHINE_ID
    assert reply.destination == Destination(Delivery.BROADCAST, BROADCAST, 68)


def test_a_bios_rom_is_told_of_one_boot_server_and_of_a_menu_that_is_not_shown() -> None:
    inside = vendor_sub_options(reply_to(PROXY, a_discover(0)).packet.options.raw[43])
    assert inside[6] == b"\x0b"  # no broadcast, no multicast, no search at all
    assert inside[8] == b"\x80\0\1" + SERVER.packed
    assert inside[9] == b"\x80\0\x08Roomcast"
    assert inside[10] == b"\0Roomcast"  # at once
    assert reply_to(PROXY, a_discover(7)).packet.options.get(VENDOR_OPTIONS) == bytes.fromhex("060108ff")


@pytest.mark.parametrize(("port", "source"), [(4011, NETWORK[50]), (67, IPv4Address(0))])
def test_the_boot_server_that_a_rom_chose_is_echoed(port: int, source: IPv4Address) -> None:
    chosen = (VENDOR_OPTIONS, bytes.fromhex("470480000000ff"))
    reply = reply_to(
        PROXY, a_packet(MessageType.REQUEST, chosen, *pxe_options(0)), an_arrival(source=source, local_port=port)
    )
    assert reply.packet.message_type is MessageType.ACK
    assert vendor_sub_options(reply.packet.options.raw[43])[71] == bytes.fromhex("80000000")
    assert reply.packet.file == b"bios/core.0"


def test_the_proxys_answer_fits_and_carries_its_echoes() -> None:
    request = a_packet(
        MessageType.DISCOVER, (CLIENT_IDENTIFIER, b"\1abc"), (RELAY_AGENT, b"\1\1x"), *pxe_options(0), giaddr=NETWORK[2]
    )
    reply = reply_to(PROXY, request)
    assert reply.packet.options.get(CLIENT_IDENTIFIER) == b"\1abc"
    assert list(reply.packet.options.raw)[-1] == 82
    assert len(reply.build()) <= 548


@pytest.mark.parametrize("kind", [MessageType.REQUEST, MessageType.INFORM])
@pytest.mark.parametrize("port", [68, 4011])
def test_a_request_on_4011_is_acknowledged_to_where_it_came_from(kind: MessageType, port: int) -> None:
    packet = a_packet(kind, *pxe_options(7), ciaddr=NETWORK[50])
    reply = reply_to(PROXY, packet, an_arrival(source=NETWORK[50], source_port=port, local_port=4011))
    assert reply.packet.message_type is MessageType.ACK
    assert reply.packet.ciaddr == NETWORK[50]
    assert reply.packet.file == b"uefi/shimx64.efi"
    assert reply.destination == Destination(Delivery.UNICAST, NETWORK[50], port)


@pytest.mark.parametrize(
    ("packet", "port", "reason"),
    [
        (a_discover(), 67, "not a boot client"),
        (a_discover(10), 67, "arch 10 is not served"),
        (a_discover(7, ipxe=True), 67, "no file for"),
        (a_packet(MessageType.REQUEST, *pxe_options(0)), 67, "for the network's DHCP server"),
        (a_packet(None), 67, "for the network's DHCP server"),
        (a_discover(0), 4011, "not answered on port 4011"),
        (a_discover(0, op=2), 67, "not a request"),
        (a_discover(0, htype=32), 67, "not Ethernet"),
    ],
)
def test_everything_else_is_left_to_others_with_a_reason(packet: object, port: int, reason: str) -> None:
    assert reason in reason_of(PROXY, packet, an_arrival(local_port=port))  # type: ignore[arg-type]


def test_a_relayed_discover_is_answered_to_its_relay() -> None:
    reply = reply_to(PROXY, a_discover(0, giaddr=IPv4Address("10.9.0.1")))
    assert reply.destination == Destination(Delivery.UNICAST, IPv4Address("10.9.0.1"), 67)
