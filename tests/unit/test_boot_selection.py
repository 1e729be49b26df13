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


@pytest.mark.parametrize(
    ("firmware", "arch", "as_server", "by_proxy"),
    [
        (Firmware.UEFI_IA32, 6, "uefi/shimia32.efi", "uefi/own-grubia32.efi"),
        (Firmware.UEFI_ARM64, 11, "uefi/shimaa64.efi", "uefi/own-grubaa64.efi"),
        (Firmware.IPXE_UEFI_ARM64, 11, "uefi/own-grubaa64.efi", "uefi/own-grubaa64.efi"),
    ],
)
def test_other_architectures_are_told_programs_of_their_own(
    firmware: Firmware, arch: int, as_server: str, by_proxy: str
) -> None:
    client = a_client(firmware, arch)
    assert select_boot_file(client, SERVER) == BootFile(SERVER, as_server)
    assert select_boot_file(client, SERVER, by_proxy=True) == BootFile(SERVER, by_proxy)


@pytest.mark.parametrize("firmware", list(Firmware))
@pytest.mark.parametrize("by_proxy", [False, True])
def test_nothing_is_told_that_was_not_made_and_the_reason_says_what_to_do(firmware: Firmware, by_proxy: bool) -> None:
    chosen = select_boot_file(a_client(firmware, 0), SERVER, by_proxy=by_proxy, programs=())
    assert isinstance(chosen, Ignored)
    for letters, name in (("ia32", "ia32"), ("arm64", "arm64")):
        assert (f"`roomcast boot-programs --fetch {name}`" in chosen.reason) == (letters in firmware)
    assert "`roomcast serve`" in chosen.reason


@pytest.mark.parametrize("firmware", list(Firmware))
def test_a_file_is_told_when_its_program_was_made(firmware: Firmware) -> None:
    told = select_boot_file(a_client(firmware, 0), SERVER)
    assert isinstance(told, BootFile)
    letters = "ia32" if "ia32" in firmware else "aa64" if "arm64" in firmware else "x64"
    programs = [f"uefi/grubdisk{letters.removeprefix('x64')}.efi"] if firmware.by_http else [told.name]
    assert select_boot_file(a_client(firmware, 0), SERVER, programs=programs) == told


@pytest.mark.parametrize(
    ("firmware", "letters"),
    [(Firmware.UEFI_X64_HTTP, ""), (Firmware.UEFI_IA32_HTTP, "ia32-"), (Firmware.UEFI_ARM64_HTTP, "aa64-")],
)
@pytest.mark.parametrize(("port", "host"), [(80, "10.77.0.1"), (8080, "10.77.0.1:8080")])
@pytest.mark.parametrize("by_proxy", [False, True])
def test_uefi_http_boot_is_told_the_url_of_its_own_volume(
    port: int, host: str, by_proxy: bool, firmware: Firmware, letters: str
) -> None:
    client = a_client(firmware, 16)
    name = f"http://{host}/boot/uefi/http-{letters}{client.mac.replace(':', '-')}.img"
    assert select_boot_file(client, SERVER, port, by_proxy=by_proxy) == BootFile(SERVER, name)


@pytest.mark.parametrize("firmware", list(Firmware))
def test_every_firmware_has_a_reason(firmware: Firmware) -> None:
    told = select_boot_file(a_client(firmware, 0), SERVER)
    assert isinstance(told, BootFile)
    assert explain_boot_file(firmware, told.name)


def test_the_reason_beside_another_server_says_what_secure_boot_needs() -> None:
    assert "UEFI HTTP boot" in explain_boot_file(Firmware.UEFI_X64, "uefi/grub.efi")
    assert "Secure Boot accepts shim" in explain_boot_file(Firmware.UEFI_X64, "uefi/shimx64.efi")


@pytest.mark.parametrize("firmware", list(Firmware))
@pytest.mark.parametrize("by_proxy", [False, True])
def test_a_program_of_the_administrators_own_goes_to_its_firmware_and_to_no_other(
    firmware: Firmware, by_proxy: bool
) -> None:
    own = {Firmware.BIOS: "own/bios/undionly.kpxe", Firmware.UEFI_X64: "own/uefi-x64/snponly.efi"}
    client = a_client(firmware, 0)
    told = select_boot_file(client, SERVER, by_proxy=by_proxy, own=own)
    if firmware in own:
        assert told == BootFile(SERVER, own[firmware])
        assert "boot-programs" in explain_boot_file(firmware, own[firmware])
    else:
        assert told == select_boot_file(client, SERVER, by_proxy=by_proxy), "iPXE gets GRUB, or it would go in circles"
