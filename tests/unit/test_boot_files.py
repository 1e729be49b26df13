import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from netboot.boot.contexts import BootKind, NextBoot
from netboot.boot.files import BootContent, BootFiles, BootRequest, BootSettings, Transport
from netboot.boot.render import Renderer
from netboot.errors import TemplateError
from netboot.model import Ignored, Way

MAC = "52:54:00:aa:bb:01"
REQUEST = BootRequest(IPv4Address("10.77.0.50"), None, Transport.TFTP)
FILES = {
    "bios/core.0": b"core",
    "uefi/shimx64.efi": b"shim",
    "uefi/grubx64.efi": b"signed grub",
    "uefi/grub.efi": b"own grub",
}
AGENT = {"vmlinuz": b"kernel", "initrd.img": b"initrd"}


class Desk:
    """Answers what machines do next, and remembers who asked."""

    def __init__(self, **steps: NextBoot) -> None:
        self.steps = {mac.strip("_").replace("_", ":"): step for mac, step in steps.items()}
        self.asked: list[str] = []

    def next_boot(self, mac: str) -> NextBoot:
        self.asked.append(mac)
        return self.steps.get(mac, NextBoot(BootKind.AGENT, reason="not known yet"))


def make_tree(directory: Path, next_boot: Callable[[str], NextBoot], overrides: Path | None = None) -> BootFiles:
    for name, data in FILES.items():
        file = directory / "boot" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (directory / "agent").mkdir(exist_ok=True)
    for name, data in AGENT.items():
        (directory / "agent" / name).write_bytes(data)
    (directory / "keys").mkdir(exist_ok=True)
    (directory / "keys" / "signing.key").write_bytes(b"secret")
    return BootFiles(
        boot_directory=directory / "boot",
        agent_directory=directory / "agent",
        renderer=Renderer(overrides),
        settings=BootSettings(IPv4Address("10.77.0.1"), 80, "5c" * 32),
        next_boot=next_boot,
    )


def test_a_program_of_the_administrators_own_is_found_and_its_neighbour_is_not(tmp_path: Path) -> None:
    make_tree(tmp_path, Desk().next_boot)
    own = tmp_path / "boot/own/bios"
    own.mkdir(parents=True)
    (own / "undionly.kpxe").write_bytes(b"iPXE")
    (own / "earlier.kpxe").write_bytes(b"of earlier settings")
    tree = BootFiles(
        boot_directory=tmp_path / "boot",
        agent_directory=tmp_path / "agent",
        renderer=Renderer(None),
        settings=BootSettings(IPv4Address("10.77.0.1"), 80, "5c" * 32),
        next_boot=Desk().next_boot,
        own_programs=["own/bios/undionly.kpxe"],
    )
    assert tree.open("/own/bios/undionly.kpxe", REQUEST) == BootContent(own / "undionly.kpxe", 4)
    assert isinstance(tree.open("own/bios/earlier.kpxe", REQUEST), Ignored)


@pytest.fixture
def tree(tmp_path: Path) -> BootFiles:
    return make_tree(tmp_path, Desk().next_boot)


def text(found: BootContent | Ignored) -> str:
    assert isinstance(found, BootContent), found
    assert isinstance(found.content, bytes)
    assert found.size == len(found.content)
    return found.content.decode()


@pytest.mark.parametrize(
    ("path", "data"),
    [
        *FILES.items(),
        ("grubx64.efi", b"signed grub"),
        ("//grubx64.efi", b"signed grub"),
        ("/uefi//grubx64.efi", b"signed grub"),
        ("/agent/vmlinuz", b"kernel"),
        ("agent/initrd.img", b"initrd"),
    ],
)
def test_a_file_is_found_by_its_name_as_firmware_writes_it(tree: BootFiles, path: str, data: bytes) -> None:
    found = tree.open(path, REQUEST)
    assert isinstance(found, BootContent) and isinstance(found.content, Path)
    assert found.content.read_bytes() == data
    assert found.size == len(data)


