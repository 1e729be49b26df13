"""What both DHCP cores take and give: where a packet came from, where its answer goes, what it says to boot. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from netboot.model import BootClient, BootFile, Firmware, Ignored
from netboot.wire.dhcp import DhcpPacket, Options
from netboot.wire.dhcp_options import (
    BOOT_FILE_NAME,
    CLIENT_MACHINE_ID,
    PARAMETER_LIST,
    TFTP_SERVER_NAME,
    VENDOR_CLASS,
    VENDOR_OPTIONS,
)
from netboot.wire.pxe import PXE_CLIENT, build_discovery_control

SERVER_PORT = 67
CLIENT_PORT = 68
BROADCAST = IPv4Address("255.255.255.255")

BootChooser = Callable[[BootClient], BootFile | Ignored]
"""Which boot file a client gets (owner: netboot/boot)."""

_MAX_FILE_FIELD_BYTES = 127
"""`file` is 128 bytes with its closing NUL (RFC 2131, section 2)."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a packet came in, as the socket tells."""

    now: float
    """Seconds of the lease clock."""
    source: IPv4Address
    source_port: int
    destination: IPv4Address
    """The address it was sent to: ours, or a broadcast address."""
    local_port: int
    """67, or 4011 for a proxy."""


class Delivery(StrEnum):
    """How an answer travels (RFC 2131, section 4.1)."""

    BROADCAST = "broadcast"
    UNICAST = "unicast"
    """To an address that answers ARP."""
    RAW = "raw"
    """To a hardware address that has no IP address yet: no ARP, a frame of our own."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an answer goes."""

    delivery: Delivery
    address: IPv4Address
    port: int
    mac: bytes = b""
    """Of the receiver, for RAW."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    packet: DhcpPacket
    destination: Destination
    boot: BootFile | Ignored
    """What the packet says to boot, or why it says nothing of it."""


def boot_options(
    request: DhcpPacket, client: BootClient, boot: BootFile, *, as_proxy: bool
) -> tuple[IPv4Address, bytes, Options]:
    """`siaddr`, `file` and the options that tell a client what to fetch.

    The name goes to `file`, which every ROM reads, and to option 67 when the client asked for it or the name is too
    long for the field. Option 60 makes UEFI take the packet as one for PXE, and 43 keeps it from a search on port 4011;
    iPXE takes the name as it is and needs neither, except from a proxy, whom it knows by option 60.
    """
    name = boot.name.encode("ascii")
    fits = len(name) <= _MAX_FILE_FIELD_BYTES
    asked = request.options.get(PARAMETER_LIST) or ()
    options = Options()
    if TFTP_SERVER_NAME.code in asked:
        options = options.with_option(TFTP_SERVER_NAME, str(boot.server))
    if BOOT_FILE_NAME.code in asked or not fits:
        options = options.with_option(BOOT_FILE_NAME, boot.name)
    is_ipxe = client.firmware in (Firmware.IPXE_BIOS, Firmware.IPXE_UEFI_X64)
    if as_proxy or not is_ipxe:
        options = options.with_option(VENDOR_CLASS, PXE_CLIENT)
        options = options.with_option(VENDOR_OPTIONS, build_discovery_control())
        machine_id = request.options.get(CLIENT_MACHINE_ID)
        if machine_id is not None:
            options = options.with_option(CLIENT_MACHINE_ID, machine_id)  # RFC 4578, section 2.3: echoed
    return boot.server, name if fits else b"", options
