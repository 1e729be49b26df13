"""Real firmware boots through the real services: firmware, shim, GRUB, our configuration, kernel or disk.

The kernel is a stand-in that says what it was handed over (tiny_kernel.py); the agent itself is the demo's matter.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from boot_room import INITRD_SAYS, SERVER, BootRoom, boot_room
from boot_server import KEY
from classroom.boot_disks import LOCAL_SAYS, make_bios_disk, make_uefi_disk
from classroom.firmware import OVMF, OVMF_HTTP, OVMF_HTTP_SECURE, OVMF_IPXE, OVMF_SECURE, SEABIOS, SEABIOS_E1000

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

BIOS_MAC = "52:54:00:aa:bb:01"
UEFI_MAC = "52:54:00:aa:bb:02"
HOSTILE = 'it\'s "pc" $(reboot) `reboot` ${root} {x}; reboot # \\'


@pytest.fixture
def room(tmp_path: Path) -> Iterator[BootRoom]:
    with boot_room(tmp_path) as room:
        yield room


def command_line(mac: str) -> str:
    bootif = "BOOTIF=01-" + mac.replace(":", "-")
    return f"quiet roomcast.server=http://{SERVER}:80 roomcast.key={KEY} {bootif} console=tty0 console=ttyS0"


def test_bios_and_uefi_machines_hand_the_agent_its_command_line_and_initrd(room: BootRoom) -> None:
    agent = {"kind": "agent", "machine": HOSTILE, "reason": "deploy debian-12 version 3"}
    room.set_next_boot({BIOS_MAC: agent, UEFI_MAC: agent})
    room.serve()
    with room.machine(SEABIOS, BIOS_MAC) as bios, room.machine(OVMF, UEFI_MAC) as uefi:
        for machine, mac in ((bios, BIOS_MAC), (uefi, UEFI_MAC)):
            machine.wait_for(INITRD_SAYS)
            # What a person named shows as it was written, and does nothing.
            machine.wait_for(f"Roomcast: this is {HOSTILE}.")
            machine.wait_for("Roomcast: next: deploy debian-12 version 3.")
            machine.wait_for(f"/agent/vmlinuz {command_line(mac)} {INITRD_SAYS}")
    assert room.told() == {BIOS_MAC: "bios/core.0", UEFI_MAC: "uefi/shimx64.efi"}
    by_tftp = room.fetched("tftp")
    assert {"bios/core.0", "uefi/shimx64.efi", "uefi/grubx64.efi", f"grub/machine-{UEFI_MAC}.cfg"} <= set(by_tftp)
    assert room.fetched("http") == ["boot/agent/vmlinuz", "boot/agent/initrd.img"], "BIOS by HTTP"
    assert [path for path in by_tftp if path.startswith("agent/")] == ["agent/vmlinuz", "agent/initrd.img"], "UEFI"


def test_machines_without_a_task_boot_their_own_disks(room: BootRoom, tmp_path: Path) -> None:
    local = {"kind": "local", "machine": HOSTILE, "reason": "no task"}
    room.set_next_boot({BIOS_MAC: local, UEFI_MAC: local})
    room.serve()
    bios_disk = make_bios_disk(tmp_path / "bios.raw")
    uefi_disk = make_uefi_disk(tmp_path / "uefi.raw", "BOOT/BOOTX64.EFI")
    with room.machine(SEABIOS_E1000, BIOS_MAC, bios_disk) as bios, room.machine(OVMF, UEFI_MAC, uefi_disk) as uefi:
        for machine in (bios, uefi):
            machine.wait_for(LOCAL_SAYS)
            machine.wait_for(f"Roomcast: this is {HOSTILE}. Roomcast: no task.")
        uefi.wait_for("Roomcast: starting (hd0,gpt1)/EFI/BOOT/BOOTX64.EFI.")
    assert not any("agent" in path for by in ("tftp", "http") for path in room.fetched(by))


def test_secure_boot_lets_grub_and_a_signed_disk_start_and_an_unsigned_kernel_not(
    room: BootRoom, tmp_path: Path
) -> None:
    room.set_next_boot({UEFI_MAC: {"kind": "local"}})
    room.serve()
    disk = make_uefi_disk(tmp_path / "uefi.raw", "debian/shimx64.efi")
    with room.machine(OVMF_SECURE, UEFI_MAC, disk) as signed, room.machine(OVMF_SECURE, BIOS_MAC) as unsigned:
        signed.wait_for(LOCAL_SAYS)
        signed.wait_for("Roomcast: starting (hd0,gpt1)/EFI/debian/shimx64.efi.")
        unsigned.wait_for("error: bad shim signature.")
        unsigned.wait_for("Roomcast: the agent could not be loaded")
        assert INITRD_SAYS not in unsigned.text()


def test_beside_another_dhcp_server_both_firmwares_find_us(room: BootRoom) -> None:
    room.serve_addresses("10.98.0.200", "10.98.0.220", server="10.98.0.2")
    room.serve("--proxy")
    with room.machine(SEABIOS, BIOS_MAC) as bios, room.machine(OVMF, UEFI_MAC) as uefi:
        for machine, mac in ((bios, BIOS_MAC), (uefi, UEFI_MAC)):
            machine.wait_for(INITRD_SAYS)
            machine.wait_for(command_line(mac))
    assert room.told() == {BIOS_MAC: "bios/core.0", UEFI_MAC: "uefi/grub.efi"}
    peers = {event["peer"] for event in room.events() if event["by"] == "tftp"}
    assert all(200 <= int(peer.rpartition(".")[2]) <= 220 for peer in peers), "the addresses are the other server's"


def test_bios_machine_whose_http_server_ends_in_the_middle_of_a_file_starts_the_agent_by_tftp(room: BootRoom) -> None:
    room.serve("--http-breaks", "initrd.img")
    with room.machine(SEABIOS, BIOS_MAC) as bios:
        bios.wait_for(INITRD_SAYS)
        bios.wait_for("error: ")
        bios.wait_for(f"Roomcast: loading the agent from (tftp,{SERVER})/agent.")
        bios.wait_for(command_line(BIOS_MAC))
    assert room.fetched("tftp")[-2:] == ["agent/vmlinuz", "agent/initrd.img"]


def test_ipxe_on_uefi_is_not_sent_round_in_circles_and_bios_goes_on_without_http(room: BootRoom) -> None:
    room.serve("--no-http")
    with room.machine(OVMF_IPXE, UEFI_MAC) as ipxe, room.machine(SEABIOS, BIOS_MAC) as bios:
        bios.wait_for(INITRD_SAYS)
        bios.wait_for(f"Roomcast: loading the agent from (tftp,{SERVER})/agent.")
        ipxe.wait_for(INITRD_SAYS)
    asked = {event["firmware"] for event in room.events() if event["by"] == "dhcp" and event["mac"] == UEFI_MAC}
    assert asked == {"ipxe-uefi-x64"}, "OVMF's own driver did not have to help"
    assert room.fetched("tftp").count("uefi/grub.efi") == 1


def test_uefi_http_boot_starts_the_agent_and_with_secure_boot_the_own_disk_beside_another_dhcp_server(
    room: BootRoom, tmp_path: Path
) -> None:
    room.set_next_boot({UEFI_MAC: {"kind": "local"}})
    room.serve_addresses("10.98.0.200", "10.98.0.220", server="10.98.0.2")
    room.serve("--proxy")
    disk = make_uefi_disk(tmp_path / "uefi.raw")
    with room.machine(OVMF_HTTP, BIOS_MAC) as agent, room.machine(OVMF_HTTP_SECURE, UEFI_MAC, disk) as local:
        agent.wait_for(INITRD_SAYS)
        local.wait_for(LOCAL_SAYS)
    volumes = {mac: f"http://{SERVER}/boot/uefi/http-{mac.replace(':', '-')}.img" for mac in (BIOS_MAC, UEFI_MAC)}
    assert room.told() == volumes
    by_http = {(event["method"], event["path"]) for event in room.events() if event["by"] == "http"}
    paths = [url.removeprefix(f"http://{SERVER}") for url in volumes.values()]
    assert by_http == {(method, path) for path in paths for method in ("HEAD", "GET")}
    assert room.fetched("tftp") == []