@pytest.mark.parametrize(
    "path",
    [
        "/grub/x86_64-efi/command.lst",
        "/grub/i386-pc/terminal.lst",
        "/grub/x86_64-efi/http.mod",
        "/grub/x86_64-efi/grub.cfg",
        "/grub/fonts/unicode.pf2",
        "/grub/grub.cfg-00000000-0000-0000-0000-000000000000",
        "/grub/grub.cfg-0A4D0032",
        "uefi/revocations_sku.efi",
        "uefi/shim_certificate_0.efi",
        "bios",
        "",
        "/",
    ],
)
def test_what_firmware_and_grub_merely_look_for_is_ignored_with_a_reason(tree: BootFiles, path: str) -> None:
    found = tree.open(path, REQUEST)
    assert isinstance(found, Ignored) and found.reason


@pytest.mark.parametrize(
    "path",
    [
        "../keys/signing.key",
        "boot/../../keys/signing.key",
        "uefi/../../keys/signing.key",
        "/etc/passwd",
        "//etc/passwd",
        "agent/../../../etc/passwd",
        "%2e%2e/keys/signing.key",
        "..%2fkeys/signing.key",
        "..\\keys\\signing.key",
        "agent\\vmlinuz",
        "agent/./vmlinuz",
        "agent/vmlinuz\0.txt",
        "agent/vmlinuz\n",
        "agent/vmlinuz/",
        "agent/vmlinuz ",
        "AGENT/VMLINUZ",
        "agent/vmlinu\u017a",
        "\uff0e\uff0e/keys/signing.key",
        "grub/machine-../../keys/signing.key.cfg",
        "x" * 5000,
    ],
)
def test_no_path_leaves_the_tree(tree: BootFiles, path: str) -> None:
    found = tree.open(path, REQUEST)
    if path == "agent/vmlinuz/":  # slashes say nothing
        assert isinstance(found, BootContent)
    else:
        assert isinstance(found, Ignored)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(st.sampled_from(["..", ".", "agent", "keys", "signing.key", "%2e", "", "grub", "machine-"])).map(
            "/".join
        ),
    )
)
@example("agent/../keys/signing.key")
def test_whatever_is_asked_for_only_files_of_the_tree_are_given(tree: BootFiles, path: str) -> None:
    found = tree.open(path, REQUEST)
    if isinstance(found, BootContent) and isinstance(found.content, Path):
        assert found.content.read_bytes() in {*FILES.values(), *AGENT.values()}


def test_a_link_in_place_of_a_file_is_not_followed(tree: BootFiles, tmp_path: Path) -> None:
    kernel = tmp_path / "agent" / "vmlinuz"
    kernel.unlink()
    kernel.symlink_to(tmp_path / "keys" / "signing.key")
    found = tree.open("agent/vmlinuz", REQUEST)
    assert isinstance(found, Ignored) and "not a regular file" in found.reason


def test_a_linked_directory_does_not_lead_out_of_the_tree(tree: BootFiles, tmp_path: Path) -> None:
    elsewhere = tmp_path / "keys"
    (elsewhere / "core.0").write_bytes(b"secret")
    for file in (tmp_path / "boot" / "bios").iterdir():
        file.unlink()
    (tmp_path / "boot" / "bios").rmdir()
    (tmp_path / "boot" / "bios").symlink_to(elsewhere)
    found = tree.open("bios/core.0", REQUEST)
    assert isinstance(found, Ignored) and "out of the tree" in found.reason


def test_the_directory_of_the_agent_may_itself_be_a_link_to_another_disk(tree: BootFiles, tmp_path: Path) -> None:
    (tmp_path / "agent").rename(tmp_path / "large-disk")
    (tmp_path / "agent").symlink_to(tmp_path / "large-disk")
    assert isinstance(tree.open("agent/vmlinuz", REQUEST), BootContent)


def test_a_fifo_in_place_of_a_file_is_not_opened(tree: BootFiles, tmp_path: Path) -> None:
    kernel = tmp_path / "agent" / "vmlinuz"
    kernel.unlink()
    os.mkfifo(kernel)
    assert isinstance(tree.open("agent/vmlinuz", REQUEST), Ignored)


