"""What PXE adds to DHCP: the vendor class, the machine's identifier, the options inside option 43. Pure.

Source: Preboot Execution Environment 2.1, section 2.2 (its tables of DHCP options) and RFC 4578.
"""

import uuid
from ipaddress import IPv4Address

PXE_CLIENT = "PXEClient"
HTTP_CLIENT = "HTTPClient"
"""Vendor class of UEFI HTTP boot (UEFI 2.10, section 24.7.3)."""
PXE_PORT = 4011

ARCH_NAMES = {
    0: "BIOS",
    1: "NEC PC-98",
    2: "Itanium",
    6: "UEFI IA32",
    7: "UEFI x64",
    9: "UEFI x64",
    10: "UEFI ARM 32-bit",
    11: "UEFI ARM 64-bit",
    15: "UEFI IA32 over HTTP",
    16: "UEFI x64 over HTTP",
    18: "UEFI ARM 32-bit over HTTP",
    19: "UEFI ARM 64-bit over HTTP",
    20: "BIOS over HTTP",
    25: "UEFI RISC-V 32-bit",
    27: "UEFI RISC-V 64-bit",
    37: "UEFI LoongArch 32-bit",
    39: "UEFI LoongArch 64-bit",
}
"""Option 93: IANA's processor architecture types. RFC 4578 calls 7 "EFI BC"; x64 firmware sends it, or 9."""

SKIP_DISCOVERY = 0x08
"""Discovery control, bit 3: take the boot file of this packet; no menu, no search for boot servers."""

_BOOT_SERVERS, _BOOT_MENU, _MENU_PROMPT, _BOOT_ITEM = 8, 9, 10, 71
"""Sub-options of option 43 (PXE 2.1, table 2-1), as 6 below."""
_NO_BROADCAST, _NO_MULTICAST = 0x01, 0x02
_SERVER_TYPE = b"\x80\x00"
"""Of the range that is not assigned to anybody (PXE 2.1, table 2-6)."""
_MENU_LINE = b"Roomcast"


def build_discovery_control(value: int = SKIP_DISCOVERY) -> bytes:
    """Option 43 with PXE_DISCOVERY_CONTROL alone. Seen to be enough for: OVMF (06:01:08:ff)."""
    return bytes((6, 1, value, 255))


def build_boot_server_options(server: IPv4Address, item: bytes) -> bytes:
    """Option 43 for ROMs that search for a boot server whatever discovery control says (PXE 2.1, table 2-1).

    They are to take this packet's boot file; those that do not find one boot server, `server`, asked by unicast, and a
    menu of one line that is chosen without being shown. `item`: what the client chose, echoed; empty: nothing yet.
    """
    control = SKIP_DISCOVERY | _NO_BROADCAST | _NO_MULTICAST
    built = bytes((6, 1, control))
    built += bytes((_BOOT_SERVERS, 7)) + _SERVER_TYPE + b"\1" + server.packed
    built += bytes((_BOOT_MENU, 3 + len(_MENU_LINE))) + _SERVER_TYPE + bytes((len(_MENU_LINE),)) + _MENU_LINE
    built += bytes((_MENU_PROMPT, 1 + len(_MENU_LINE), 0)) + _MENU_LINE
    if item:
        built += bytes((_BOOT_ITEM, len(item))) + item
    return built + b"\xff"


def boot_item(vendor_options: bytes) -> bytes:
    """PXE_BOOT_ITEM (71) inside option 43: which boot server a client chose, 4 bytes; empty when it chose none."""
    item = vendor_sub_options(vendor_options).get(_BOOT_ITEM, b"")
    return item if len(item) == 4 else b""


def vendor_sub_options(value: bytes) -> dict[int, bytes]:
    """What is inside option 43 (RFC 2132, section 8.4), as far as it is whole; 0 is padding and 255 the end."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(value) and value[position] != 255:
        if value[position] == 0:
            position += 1
            continue
        length = value[position + 1] if position + 1 < len(value) else 255
        item = value[position + 2 : position + 2 + length]
        if len(item) != length:
            break
        found.setdefault(value[position], item)
        position += 2 + length
    return found


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
