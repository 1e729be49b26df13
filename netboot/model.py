"""The words of the appliance as types. Pure: values only.

Firmware is what is booting; arch is the number it sends in DHCP option 93 (RFC 4578, section 2.1).
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address


@dataclass(frozen=True, slots=True)
class Ignored:
    """No answer is given, and this is why."""

    reason: str


class Firmware(StrEnum):
    """What is asking for a boot file."""

    BIOS = "bios"
    """A PXE ROM of a PC, arch 0."""
    UEFI_X64 = "uefi-x64"
    """UEFI PXE, arch 7 or 9."""
    UEFI_X64_HTTP = "uefi-x64-http"
    """UEFI HTTP boot, arch 16: fetches a URL (UEFI 2.10, section 24.7)."""
    IPXE_BIOS = "ipxe-bios"
    """iPXE (user class `iPXE`) on BIOS."""
    IPXE_UEFI_X64 = "ipxe-uefi-x64"


@dataclass(frozen=True, slots=True)
class BootClient:
    """A machine that asks for a boot file, as its DHCP packet tells."""

    mac: str
    """Lower case, colons."""
    arch: int
    firmware: Firmware
    system_uuid: str
    """From option 97, lower case with dashes; empty when not sent."""


@dataclass(frozen=True, slots=True)
class BootFile:
    """What DHCP tells the firmware to fetch."""

    server: IPv4Address
    name: str
    """Path in the TFTP tree, or an http:// URL for clients that take one."""


class TaskState(StrEnum):
    """Where a task is. See deployment/states.py for the allowed changes."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SessionState(StrEnum):
    """Where a session is."""

    WAITING = "waiting"
    """For its machines to be ready."""
    SENDING = "sending"
    DONE = "done"
    FAILED = "failed"
    """No machine succeeded."""
