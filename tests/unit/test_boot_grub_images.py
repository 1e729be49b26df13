from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netboot.boot import grub_images
from netboot.boot.grub_images import DebianFiles, build_boot_images
from netboot.boot.selection import BIOS_GRUB, UefiArch
from netboot.errors import ServiceError
from netboot.model import Firmware

X64 = UefiArch.X64
SERVER = IPv4Address("10.77.0.1")
needs_grub = pytest.mark.skipif(
    not all(file.is_file() for file, _ in DebianFiles().needed()), reason="GRUB's and shim's packages are not installed"
)


def copy_packages(root: Path) -> DebianFiles:
    """The files of the packages below another root, as links to the real ones."""
    copied = DebianFiles(root)
    real_files = {file for file, _ in DebianFiles().needed()}
    for directory in {file.parent for file in real_files if file.suffix == ".mod"}:
        real_files.update(directory.iterdir())  # modules bring others along
    for real in real_files:
        copy = root / real.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(real)
    return copied


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[DebianFiles]:
    yield copy_packages(tmp_path / "root")


@needs_grub
def test_all_programs_are_made(tmp_path: Path) -> None:
    images = build_boot_images(tmp_path / "boot", SERVER)
    assert images.rebuilt
    assert images.uefi == (X64,)
    assert set(images.names) == {BIOS_GRUB, X64.shim, X64.signed_grub, X64.own_grub, X64.disk_grub}
    assert (tmp_path / "boot" / BIOS_GRUB).read_bytes()[:512] != bytes(512)
    own = (tmp_path / "boot" / X64.own_grub).read_bytes()
    assert own[:2] == b"MZ" and b"(tftp,10.77.0.1)/grub" in own
    assert (tmp_path / "boot" / X64.shim).read_bytes() == DebianFiles().shim(X64).read_bytes()
    assert (tmp_path / "boot" / X64.signed_grub).read_bytes() == DebianFiles().signed_grub(X64).read_bytes()
    assert sorted(p.name for p in (tmp_path / "boot").iterdir()) == ["bios", "made-from", "uefi"]


@needs_grub
def test_programs_that_are_up_to_date_are_left_alone(tmp_path: Path) -> None:
    first = build_boot_images(tmp_path, SERVER)
    inodes = [file.stat().st_ino for file in first.files]
    second = build_boot_images(tmp_path, SERVER)
    assert not second.rebuilt
    assert [file.stat().st_ino for file in second.files] == inodes


@needs_grub
def test_another_server_address_makes_them_again(tmp_path: Path) -> None:
    build_boot_images(tmp_path, SERVER)
    images = build_boot_images(tmp_path, IPv4Address("10.77.0.2"))
    assert images.rebuilt
    assert b"(tftp,10.77.0.2)/grub" in (tmp_path / X64.own_grub).read_bytes()


@needs_grub
def test_a_newer_package_makes_them_again(tmp_path: Path, debian: DebianFiles) -> None:
    build_boot_images(tmp_path / "boot", SERVER, debian)
    assert not build_boot_images(tmp_path / "boot", SERVER, debian).rebuilt
    debian.shim(X64).unlink()
    debian.shim(X64).write_bytes(b"a newer shim")
    assert build_boot_images(tmp_path / "boot", SERVER, debian).rebuilt
    assert (tmp_path / "boot" / X64.shim).read_bytes() == b"a newer shim"


@needs_grub
def test_a_program_that_was_lost_is_made_again(tmp_path: Path) -> None:
    build_boot_images(tmp_path, SERVER)
    (tmp_path / BIOS_GRUB).unlink()
    assert build_boot_images(tmp_path, SERVER).rebuilt
    assert (tmp_path / BIOS_GRUB).is_file()


@needs_grub
@pytest.mark.parametrize(
    ("index", "package"),
    [(0, "grub-common"), (1, "grub-pc-bin"), (-2, "shim-signed"), (-1, "grub-efi-amd64-signed")],
)
def test_the_missing_package_is_named(tmp_path: Path, debian: DebianFiles, index: int, package: str) -> None:
    debian.needed()[index][0].unlink()
    with pytest.raises(ServiceError, match=rf"run `apt install {package}`"):
        build_boot_images(tmp_path / "boot", SERVER, debian)
    assert not (tmp_path / "boot").exists()


def test_on_a_bare_machine_all_packages_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as caught:
        build_boot_images(tmp_path / "boot", SERVER, DebianFiles(tmp_path))
    assert str(caught.value) == (
        "boot programs cannot be made: run "
        "`apt install grub-common grub-efi-amd64-bin grub-efi-amd64-signed grub-pc-bin shim-signed`"
    )


@needs_grub
def test_a_failing_grub_mkimage_changes_nothing(tmp_path: Path, debian: DebianFiles) -> None:
    before = build_boot_images(tmp_path / "boot", SERVER, debian)
    contents = [file.read_bytes() for file in before.files]
    mkimage = debian.mkimage
    mkimage.unlink()
    mkimage.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    mkimage.chmod(0o755)
    with pytest.raises(ServiceError, match=r"ended with 3: out of luck"):
        build_boot_images(tmp_path / "boot", SERVER, debian)
    assert [file.read_bytes() for file in before.files] == contents
    assert sorted(p.name for p in (tmp_path / "boot").iterdir()) == ["bios", "made-from", "uefi"]


@needs_grub
def test_programs_of_the_administrators_own_are_copied_and_copied_again_when_they_change(
    tmp_path: Path, debian: DebianFiles
) -> None:
    file = tmp_path / "undionly.kpxe"
    file.write_bytes(b"iPXE")
    own = {Firmware.BIOS: file}
    made = build_boot_images(tmp_path / "boot", SERVER, debian, own)
    assert "own/bios/undionly.kpxe" in made.names
    assert (tmp_path / "boot/own/bios/undionly.kpxe").read_bytes() == b"iPXE"
    assert not build_boot_images(tmp_path / "boot", SERVER, debian, own).rebuilt
    file.write_bytes(b"a newer iPXE")
    assert build_boot_images(tmp_path / "boot", SERVER, debian, own).rebuilt
    assert (tmp_path / "boot/own/bios/undionly.kpxe").read_bytes() == b"a newer iPXE"


def test_a_program_of_the_administrators_own_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"boot-programs: there is no file /no/such\.kpxe: install it, or take"):
        build_boot_images(tmp_path / "boot", SERVER, own={Firmware.BIOS: Path("/no/such.kpxe")})


def test_a_directory_that_cannot_be_written_is_a_service_error(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("a file in the way")
    with pytest.raises(ServiceError, match="cannot be written"):
        build_boot_images(tmp_path / "boot", SERVER)


def test_every_module_is_named_once() -> None:
    for grub in (grub_images._BIOS, *grub_images._UEFI.values()):
        assert len(set(grub.modules)) == len(grub.modules)
