"""What PXE adds to DHCP: the vendor class, the machine's identifier, the options inside option 43. Pure.

Source: Preboot Execution Environment 2.1, section 2.2 (its tables of DHCP options) and RFC 4578.
"""

import uuid

from construct import Byte, Const, Struct

PXE_CLIENT = "PXEClient"
HTTP_CLIENT = "HTTPClient"
"""Vendor class of UEFI HTTP boot (UEFI 2.10, section 24.7.3)."""
PXE_PORT = 4011

SKIP_DISCOVERY = 0x08
"""Discovery control, bit 3: take the boot file of this packet; no menu, no search for boot servers."""

_DISCOVERY_CONTROL = Struct(Const(6, Byte), Const(1, Byte), "value" / Byte, Const(255, Byte))


def build_discovery_control(value: int = SKIP_DISCOVERY) -> bytes:
    """Option 43 with PXE_DISCOVERY_CONTROL alone. Seen to be enough for: OVMF (06:01:08:ff)."""
    built: bytes = _DISCOVERY_CONTROL.build({"value": value})
    return built


def is_pxe_class(vendor_class: str) -> bool:
    """Whether option 60 is `PXEClient` or `PXEClient:Arch:xxxxx:UNDI:yyyzzz`."""
    return vendor_class == PXE_CLIENT or vendor_class.startswith(PXE_CLIENT + ":")


def is_http_class(vendor_class: str) -> bool:
    """Whether option 60 is UEFI HTTP boot's."""
    return vendor_class == HTTP_CLIENT or vendor_class.startswith(HTTP_CLIENT + ":")


def arch_of_class(vendor_class: str) -> int | None:
    """The arch inside `PXEClient:Arch:00007:...`, for clients that send no option 93."""
    parts = vendor_class.split(":")
    if len(parts) >= 3 and parts[1] == "Arch" and len(parts[2]) == 5 and parts[2].isascii() and parts[2].isdigit():
        return int(parts[2])
    return None


def system_uuid(machine_id: bytes) -> str:
    """Option 97 as SMBIOS tools print it (its first three fields are little-endian); empty when it is no UUID."""
    if len(machine_id) != 17 or machine_id[0] != 0:
        return ""
    return str(uuid.UUID(bytes_le=machine_id[1:]))
