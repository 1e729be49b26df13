"""What both DHCP cores take and give: where a packet came from, where its answer goes, what it says to boot. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from netboot.model import BootClient, BootFile, Ignored
from netboot.wire.dhcp import LEAST_MESSAGE_BYTES, NO_ADDRESS, DhcpPacket, build_dhcp
from netboot.wire.dhcp_options import MessageType

SERVER_PORT = 67
CLIENT_PORT = 68
BROADCAST = IPv4Address("255.255.255.255")

BootChooser = Callable[[BootClient], BootFile | Ignored]
"""Which boot file a client gets (owner: netboot/boot)."""


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
    max_bytes: int = LEAST_MESSAGE_BYTES
    """The most that the receiver takes."""
    note: str = ""
    """What a person should know about this answer; empty as a rule."""
    is_renewal: bool = False
    """The machine keeps what it has: nothing that anybody has to be told."""

    @property
    def is_promise(self) -> bool:
        """An ACK of an address: it may not leave before the lease, and every change before, is on the disk."""
        return self.packet.message_type is MessageType.ACK and self.packet.yiaddr != NO_ADDRESS

    def build(self) -> bytes:
        """The datagram: never longer than `max_bytes`."""
        return build_dhcp(self.packet, self.max_bytes)


@dataclass(frozen=True, slots=True)
class ProbeFirst:
    """No answer yet: ask whether somebody has this address, tell `DhcpServer.note_probe`, then respond again."""

    address: IPv4Address
    is_local: bool
    """In the interface's own network: ARP tells. Else only an ICMP echo can."""
