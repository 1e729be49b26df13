"""What a DHCP answer holds, in which order and how long it is, and where it goes."""

from ipaddress import IPv4Address

import pytest
from dhcp_builders import (
    BROADCAST,
    MACHINE_ID,
    NETWORK,
    SERVER,
    a_discover,
    a_packet,
    a_server,
    pxe_options,
    reason_of,
    reply_to,
)

from netboot.dhcp.reply import Delivery, Destination, Reply
from netboot.model import BootFile, Ignored
from netboot.wire.dhcp import parse_dhcp
from netboot.wire.dhcp_options import (
    BOOT_FILE_NAME,
    BROADCAST_ADDRESS,
    CLIENT_IDENTIFIER,
    CLIENT_MACHINE_ID,
    DNS_SERVERS,
    DOMAIN_NAME,
    LEASE_TIME,
    MAX_MESSAGE_BYTES,
    PARAMETER_LIST,
    REBINDING_TIME,
    RELAY_AGENT,
    RENEWAL_TIME,
    ROUTERS,
    SERVER_IDENTIFIER,
    SUBNET_MASK,
    TFTP_SERVER_NAME,
    VENDOR_CLASS,
    VENDOR_OPTIONS,
    MessageType,
)


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
