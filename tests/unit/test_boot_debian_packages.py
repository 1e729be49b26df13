"""Boot programs of other architectures, fetched by real apt from a repository of files."""

import hashlib
import shutil
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netboot.boot.debian_packages import FETCHABLE, debian_files, fetch_packages
from netboot.boot.grub_images import DebianFiles, build_boot_images
from netboot.boot.selection import UefiArch
from netboot.errors import ServiceError

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed")
NAMES = {
    UefiArch.ARM64: ("arm64", ["shim-signed", "grub-efi-arm64-signed", "grub-efi-arm64-bin"]),
    UefiArch.IA32: ("i386", ["shim-signed", "grub-efi-ia32-signed", "grub-efi-ia32-bin"]),
}


def make_repository(directory: Path, arch: UefiArch, *, without: str = "", version: str = "1") -> Path:
    """A root with the package sources of a repository that has all three packages. `without`: a file that is not in."""
    debian, names = NAMES[arch]
    repository = directory / "repository"
    repository.mkdir(parents=True)
    index = []
    for name in names:
        tree = directory / f"{name}.tree"
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: {debian}\nMaintainer: nobody\nDescription: none\n"
        )
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control)
        for file, package in DebianFiles(tree).needed_for(arch):
            if package == name and file.name != without:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(f"{file.name} {version}".encode())
        archive = repository / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--build", "-Znone", tree, archive], check=True, capture_output=True)
        content = archive.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        index.append(f"{control}Filename: ./{archive.name}\nSize: {len(content)}\nSHA256: {digest}\n")
    (repository / "Packages").write_text("\n".join(index))
    sources = directory / "root/etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text(f"deb [trusted=yes] file:{repository} ./\n")
    return directory / "root"


@pytest.mark.parametrize("arch", FETCHABLE)
def test_packages_of_another_architecture_are_fetched_and_unpacked(tmp_path: Path, arch: UefiArch) -> None:
    assert debian_files(tmp_path / "packages").arches == (UefiArch.X64,)
    fetch_packages(tmp_path / "packages", arch, sources=make_repository(tmp_path / "1", arch))
    files = debian_files(tmp_path / "packages")
    assert files.arches == (UefiArch.X64, arch)
    assert files.shim(arch).read_text() == f"shim{arch}.efi.signed 1"
    fetch_packages(tmp_path / "packages", arch, sources=make_repository(tmp_path / "2", arch, version="2"))
    assert files.shim(arch).read_text() == f"shim{arch}.efi.signed 2"
    assert [path.name for path in (tmp_path / "packages").iterdir()] == [arch.value]


def test_packages_without_a_file_that_is_needed_replace_nothing(tmp_path: Path) -> None:
    arch = UefiArch.ARM64
    fetch_packages(tmp_path / "packages", arch, sources=make_repository(tmp_path / "1", arch))
    broken = make_repository(tmp_path / "2", arch, without="grubnetaa64.efi.signed", version="2")
    with pytest.raises(ServiceError, match=r"do not bring /usr/lib/grub/arm64-efi-signed/grubnetaa64\.efi\.signed"):
        fetch_packages(tmp_path / "packages", arch, sources=broken)
    assert debian_files(tmp_path / "packages").shim(arch).read_text() == "shimaa64.efi.signed 1"


def test_a_repository_that_cannot_be_reached_is_told_with_apts_words(tmp_path: Path) -> None:
    root = make_repository(tmp_path, UefiArch.ARM64)
    shutil.rmtree(tmp_path / "repository")
    with pytest.raises(ServiceError, match=r"arm64 cannot be fetched: .*repository"):
        fetch_packages(tmp_path / "packages", UefiArch.ARM64, sources=root)
    assert list((tmp_path / "packages").iterdir()) == []


@pytest.mark.skipif(not all(f.is_file() for f, _ in DebianFiles().needed()), reason="GRUB's and shim's packages")
def test_a_set_that_is_not_whole_is_not_made_into_boot_programs(tmp_path: Path) -> None:
    half = tmp_path / "packages" / "aa64" / "usr/lib/shim"
    half.mkdir(parents=True)
    (half / "shimaa64.efi.signed").write_bytes(b"MZ")
    images = build_boot_images(tmp_path / "boot", IPv4Address("10.77.0.1"), debian_files(tmp_path / "packages"))
    assert images.uefi == (UefiArch.X64,)
    assert not any("aa64" in name for name in images.names)
