"""A boot in words: what each line says of its packet, and that strangers' text stays text."""

import pytest

from netboot.bootlog.events import (
    Agent,
    AgentStep,
    BootEvent,
    Configured,
    Entry,
    Exchange,
    Fetch,
    FetchState,
    Registered,
    Told,
)
from netboot.bootlog.timeline import BootRecord
from netboot.bootlog.words import arch_words, bytes_words, describe, firmware_of, lines_of, shown, summary_of

DISCOVER = Exchange(
    "DISCOVER",
    is_firmware=True,
    arch=7,
    vendor_class="PXEClient:Arch:00007:UNDI:003016",
    answer="OFFER",
    address="10.77.0.100",
    boot_server="10.77.0.1",
    boot_file="uefi/shimx64.efi",
    why="Secure Boot accepts shim",
)


def a_boot(*events: BootEvent) -> BootRecord:
    return BootRecord(
        "52:54:00:00:00:01", 100.0, entries=tuple(Entry(n, 100.0 + n, e, 1, 100.0 + n) for n, e in enumerate(events, 1))
    )


@pytest.mark.parametrize(
    ("event", "text", "why", "ok"),
    [
        (
            DISCOVER,
            "DISCOVER UEFI x64 (arch 7), PXEClient:Arch:00007:UNDI:003016 -> OFFER 10.77.0.100 boot file "
            "uefi/shimx64.efi from 10.77.0.1",
            "Secure Boot accepts shim",
            True,
        ),
        (
            Exchange("DISCOVER", is_firmware=True, arch=-1, user_class="iPXE", relay="10.9.0.1", why="no arch"),
            "DISCOVER no arch, , user class iPXE, by relay 10.9.0.1: no answer",
            "no arch",
            False,
        ),
        (
            Exchange("REQUEST", is_firmware=True, wished="10.77.0.9", server="10.77.0.2", why="took another server's"),
            "REQUEST 10.77.0.9, offered by 10.77.0.2: no answer",
            "took another server's",
            True,
        ),
        (
            Exchange("REQUEST", wished="10.77.0.9", hostname="pc", answer="ACK", address="10.77.0.9"),
            "REQUEST 10.77.0.9, host name pc -> ACK",
            "",
            True,
        ),
        (
            Exchange("REQUEST", wished="10.77.0.9", answer="NAK", why="not of this network"),
            "REQUEST 10.77.0.9 -> NAK",
            "not of this network",
            False,
        ),
        (
            Exchange(
                "REQUEST", 4011, is_firmware=True, answer="ACK", boot_file="http://10.77.0.1/boot/x", boot_server="a"
            ),
            "REQUEST on port 4011 -> ACK boot file http://10.77.0.1/boot/x",
            "",
            True,
        ),
        (Fetch("tftp", "a", FetchState.RUNNING, 2_000_000), "TFTP a, 2 MB: on its way", "", True),
        (Fetch("http", "a", FetchState.DONE, 3_000_000, 3_000_000, 2.0), "HTTP a: 3 MB in 2.0 s, 1.5 MB/s", "", True),
        (Fetch("tftp", "a", FetchState.DONE, 0), "TFTP a: 0 B", "", True),
        (
            Fetch("tftp", "a", FetchState.DONE, 1000, 1000, 0.01, 512, 2, 3),
            "TFTP a: 1 KB, 3 blocks sent again",
            "",
            True,
        ),
        (
            Fetch("tftp", "a", FetchState.FAILED, 1024, 512, 9.0, 512, 1, why="the client stopped answering"),
            "TFTP a: stopped after block 1 of 3",
            "the client stopped answering",
            False,
        ),
        (
            Fetch("http", "a", FetchState.FAILED, 2_000_000, 1_500_000, 9.0, why="the client went away"),
            "HTTP a: stopped after 1.5 MB",
            "the client went away",
            False,
        ),
        (Fetch("tftp", "a.0", FetchState.REFUSED, why="no such file"), "TFTP a.0: refused", "no such file", False),
        (
            Fetch("tftp", "grub/x86_64-efi/command.lst", FetchState.REFUSED, why="no such file"),
            "TFTP grub/x86_64-efi/command.lst: not there",
            "GRUB and shim do without",
            True,
        ),
        (Fetch("tftp", "a", FetchState.SIZED, 5000), "TFTP a: asked for its size, 5 KB", "", True),
        (
            Fetch("tftp", "/grub/failed-chainload-52:54:00:00:00:01.cfg", FetchState.DONE, 300),
            "asked because its own disk did not start",
            "",
            False,
        ),
        (
            Configured(Told.LOCAL, "", "no task", "exit"),
            "told to end, and let the firmware start its own disk",
            "no task",
            True,
        ),
        (
            Configured(Told.LOCAL, "", "no task", "none"),
            "told to wait and ask again: no way led to its own disk",
            "no task",
            False,
        ),
        (Configured(Told.LOCAL, "pc-01", "no task"), "told to start its own disk", "no task", True),
        (
            Registered("pc-01", True, 6.54, "uefi", True, 4 << 30),
            "registered as pc-01 for the first time",
            "6.5 s after its kernel started, 4 GiB of memory, Secure Boot on",
            True,
        ),
        (Registered("", refused="too many"), "registration refused", "too many", False),
        (Agent(AgentStep.FAILED, "deploy x", "no space"), "failed: deploy x", "no space", False),
        (Agent(AgentStep.LOCAL), "told to start its own disk", "", True),
    ],
)  # fmt: skip
def test_every_event_has_its_words(event: BootEvent, text: str, why: str, ok: bool) -> None:
    assert describe(event) == (text, why, ok)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1 KB"), (1432, "1.43 KB"), (8_200_000, "8.2 MB"), (3e12, "3e+03 GB")],
)
def test_bytes(count: float, text: str) -> None:
    assert bytes_words(count) == text


