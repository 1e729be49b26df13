"""What goes wrong in a boot, told in words: every rule on packets that went through the real cores."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from boot_builders import GIVEN, OTHER_SERVER, START_S, Scene
from dhcp_builders import SERVER
from inventories import an_inventory

from netboot.boot.contexts import BootKind
from netboot.boot.selection import select_boot_file
from netboot.bootlog.diagnosis import LOOP_BOOTS, Severity, diagnose
from netboot.bootlog.events import AgentStep
from netboot.dhcp.reply import Reply
from netboot.model import BootClient, BootFile, Firmware, Ignored, Way
from netboot.wire.dhcp_options import REQUESTED_ADDRESS, USER_CLASS, MessageType

Play = Callable[[Scene], None]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Scene]:
    """The same, with an appliance that is a proxy beside another server."""
    scene = Scene(tmp_path, proxy=True, choose=chosen_by_proxy)
    yield scene
    scene.close()


def chosen_by_proxy(client: BootClient) -> BootFile | Ignored:
    return select_boot_file(client, SERVER, by_proxy=True)


def take_other_servers_address(scene: Scene, arch: int = 7) -> None:
    scene.discover(arch)
    scene.wait(1)
    scene.request(GIVEN, arch, OTHER_SERVER)
    scene.wait(1)


def pool_of_none(scene: Scene) -> None:
    for number in range(100):
        other = Scene.__new__(Scene)
        other.__dict__ = {**scene.__dict__, "mac": f"52:54:00:01:00:{number:02x}"}
        other.lease(None)
    scene.discover()


def nobody_asks_for_the_offer(scene: Scene) -> None:
    scene.discover(times=3)
    scene.wait(20)


def other_server_is_taken(scene: Scene) -> None:
    scene.discover(7)
    scene.request(GIVEN, 7, OTHER_SERVER)


def naks_in_a_row(scene: Scene) -> None:
    for _ in range(3):
        scene.exchange(scene.packet(MessageType.REQUEST, 0, (REQUESTED_ADDRESS, IPv4Address("192.168.9.9"))))
        scene.discover()


def boot_program_is_never_asked_for(scene: Scene) -> None:
    scene.lease()
    scene.wait(26)


def volume_is_never_asked_for(scene: Scene) -> None:
    scene.responder._choose_boot = lambda client: select_boot_file(client, SERVER)  # type: ignore[attr-defined]
    scene.lease(16)
    scene.wait(26)


def uefi_gets_the_program_of_bios(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("bios/core.0")


def bios_gets_the_program_of_uefi(scene: Scene) -> None:
    scene.lease(0)
    scene.tftp("uefi/shimx64.efi")


def tftp_stops_midway(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0", 200_000, until=37)


def tftp_never_gets_through(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0", until=-1)


def tftp_full_blocks_never_arrive(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0", until=0)


def machine_ends_the_transfer(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0", until=12, error="out of memory")


def http_is_cut_off(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.http("agent/vmlinuz", 8_000_000, sent=3_200_000, why="the client went away")


def file_of_another_server(scene: Scene) -> None:
    scene.lease()
    scene.tftp_refused("pxelinux.0")


def shim_is_refused(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi", 900_000)
    scene.wait(16)


def grub_never_asks_on_bios(scene: Scene) -> None:
    scene.lease(0)
    scene.tftp("bios/core.0")
    scene.wait(16)


def grub_behind_shim_never_asks(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi", 900_000)
    scene.tftp("uefi/grubx64.efi", 900_000)
    scene.wait(16)


def kernel_is_refused(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.http("agent/vmlinuz")
    scene.wait(16)


def agent_never_comes(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.agent_loaded()
    scene.wait(91)


def agent_takes_an_address_and_is_silent(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.agent_loaded()
    scene.wait(10)
    scene.lease(None)
    scene.wait(91)


def agent_is_refused(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.agent_loaded()
    scene.recorder.registration_refused(an_inventory(scene.mac), scene.peer, "another machine has this MAC")


def task_fails(scene: Scene) -> None:
    agent_waits(scene)
    scene.agent(AgentStep.TASK)
    scene.agent(AgentStep.FAILED, why="the disk is smaller than the image")


def agent_waits(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.agent_loaded()
    scene.registered()
    scene.agent(AgentStep.WAITS)


def disk_does_not_start(scene: Scene) -> None:
    scene.lease()
    scene.grub(BootKind.LOCAL)
    scene.wait(20)
    scene.discover()


def disk_is_refused_by_grub(scene: Scene) -> None:
    scene.lease()
    scene.grub(BootKind.LOCAL)
    scene.told(BootKind.LOCAL, Way.EXIT)
    scene.tftp(f"/grub/failed-chainload-{scene.mac}.cfg", 300)


def no_way_is_left(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0")
    scene.told(BootKind.LOCAL, None)


def boots_in_a_loop(scene: Scene) -> None:
    for _ in range(LOOP_BOOTS):
        scene.lease()
        scene.grub(BootKind.LOCAL)
        scene.wait(40)


def setup_was_changed(scene: Scene) -> None:
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi")
    scene.wait(300)
    scene.lease(0)


def nobody_serves_its_arch(scene: Scene) -> None:
    scene.responder._choose_boot = lambda client: select_boot_file(client, SERVER)  # type: ignore[attr-defined]
    scene.discover(10)


def programs_of_its_arch_are_not_fetched(scene: Scene) -> None:
    scene.responder._choose_boot = lambda client: select_boot_file(  # type: ignore[attr-defined]
        client, SERVER, programs={"bios/core.0"}
    )
    scene.discover(11)


def comes_by_an_unknown_relay(scene: Scene) -> None:
    scene.exchange(scene.packet(MessageType.DISCOVER, 0, giaddr=IPv4Address("10.99.0.1")))


def sends_without_pause(scene: Scene) -> None:
    while isinstance(outcome := scene.exchange(scene.packet(MessageType.DISCOVER)), Reply):
        pass
    assert outcome.reason.startswith("too many packets")


@pytest.mark.parametrize(
    ("play", "code", "text", "next_step"),
    [
        (pool_of_none, "pool-exhausted", "BIOS (arch 0) and got no answer: pool exhausted", "widen the pool"),
        (nobody_serves_its_arch, "arch-unsupported", "arch 10", "another network boot"),
        (programs_of_its_arch_are_not_fetched, "program-missing", "boot-programs --fetch arm64", "the command"),
        (comes_by_an_unknown_relay, "no-subnet", "network without a pool", "[[subnet]]"),
        (sends_without_pause, "throttled", "too many packets of one machine", "loop between switches"),
        (nobody_asks_for_the_offer, "offer-not-taken", "offered to 3 times and never asked", "portfast"),
        (other_server_is_taken, "other-server", f"another DHCP server: {OTHER_SERVER}", f"server at {OTHER_SERVER}"),
        (naks_in_a_row, "nak-loop", "refused 3 times: 192.168.9.9 is not of this network", "second DHCP server"),
        (boot_program_is_never_asked_for, "never-fetched", "told bios/core.0, and never asked", "TFTP (UDP 69)"),
        (volume_is_never_asked_for, "never-fetched", "http-52-54-00-00-00-01.img, and never", "HTTP port (TCP 80)"),
        (uefi_gets_the_program_of_bios, "wrong-program", "UEFI x64 (arch 7) and fetches bios/core.0", "option 67"),
        (bios_gets_the_program_of_uefi, "wrong-program", "fetches uefi/shimx64.efi, which is for UEFI", "option 67"),
        (tftp_stops_midway, "tftp-stopped", "TFTP stops after block 37 of 140 of bios/core.0 (1432", "duplex"),
        (tftp_never_gets_through, "tftp-stopped", "after block 0 of 140", "another port than 69"),
        (tftp_full_blocks_never_arrive, "tftp-stopped", "after block 0 of 140", "the MTU on the way"),
        (machine_ends_the_transfer, "tftp-ended", "block 12 of 140: the client ended it: error 0", "its own message"),
        (http_is_cut_off, "http-stopped", "3.2 MB of 8 MB of agent/vmlinuz: the client went away", "cable"),
        (file_of_another_server, "no-such-file", "asked by TFTP for pxelinux.0: no such file", "options 66 and 67"),
        (shim_is_refused, "secure-boot-refused", "shimx64.efi whole and nothing of it was heard", "Microsoft UEFI CA"),
        (grub_never_asks_on_bios, "program-silent", "GRUB never asked for its configuration", "boot by UEFI"),
        (grub_behind_shim_never_asks, "grub-unconfigured", "Secure Boot (shim) refused GRUB", "security violation"),
        (kernel_is_refused, "kernel-refused", "the initramfs was never asked for", "roomcast agent build"),
        (agent_never_comes, "agent-missing", "the agent never registered", "too little memory"),
        (agent_takes_an_address_and_is_silent, "agent-silent", "took an address, and never registered", "HTTP port"),
        (agent_is_refused, "agent-refused", "another machine has this MAC", "boot it again"),
        (task_fails, "task-failed", "deploy golden version 3 failed: the disk is smaller", "give the task again"),
        (agent_waits, "agent-waits", "waits for a task", "roomcast deploy"),
        (disk_is_refused_by_grub, "disk-not-started", "GRUB could not start its own disk", "boot loader"),
        (no_way_is_left, "no-way-home", "waits and asks again", "roomcast machine boot-way"),
        (disk_does_not_start, "disk-returned", "20 s later it asked the network again", "boot loader"),
        (boots_in_a_loop, "loop", "in a loop: 3 times", "its own disk does not start"),
        (setup_was_changed, "arch-changed", "asks as BIOS (arch 0), and asked as UEFI x64 (arch 7)", "setup"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_told_with_what_to_do_next(
    scene: Scene, play: Play, code: str, text: str, next_step: str
) -> None:
    play(scene)
    found = {diagnosis.code: diagnosis for diagnosis in scene.diagnoses()}
    assert code in found, f"{found}\n" + "\n".join(scene.texts())
    assert text in found[code].text
    assert next_step in found[code].next_step
    assert len(found) == 1, "one cause is told once"


def test_secure_boot_refuses_our_own_grub_beside_another_server(beside: Scene) -> None:
    take_other_servers_address(beside)
    beside.exchange(beside.packet(MessageType.REQUEST, 7, ciaddr=GIVEN), local_port=4011, source=str(GIVEN))
    beside.tftp("uefi/grub.efi", 800_000)
    beside.discover(7)
    (found,) = diagnose(beside.boots()[0], beside.now)
    assert found.code == "secure-boot-refused"
    assert found.text == "it fetched uefi/grub.efi whole and asked again: most likely Secure Boot refused it"
    assert found.next_step.startswith("only shim is signed: let Roomcast be the DHCP server")


def test_machine_that_goes_to_the_other_server_for_its_program_is_told_apart(beside: Scene) -> None:
    take_other_servers_address(beside)
    assert beside.diagnoses() == [], "it may be about to ask"
    beside.wait(17)
    assert beside.diagnoses() == [], "iPXE looks for an IPv6 router first"
    beside.wait(9)
    (found,) = beside.diagnoses()
    assert found.code == "never-fetched"
    assert found.text == "it took another server's address, was told uefi/grub.efi by us, and never asked for it"
    assert "UDP 4011" in found.next_step


def chains_ipxe(scene: Scene, arch: int, program: str) -> None:
    """Firmware starts an iPXE of the administrator's own, which asks DHCP anew."""
    scene.responder._choose_boot = lambda client: select_boot_file(  # type: ignore[attr-defined]
        client, SERVER, own={Firmware.BIOS: program, Firmware.UEFI_X64: program}
    )
    scene.lease(arch)
    scene.tftp(program, 80_000)
    scene.wait(3)
    scene.lease(arch, (USER_CLASS, (b"iPXE",)))


