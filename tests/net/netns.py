"""Small networks for tests: hosts in network namespaces, joined by a bridge in a namespace of its own.

Needs root, iproute2, nftables and ethtool. Touches nothing outside the namespaces that it makes; their names carry the
process number, so runs side by side do not meet, and what a killed run left behind is removed by the next.

    with Lan(hosts=3, loss_percent=1) as lan:
        lan.hosts[0].run("ip", "addr")
        server = lan.hosts[1].popen("dnsmasq", "--keep-in-foreground")
        with lan.hosts[2].entered():
            sock = socket.socket(...)           # belongs to that host from now on, on any thread
"""

import contextlib
import ctypes
import itertools
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Self

INTERFACE = "e0"
"""Name of the one interface of every host."""

_PREFIX = "rctest"
_CLONE_NEWNET = 0x40000000
_RUN = Path("/run/netns")
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def _set_namespace(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class Namespace:
    """A network namespace, and the processes that a test started in it."""

    name: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        """The arguments as a command line that runs in this namespace, with the mounts of the caller."""
        return ["nsenter", f"--net={_RUN / self.name}", "--", *arguments]

    def run(self, *arguments: str) -> str:
        """Run to its end and return its output; RuntimeError with command and output when it fails."""
        return _run(*self.command(*arguments))

    def popen(
        self, *arguments: str, output: int | None = subprocess.DEVNULL, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process; it is ended when the network is taken down. `output` takes stdout and stderr."""
        process = subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        )
        self.processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that the calling thread opens inside belong to this namespace. Not for use around `await`."""
        own = "/proc/thread-self/ns/net"
        back = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(_RUN / self.name)
            try:
                yield
            finally:
                if _libc.setns(back, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns back")
        finally:
            os.close(back)

    def end_processes(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(slots=True)
class Host(Namespace):
    """One machine on the bridge."""

    number: int = 0
    address: IPv4Interface | None = None
    """None when the network was built without addresses (DHCP tests)."""
    mac: str = ""
    port: str = ""
    """The bridge's end of its cable, inside `Lan.bridge`."""

    @property
    def ip(self) -> str:
        assert self.address is not None, "built with addressed=False"
        return str(self.address.ip)

    def statistic(self, name: str) -> int:
        """A kernel counter of its interface: "tx bytes", "rx packets"..."""
        direction, what = name.split()
        link = json.loads(self.run("ip", "-json", "-statistics", "link", "show", "dev", INTERFACE))[0]
        return int(link["stats64"][direction][what])


class Lan:
    """A bridge with `hosts` hosts, IGMP snooping and a querier. Hosts get network.1, .2, ... unless `addressed` is off.

    GSO packets are cut in the sending host's kernel, as before an ordinary NIC; GRO is on. `checksum_offload` off gives
    packets whole checksums: wanted by DHCP clients that read raw packets.
    """

    def __init__(
        self,
        hosts: int,
        *,
        network: str = "10.99.0.0/24",
        addressed: bool = True,
        loss_percent: float = 0,
        checksum_offload: bool = True,
    ) -> None:
        self.network = IPv4Network(network)
        self.addressed = addressed
        self.loss_percent = loss_percent
        self.checksum_offload = checksum_offload
        tag = f"{_PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.bridge = Namespace(f"{tag}-br")
        self.hosts = [Host(f"{tag}-h{i}", number=i, port=f"p{i}") for i in range(hosts)]

    def __enter__(self) -> Self:
        _remove_leftovers()
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def set_loss(self, host: Host, percent: float) -> None:
        """Drop that share of the UDP packets that leave the bridge for `host`, each by itself, before its GRO."""
        table = f"loss{host.number}"
        self.bridge.run("nft", f"add table netdev {table}; delete table netdev {table}")
        if percent:
            self.bridge.run(
                "nft",
                f"table netdev {table} {{ chain c {{ type filter hook egress device {host.port} priority 0 ; "
                f"meta l4proto udp numgen random mod 100000 < {round(percent * 1000)} drop\n }}\n }}",
            )

    def filter_group(self, host: Host, group: str) -> None:
        """Drop what goes to a multicast group before it reaches `host`."""
        hook = f"type filter hook egress device {host.port} priority 0 ;"
        ip = "ip6" if ":" in group else "ip"
        self.bridge.run(
            "nft", f"table netdev group{host.number} {{ chain c {{ {hook} {ip} daddr {group} drop\n }}\n }}"
        )

    def set_mtu(self, host: Host, mtu: int) -> None:
        """Of the way to the host: longer packets are lost on it without a word.

        By a filter, as the bridge lets packets through that were cut out of one for segmentation.
        """
        hook = f"type filter hook egress device {host.port} priority 0 ;"
        drop = f"ip length > {mtu} drop\n ip6 length > {mtu - 40} drop"
        self.bridge.run("nft", f"table netdev mtu{host.number} {{ chain c {{ {hook} {drop}\n }}\n }}")

    def allow_jumbo(self) -> None:
        """Frames of 9,000 bytes, on every cable. Some may be narrowed again: set_mtu."""
        for host in self.hosts:
            self.bridge.run("ip", "link", "set", host.port, "mtu", "9000")
            host.run("ip", "link", "set", INTERFACE, "mtu", "9000")
        self.bridge.run("ip", "link", "set", "br0", "mtu", "9000")

    def carry_no_multicast(self) -> None:
        """The switch snoops, floods nothing, and has no querier."""
        self.bridge.run("ip", "link", "set", "br0", "type", "bridge", "mcast_querier", "0")
        for host in self.hosts:
            self.bridge.run("bridge", "link", "set", "dev", host.port, "mcast_flood", "off")

    def set_cable(self, host: Host, connected: bool) -> None:
        """Pull or plug the host's cable."""
        self.bridge.run("ip", "link", "set", host.port, "up" if connected else "down")

    def plug(self, host: Host, interface: str, address: str) -> str:
        """A further cable, from a host of another network to this bridge; its hardware address there."""
        port = f"x{host.number}"
        cable = f"ip link add {interface} netns {host.name} type veth peer name {port} netns {self.bridge.name}"
        _run(*shlex.split(cable))
        host.run("ethtool", "-K", interface, "tx-udp-segmentation", "off", "tso", "off", "gro", "on", "tx", "off")
        host.run("ip", "addr", "add", address, "broadcast", "+", "dev", interface)
        host.run("ip", "link", "set", interface, "up")
        self.bridge.run("ip", "link", "set", port, "master", "br0")
        self.bridge.run("ip", "link", "set", port, "up")
        mac: str = json.loads(host.run("ip", "-json", "link", "show", "dev", interface))[0]["address"]
        return mac

    def _build(self) -> None:
        _run("ip", "netns", "add", self.bridge.name)
        bridge = (
            "type bridge forward_delay 0 mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 "
            "mcast_query_response_interval 100 mcast_startup_query_interval 50"
        )
        self.bridge.run(*shlex.split(f"ip link add br0 {bridge}"))
        if self.addressed:
            last = self.network.broadcast_address - 1
            self.bridge.run("ip", "addr", "add", f"{last}/{self.network.prefixlen}", "dev", "br0")
        self.bridge.run("ip", "link", "set", "br0", "up")
        self.bridge.run("ip", "link", "set", "lo", "up")
        for host in self.hosts:
            self._attach(host)

    def _attach(self, host: Host) -> None:
        _run("ip", "netns", "add", host.name)
        cable = f"ip link add {INTERFACE} netns {host.name} type veth peer name {host.port} netns {self.bridge.name}"
        _run(*shlex.split(cable))
        host.run("ip", "link", "set", "lo", "up")
        offloads = ["tx-udp-segmentation", "off", "tso", "off", "gro", "on"]
        if not self.checksum_offload:
            offloads += ["tx", "off"]
        host.run("ethtool", "-K", INTERFACE, *offloads)
        if self.addressed:
            host.address = IPv4Interface(f"{self.network[host.number + 1]}/{self.network.prefixlen}")
            host.run("ip", "addr", "add", str(host.address), "broadcast", "+", "dev", INTERFACE)
        host.run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.accept_dad=0")  # nobody else has its address of the link
        host.run("ip", "link", "set", INTERFACE, "up")
        host.run("ip", "route", "add", "224.0.0.0/4", "dev", INTERFACE)
        host.mac = json.loads(host.run("ip", "-json", "link", "show", "dev", INTERFACE))[0]["address"]
        self.bridge.run("ip", "link", "set", host.port, "master", "br0")
        self.bridge.run("ethtool", "-K", host.port, "tso", "off")
        self.bridge.run("ip", "link", "set", host.port, "up")
        if self.loss_percent:
            self.set_loss(host, self.loss_percent)

    def _remove(self) -> None:
        for namespace in [*self.hosts, self.bridge]:
            namespace.end_processes()
        for namespace in [*self.hosts, self.bridge]:
            if (_RUN / namespace.name).exists():
                _run("ip", "netns", "del", namespace.name)


def _remove_leftovers() -> None:
    """Remove the namespaces of test processes that no longer live."""
    if not _RUN.exists():
        return
    for path in _RUN.iterdir():
        match = re.match(rf"{_PREFIX}-(\d+)-", path.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True)