def test_an_agent_that_is_not_built_is_ignored_with_its_path(tree: BootFiles, tmp_path: Path) -> None:
    (tmp_path / "agent" / "vmlinuz").unlink()
    found = tree.open("agent/vmlinuz", REQUEST)
    assert isinstance(found, Ignored) and "agent/vmlinuz: No such file" in found.reason


def test_the_first_stage_asks_for_the_machine_by_its_mac(tree: BootFiles) -> None:
    assert 'configfile "$prefix/machine-$net_default_mac.cfg"' in text(tree.open("/grub/grub.cfg", REQUEST))


@pytest.mark.parametrize(
    "path",
    [
        f"/grub/machine-{MAC}.cfg",
        "/grub/machine-52-54-00-AA-BB-01.cfg",
        "/grub/grub.cfg-01-52-54-00-aa-bb-01",
    ],
)
def test_the_name_that_grub_asks_for_tells_which_machine_it_is(tmp_path: Path, path: str) -> None:
    desk = Desk()
    rendered = text(make_tree(tmp_path, desk.next_boot).open(path, REQUEST))
    assert desk.asked == [MAC]
    assert "BOOTIF=01-52-54-00-aa-bb-01" in rendered


def test_a_machine_without_a_task_boots_its_disk(tmp_path: Path) -> None:
    desk = Desk(_52_54_00_aa_bb_01=NextBoot(BootKind.LOCAL, "pc-01", "no task"))
    rendered = text(make_tree(tmp_path, desk.next_boot).open(f"grub/machine-{MAC}.cfg", REQUEST))
    assert "chainloader +1" in rendered and "vmlinuz" not in rendered
    assert "'pc-01'" in rendered and "'no task'" in rendered


def test_every_request_asks_anew(tmp_path: Path) -> None:
    desk = Desk()
    tree = make_tree(tmp_path, desk.next_boot)
    assert "vmlinuz" in text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST))
    desk.steps[MAC] = NextBoot(BootKind.LOCAL)
    assert "vmlinuz" not in text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST))


def test_a_machine_that_does_not_tell_its_mac_is_known_by_its_lease(tmp_path: Path) -> None:
    desk = Desk()
    tree = make_tree(tmp_path, desk.next_boot)
    text(tree.open("grub/machine-.cfg", BootRequest(REQUEST.peer, MAC, Transport.TFTP)))
    assert desk.asked == [MAC]


def test_a_machine_whose_mac_nobody_knows_boots_its_disk(tmp_path: Path) -> None:
    desk = Desk()
    rendered = text(make_tree(tmp_path, desk.next_boot).open("grub/machine-.cfg", REQUEST))
    assert desk.asked == []
    assert "vmlinuz" not in rendered and "did not tell its MAC" in rendered


@pytest.mark.parametrize("missing", sorted(AGENT))
def test_where_no_agent_is_built_every_machine_boots_its_disk(tmp_path: Path, missing: str) -> None:
    tree = make_tree(tmp_path, Desk().next_boot)
    assert "vmlinuz" in text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST))
    (tmp_path / "agent" / missing).unlink()
    rendered = text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST))
    assert "vmlinuz" not in rendered and "no agent is built" in rendered


def test_the_size_of_a_rendered_file_counts_bytes(tmp_path: Path) -> None:
    desk = Desk(_52_54_00_aa_bb_01=NextBoot(BootKind.LOCAL, "Zoë 教室", "kein Auftrag"))
    found = make_tree(tmp_path, desk.next_boot).open(f"grub/machine-{MAC}.cfg", REQUEST)
    assert "Zoë 教室" in text(found)