def test_archs() -> None:
    assert [arch_words(arch) for arch in (0, 7, 16, 99, -1)] == [
        "BIOS (arch 0)",
        "UEFI x64 (arch 7)",
        "UEFI x64 over HTTP (arch 16)",
        "unknown (arch 99)",
        "no arch",
    ]


def test_text_of_strangers_moves_no_cursor_and_adds_no_line() -> None:
    evil = "a\x1b[2J\x07\r\nb\u202ec\u2028\x00é"
    assert shown(evil) == "a\\x1b[2J\\x07\\r\\nb\\u202ec\\u2028\\x00é"
    events = (
        Exchange("DISCOVER", is_firmware=True, vendor_class=evil, user_class=evil, hostname=evil, why=evil),
        Exchange("DISCOVER", is_firmware=True, vendor_class=evil, answer="OFFER", boot_file=evil, why=evil),
        *(Fetch("tftp", evil, state, 5, why=evil) for state in FetchState),
        Configured(Told.AGENT, evil, evil),
        Registered(evil),
        Registered("", refused=evil),
        *(Agent(step, evil, evil) for step in AgentStep),
    )
    boot = a_boot(*events)
    for line in lines_of(boot):
        assert (line.text + line.why).isprintable()
    for number in range(len(events)):
        assert summary_of(a_boot(*events[: number + 1])).isprintable()
    assert firmware_of(boot) == "no arch"


@pytest.mark.parametrize(
    ("events", "summary"),
    [
        ((), "asked by DHCP"),
        ((DISCOVER,), "has an offer"),
        ((DISCOVER, Exchange("REQUEST", is_firmware=True, answer="ACK")), "has an address"),
        ((Fetch("tftp", "bios/core.0", FetchState.RUNNING),), "fetches bios/core.0"),
        ((Fetch("tftp", "bios/core.0", FetchState.DONE),), "boot program loaded"),
        ((Configured(Told.AGENT),), "GRUB was told to start the agent"),
        ((Configured(Told.AGENT), Configured(Told.LOCAL)), "told to start its own disk"),
        ((Configured(Told.LOCAL, way="none"),), "no way led to its own disk"),
        ((Fetch("http", "agent/vmlinuz", FetchState.DONE),), "kernel loaded"),
        ((Fetch("http", "agent/initrd.img", FetchState.DONE),), "kernel and initramfs loaded"),
        ((Registered("pc-01"),), "the agent registered"),
        ((Registered("pc-01"), Agent(AgentStep.TASK, "deploy x")), "took its task: deploy x"),
    ],
)
def test_summary_is_how_far_it_came(events: tuple[BootEvent, ...], summary: str) -> None:
    assert summary_of(a_boot(*events)) == summary


def test_dhcp_after_the_disk_was_started_is_the_systems() -> None:
    plain = Exchange("DISCOVER", answer="OFFER", address="10.77.0.9")
    kernel = Fetch("http", "agent/vmlinuz", FetchState.DONE)
    labels = [line.label for line in lines_of(a_boot(DISCOVER, plain, kernel, plain, Configured(Told.LOCAL), plain))]
    assert labels == ["firmware", "GRUB", "GRUB", "agent", "GRUB", "system"]


def test_repetitions_are_counted_in_the_line() -> None:
    boot = BootRecord("m", 0.0, entries=(Entry(1, 0.0, DISCOVER, 3, 9.0),))
    (line,) = lines_of(boot)
    assert line.text.endswith("  (x3)")
