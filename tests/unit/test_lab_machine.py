"""How a machine of the lab is put together, without starting one."""

from pathlib import Path

import pytest
from classroom.firmware import AAVMF, OVMF, OVMF_HTTP_SECURE, OVMF_IPXE, SEABIOS, SEABIOS_E1000, Firmware
from classroom.machine import MachineFiles, MachineSpec, SerialLog, qemu_command
from classroom.network import loss_ruleset
from classroom.scenario import Options, machine_specs


def command_of(firmware: Firmware, tap: str | None = "port0", **facts: str) -> str:
    spec = MachineSpec("pc1", firmware, "52:54:00:00:00:01", **facts)  # type: ignore[arg-type]
    return " ".join(qemu_command(spec, MachineFiles(Path("/room/pc1")), Path("/room/pc1.log"), tap))


def test_a_bios_machine_boots_by_the_rom_of_its_card_and_then_its_disk() -> None:
    command = command_of(SEABIOS)
    assert "virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,bootindex=0 " in command + " "
    assert "virtio-blk-pci,drive=disk,serial=LAB-PC1,bootindex=1" in command
    assert "pflash" not in command


def test_a_uefi_machine_boots_by_ovmf_and_not_by_the_rom_of_its_card() -> None:
    command = command_of(OVMF)
    assert "bootindex=0,romfile= " in command + " "
    assert command.count("pflash") == 2


@pytest.mark.parametrize("firmware", [SEABIOS, SEABIOS_E1000, OVMF])
def test_a_sata_disk_has_one_controller(firmware: Firmware) -> None:
    command = command_of(firmware, disk_bus="sata")
    assert "ide-hd,bus=ide.0" in command
    assert ("-device ahci,id=ide" in command) != firmware.is_uefi


def test_secure_boot_has_its_keys_and_its_protected_flash() -> None:
    command = command_of(OVMF_HTTP_SECURE)
    assert "q35,smm=on" in command and "driver=cfi.pflash01,property=secure,value=on" in command
    assert "OVMF_CODE_4M.secboot.fd" in command and "IPv4PXESupport,string=n" in command


def test_ipxe_is_the_rom_of_the_card_and_arm_machines_are_another_program() -> None:
    assert "romfile" not in command_of(OVMF_IPXE)
    assert command_of(AAVMF).startswith("qemu-system-aarch64 ") and "graphics=off" not in command_of(AAVMF)


def test_without_a_tap_there_is_no_network_card() -> None:
    assert "-netdev" not in command_of(SEABIOS, tap=None)


def test_what_a_terminal_would_eat_is_not_in_the_serial_text(tmp_path: Path) -> None:
    log = tmp_path / "serial"
    log.write_bytes(b"\x1b[2J\x1b[01;01HBoot\x1b[0m it\r\n\x1bcnext\r\n")
    assert SerialLog(log).text() == "Boot it\nnext\n"
    assert SerialLog(log).search("^next$") is not None
    assert SerialLog(tmp_path / "missing").text() == ""


def test_loss_replaces_what_was_there_before() -> None:
    assert "numgen random mod 10000 < 150 counter drop" in loss_ruleset("port0", 1.5)
    assert "drop" not in loss_ruleset("port0", 0)
    assert "flush chain netdev loss port0" in loss_ruleset("port0", 0)


@pytest.mark.parametrize("percent", [-1, 100.5])
def test_a_loss_that_is_no_share_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="0 to 100"):
        loss_ruleset("port0", percent)


def test_every_machine_has_its_own_name_mac_and_disk_serial() -> None:
    specs = machine_specs(Options(bios=3, uefi=2))
    assert [spec.name for spec in specs] == ["bios-1", "bios-2", "bios-3", "uefi-1", "uefi-2"]
    assert len({spec.mac for spec in specs}) == len({spec.disk_serial for spec in specs}) == 5
    assert {(spec.firmware.nic, spec.disk_bus) for spec in specs[:2]} == {
        ("virtio-net-pci", "virtio"),
        ("e1000", "sata"),
    }
