"""`roomcast boot log` of a machine that stops in the middle of its boot, and of what nobody answers."""

import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import ROOMCAST, serving

from netboot.wire.dhcp import BOOTREQUEST, DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import (
    CLIENT_ARCH,
    MESSAGE_TYPE,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    VENDOR_CLASS,
    MessageType,
)

pytestmark = pytest.mark.root
MAC = "52:54:00:bb:00:01"


def ask(sock: socket.socket, kind: MessageType, offer: DhcpPacket | None = None) -> DhcpPacket:
    options = Options().with_option(MESSAGE_TYPE, kind).with_option(CLIENT_ARCH, (0,))
    options = options.with_option(VENDOR_CLASS, "PXEClient:Arch:00000:UNDI:002001")
    if offer is not None:
        server = offer.options.get(SERVER_IDENTIFIER)
        assert server is not None
        options = options.with_option(SERVER_IDENTIFIER, server).with_option(REQUESTED_ADDRESS, offer.yiaddr)
    packet = DhcpPacket(BOOTREQUEST, 7, bytes.fromhex(MAC.replace(":", "")), flags=0x8000, options=options)
    sock.sendto(build_dhcp(packet), ("255.255.255.255", 67))
    return parse_dhcp(sock.recv(4096))


def lease(client: Host) -> str:
    """DISCOVER to ACK as a BIOS does; the address, which the client has from now on."""
    with client.entered():
        dhcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with dhcp:
        dhcp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        dhcp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
        dhcp.bind(("", 68))
        dhcp.settimeout(10)
        offer = ask(dhcp, MessageType.DISCOVER)
        ack = ask(dhcp, MessageType.REQUEST, offer)
    assert ack.message_type is MessageType.ACK
    client.run("ip", "addr", "add", f"{ack.yiaddr}/24", "dev", INTERFACE)
    return str(ack.yiaddr)


def read_until(stream: IO[str], text: str) -> str:
    """Lines to the one with this text."""
    told = ""
    while text not in told:
        line = stream.readline()
        assert line, f"it ended after {told!r}"
        told += line
    return told


@contextmanager
def fetching(client: Host, address: str, server: str, block: int) -> Iterator[None]:
    """Ask by TFTP for the boot program, fall silent after so many blocks, and be gone in the end."""
    with client.entered():
        tftp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with tftp:
        tftp.bind((address, 0))
        tftp.settimeout(10)
        tftp.sendto(b"\0\1bios/core.0\0octet\0", (server, 69))
        for number in range(1, block + 1):
            _, peer = tftp.recvfrom(2048)
            tftp.sendto(struct.pack("!HH", 4, number), peer)
        yield


def test_boot_that_stops_midway_is_told_as_it_happens_and_afterwards(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:
        client, server = lan.hosts[1], lan.hosts[0].ip
        command = [ROOMCAST, "boot", "log", MAC.upper().replace(":", "-"), "--follow"]
        with Popen(command, env=served.environment(), stdout=PIPE, stderr=PIPE, text=True) as following:
            assert following.stdout is not None
            with fetching(client, lease(client), server, 37):
                told = read_until(following.stdout, "TFTP bios/core.0, 214 KB: on its way")
            told += read_until(following.stdout, "next:")
            following.send_signal(signal.SIGINT)
            rest, errors = following.communicate(timeout=20)
        assert following.returncode == 0, "Ctrl-C is how following ends"
        assert (rest, "Traceback" in errors) == ("", False), errors
        assert "error: TFTP stops after block 37 of 4" in told
        afterwards = served.roomcast("boot", "log", MAC)
        assert afterwards.returncode == 0, afterwards.stderr
        assert "DISCOVER BIOS (arch 0)" in afterwards.stdout and "boot file bios/core.0" in afterwards.stdout
        assert "stopped after block 37 of 4" in afterwards.stdout
        (boot,) = served.json("boot", "log", MAC)
        assert [found["code"] for found in boot["diagnoses"]] == ["tftp-stopped"]


def test_a_transfer_that_the_appliances_end_cuts_stands_in_the_log_afterwards(tmp_path: Path) -> None:
    with Lan(2) as lan:
        client, server = lan.hosts[1], lan.hosts[0].ip
        with serving(lan.hosts[0], tmp_path) as served, fetching(client, lease(client), server, 37):
            served.process.send_signal(signal.SIGTERM)
            served.process.wait(20)
        assert served.process.returncode == 0
        with serving(lan.hosts[0], tmp_path) as served:
            (boot,) = served.json("boot", "log", MAC)
            said = served.roomcast("boot", "log", MAC).stdout
    (fetch,) = [entry for entry in boot["entries"] if entry["kind"] == "fetch"]
    assert (fetch["state"], fetch["blocks"], fetch["why"]) == ("failed", 37, "the appliance is shutting down")
    assert [found["code"] for found in boot["diagnoses"]] == ["tftp-cut"]
    assert "we ended TFTP of bios/core.0 after block 37: the appliance is shutting down" in said


def test_everything_that_got_no_answer_is_told_with_its_reason(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:
        client, server = lan.hosts[1], lan.hosts[0].ip
        with client.entered():
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with stranger:
            stranger.sendto(b"not a DHCP packet", (server, 67))
            stranger.sendto(b"\0\1pxelinux.0\0octet\0", (server, 69))
            stranger.sendto(b"\0\2mine\0octet\0", (server, 69))
            stranger.settimeout(10)
            stranger.recvfrom(2048), stranger.recvfrom(2048)
        said = served.roomcast("boot", "log", "--ignored")
        assert said.returncode == 0, said.stderr
        by_words = [" ".join(line.split()) for line in said.stdout.splitlines()]
        assert any(f"{client.ip} DHCP port not a DHCP packet: " in line for line in by_words), said.stdout
        assert any("TFTP pxelinux.0 no such file: pxelinux.0" in line for line in by_words), said.stdout
        assert any("TFTP port write request" in line for line in by_words), said.stdout
        assert "1 TFTP write request" in by_words and "1 DHCP not of this protocol" in by_words, said.stdout
        nobody = served.roomcast("boot", "log", "pc-99")
        assert nobody.returncode != 0 and "Traceback" not in nobody.stderr
        assert "no machine pc-99: name it by its MAC" in nobody.stderr
        unheard = served.roomcast("boot", "log", "52:54:00:bb:00:99")
        assert unheard.stdout.startswith("Nothing was heard of 52:54:00:bb:00:99 yet")
