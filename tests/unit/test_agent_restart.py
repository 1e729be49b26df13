"""Which entry of a UEFI firmware is asked to start next. The texts are efibootmgr's own, versions 17 and 18."""

from imager.agent.restart import BootEntry, choose_entry, parse_boot_entries

OVMF = """BootCurrent: 0002
Timeout: 3 seconds
BootOrder: 0002,0003,0001,0000
Boot0000* UiApp\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
Boot0001* UEFI Misc Device\tPciRoot(0x0)/Pci(0x3,0x0)N.....YM....R,Y.
Boot0002* UEFI PXEv4 (MAC:525400AA0001)\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400aa0001,1)/IPv4(0.0.0.0,0,0)N..Y.
Boot0003* debian\tHD(1,GPT,6F1D93E0-6A9B-4C0B-B9C8-0A3B1C7D1E11,0x800,0x32000)/File(\\EFI\\debian\\shimx64.efi)
Boot0004  off\tHD(1,GPT,6f1d93e0-6a9b-4c0b-b9c8-0a3b1c7d1e11,0x800,0x32000)/File(\\EFI\\off.efi)
Boot0005* Windows Boot Manager\tHD(2,GPT,11111111-2222-3333-4444-555555555555,0x800,0x82000)/File(\\EFI\\MS.EFI)WINDOWS
"""
ESP = "6f1d93e0-6a9b-4c0b-b9c8-0a3b1c7d1e11"


def test_entries_come_in_the_firmwares_order_and_without_those_switched_off() -> None:
    entries = parse_boot_entries(OVMF)
    assert [entry.number for entry in entries] == ["0002", "0003", "0001", "0000", "0005"]
    assert entries[1] == BootEntry("0003", "debian", ESP)
    assert entries[0].partition_uuid == ""


def test_the_entry_of_the_written_disk_is_chosen() -> None:
    assert choose_entry(parse_boot_entries(OVMF), ["", ESP.upper()]) == BootEntry("0003", "debian", ESP)


def test_a_blank_disks_machine_has_no_such_entry() -> None:
    assert choose_entry(parse_boot_entries(OVMF), ["99999999-0000-0000-0000-000000000000"]) is None
    assert choose_entry([], [ESP]) is None


def test_no_partition_uuid_matches_no_network_card() -> None:
    assert choose_entry(parse_boot_entries(OVMF), [""]) is None
