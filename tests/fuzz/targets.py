"""What is fuzzed: each target takes any bytes, and may raise nothing but WireError (which it keeps to itself)."""

import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

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
from netboot.wire.dhcp import build_dhcp, parse_dhcp
from netboot.wire.tftp import parse_tftp

SERVER = IPv4Address("10.77.0.1")
_SUBNET = Subnet(IPv4Network("10.77.0.0/24"), (Pool(IPv4Address("10.77.0.100"), IPv4Address("10.77.0.120")),))


def _choose(client: BootClient) -> BootFile | Ignored:
    return select_boot_file(client, SERVER)


class Targets:
    """Fresh responders, whose state the packets change."""

    def __init__(self) -> None:
        self._server = DhcpServer(ServerConfig(SERVER, _SUBNET, probe=False), LeaseTable(), _choose)
        self._proxy = DhcpProxy(SERVER, _choose)
        self._now = 1_000_000.0
        self._watch = ServerWatch(bytes.fromhex("525400000001"), frozenset({SERVER}), random.Random(1), self._now)
        leases = LeaseTable()
        kept = DhcpServer(ServerConfig(SERVER, _SUBNET, probe=False), leases, _choose)
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
        try:
            parse_tftp(data)
        except WireError:
            return


def targets() -> dict[str, Callable[[bytes], None]]:
    """By name."""
    fresh = Targets()
    return {"dhcp": fresh.dhcp, "tftp": fresh.tftp}
