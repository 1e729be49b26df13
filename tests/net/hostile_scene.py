"""The real appliance on a network of its own, a stranger who sends it hostile texts, and what must not happen then."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netns import INTERFACE, Host, Lan
from test_appliance_serve import ROOMCAST, Served, serving

SERVER = "10.99.0.1"
SECRET = b"SECRET-THAT-NOBODY-MAY-READ"
FORGED = "2026-01-01T00:00:00.000000 [info     ] FORGED"
SGR = re.compile(r"\x1b\[[0-9;]*m")
"""Colours: the one thing of a terminal that our own output uses."""
MORE_OPTIONS = range(224, 232)
"""What the administrator has it tell everybody, 250 bytes each."""


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

    def http(self, target: bytes, headers: bytes = b"", source: str = "") -> bytes:
        """The whole answer to a request, written by hand; `source`: which address of the stranger's asks."""
        with self.stranger.entered():
            sock = socket.create_connection((SERVER, 80), timeout=10, source_address=(source, 0))
        with sock:
            sock.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n")
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            return answer

    def body(self, path: str, source: str = "") -> bytes:
        """What is served by HTTP at this path."""
        head, _, body = self.http(path.encode(), source=source).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return body

    def dhcp(self, packet: bytes, seconds: float = 5) -> bytes:
        """Broadcast a packet as a client without an address does; the answer. TimeoutError when there is none."""
        with self.stranger.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
            sock.bind(("", 68))
            sock.settimeout(seconds)
            sock.sendto(packet, ("255.255.255.255", 67))
            return sock.recv(4000)

    def received(self, service: str) -> int:
        count: int = self.served.status()["counters"][service]["received"]
        return count

    def shown(self, *arguments: str) -> str:
        """What a command prints on a terminal, less colours."""
        environment = {**self.served.environment(), "FORCE_COLOR": "1", "TERM": "xterm"}
        done = subprocess.run([ROOMCAST, *arguments], env=environment, capture_output=True, timeout=60, check=False)
        return SGR.sub("", (done.stdout + done.stderr).decode("utf-8", "surrogateescape"))


@contextmanager
def a_hostile_scene(directory: Path) -> Iterator[Scene]:
    """Its options for all are more than an answer can carry."""
    trap = Path(f"/tmp/rc{os.getpid()}")
    file = directory / "roomcast.toml"
    options = ", ".join(f'{code} = "text:{chr(code - 127) * 250}"' for code in MORE_OPTIONS)
    file.write_text(f"lease-s = 600\noptions = {{ {options} }}\n")
    with (
        Lan(2, checksum_offload=False) as lan,
        serving(lan.hosts[0], directory, "--verbose", "--config", str(file)) as served,
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


def assert_fit_to_show(text: str) -> None:
    assert all(character.isprintable() or character == "\n" for character in text), repr(text)
    assert not any(line.startswith(FORGED[:10]) for line in text.splitlines())
    assert "7006652" not in text
