"""What is fuzzed: each target takes any bytes, and may raise nothing but its protocol's error (kept to itself).

Behind the parsers stand the responders that get what was parsed; they remember what came before, as in the appliance.
"""

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

from cast_targets import CastTargets

from netboot.boot.selection import select_boot_file
from netboot.dhcp.beside import ServerOrProxy
from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import Arrival, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.dhcp.watch import ServerWatch
from netboot.errors import WireError
from netboot.model import BootClient, BootFile, Ignored
from netboot.tftp.options import Limits, negotiate
from netboot.tftp.reception import Reception, Replaces
from netboot.tftp.transfer import ReadTransfer
from netboot.wire.dhcp import build_dhcp, parse_dhcp
from netboot.wire.tftp import ReadRequest

SERVER = IPv4Address("10.77.0.1")
POOL = Pool(IPv4Address("10.77.0.100"), IPv4Address("10.77.0.120"))
_SUBNET = Subnet(IPv4Network("10.77.0.0/24"), (POOL,))
_PEER = ("10.77.0.9", 1024)


def _choose(client: BootClient) -> BootFile | Ignored:
    return select_boot_file(client, SERVER)


class _Content:
    """A file in memory."""

    size = 3000

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.size)[offset : offset + length]


class Targets:
    """Fresh responders, whose state the packets change."""

    def __init__(self) -> None:
        self._server = DhcpServer(ServerConfig(SERVER, _SUBNET, probe=False), LeaseTable(), _choose)
        self._proxy = DhcpProxy(SERVER, _choose)
        self._now = 1_000_000.0
        self._watch = ServerWatch(bytes.fromhex("525400000001"), frozenset({SERVER}), random.Random(1), self._now)
        leases = LeaseTable()
        kept = DhcpServer(ServerConfig(SERVER, _SUBNET, probe=False), leases, _choose)
        self._reception = Reception()
        self._transfer: ReadTransfer | None = None
        self._either = ServerOrProxy(kept, self._proxy, leases, SERVER, lambda: self._watch.other is not None)

    def dhcp(self, data: bytes) -> None:
        try:
            packet = parse_dhcp(data)
        except WireError:
            return
        packet.summary()
        self._now += 1
        self._watch.receive(packet, IPv4Address("10.77.0.9"), b"\x52\x54\0\0\0\x09", self._now)
        self._watch.overhear(packet, self._now)
        self._watch.handle_timeout(self._now)
        for question in self._watch.packets_to_send():
            build_dhcp(question)
        self._watch.events()
        for port in (67, 4011):
            arrival = Arrival(self._now, IPv4Address("10.77.0.9"), 68, SERVER, port)
            for answer in (each.respond(packet, arrival) for each in (self._server, self._proxy, self._either)):
                if isinstance(answer, Reply):
                    parse_dhcp(build_dhcp(answer.packet))

    def tftp(self, data: bytes) -> None:
        self._now += 1
        if self._transfer is not None:
            self._transfer.receive_datagram(data, _PEER, self._now)
            self._transfer.handle_timeout(self._now)
            self._send(self._transfer)
        try:
            verdict = self._reception.receive_request(data, _PEER, self._now)
        except WireError:
            return
        if isinstance(verdict, ReadRequest | Replaces):
            request = verdict.request if isinstance(verdict, Replaces) else verdict
            terms = negotiate(request.options, _Content.size, Limits())
            self._transfer = ReadTransfer(_PEER, _Content(), terms, self._now)
            self._reception.ended(_PEER)
            self._reception.started(_PEER, request, self._transfer)
            self._send(self._transfer)

    def _send(self, transfer: ReadTransfer) -> None:
        sent = transfer.datagrams_to_send(self._now)
        assert all(len(packet) <= 4 + Limits().block_bytes and peer == _PEER for packet, peer in sent)
        assert len(sent) <= Limits().window_blocks
        transfer.events()


def targets() -> dict[str, Callable[[bytes], None]]:
    """By name."""
    fresh, cast = Targets(), CastTargets()
    return {
        "dhcp": fresh.dhcp,
        "tftp": fresh.tftp,
        "cast-sender": cast.sender,
        "cast-receiver": cast.receiver,
        "cast-words": cast.words,
        "cast-tcp": cast.tcp,
    }
