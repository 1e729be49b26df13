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
    """What is asking for a boot file. How each is told from the others: netboot/dhcp/classify.py."""

    BIOS = "bios"
    """A PXE ROM of a PC."""
    UEFI_IA32 = "uefi-ia32"
    UEFI_X64 = "uefi-x64"
    UEFI_ARM64 = "uefi-arm64"
    UEFI_IA32_HTTP = "uefi-ia32-http"
    """UEFI HTTP boot: fetches a URL (UEFI 2.10, section 24.7)."""
    UEFI_X64_HTTP = "uefi-x64-http"
    UEFI_ARM64_HTTP = "uefi-arm64-http"
    IPXE_BIOS = "ipxe-bios"
    """iPXE, in the network card or started by somebody else."""
    IPXE_UEFI_IA32 = "ipxe-uefi-ia32"
    IPXE_UEFI_X64 = "ipxe-uefi-x64"
    IPXE_UEFI_ARM64 = "ipxe-uefi-arm64"

    @property
    def by_http(self) -> bool:
        """Takes a URL, and an answer with vendor class HTTPClient alone."""
        return self.value.endswith("-http")

    @property
    def is_ipxe(self) -> bool:
        return self.value.startswith("ipxe-")


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


class Way(StrEnum):
    """How a machine gets from the network boot to its own disk."""

    CHAINLOAD = "chainload"
    """GRUB starts the boot program of the disk."""
    BOOTNEXT = "bootnext"
    """The agent names the disk's entry in BootNext (UEFI 2.10, section 3.3) and restarts the machine."""
    EXIT = "exit"
    """GRUB ends, and the firmware goes on with its next boot device."""


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