@pytest.mark.parametrize(("arch", "program"), [(0, "own/bios/undionly.kpxe"), (7, "own/uefi-x64/snponly.efi")])
def test_ipxe_that_firmware_was_told_to_start_is_no_refused_program(scene: Scene, arch: int, program: str) -> None:
    chains_ipxe(scene, arch, program)
    assert scene.diagnoses() == []
    scene.wait(20)
    assert scene.diagnoses() == [], "iPXE looks for an IPv6 router first"
    scene.wait(6)
    (found,) = scene.diagnoses()
    assert found.code == "never-fetched"
    scene.tftp("bios/core.0" if arch == 0 else "uefi/grub.efi")
    scene.wait(16)
    (found,) = scene.diagnoses()
    assert found.code == ("program-silent" if arch == 0 else "secure-boot-refused")
    scene.told(BootKind.AGENT)
    scene.agent_loaded()
    scene.registered()
    assert scene.diagnoses() == []
    assert len(scene.boots()) == 1


@pytest.mark.parametrize(
    ("arch", "program", "code", "next_step"),
    [
        (0, "own/bios/undionly.kpxe", "program-silent", "try another build of it"),
        (7, "own/uefi-x64/snponly.efi", "secure-boot-refused", "it starts when it is signed"),
    ],
)
def test_a_program_of_the_administrators_own_that_says_nothing_is_called_his(
    scene: Scene, arch: int, program: str, code: str, next_step: str
) -> None:
    scene.responder._choose_boot = lambda client: BootFile(SERVER, program)  # type: ignore[attr-defined]
    scene.lease(arch)
    scene.tftp(program)
    scene.wait(16)
    (found,) = scene.diagnoses()
    assert (found.code, program in found.text) == (code, True)
    assert "boot-programs" in found.next_step and next_step in found.next_step


