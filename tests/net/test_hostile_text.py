"""What strangers send stays text: nothing of it runs, moves a cursor or makes a line of its own.

The real appliance on a network of its own; the same texts come by DHCP, TFTP, HTTP and the agents' register.
"""

import json
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from hostile_scene import (
    MORE_OPTIONS,
    SERVER,
    Scene,
    a_hostile_scene,
    assert_fit_to_show,
    assert_nothing_happened,
    option,
)
from inventories import an_inventory
from netns import INTERFACE, Host
from scapy.layers.dhcp import BOOTP, DHCP
from test_appliance_serve import Machine

from imager.wire.messages import Disk, FirmwareKind, Inventory, Nic, Registration, decode, encode
from netboot.wire.dhcp import BOOTREQUEST, DhcpPacket, Options, build_dhcp, parse_dhcp

pytestmark = pytest.mark.root

OF_A_TERMINAL = (9, 10, 11, 13)
"""Numbers of those that would show on one: each command costs a second."""


MAC = "52:54:00:66:00:01"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with a_hostile_scene(tmp_path_factory.mktemp("hostile")) as scene:
        yield scene


def hostile_dhcp(kind: int, mac: str, text: bytes, more: bytes = b"") -> bytes:
    """A PXE client's packet with this text wherever a text can stand."""
    header = struct.pack("!BBBBIHH", 1, 1, 6, 0, 7, 0, 0x8000) + bytes(16)
    header += bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0")
    header += text[:63].ljust(64, b"\0") + text[:127].ljust(128, b"\0") + bytes([99, 130, 83, 99])
    options = option(53, bytes([kind])) + more
    for code in (12, 15, 40, 43, 56, 61, 66, 67, 77, 81, 82, 119, 125, 175):
        options += option(code, text)
    options += option(60, b"PXEClient:Arch:00007:UNDI:003016" + text) + option(93, b"\0\7")
    return header + options + b"\xff"


def lease(scene: Scene, mac: str, text: bytes) -> str:
    """Have a machine get an address that says this in all of its options."""
    address = parse_dhcp(scene.dhcp(hostile_dhcp(1, mac, text))).yiaddr
    chosen = option(54, socket.inet_aton(SERVER)) + option(50, address.packed)
    assert parse_dhcp(scene.dhcp(hostile_dhcp(3, mac, text, chosen))).yiaddr == address
    return str(address)


def test_hostile_texts_in_dhcp_options_stay_text(scene: Scene) -> None:
    for number, text in enumerate(scene.texts):
        lease(scene, f"52:54:00:66:00:{number:02x}", text)
    assert_nothing_happened(scene)
    for number in OF_A_TERMINAL:
        assert_fit_to_show(scene.shown("boot", "log", f"52:54:00:66:00:{number:02x}"))
    leases = scene.shown("lease", "list")
    assert_fit_to_show(leases)
    assert leases.count("52:54:00:66:00:") == len(scene.texts)
    assert "touch" in leases, "host names are shown"


def grub_configurations(scene: Scene, mac: str, text: bytes) -> list[bytes]:
    """What a machine that is known by its DHCP packets only is told to boot: by its MAC, and by its address."""
    address = lease(scene, mac, text)
    scene.stranger.run("ip", "address", "add", f"{address}/24", "dev", INTERFACE)
    try:
        by_mac = (f"machine-{mac}.cfg", f"grub.cfg-01-{mac.replace(':', '-')}", f"failed-chainload-{mac}.cfg")
        return [scene.body(f"/boot/grub/{name}", source=address) for name in (*by_mac, "machine-.cfg")]
    finally:
        scene.stranger.run("ip", "address", "del", f"{address}/24", "dev", INTERFACE)


def test_nothing_that_a_machine_says_by_dhcp_is_in_its_grub_configuration(scene: Scene) -> None:
    """It is what any other machine gets, and the real GRUB reads it."""
    plain = grub_configurations(scene, "52:54:00:65:00:00", b"pc-01")
    assert all(b"roomcast.server=" in configuration for configuration in plain)
    for number, text in enumerate(scene.texts, start=1):
        mac = f"52:54:00:65:00:{number:02x}"
        for expected, got in zip(plain, grub_configurations(scene, mac, text), strict=True):
            for old, new in ((b":65:00:00", f":65:00:{number:02x}"), (b"-65-00-00", f"-65-00-{number:02x}")):
                expected = expected.replace(old, new.encode())
            assert got == expected
    for configuration in plain:
        assert subprocess.run(["grub-script-check"], input=configuration, check=False).returncode == 0
    assert_nothing_happened(scene)


@pytest.mark.parametrize(
    "options",
    [
        option(12, b"")[:1],
        bytes((12, 255)) + b"x",
        b"\x0c\xff" + b"x" * 255 + b"\x0c\xff" + b"y" * 255,
        option(52, b"\3") + option(52, b"\3"),
        option(52, b"\xff"),
        option(57, b"\0\0"),
        option(57, b"\xff\xff") + option(55, bytes(range(1, 255))),
        option(57, b"\0\1") + option(55, bytes(range(1, 255)) * 1) + option(61, b"z" * 255) * 3,
        option(82, b"\1\xff") + option(82, b"\1\0\2\0\5\4") + option(118, b"\0" * 4),
        option(93, b"\0") + option(97, b"\0" * 255) + option(94, b""),
        option(77, b"\xff" + b"iPXE") + option(175, b"\xff" * 255),
        b"".join(option(code, b"\xff" * 255) for code in range(60, 66)),
    ],
)
def test_options_that_overflow_or_contradict_each_other_draw_a_short_answer_or_none(
    scene: Scene, options: bytes
) -> None:
    packet = DhcpPacket(BOOTREQUEST, 9, bytes.fromhex(MAC.replace(":", "")), flags=0x8000, options=Options({53: b"\1"}))
    before = scene.received("dhcp")
    try:
        answer = scene.dhcp(build_dhcp(packet)[:243] + options + b"\xff", seconds=0.4)
    except TimeoutError:
        answer = b""
    assert scene.received("dhcp") > before
    assert len(answer) <= 1472
    if answer:
        assert parse_dhcp(answer).xid == 9
        assert len(answer) <= 548 or b"\x39\x02\xff\xff" in options
    assert_nothing_happened(scene)


