"""What the boot log says of real firmware: the scenes that the recorded boots come from, played again."""

import os
from pathlib import Path

import pytest
from record_boots import MAC, SCENES, play

pytestmark = [
    pytest.mark.root,
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def test_secure_boot_that_refuses_an_unsigned_program_is_told(tmp_path: Path) -> None:
    boots, serial = play(SCENES["ovmf-proxy-secure-boot-refused"], tmp_path)
    assert "Access Denied" in serial, "the firmware's own word for it"
    (found,) = boots[-1]["diagnoses"]
    assert found["text"].startswith("it fetched uefi/grub.efi whole")
    assert found["text"].endswith("most likely Secure Boot refused it")
    assert found["next_step"].startswith("only shim is signed")


def test_an_ipxe_of_the_administrators_own_comes_to_the_agent_beside_another_dhcp_server(tmp_path: Path) -> None:
    boots, serial = play(SCENES["ovmf-proxy-ipxe-chained"], tmp_path)
    (boot,) = boots
    assert "iPXE initialising devices" in serial
    files = [entry["path"] for entry in boot["entries"] if entry["kind"] == "fetch" and entry["state"] == "done"]
    wanted = ["own/uefi-x64/snponly.efi", "uefi/grub.efi", "agent/vmlinuz", "agent/initrd.img"]
    assert [path.removeprefix("/boot/").lstrip("/") for path in files if "grub/" not in path] == wanted
    assert boot["diagnoses"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*SCENES} - {"ovmf-proxy-secure-boot-refused", "ovmf-proxy-ipxe-chained"}))
def test_scene_ends_as_it_was_recorded(name: str, tmp_path: Path) -> None:
    boots, _ = play(SCENES[name], tmp_path)
    assert [boot["mac"] for boot in boots] == [MAC] * len(boots)