def test_what_machines_and_people_named_is_only_text_in_a_configuration(tmp_path: Path) -> None:
    hostile = "x'; reboot; $(reboot)\nreboot\n"
    for kind in BootKind:
        desk = Desk(_52_54_00_aa_bb_01=NextBoot(kind, hostile, hostile))
        rendered = text(make_tree(tmp_path, desk.next_boot).open(f"grub/machine-{MAC}.cfg", REQUEST))
        assert "'x'\\''; reboot; $(reboot) reboot '" in rendered


def test_a_template_that_cannot_be_rendered_is_an_error_not_an_empty_file(tmp_path: Path) -> None:
    own = tmp_path / "own" / "grub"
    own.mkdir(parents=True)
    (own / "agent.cfg.j2").write_text("linux {{ kernel }}\n")
    tree = make_tree(tmp_path, Desk().next_boot, tmp_path / "own")
    with pytest.raises(TemplateError, match=r"agent\.cfg\.j2, line 1: 'kernel' is undefined"):
        tree.open(f"grub/machine-{MAC}.cfg", REQUEST)


def test_uefi_http_boot_gets_one_volume_for_all_machines_that_do_the_same(tree: BootFiles, tmp_path: Path) -> None:
    (tmp_path / "boot" / "uefi" / "grubdisk.efi").write_bytes(b"signed disk grub")
    found = [tree.open(f"uefi/http-52-54-00-aa-bb-0{n}.img", REQUEST) for n in (1, 2)]
    assert found[0] == found[1]
    assert isinstance(found[0], BootContent) and isinstance(found[0].content, Path)
    volume = found[0].content.read_bytes()
    assert found[0].size == len(volume)
    assert all(data in volume for data in (b"shim", b"signed disk grub", b"kernel", b"initrd", b"linux $source"))


def test_uefi_http_boot_without_a_task_gets_a_volume_that_starts_the_disk(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, lambda mac: NextBoot(BootKind.LOCAL, "pc-1", "no task"))
    (tmp_path / "boot" / "uefi" / "grubdisk.efi").write_bytes(b"signed disk grub")
    found = tree.open("uefi/http-52-54-00-aa-bb-01.img", REQUEST)
    assert isinstance(found, BootContent) and isinstance(found.content, Path)
    volume = found.content.read_bytes()
    assert b"chainloader" in volume and b"kernel" not in volume.replace(b"kernel_", b"")
    assert b"pc-1" not in volume


def test_uefi_http_boot_is_refused_with_a_reason_when_a_program_is_missing(tree: BootFiles) -> None:
    found = tree.open("uefi/http-52-54-00-aa-bb-01.img", REQUEST)
    assert isinstance(found, Ignored) and "grubdisk.efi" in found.reason


@pytest.mark.parametrize("name", ["uefi/shimaa64.efi", "uefi/grubaa64.efi", "grubaa64.efi", "uefi/own-grubia32.efi"])
def test_programs_of_other_architectures_are_served_once_they_are_made(tmp_path: Path, name: str) -> None:
    tree = make_tree(tmp_path, Desk().next_boot)
    assert isinstance(tree.open(name, REQUEST), Ignored)
    (tmp_path / "boot" / "uefi" / Path(name).name).write_bytes(b"program")
    found = tree.open(name, REQUEST)
    assert isinstance(found, BootContent) and found.size == len(b"program")


def test_arm64_asks_again_and_is_told_its_own_disk_because_there_is_no_agent_for_it(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Desk().next_boot)
    first = text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST))
    again = f"grub/machine-{MAC}-arm64.cfg"
    assert "-arm64.cfg'\n" in first[first.index('[ "$grub_cpu" = arm64 ]') :]
    assert first.index("configfile") < first.index("linux $source")
    local = text(tree.open(again, REQUEST))
    assert "there is no agent for ARM64" in local and "/EFI/debian/shimaa64.efi" in local
    assert "vmlinuz" not in local


