"""Who is asking: firmware told by options 60, 93, 77 and 97."""

from dataclasses import replace

import pytest
from dhcp_builders import MAC, a_discover, a_packet, pxe_options

from netboot.dhcp.classify import CLIENTS, classify
from netboot.model import BootClient, Firmware, Ignored
from netboot.wire.dhcp import Options
from netboot.wire.dhcp_options import CLIENT_ARCH, USER_CLASS, VENDOR_CLASS, MessageType


@pytest.mark.parametrize(
    ("arch", "ipxe", "firmware"),
    [
        (0, False, Firmware.BIOS),
        (7, False, Firmware.UEFI_X64),
        (9, False, Firmware.UEFI_X64),
        (6, False, Firmware.UEFI_IA32),
        (11, False, Firmware.UEFI_ARM64),
        (0, True, Firmware.IPXE_BIOS),
        (6, True, Firmware.IPXE_UEFI_IA32),
        (7, True, Firmware.IPXE_UEFI_X64),
        (11, True, Firmware.IPXE_UEFI_ARM64),
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
        ("PXEClient", (10,), "arch 10 is not served: UEFI ARM 32-bit, asked by PXEClient"),
        ("PXEClient", (27,), "UEFI RISC-V 64-bit"),
        ("PXEClient", (16,), "arch 16 is not served: UEFI x64 over HTTP, asked by PXEClient"),
        ("PXEClient", (4711,), "arch 4711 is not served: unknown"),
        ("HTTPClient:Arch:00020:UNDI:003001", (20,), "arch 20 is not served: BIOS over HTTP, asked by HTTPClient"),
        ("roomcast-agent", None, "our agent has booted"),
    ],
)
def test_others_are_ignored_with_a_reason(vendor_class: str | None, archs: tuple[int, ...] | None, reason: str) -> None:
    options = [(VENDOR_CLASS, vendor_class)] if vendor_class else []
    options += [(CLIENT_ARCH, archs)] if archs else []  # type: ignore[list-item]
    outcome = classify(a_packet(MessageType.DISCOVER, *options))
    assert isinstance(outcome, Ignored)
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("arch", "firmware"),
    [
        (16, Firmware.UEFI_X64_HTTP),
        (7, Firmware.UEFI_X64_HTTP),
        (15, Firmware.UEFI_IA32_HTTP),
        (19, Firmware.UEFI_ARM64_HTTP),
        (11, Firmware.UEFI_ARM64_HTTP),
    ],
)
def test_uefi_http_boot_is_told_by_its_vendor_class(arch: int, firmware: Firmware) -> None:
    options = ((VENDOR_CLASS, f"HTTPClient:Arch:{arch:05d}:UNDI:003001"), (CLIENT_ARCH, (arch,)))
    client = classify(a_packet(MessageType.DISCOVER, *options))
    assert isinstance(client, BootClient) and client.firmware is firmware


@pytest.mark.parametrize(
    "extra",
    [{77: b"iPXE"}, {77: b"\4iPXE"}, {77: b"gPXE"}, {77: b"\4lab1\4iPXE"}, {77: b"lab", 175: b"\x13\1\1"}, {175: b""}],
)
def test_ipxe_is_told_by_its_user_class_however_written_or_by_its_own_options(extra: dict[int, bytes]) -> None:
    asked = a_discover(7)
    client = classify(replace(asked, options=Options({**asked.options.raw, **extra})))
    assert isinstance(client, BootClient) and client.firmware is Firmware.IPXE_UEFI_X64


def test_a_user_class_that_is_not_ipxes_changes_nothing() -> None:
    client = classify(a_packet(MessageType.DISCOVER, *pxe_options(7), (USER_CLASS, (b"iPXE-lab",))))
    assert isinstance(client, BootClient) and client.firmware is Firmware.UEFI_X64


def test_the_table_has_every_firmware_once_and_no_client_twice() -> None:
    assert sorted(row.firmware for row in CLIENTS) == sorted(Firmware)
    asked = [(row.by, arch) for row in CLIENTS for arch in row.arches]
    assert len(set(asked)) == len(asked)
    for row in CLIENTS:
        assert (row.by == "HTTPClient", row.by == "iPXE") == (row.firmware.by_http, row.firmware.is_ipxe)
