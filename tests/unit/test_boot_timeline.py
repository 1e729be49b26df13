"""The boots of all machines: where one begins, what is in it, and that strangers cannot fill the memory."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from boot_builders import GIVEN, START_S, Scene
from dhcp_builders import MAC, OTHER_MAC, SERVER, a_discover, an_arrival

from netboot.boot.contexts import BootKind
from netboot.boot.selection import select_boot_file
from netboot.bootlog import timeline
from netboot.bootlog.documents import boot_document, parse_boot
from netboot.bootlog.events import LONGEST_TEXT, AgentStep, Exchange, Fetch, FetchState, Span, parse_mac
from netboot.bootlog.exchange import exchange_of
from netboot.bootlog.ignored import MAX_IGNORED, IgnoredPackets
from netboot.bootlog.timeline import FIRST_ENTRIES, LAST_ENTRIES, BootLog, Phase, Role, furthest, role_of
from netboot.model import Ignored
from netboot.wire.dhcp_options import HOST_NAME, USER_CLASS, MessageType


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


ASKED = Exchange("DISCOVER", is_firmware=True, arch=0, answer="OFFER", address="10.77.0.100", boot_file="bios/core.0")


def test_repeated_discover_is_one_entry_with_its_count(scene: Scene) -> None:
    scene.discover(times=4)
    (boot,) = scene.boots()
    (entry,) = boot.entries
    assert (entry.count, entry.at_s, entry.last_s) == (4, START_S, START_S + 12)


def test_whole_boot_of_firmware_grub_and_agent_is_one(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.agent_loaded()
    scene.wait(10)
    scene.lease(None)
    scene.registered()
    scene.agent(AgentStep.TASK)
    (boot,) = scene.boots()
    assert furthest(boot) is Phase.WORKING
    assert boot.machine == "pc-01" and boot.address == scene.peer
    labels = [text.split(":")[0] for text in scene.texts()]
    assert labels == [*["firmware"] * 3, *["GRUB"] * 4, *["agent"] * 4]


def test_firmware_that_asks_again_after_silence_began_another_boot(scene: Scene) -> None:
    scene.discover()
    scene.wait(timeline.SILENCE_S + 1)
    scene.discover()
    first, second = scene.boots()
    assert first.next_s == second.started_s


def test_firmware_that_asks_again_with_an_address_began_another_boot(scene: Scene) -> None:
    scene.lease()
    scene.wait(timeline.ANEW_S)
    scene.discover()
    assert len(scene.boots()) == 2


def test_machine_that_was_restarted_from_grub_began_another_boot(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.wait(1)
    scene.discover()
    assert len(scene.boots()) == 2


def test_other_kinds_of_network_boot_that_firmware_tries_in_turn_are_one_boot(scene: Scene) -> None:
    scene.discover(7)
    scene.wait(20)
    scene.discover(16)
    (boot,) = scene.boots()
    assert [e.event.arch for e in boot.entries if isinstance(e.event, Exchange)] == [7, 16]


def test_ipxe_that_was_chained_belongs_to_the_boot_of_the_rom(scene: Scene) -> None:
    scene.lease()
    scene.tftp("undionly.kpxe")
    scene.exchange(scene.packet(MessageType.DISCOVER, 0, (USER_CLASS, (b"iPXE",))))
    assert len(scene.boots()) == 1


def test_machine_that_only_wants_an_address_has_no_boot(scene: Scene) -> None:
    scene.lease(None)
    assert scene.boots() == []


def test_dhcp_of_the_installed_system_is_told_for_some_minutes(scene: Scene) -> None:
    scene.lease()
    scene.grub(BootKind.LOCAL)
    scene.wait(60)
    scene.lease(None)
    assert scene.texts()[-2:] == [
        f"system: DISCOVER -> OFFER {scene.peer}",
        f"system: REQUEST {scene.peer} -> ACK",
    ]
    before = len(scene.boots()[0].entries)
    scene.wait(timeline.SYSTEM_S)
    scene.lease(None)
    (boot,) = scene.boots()
    assert len(boot.entries) == before


def test_boot_begins_with_its_program_where_another_server_names_it(scene: Scene) -> None:
    scene.lease()
    scene.grub()
    scene.wait(300)
    scene.tftp("bios/core.0")
    assert len(scene.boots()) == 2


@pytest.mark.parametrize("kind", list(BootKind))
def test_volume_that_is_fetched_after_a_refused_program_belongs_to_the_same_boot(scene: Scene, kind: BootKind) -> None:
    scene.responder._choose_boot = lambda client: select_boot_file(client, SERVER)  # type: ignore[attr-defined]
    scene.lease(7)
    scene.tftp("uefi/shimx64.efi", 800_000)
    scene.lease(16)
    scene.told(kind)
    scene.http("uefi/http-52-54-00-00-00-01.img", 60_000_000)
    (boot,) = scene.boots()
    assert {entry.event.kind for entry in boot.entries} == {"dhcp", "fetch", "configured"}


def test_volume_of_http_boot_and_what_stands_in_it_are_one_boot(scene: Scene) -> None:
    scene.lease(16)
    scene.told(BootKind.AGENT)
    scene.told(BootKind.AGENT)
    scene.http("uefi/http-52-54-00-00-00-01.img", 34_000_000)
    scene.registered()
    assert len(scene.boots()) == 1


def test_end_of_a_transfer_takes_the_place_of_its_beginning(scene: Scene) -> None:
    scene.lease()
    scene.recorder.transfer_started(scene.peer, "bios/core.0", 200_000)
    assert scene.texts()[-1] == "firmware: TFTP bios/core.0, 200 KB: on its way"
    scene.recorder.http_started(scene.peer, "agent/vmlinuz", 8_000_000, Span(0, 8_000_000))
    scene.tftp("bios/core.0")
    running = [e for e in scene.boots()[-1].entries if isinstance(e.event, Fetch)]
    assert [(e.event.path, e.event.state) for e in running if isinstance(e.event, Fetch)] == [
        ("bios/core.0", FetchState.RUNNING),
        ("agent/vmlinuz", FetchState.RUNNING),
        ("bios/core.0", FetchState.DONE),
    ]


def test_of_a_long_boot_its_beginning_and_its_end_are_kept() -> None:
    log = BootLog()
    log.record(MAC, ASKED, 0.0)
    for number in range(1000):
        log.record(MAC, Fetch("tftp", f"file-{number}", FetchState.DONE, 1, 1), 1.0 + number)
    (boot,) = log.boots(MAC)
    assert len(boot.entries) == FIRST_ENTRIES + LAST_ENTRIES
    assert boot.dropped == 1001 - len(boot.entries)
    assert boot.entries[0].event == ASKED
    last = boot.entries[-1].event
    assert isinstance(last, Fetch) and last.path == "file-999"
    assert [entry.number for entry in boot.entries[-2:]] == [1000, 1001]


def made_up_mac(rng: random.Random) -> str:
    return ":".join(f"{byte:02x}" for byte in (2, *rng.randbytes(5)))


def test_made_up_hardware_addresses_push_out_one_another_and_no_boot_that_got_further() -> None:
    log, rng = BootLog(), random.Random(3)
    log.record(MAC, ASKED, 0.0)
    log.record(MAC, replace(ASKED, message="REQUEST", answer="ACK"), 1.0)
    strangers = [made_up_mac(rng) for _ in range(3 * timeline.MAX_BOOTS)]
    for number, mac in enumerate(strangers):
        log.record(mac, ASKED, 2.0 + number * 0.001)
    known = [mac for mac in (MAC, *strangers) if log.knows(mac)]
    assert len(known) == timeline.MAX_BOOTS
    assert MAC in known and strangers[0] not in known and strangers[-1] in known
    assert len(log.take_due(1e6, 10**6, all_of_them=True)) == timeline.MAX_BOOTS
    assert not log._dirty, "what was forgotten is not remembered as to be written"


def test_entries_of_all_machines_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_ENTRIES", 500)
    log, rng = BootLog(), random.Random(5)
    for step in range(5000):
        mac = f"02:00:00:00:00:{rng.randrange(40):02x}"
        log.record(mac, Fetch("tftp", f"file-{step}", FetchState.DONE, 1, 1), float(step))
    kept = sum(len(boot.entries) for mac in range(40) for boot in log.boots(f"02:00:00:00:00:{mac:02x}"))
    assert 300 < kept <= 500
    assert kept == log._entries


def test_boots_of_one_machine_are_bounded() -> None:
    log = BootLog()
    for number in range(20):
        log.record(MAC, ASKED, number * 100.0)
    assert [boot.started_s for boot in log.boots(MAC)] == [100.0 * n for n in range(14, 20)]


def test_boot_is_due_when_it_was_quiet_and_once() -> None:
    log = BootLog()
    log.record(MAC, ASKED, 0.0)
    assert log.take_due(1.0, 10) == []
    (boot,) = log.take_due(6.0, 10)
    assert boot.mac == MAC
    assert log.take_due(100.0, 10) == []


def test_boot_that_never_rests_is_due_from_time_to_time() -> None:
    log = BootLog()
    due = [0.0 + step for step in range(100) if (log.record(MAC, ASKED, float(step)), log.take_due(step, 10))[1]]
    assert due == [30.0, 61.0, 92.0]


def test_boots_that_got_further_are_due_first() -> None:
    log = BootLog()
    for number in range(5):
        log.record(f"02:00:00:00:00:0{number}", ASKED, 0.0)
    log.record(MAC, replace(ASKED, message="REQUEST", answer="ACK"), 0.0)
    assert [boot.mac for boot in log.take_due(10.0, 1)] == [MAC]
    assert len(log.take_due(10.0, 10)) == 5


def test_documents_give_back_every_event(scene: Scene) -> None:
    scene.lease()
    scene.tftp("bios/core.0", until=20)
    scene.grub()
    scene.http("agent/vmlinuz")
    scene.registered(secure_boot=True)
    scene.agent(AgentStep.FAILED, why="no space")
    (boot,) = scene.boots()
    again = parse_boot(boot_document(boot))
    assert again is not None
    assert boot_document(again) == boot_document(boot)
    assert [type(e.event) for e in again.entries] == [type(e.event) for e in boot.entries]


@pytest.mark.parametrize(
    "tree", [None, 7, [], {}, {"mac": 1, "started_s": 2}, {"mac": "02:00:00:00:00:01", "started_s": "soon"}]
)
def test_what_is_no_boot_is_none(tree: object) -> None:
    assert parse_boot(tree) is None


def test_entries_of_another_version_are_left_out() -> None:
    log = BootLog()
    log.record(MAC, ASKED, 5.0)
    tree = boot_document(log.boots(MAC)[0])
    tree["entries"] += [{"kind": "teleported", "number": 2, "at_s": 6.0}, {"kind": "fetch"}, 7, None]
    again = parse_boot(tree)
    assert again is not None and [e.event for e in again.entries] == [ASKED]


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("bios/core.0", Role.PROGRAM),
        ("/uefi//shimx64.efi", Role.PROGRAM),
        ("uefi/grubx64.efi", Role.SECOND),
        ("uefi/grub.efi", Role.PROGRAM),
        ("/grub/grub.cfg", Role.CONFIGURATION),
        ("/grub/grub.cfg-01-52-54-00-00-00-01", Role.CONFIGURATION),
        ("/grub/grub.cfg-0A4D0032", Role.OPTIONAL),
        ("/grub/machine-52:54:00:0e:f1:01.cfg", Role.CONFIGURATION),
        ("/grub/i386-pc/command.lst", Role.OPTIONAL),
        ("uefi/revocations.efi", Role.OPTIONAL),
        ("uefi/shim_certificate.efi", Role.OPTIONAL),
        ("boot/agent/vmlinuz", Role.KERNEL),
        ("agent/initrd.img", Role.INITRAMFS),
        ("pxelinux.0", Role.PROGRAM),
        ("anything", Role.OTHER),
    ],
)
def test_role_of_a_file(path: str, role: Role) -> None:
    assert role_of(path) is role


@pytest.mark.parametrize("told", ["uefi/http-02.img", "http://10.77.0.1/boot/uefi/http-02.img"])
def test_file_that_dhcp_named_is_the_program(told: str) -> None:
    assert role_of("/boot/uefi/http-02.img", {told}) is Role.PROGRAM


@pytest.mark.parametrize("text", ["52:54:00:AA:bb:01", "52-54-00-aa-bb-01", "5254.00aa.bb01", "525400aabb01"])
def test_mac_in_any_spelling(text: str) -> None:
    assert parse_mac(text) == "52:54:00:aa:bb:01"


@pytest.mark.parametrize("text", ["", "pc-01", "52:54:00:aa:bb", "52:54:00:aa:bb:0g", "5" * 40, "10.77.0.1"])
def test_what_is_no_mac_is_none(text: str) -> None:
    assert parse_mac(text) is None


def test_exchange_tells_what_the_packet_held() -> None:
    packet = a_discover(7, wished=GIVEN)
    event = exchange_of(packet, an_arrival(), Ignored("pool exhausted"))
    assert (event.message, event.arch, event.firmware, event.wished) == ("DISCOVER", 7, "uefi-x64", str(GIVEN))
    assert (event.answer, event.why, event.is_firmware) == ("", "pool exhausted", True)


def test_texts_of_clients_are_cut() -> None:
    packet = a_discover(0)
    options = packet.options.with_option(HOST_NAME, "h" * 255).with_option(USER_CLASS, (b"\xff" * 200,))
    event = exchange_of(replace(packet, options=options), an_arrival(), Ignored("x" * 1000))
    assert max(map(len, (event.hostname, event.user_class, event.why))) == LONGEST_TEXT


def test_ignored_packets_of_a_kind_are_counted() -> None:
    ignored = IgnoredPackets()
    for now in (1.0, 2.0, 3.0):
        ignored.add(MAC, "DHCP DISCOVER", "pool exhausted", now)
    ignored.add(OTHER_MAC, "DHCP DISCOVER", "pool exhausted", 3.5)
    latest = ignored.latest()
    assert [(p.source, p.count, p.first_s, p.last_s) for p in latest] == [(OTHER_MAC, 1, 3.5, 3.5), (MAC, 3, 1.0, 3.0)]


def test_flood_of_made_up_addresses_leaves_the_reasons_of_others() -> None:
    ignored, rng = IgnoredPackets(), random.Random(1)
    ignored.add(MAC, "DHCP DISCOVER", "arch 10 is not served: UEFI ARM 32-bit", 0.0)
    ignored.add(OTHER_MAC, "TFTP pxelinux.0", "no such file: pxelinux.0", 0.5)
    for number in range(3 * MAX_IGNORED):
        ignored.add(made_up_mac(rng), "DHCP DISCOVER", "too many new machines at once: known ones go first", number)
    latest = ignored.latest()
    assert len(latest) == MAX_IGNORED
    assert {MAC, OTHER_MAC} <= {packet.source for packet in latest}


def test_flood_of_made_up_reasons_is_bounded_too() -> None:
    ignored, rng = IgnoredPackets(), random.Random(2)
    for number in range(3 * MAX_IGNORED):
        ignored.add(made_up_mac(rng), f"TFTP {rng.random()}", f"{rng.random()}", number)
    assert len(ignored.latest()) == MAX_IGNORED
