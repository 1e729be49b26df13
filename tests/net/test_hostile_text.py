"""What strangers send stays text: nothing of it runs, moves a cursor, makes a line of its own or leads out of the tree.

The real appliance on a network of its own; the same texts come by DHCP, TFTP, HTTP and the agents' register.
"""

import itertools
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import ROOMCAST, Machine, Served, serving

from imager.wire.messages import Disk, FirmwareKind, Inventory, Nic, Registration, decode, encode
from netboot.wire.dhcp import BOOTREQUEST, DhcpPacket, Options, build_dhcp, parse_dhcp

pytestmark = pytest.mark.root

SERVER = "10.99.0.1"
SECRET = b"SECRET-THAT-NOBODY-MAY-READ"
FORGED = "2026-01-01T00:00:00.000000 [info     ] FORGED"
SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours: the one thing of a terminal that our own output uses."""


def hostile_texts(trap: Path) -> list[bytes]:
    """Each would do something if it were ever taken for syntax: make `trap`, say OWNED, say 7006652, forge a line."""
    return [
        f"$(touch {trap})".encode(),
        f"`touch {trap}`".encode(),
        f"';touch {trap};'".encode(),
        f'"; touch {trap}; "'.encode(),
        f"| touch {trap}\n& touch {trap}".encode(),
        b"{{1234*5678}}{% for x in 'OWNED' %}{% endfor %}{# #}",
        b"${jndi:x} %(message)s {0} {event} %n%s%x",
        b"'} menuentry OWNED { reboot; } '",
        b"'\ninsmod http\nset root=(http,10.99.0.9)\n'",
        f"x\n{FORGED}\r\n{FORGED}".encode(),
        b"\x1b]0;OWNED\x07\x1b[2J\x1b[1;1HOWNED\x1b[8m",
        b"\x9b2J\x9d0;OWNED\x9c\xc2\x9b2J",
        b"\xe2\x80\xae\xe2\x80\xa8OWNED\xef\xbb\xbf\xed\xa0\x80\xff\xfe",
        b"[bold red]x[/bold red][link=http://x]y[/link][/]",
        b"<script>alert(1)</script><img src=x onerror=alert(1)>\"'&lt;",
        b"a\0b\0\0",
        b"\x7f" * 200,
        b"\\u001b[2J\\x1b[2J\\033[2J",
    ]


OF_A_TERMINAL = (9, 10, 11, 13)
"""Numbers of those that would show on one: each command costs a second."""


def option(code: int, value: bytes) -> bytes:
    return bytes((code, min(len(value), 255))) + value[:255]


@dataclass
class Scene:
    """The appliance, the stranger's host, and where nothing may appear."""

    served: Served
    stranger: Host
    trap: Path
    texts: list[bytes]

    def log(self) -> str:
        return (self.served.directory / "log").read_bytes().decode("utf-8", "surrogateescape")

    def tftp(self, name: bytes) -> bytes:
        """The first answer to a read request; nothing for a name that is not ASCII (RFC 1350, section 5): junk."""
        with self.stranger.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(5 if name.isascii() else 0.3)
            sock.sendto(b"\0\1" + name + b"\0octet\0", (SERVER, 69))
            try:
                answer, source = sock.recvfrom(2000)
            except TimeoutError:
                assert not name.isascii()
                return b""
            sock.sendto(b"\0\5\0\0enough\0", source)
            return answer

    def http(self, target: bytes, headers: bytes = b"", method: bytes = b"GET") -> bytes:
        """The whole answer to a request, written by hand."""
        with self.stranger.entered():
            sock = socket.create_connection((SERVER, 80), timeout=10)
        with sock:
            sock.sendall(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n")
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            return answer

    def dhcp(self, packet: bytes) -> DhcpPacket:
        """Broadcast a packet as a client without an address does; the answer."""
        with self.stranger.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
            sock.bind(("", 68))
            sock.settimeout(5)
            sock.sendto(packet, ("255.255.255.255", 67))
            return parse_dhcp(sock.recv(4000))

    def received(self, service: str) -> int:
        count: int = self.served.status()["counters"][service]["received"]
        return count

    def shown(self, *arguments: str) -> str:
        """What a command prints on a terminal, less colours."""
        environment = {**self.served.environment(), "FORCE_COLOR": "1", "TERM": "xterm"}
        done = subprocess.run([ROOMCAST, *arguments], env=environment, capture_output=True, timeout=60, check=False)
        return SGR.sub("", (done.stdout + done.stderr).decode("utf-8", "surrogateescape"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("hostile")
    trap = Path(f"/tmp/rc{os.getpid()}")
    with (
        Lan(2, checksum_offload=False) as lan,
        serving(lan.hosts[0], directory, "--verbose", "--lease", "600") as served,
    ):
        (served.data / "keys" / "secret").write_bytes(SECRET)
        (served.data / "agent").mkdir(exist_ok=True)
        for name in ("vmlinuz", "initrd.img"):
            (served.data / "agent" / name).write_bytes(b"agent")
        yield Scene(served, lan.hosts[1], trap, hostile_texts(trap))


def assert_nothing_happened(scene: Scene) -> None:
    log = scene.log()
    assert not scene.trap.exists()
    assert all(character.isprintable() or character == "\n" for character in log), repr(log)
    assert not any(line.startswith(FORGED[:10]) for line in log.splitlines())
    assert "7006652" not in log
    assert "Traceback" not in log and "[error" not in log, log


MAC = "52:54:00:66:00:01"


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


def test_hostile_texts_in_dhcp_options_stay_text(scene: Scene) -> None:
    for number, text in enumerate(scene.texts):
        mac = f"52:54:00:66:00:{number:02x}"
        address = scene.dhcp(hostile_dhcp(1, mac, text)).yiaddr
        chosen = option(54, socket.inet_aton(SERVER)) + option(50, address.packed)
        assert scene.dhcp(hostile_dhcp(3, mac, text, chosen)).yiaddr == address
    assert_nothing_happened(scene)
    for number in OF_A_TERMINAL:
        assert_fit_to_show(scene.shown("boot", "log", f"52:54:00:66:00:{number:02x}"))
    leases = scene.shown("lease", "list")
    assert_fit_to_show(leases)
    assert leases.count("52:54:00:66:00:") == len(scene.texts)
    assert "touch" in leases, "host names are shown"


def assert_fit_to_show(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    assert not any(line.startswith(FORGED[:10]) for line in text.splitlines())
    assert "7006652" not in text


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
    with scene.stranger.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
        sock.bind(("", 68))
        sock.settimeout(0.4)
        sock.sendto(build_dhcp(packet)[:243] + options + b"\xff", ("255.255.255.255", 67))
        try:
            answer = sock.recv(4000)
        except TimeoutError:
            answer = b""
    assert scene.received("dhcp") > before
    assert len(answer) <= 1472
    if answer:
        assert parse_dhcp(answer).xid == 9
        assert len(answer) <= 548 or b"\x39\x02\xff\xff" in options
    assert_nothing_happened(scene)


def test_hostile_names_of_files_are_not_found_and_stay_text(scene: Scene) -> None:
    for text in scene.texts:
        name = text.replace(b"\0", b"\1")[:400]
        assert scene.tftp(name)[:4] in (b"\0\5\0\1", b""), text
        quoted = b"".join(b"%%%02x" % byte for byte in text)
        for target in (b"/boot/" + quoted, b"/boot/agent/" + quoted, b"/" + quoted, b"/agent/v1/" + quoted):
            answer = scene.http(target)
            assert answer.split(b" ", 2)[1] in (b"404", b"400", b"405"), (target, answer)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"OWNED" not in head and b"FORGED" not in head
            assert b"<script>" not in body or b"application/json" in head
    for header in (
        b"X: \x1b[2J\r\n",
        b"Range: bytes=$(x)-{{7}}\r\n",
        b"Authorization: Bearer 1.\x1b[2J\r\n",
        b"Cookie: %n\r\n",
    ):
        assert scene.http(b"/boot/agent/vmlinuz", header).startswith((b"HTTP/1.1 2", b"HTTP/1.1 4"))
    assert_nothing_happened(scene)
    assert_fit_to_show(scene.shown("boot", "log", "--ignored"))


UPWARDS = """
../keys/secret ../../keys/secret boot/../keys/secret agent/../keys/secret agent/vmlinuz/../../keys/secret
/keys/secret //keys/secret {data}/keys/secret /{data}/keys/secret /etc/passwd //etc/passwd ~root/.ssh/id_ed25519
../../../../../../etc/passwd ..//..//..//etc//passwd ....//....//etc/passwd ..././..././etc/passwd file:///etc/passwd
./../keys/secret agent/./../../keys/secret ..\\keys\\secret ..\\..\\etc\\passwd agent\\..\\..\\keys\\secret
C:\\etc\\passwd %2e%2e/keys/secret %2e%2e%2fkeys%2fsecret ..%2fkeys/secret %252e%252e/keys/secret ..;/keys/secret
..%c0%af..%c0%afetc/passwd %c0%ae%c0%ae/keys/secret %uff0e%uff0e/keys/secret agent/vmlinuz%00../../keys/secret
agent/vmlinuz/../../../../etc/passwd%00.img ../keys/secret%00.cfg grub/machine-../../keys/secret.cfg
grub/grub.cfg-01-../../../keys/secret uefi/http-../../../keys/secret.img
keys/secret keys roomcast.db leases.db images serve.lock agent agent/
"""


@pytest.mark.parametrize("path", UPWARDS.split(), ids=itertools.count())
def test_no_path_leads_out_of_the_tree(scene: Scene, path: str) -> None:
    name = path.replace("{data}", str(scene.served.data))
    for plain in {name.encode(), re.sub(r"%([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), name).encode("latin-1")}:
        answer = scene.tftp(plain.split(b"\0")[0] if b"\0" in plain else plain)
        # What is cut at the NUL may name a file of the tree.
        assert answer[:2] == b"\0\5" or plain.startswith(b"agent/vmlinuz\0") or not plain.isascii(), answer
        assert SECRET not in answer and b"root:" not in answer
    for target in (f"/boot/{name}", f"/{name}", f"/boot/agent/{name}", f"/agent/v1/{name}", name):
        answer = scene.http(target.encode())
        assert SECRET not in answer and b"root:" not in answer, target
        assert answer.split(b" ", 2)[1] in (b"400", b"401", b"404", b"405") or not answer, (target, answer)
    assert_nothing_happened(scene)


def test_symbolic_links_in_the_tree_are_not_followed(scene: Scene) -> None:
    kernel = scene.served.data / "agent" / "vmlinuz"
    assert scene.tftp(b"agent/vmlinuz")[:4] == b"\0\3\0\1"
    kernel.unlink()
    kernel.symlink_to(scene.served.data / "keys" / "secret")
    try:
        assert scene.tftp(b"agent/vmlinuz")[:4] == b"\0\5\0\1"
        assert b" 404 " in scene.http(b"/boot/agent/vmlinuz")
    finally:
        kernel.unlink()
        kernel.write_bytes(b"agent")


def hostile_inventory(host: Host, number: int, text: str) -> Inventory:
    nics = (Nic(text, f"52:54:00:67:00:{number:02x}", text, 0),)
    disks = (Disk("/dev/vda", text, text, 1 << 30, 512, text, False),)
    return Inventory(
        agent_version=text, boot_mac=nics[0].mac, address=host.ip, system_uuid="", serial=text, manufacturer=text,
        product=text, cpu_model=text, cpu_count=1, memory_bytes=1 << 30, firmware=FirmwareKind.UEFI, secure_boot=False,
        boot_s=5.0, disks=disks, nics=nics,
    )  # fmt: skip


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
