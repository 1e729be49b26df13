"""Who is asking: firmware told by options 60, 93, 77 and 97."""

import pytest
from dhcp_builders import MAC, a_discover, a_packet

from netboot.dhcp.classify import classify
from netboot.model import BootClient, Firmware, Ignored
from netboot.wire.dhcp_options import CLIENT_ARCH, VENDOR_CLASS, MessageType


@pytest.mark.parametrize(
    ("arch", "ipxe", "firmware"),
    [
        (0, False, Firmware.BIOS),
        (7, False, Firmware.UEFI_X64),
        (9, False, Firmware.UEFI_X64),
        (0, True, Firmware.IPXE_BIOS),
        (7, True, Firmware.IPXE_UEFI_X64),
    ],
)
def test_firmware_is_told_by_arch_and_user_class(arch: int, ipxe: bool, firmware: Firmware) -> None:
    uuid = "03020100-0504-0706-0809-0a0b0c0d0e0f"
    assert classify(a_discover(arch, ipxe=ipxe)) == BootClient(MAC, arch, firmware, uuid)


def test_the_vendor_class_tells_the_arch_when_option_93_is_missing() -> None:
    client = classify(a_packet(MessageType.DISCOVER, (VENDOR_CLASS, "PXEClient:Arch:00007:UNDI:003016")))
    assert isinstance(client, BootClient)
    assert (client.firmware, client.system_uuid) == (Firmware.UEFI_X64, "")


@pytest.mark.parametrize(
    ("vendor_class", "archs", "reason"),
    [
        (None, (0,), "no vendor class"),
        ("MSFT 5.0", (0,), "not a boot client"),
        ("PXEClientele", (0,), "not a boot client"),
        ("PXEClient", None, "without an arch"),
        ("PXEClient:Arch:0000x", None, "without an arch"),
        ("PXEClient", (6,), "arch 6 is not served: UEFI IA32"),
        ("PXEClient", (11,), "UEFI ARM 64-bit"),
        ("PXEClient", (4711,), "arch 4711 is not served: unknown"),
        ("HTTPClient:Arch:00019:UNDI:003001", (19,), "arch 19 is not served: UEFI ARM 64-bit over HTTP"),
        ("roomcast-agent", None, "our agent has booted"),
    ],
)
def test_others_are_ignored_with_a_reason(vendor_class: str | None, archs: tuple[int, ...] | None, reason: str) -> None:
    options = [(VENDOR_CLASS, vendor_class)] if vendor_class else []
    options += [(CLIENT_ARCH, archs)] if archs else []  # type: ignore[list-item]
    outcome = classify(a_packet(MessageType.DISCOVER, *options))
    assert isinstance(outcome, Ignored)
    assert reason in outcome.reason


@pytest.mark.parametrize("arch", [16, 7])
def test_uefi_http_boot_is_told_by_its_vendor_class(arch: int) -> None:
    options = ((VENDOR_CLASS, f"HTTPClient:Arch:{arch:05d}:UNDI:003001"), (CLIENT_ARCH, (arch,)))
    client = classify(a_packet(MessageType.DISCOVER, *options))
    assert isinstance(client, BootClient) and client.firmware is Firmware.UEFI_X64_HTTP