def test_volume_that_comes_whole_and_says_nothing_is_told_after_the_agent_had_its_time(scene: Scene) -> None:
    scene.lease(16)
    scene.told(BootKind.AGENT)
    scene.http("uefi/http-52-54-00-00-00-01.img", 60_000_000)
    scene.wait(80)
    assert scene.diagnoses() == []
    scene.wait(20)
    (found,) = scene.diagnoses()
    assert found.code == "volume-silent"
    assert "Secure Boot" in found.text


def test_our_own_silence_is_not_told_as_another_servers_offer(scene: Scene) -> None:
    offer = scene.discover()
    assert isinstance(offer, Reply)
    while isinstance(scene.request(offer.packet.yiaddr), Reply):
        pass
    assert "other-server" not in [d.code for d in scene.diagnoses()]


def test_other_servers_offer_is_a_note_when_the_boot_goes_on(scene: Scene) -> None:
    other_server_is_taken(scene)
    scene.peer = str(GIVEN)
    scene.tftp("uefi/shimx64.efi")
    assert [(d.code, d.severity) for d in scene.diagnoses()] == [("other-server", Severity.NOTE)]


def test_strangers_text_does_not_reach_the_words_as_it_came(scene: Scene) -> None:
    scene.lease()
    scene.tftp_refused("evil\x1b[2J\n[red]")
    (found,) = scene.diagnoses()
    assert "\x1b" not in found.text and "\n" not in found.text


def test_earlier_boots_are_judged_by_what_came_after_them(scene: Scene) -> None:
    tftp_stops_midway(scene)
    scene.wait(30)
    scene.lease()
    first, second = scene.boots()
    assert [d.code for d in diagnose(first, START_S + 9e6)] == ["tftp-stopped"]
    assert second.started_s == first.next_s
