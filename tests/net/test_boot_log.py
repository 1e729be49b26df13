"""`roomcast boot log` of a machine that asks as BIOS, fetches its boot program, and stops in the middle."""

import os
import socket
import struct
import sys
from pathlib import Path
from subprocess import run

import pytest
from netns import INTERFACE, Lan
from test_appliance_serve import serving

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


def test_transfer_that_stops_midway_is_told_with_its_block(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:
        client, server = lan.hosts[1], lan.hosts[0].ip
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
        with client.entered():
            tftp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with tftp:
            tftp.bind((str(ack.yiaddr), 0))
            tftp.settimeout(10)
            tftp.sendto(b"\0\1bios/core.0\0octet\0", (server, 69))
            for block in range(1, 38):
                _, peer = tftp.recvfrom(2048)
                tftp.sendto(struct.pack("!HH", 4, block), peer)
            for _ in range(100):
                command = [sys.executable, "-m", "netboot.cli.main", "boot", "log"]
                environment = {**served.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
                said = run([*command, MAC.upper().replace(":", "-")], env=environment, capture_output=True, text=True)
                if "TFTP stops" in said.stdout:
                    break
            print(said.stdout, said.stderr)
        assert "TFTP stops after block 37 of 4" in said.stdout
        assert "DISCOVER BIOS (arch 0)" in said.stdout and "boot file bios/core.0" in said.stdout
        assert max(map(len, said.stdout.splitlines())) < 200
