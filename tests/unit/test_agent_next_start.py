"""What an EFI system partition starts its system with, and what the agent does when told to have it started."""

from pathlib import Path

import pytest

from imager.agent.next_start import LABEL, find_loader, ours
from imager.agent.restart import parse_boot_entries


def a_partition(top: Path, *files: str) -> Path:
    for name in files:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"MZ")
    return top


@pytest.mark.parametrize(
    ("files", "loader"),
    [
        (["EFI/BOOT/BOOTX64.EFI"], "/EFI/BOOT/BOOTX64.EFI"),
        (["EFI/Boot/bootx64.efi", "EFI/debian/shimx64.efi"], "/EFI/debian/shimx64.efi"),
        (["efi/microsoft/boot/BOOTMGFW.EFI", "EFI/x.efi"], "/efi/microsoft/boot/BOOTMGFW.EFI"),
        (["EFI/BOOT/BOOTX64.EFI/not-a-file"], None),
        (["EFI/other/x.efi"], None),
        ([], None),
    ],
)
def test_the_loader_of_a_partition_is_found_whatever_the_case_of_its_name(
    tmp_path: Path, files: list[str], loader: str | None
) -> None:
    assert find_loader(a_partition(tmp_path, *files)) == loader


def test_only_entries_that_we_made_are_taken_away() -> None:
    text = f"BootOrder: 0001\nBoot0001* debian\tHD(1,GPT,6F1D93E0)\nBoot0002* {LABEL}\tHD(1,GPT,6F1D93E0)\n"
    assert [entry.number for entry in ours(parse_boot_entries(text))] == ["0002"]