def read_by_scapy(data: bytes) -> dict[str | int, Any]:
    """The options of a packet, wherever they stand; AssertionError when one is cut."""
    packet = BOOTP(data)
    options = list(packet[DHCP].options)
    overload = dict(each[:2] for each in options if isinstance(each, tuple)).get("dhcp-option-overload", 0)
    for bit, area in ((1, packet.file), (2, packet.sname)):
        if overload & bit:
            options += DHCP(area).options
    assert all(isinstance(each, tuple) or each in ("end", "pad") for each in options), options
    return dict(each[:2] for each in options if isinstance(each, tuple))


@pytest.mark.parametrize("most_bytes", [0, 1, 576, 577, 900, 1472, 1500, 9000, 65535])
def test_an_answer_with_more_options_than_its_client_takes_carries_whole_ones(scene: Scene, most_bytes: int) -> None:
    relay = option(1, b"p" * 100)
    options = option(55, bytes([1, 3, 6, 51, 54, *MORE_OPTIONS])) + option(57, most_bytes.to_bytes(2, "big"))
    packet = DhcpPacket(BOOTREQUEST, 11, bytes.fromhex("525400660101"), flags=0x8000, options=Options({53: b"\1"}))
    options += option(61, b"\0" + b"i" * 254) + option(82, relay)
    data = scene.dhcp(build_dhcp(packet)[:243] + options + b"\xff")
    assert len(data) <= max(548, min(most_bytes - 28, 1472))
    told = read_by_scapy(data)
    assert (told["message-type"], told["server_id"], told["lease_time"]) == (2, SERVER, 600)
    assert told["relay_agent_information"] == relay
    carried = [code for code in MORE_OPTIONS if code in told]
    assert all(told[code] == bytes([code - 127]) * 250 for code in carried)
    assert len(carried) == (3 if most_bytes >= 1472 else 0), "250 bytes each"


def hostile_inventory(host: Host, number: int, text: str) -> Inventory:
    nics = (Nic(text, f"52:54:00:67:00:{number:02x}", text, 0),)
    disks = (Disk("/dev/vda", text, text, 1 << 30, 512, text, False),)
    texts = dict.fromkeys(("agent_version", "serial", "manufacturer", "product", "cpu_model"), text)
    return an_inventory(nics[0].mac, address=host.ip, firmware=FirmwareKind.UEFI, disks=disks, nics=nics, **texts)


def test_hostile_texts_of_an_agent_stay_text_in_commands_pages_and_boot_files(scene: Scene) -> None:
    machine = Machine(scene.stranger, SERVER)
    names = []
    for number, raw in enumerate(scene.texts):
        text = raw.decode("utf-8", "replace")
        body = encode(hostile_inventory(scene.stranger, number, text))
        status, answer = machine.ask("POST", "/agent/v1/register", body)
        assert status == 200, answer
        registration = decode(Registration, answer)
        names.append(registration.name)
        assert re.fullmatch(r"[a-z0-9-]{1,63}", registration.name)
    assert_nothing_happened(scene)
    assert_fit_to_show(scene.shown("machine", "list"))
    for number in OF_A_TERMINAL:
        assert_fit_to_show(scene.shown("machine", "show", names[number]))
    assert_fit_to_show(scene.shown("machine", "show", "\x1b[2Jnobody"))
    told = scene.shown("machine", "list", "--json")
    assert_fit_to_show(told)
    assert len(json.loads(told)) >= len(names)
    boots = [f"/boots/52:54:00:{room}:00:{number:02x}" for room in (66, 67) for number in range(len(names))]
    for page in ("/", "/machines", "/sessions", "/images", "/boots", *boots, "/nosuch<script>alert(1)</script>"):
        html = scene.served.host.run("curl", "-sS", f"http://127.0.0.1:8670{page}")
        assert "alert(1)</script>" not in html and "<img src=x" not in html and "7006652" not in html
        assert all(character.isprintable() or character == "\n" for character in html)
    for number in range(len(names)):
        path = f"/boot/grub/grub.cfg-01-52-54-00-67-00-{number:02x}"
        head, _, configuration = scene.http(path.encode()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"OWNED" not in configuration and b"7006652" not in configuration
        assert subprocess.run(["grub-script-check"], input=configuration, check=False).returncode == 0


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"agent_version": {}}', b"[" * 100_000, b'{"a":' * 20_000,
        b'{"boot_mac": "../../etc/passwd"}', b"1e999999", b'{"a":"' + b"x" * 200_000 + b'"}',
    ],
    ids=range(11),
)  # fmt: skip
def test_a_register_that_is_none_is_refused(scene: Scene, body: bytes) -> None:
    status, answer = Machine(scene.stranger, SERVER).ask("POST", "/agent/v1/register", body)
    assert 400 <= status < 500, answer
    assert_nothing_happened(scene)
