"""DHCP packets and answers in few words, for tests."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from netboot.dhcp.leases import LeaseRepository, LeaseTable
from netboot.dhcp.reply import Arrival, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.model import BootClient, BootFile, Firmware, Ignored
from netboot.wire.dhcp import BOOTREQUEST, DhcpPacket, Options
from netboot.wire.dhcp_options import (
    CLIENT_ARCH,
    CLIENT_MACHINE_ID,
    MESSAGE_TYPE,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    USER_CLASS,
    VENDOR_CLASS,
    MessageType,
    OptionSpec,
)

SERVER = IPv4Address("10.77.0.1")
NETWORK = IPv4Network("10.77.0.0/24")
MAC = "52:54:00:00:00:01"
OTHER_MAC = "52:54:00:00:00:02"
ANY = IPv4Address(0)
BROADCAST = IPv4Address("255.255.255.255")
MACHINE_ID = bytes([0]) + bytes(range(16))


def an_arrival(now: float = 1000.0, source: IPv4Address = ANY, source_port: int = 68, local_port: int = 67) -> Arrival:
    return Arrival(now, source, source_port, BROADCAST, local_port)


def a_packet(
    kind: MessageType | None, *options: tuple[OptionSpec[Any], Any], mac: str = MAC, **fields: Any
) -> DhcpPacket:
    chosen = Options()
    if kind is not None:
        chosen = chosen.with_option(MESSAGE_TYPE, kind)
    for spec, value in options:
        chosen = chosen.with_option(spec, value)
    fields = {"op": BOOTREQUEST, "xid": 0x12345678, "chaddr": bytes.fromhex(mac.replace(":", "")), **fields}
    return DhcpPacket(options=chosen, **fields)


def pxe_options(arch: int, ipxe: bool = False) -> list[tuple[OptionSpec[Any], Any]]:
    options: list[tuple[OptionSpec[Any], Any]] = [
        (VENDOR_CLASS, f"PXEClient:Arch:{arch:05d}:UNDI:003016"),
        (CLIENT_ARCH, (arch,)),
        (CLIENT_MACHINE_ID, MACHINE_ID),
    ]
    if ipxe:
        options.append((USER_CLASS, (b"iPXE",)))
    return options


def a_discover(
    arch: int | None = None, *, ipxe: bool = False, mac: str = MAC, wished: IPv4Address | None = None, **fields: Any
) -> DhcpPacket:
    """A DISCOVER of a PXE client of this arch, or of an ordinary one (None)."""
    options = pxe_options(arch, ipxe) if arch is not None else []
    if wished is not None:
        options.append((REQUESTED_ADDRESS, wished))
    return a_packet(MessageType.DISCOVER, *options, mac=mac, **fields)


def a_request(
    offer: DhcpPacket, *, mac: str = MAC, server: IPv4Address = SERVER, arch: int | None = None
) -> DhcpPacket:
    """A REQUEST that takes this offer (state SELECTING)."""
    options = pxe_options(arch) if arch is not None else []
    return a_packet(
        MessageType.REQUEST, (SERVER_IDENTIFIER, server), (REQUESTED_ADDRESS, offer.yiaddr), *options, mac=mac
    )


def a_renewal(address: IPv4Address, *, mac: str = MAC) -> DhcpPacket:
    return a_packet(MessageType.REQUEST, mac=mac, ciaddr=address)


def an_init_reboot(address: IPv4Address, *, mac: str = MAC) -> DhcpPacket:
    return a_packet(MessageType.REQUEST, (REQUESTED_ADDRESS, address), mac=mac)


def choose_by_firmware(client: BootClient) -> BootFile | Ignored:
    names = {Firmware.BIOS: "bios/core.0", Firmware.UEFI_X64: "uefi/shimx64.efi", Firmware.IPXE_BIOS: "bios/core.0"}
    name = names.get(client.firmware)
    return BootFile(SERVER, name) if name else Ignored(f"no file for {client.firmware}")


def a_server(
    leases: LeaseRepository | None = None, first: int = 100, last: int = 199, lease_s: int = 3600, **settings: Any
) -> DhcpServer:
    subnet = Subnet(NETWORK, (Pool(NETWORK[first], NETWORK[last]),), lease_s, **settings)
    config = ServerConfig(SERVER, subnet, probe=False)
    return DhcpServer(config, LeaseTable() if leases is None else leases, choose_by_firmware)


def reply_to(server: Any, packet: DhcpPacket, arrival: Arrival | None = None) -> Reply:
    outcome = server.respond(packet, arrival or an_arrival())
    assert isinstance(outcome, Reply), outcome
    return outcome


def reason_of(server: Any, packet: DhcpPacket, arrival: Arrival | None = None) -> str:
    outcome = server.respond(packet, arrival or an_arrival())
    assert isinstance(outcome, Ignored), outcome
    return outcome.reason


def lease_address(server: DhcpServer, mac: str = MAC, now: float = 1000.0) -> IPv4Address:
    """Take a lease: DISCOVER, OFFER, REQUEST, ACK."""
    offer = reply_to(server, a_discover(mac=mac), an_arrival(now))
    ack = reply_to(server, a_request(offer.packet, mac=mac), an_arrival(now))
    assert ack.packet.message_type is MessageType.ACK
    assert ack.packet.yiaddr == offer.packet.yiaddr
    return ack.packet.yiaddr
