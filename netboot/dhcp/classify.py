"""Who is asking for a boot file: a DHCP packet in, `BootClient` or the reason why it is none. Pure.

Sources: RFC 4578 (options 93, 97), PXE 2.1 (option 60), RFC 3004 (option 77), IANA's processor architecture types.
"""

from netboot.model import BootClient, Firmware, Ignored
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import CLIENT_ARCH, CLIENT_MACHINE_ID, USER_CLASS, VENDOR_CLASS
from netboot.wire.pxe import arch_of_class, is_http_class, is_pxe_class, system_uuid

ARCH_BIOS = 0
ARCH_UEFI_BYTE_CODE = 7
"""Named "EFI BC" by RFC 4578 and x64 by its errata: what x64 firmware sends."""
ARCH_UEFI_X64 = 9
ARCH_UEFI_X64_HTTP = 16
AGENT_CLASS = "roomcast-agent"
"""Vendor class of our agent's DHCP client."""
IPXE_USER_CLASS = b"iPXE"

_FIRMWARE_OF_ARCH = {
    ARCH_BIOS: Firmware.BIOS,
    ARCH_UEFI_BYTE_CODE: Firmware.UEFI_X64,
    ARCH_UEFI_X64: Firmware.UEFI_X64,
}
_HTTP_OF_ARCH = {
    ARCH_UEFI_X64_HTTP: Firmware.UEFI_X64_HTTP,
    ARCH_UEFI_BYTE_CODE: Firmware.UEFI_X64_HTTP,
    ARCH_UEFI_X64: Firmware.UEFI_X64_HTTP,
}
"""Of vendor class HTTPClient: its word counts for more than a PXE arch beside it."""
_IPXE_OF_FIRMWARE = {
    Firmware.BIOS: Firmware.IPXE_BIOS,
    Firmware.UEFI_X64: Firmware.IPXE_UEFI_X64,
}
_ARCH_NAMES = {
    6: "UEFI IA32",
    10: "UEFI ARM 32-bit",
    11: "UEFI ARM 64-bit",
    15: "UEFI IA32 over HTTP",
    16: "UEFI x64 over HTTP",
    18: "UEFI ARM 32-bit over HTTP",
    19: "UEFI ARM 64-bit over HTTP",
    20: "BIOS over HTTP",
}


def classify(packet: DhcpPacket) -> BootClient | Ignored:
    """Tell BIOS, UEFI x64 (PXE or HTTP) and iPXE apart. `Ignored`: gets no boot file; it may still get a lease."""
    vendor_class = packet.options.get(VENDOR_CLASS)
    if vendor_class is None:
        return Ignored("not a boot client: no vendor class (option 60)")
    if vendor_class == AGENT_CLASS:
        return Ignored("our agent has booted: it wants an address and no boot file")
    is_http = is_http_class(vendor_class)
    if not (is_http or is_pxe_class(vendor_class)):
        return Ignored(f"not a boot client: vendor class {vendor_class!r}")
    archs = packet.options.get(CLIENT_ARCH)
    arch = archs[0] if archs else arch_of_class(vendor_class)
    if arch is None:
        return Ignored("PXE client without an arch: no option 93, none in its vendor class")
    firmware = (_HTTP_OF_ARCH if is_http else _FIRMWARE_OF_ARCH).get(arch)
    if firmware is None:
        return Ignored(f"arch {arch} is not served: {_ARCH_NAMES.get(arch, 'unknown')}")
    if not is_http and IPXE_USER_CLASS in (packet.options.get(USER_CLASS) or ()):
        firmware = _IPXE_OF_FIRMWARE[firmware]
    return BootClient(
        mac=packet.mac,
        arch=arch,
        firmware=firmware,
        system_uuid=system_uuid(packet.options.get(CLIENT_MACHINE_ID) or b""),
    )
