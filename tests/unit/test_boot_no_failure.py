"""Boots that look as if something had gone wrong, and of which nothing is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from boot_builders import Scene

from netboot.boot.contexts import BootKind
from netboot.bootlog.diagnosis import diagnose
from netboot.bootlog.events import AgentStep
from netboot.model import Way


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def test_volume_that_starts_the_disk_is_not_missed(scene: Scene) -> None:
    scene.lease(16)
    scene.told(BootKind.LOCAL)
    scene.http("uefi/http-52-54-00-00-00-01.img", 3_000_000)
    scene.wait(500)
    assert scene.diagnoses() == []


def test_each_waits_as_long_as_it_may_take(scene: Scene) -> None:
    scene.discover()
    scene.wait(9)
    assert scene.diagnoses() == []
    scene.lease()
    scene.wait(14)
    assert scene.diagnoses() == []
    scene.tftp("bios/core.0")
    scene.wait(14)
    assert scene.diagnoses() == []
    scene.told(BootKind.AGENT)
    scene.agent_loaded()
    scene.wait(89)
    assert scene.diagnoses() == []


@pytest.mark.parametrize("arch", [0, 7])
def test_boot_that_goes_well_has_no_diagnosis(scene: Scene, arch: int) -> None:
    scene.lease(arch)
    if arch:
        scene.tftp("uefi/shimx64.efi", 900_000, until=-1, error="User aborted the transfer")
        scene.tftp("uefi/shimx64.efi", 900_000)
        for name in ("uefi/revocations.efi", "uefi/shim_certificate.efi"):
            scene.tftp_refused(name)
        scene.tftp("uefi/grubx64.efi", 900_000)
        scene.tftp("/grub/grub.cfg", 600)
    else:
        scene.tftp("bios/core.0")
    scene.told(BootKind.AGENT)
    scene.agent_loaded()
    scene.wait(20)
    scene.lease(None)
    scene.registered()
    scene.agent(AgentStep.TASK)
    scene.wait(600)
    assert scene.diagnoses() == []


def test_last_acknowledgement_that_was_lost_is_no_failure_of_who_goes_on(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0", until=139)
    assert [d.code for d in scene.diagnoses()] == ["tftp-stopped"]
    scene.told(BootKind.LOCAL)
    assert scene.diagnoses() == []


def test_size_question_is_no_failure(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi", 900_000, until=-1, error="User aborted the transfer")
    assert scene.diagnoses() == []
    assert scene.texts()[-1] == "firmware: TFTP uefi/shimx64.efi: asked for its size, 900 KB"


def test_machine_that_people_start_often_is_in_no_loop(scene: Scene) -> None:
    for _ in range(6):
        scene.lease()
        scene.grub(BootKind.LOCAL)
        scene.wait(120)
        assert scene.diagnoses() == []


def test_machine_that_gets_one_task_after_the_other_is_in_no_loop(scene: Scene) -> None:
    for _ in range(6):
        scene.lease()
        scene.grub()
        scene.agent_loaded()
        scene.registered()
        scene.agent(AgentStep.SUCCEEDED)
        scene.wait(120)
        assert scene.diagnoses() == []


def test_machine_that_the_agent_sends_home_restarts_and_has_a_disk_that_starts(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.agent_loaded()
    scene.registered()
    scene.agent(AgentStep.LOCAL)
    scene.wait(15)
    scene.lease()
    scene.grub(BootKind.LOCAL)
    assert scene.diagnoses() == []


def test_next_device_of_the_boot_order_is_no_disk_that_does_not_start(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi")
    scene.told(BootKind.LOCAL, Way.EXIT)
    scene.wait(5)
    scene.lease(16)
    assert len(scene.boots()) == 2
    assert "disk-returned" not in [found.code for found in scene.diagnoses()]


def test_firmware_that_tries_uefi_and_then_bios_fetches_no_wrong_program(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi", until=37)
    scene.lease(0)
    scene.grub()
    assert [found.code for boot in scene.boots() for found in diagnose(boot, scene.now)] == []