def test_a_volume_for_arm64_has_its_own_programs_and_no_agent(tmp_path: Path) -> None:
    tree = make_tree(tmp_path, Desk().next_boot)
    for name in ("shimaa64.efi", "grubdiskaa64.efi"):
        (tmp_path / "boot" / "uefi" / name).write_bytes(name.encode() * 50)
    found = tree.open(f"uefi/http-aa64-{MAC.replace(':', '-')}.img", REQUEST)
    assert isinstance(found, BootContent) and isinstance(found.content, Path)
    volume = found.content.read_bytes()
    assert b"BOOTAA64EFI" in volume and b"GRUBAA64EFI" in volume and b"shimaa64.efi" * 50 in volume
    assert b"VMLINUZ" not in volume and b"there is no agent" not in volume
    assert isinstance(tree.open(f"uefi/http-ia32-{MAC.replace(':', '-')}.img", REQUEST), Ignored)


class WaysBy:
    """The seam of the ways home: answers from a list, and writes down who asked."""

    def __init__(self, *answers: Way | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def choose(self, mac: str, *, has_agent: bool) -> Way | None:
        self.asked.append(f"choose {mac}" if has_agent else f"choose {mac} without agent")
        return self.answers.pop(0)

    def way_failed(self, mac: str, way: Way, *, has_agent: bool) -> Way | None:
        self.asked.append(f"{way} failed {mac}" if has_agent else f"{way} failed {mac} without agent")
        return self.answers.pop(0)


def tree_with(directory: Path, ways: WaysBy) -> BootFiles:
    make_tree(directory, Desk().next_boot)
    return BootFiles(
        boot_directory=directory / "boot",
        agent_directory=directory / "agent",
        renderer=Renderer(None),
        settings=BootSettings(IPv4Address("10.77.0.1"), 80, "5c" * 32),
        next_boot=lambda mac: NextBoot(BootKind.LOCAL, "pc-07", "no task"),
        ways=ways,
    )


def test_a_machine_without_a_task_is_told_its_way(tmp_path: Path) -> None:
    ways = WaysBy(Way.CHAINLOAD, Way.EXIT, Way.BOOTNEXT, None)
    tree = tree_with(tmp_path, ways)
    chainload, leave, agent, nothing = (text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST)) for _ in range(4))
    assert f"failed-chainload-\"'{MAC}'.cfg" in chainload
    assert "chainloader" not in leave and leave.rstrip().count("\nexit") == 1
    assert "linux $source/agent/vmlinuz" in agent
    assert "chainloader" not in nothing and "exit" not in nothing and nothing.endswith("sleep 60\nreboot\n")
    assert ways.asked == [f"choose {MAC}"] * 4


def test_what_grub_says_of_a_failed_chainload_is_answered_with_the_next_way(tmp_path: Path) -> None:
    ways = WaysBy(Way.EXIT)
    assert "next boot device" in text(
        tree_with(tmp_path, ways).open(f"/grub/failed-chainload-{MAC.upper()}.cfg", REQUEST)
    )
    assert ways.asked == [f"chainload failed {MAC}"]


def test_who_asks_for_another_machine_says_nothing_of_its_boot(tmp_path: Path) -> None:
    ways = WaysBy()
    tree = tree_with(tmp_path, ways)
    other = BootRequest(IPv4Address("10.77.0.66"), "52:54:00:aa:bb:66", Transport.TFTP)
    assert "chainloader" in text(tree.open(f"grub/machine-{MAC}.cfg", other))
    assert "chainloader" not in text(tree.open(f"grub/failed-chainload-{MAC}.cfg", other)), "no round without an end"
    assert ways.asked == []


def test_without_an_agent_the_ways_are_asked_for_one_that_needs_none(tmp_path: Path) -> None:
    ways = WaysBy(Way.CHAINLOAD, Way.EXIT)
    tree = tree_with(tmp_path, ways)
    (tmp_path / "agent" / "initrd.img").unlink()
    assert "chainloader" in text(tree.open(f"grub/machine-{MAC}.cfg", REQUEST))
    assert "next boot device" in text(tree.open(f"grub/failed-chainload-{MAC}.cfg", REQUEST))
    assert ways.asked == [f"choose {MAC} without agent", f"chainload failed {MAC} without agent"]
