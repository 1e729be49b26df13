from ipaddress import IPv4Address

import pytest

from netboot.boot.selection import explain_boot_file, select_boot_file
from netboot.model import BootClient, BootFile, Firmware, Ignored

SERVER = IPv4Address("10.77.0.1")


def a_client(firmware: Firmware, arch: int) -> BootClient:
    return BootClient("52:54:00:00:00:01", arch, firmware, "")


@pytest.mark.parametrize(
    ("firmware", "arch", "name"),
    [
        (Firmware.BIOS, 0, "bios/core.0"),
        (Firmware.UEFI_X64, 7, "uefi/shimx64.efi"),
        (Firmware.UEFI_X64, 9, "uefi/shimx64.efi"),
        (Firmware.IPXE_BIOS, 0, "bios/core.0"),
        (Firmware.IPXE_UEFI_X64, 7, "uefi/grub.efi"),
    ],
)
def test_each_firmware_is_told_its_file(firmware: Firmware, arch: int, name: str) -> None:
    assert select_boot_file(a_client(firmware, arch), SERVER) == BootFile(SERVER, name)


@pytest.mark.parametrize("firmware", [Firmware.IPXE_BIOS, Firmware.IPXE_UEFI_X64])
def test_ipxe_is_never_told_to_start_ipxe_again(firmware: Firmware) -> None:
    chosen = select_boot_file(a_client(firmware, 0 if firmware is Firmware.IPXE_BIOS else 7), SERVER)
    assert isinstance(chosen, BootFile)
    assert "ipxe" not in chosen.name.lower() and not chosen.name.startswith("http")


def test_beside_another_dhcp_server_uefi_gets_a_grub_that_knows_our_address() -> None:
    assert select_boot_file(a_client(Firmware.UEFI_X64, 7), SERVER, by_proxy=True) == BootFile(SERVER, "uefi/grub.efi")
    assert select_boot_file(a_client(Firmware.BIOS, 0), SERVER, by_proxy=True) == BootFile(SERVER, "bios/core.0")


@pytest.mark.parametrize("arch", [1, 2, 6, 10, 11, 27, 65535])
def test_an_arch_without_boot_program_is_ignored_with_its_number(arch: int) -> None:
    chosen = select_boot_file(a_client(Firmware.UEFI_X64, arch), SERVER)
    assert isinstance(chosen, Ignored)
    assert str(arch) in chosen.reason


@pytest.mark.parametrize(("port", "host"), [(80, "10.77.0.1"), (8080, "10.77.0.1:8080")])
@pytest.mark.parametrize("by_proxy", [False, True])
def test_uefi_http_boot_is_told_the_url_of_its_own_volume(port: int, host: str, by_proxy: bool) -> None:
    client = a_client(Firmware.UEFI_X64_HTTP, 16)
    name = f"http://{host}/boot/uefi/http-{client.mac.replace(':', '-')}.img"
    assert select_boot_file(client, SERVER, port, by_proxy=by_proxy) == BootFile(SERVER, name)


def test_firmware_that_contradicts_its_arch_is_ignored() -> None:
    assert isinstance(select_boot_file(a_client(Firmware.BIOS, 7), SERVER), Ignored)


@pytest.mark.parametrize("firmware", list(Firmware))
def test_every_firmware_has_a_reason(firmware: Firmware) -> None:
    assert explain_boot_file(firmware)
