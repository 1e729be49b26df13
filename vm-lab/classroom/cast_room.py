"""The network of `vm-lab/bench cast`: one sender and its receivers, each in a namespace of its own, at one switch.

A super-packet is cut in the sender's kernel, as before an ordinary card, so every packet crosses the switch alone; the
receivers' devices join them again (GRO), as cards' drivers do. Packets are lost at a receiver's port, before that.
"""

import json
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from classroom.bad_line import splice_commands
from classroom.network import loss_ruleset
from classroom.run import Run, held_back_signals
from classroom.timed_process import TimedProcess
from imager.errors import ToolError
from imager.programs import run

INTERFACE = "e0"
SENDER_ADDRESS, NEIGHBOUR_ADDRESS = "10.83.0.1", "10.83.0.2"
_SNOOPING = "mcast_snooping 1 mcast_igmp_version 3"
_INTERVALS = "mcast_query_response_interval 100 mcast_startup_query_interval 50"
"""In hundredths of a second: the switch has learned its members before the first file."""
_FIREWALL = tuple(f"net.bridge.bridge-nf-call-{tables}=0" for tables in ("iptables", "ip6tables", "arptables"))
"""A switch asks no firewall for each packet."""


class CastRoom:
    """A context manager: entering lays the cables, leaving takes them up."""

    def __init__(self, lab: Run, tag: str, receivers: int, *, neighbour: bool = False) -> None:
        self._lab = lab
        self.switch = lab.namespace(f"{tag}-switch")
        self.sender = lab.namespace(f"{tag}-sender")
        self.receivers = [lab.namespace(f"{tag}-r{number}") for number in range(1, receivers + 1)]
        self.ports = [f"p{number}" for number in range(1, receivers + 1)]
        """The switch's, in the order of the receivers."""
        self.neighbour = lab.namespace(f"{tag}-neighbour") if neighbour else None
        """Of somebody who is there, and is neither."""

    def __enter__(self) -> Self:
        for namespace in self._namespaces:
            with held_back_signals():  # `ip netns add` is a file and a mount: never one without the other
                run(["ip", "netns", "add", namespace])
        run(["ip", "netns", "exec", self.switch, "sysctl", "-eqw", *_FIREWALL])
        run(["ip", "-n", self.switch, *f"link add sw type bridge {_SNOOPING} {_INTERVALS}".split()])
        # a querier that begins looks for others for the response interval of that moment, and floods meanwhile
        run(["ip", "-n", self.switch, *["link", "set", "sw", "type", "bridge", "mcast_querier", "1"]])
        run(["ip", "-n", self.switch, *["address", "add", "10.83.0.254/24", "dev", "sw"]])
        run(["ip", "-n", self.switch, *["link", "set", "sw", "up"]])
        self._plug_in(self.sender, "p0", SENDER_ADDRESS)
        run(["ip", "netns", "exec", self.sender, "ethtool", "-K", INTERFACE, "gso", "off"])
        for number, (namespace, port) in enumerate(zip(self.receivers, self.ports, strict=True), 1):
            self._plug_in(namespace, port, self.receiver_address(number))
            run(["ip", "netns", "exec", namespace, "ethtool", "-K", INTERFACE, "gro", "on"])
        if self.neighbour is not None:
            self._plug_in(self.neighbour, "px", NEIGHBOUR_ADDRESS)
        return self

    @property
    def _namespaces(self) -> list[str]:
        others = [] if self.neighbour is None else [self.neighbour]
        return [self.switch, self.sender, *self.receivers, *others]

    def _plug_in(self, namespace: str, port: str, address: str) -> None:
        cable = f"link add {INTERFACE} netns {namespace} type veth peer name {port} netns {self.switch}"
        run(["ip", *cable.split()])
        for command in (
            "link set lo up",
            f"address add {address}/24 brd + dev {INTERFACE}",
            f"link set {INTERFACE} up",
            f"route add 224.0.0.0/4 dev {INTERFACE}",
        ):
            run(["ip", "-n", namespace, *command.split()])
        offloads = ["tx-udp-segmentation", "off", "tso", "off"]
        run(["ip", "netns", "exec", namespace, "ethtool", "-K", INTERFACE, *offloads])
        run(["ip", "netns", "exec", self.switch, "ethtool", "-K", port, "tso", "off"])
        run(["ip", "-n", self.switch, *f"link set dev {port} master sw up".split()])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for namespace in reversed(self._namespaces):
            with held_back_signals():
                try:
                    run(["ip", "netns", "delete", namespace])
                except ToolError:
                    pass  # in use or half made: the run's end removes it with what is in it

    @staticmethod
    def receiver_address(number: int) -> str:
        """Of a receiver, which are numbered from 1."""
        return f"10.83.0.{9 + number}"

    def set_loss(self, percent: float) -> None:
        """From now on each receiver's port drops `percent` of its packets, each by its own random choice."""
        for port in self.ports:
            rules = loss_ruleset(port, percent)
            run(["ip", "netns", "exec", self.switch, "nft", "-f", "-"], stdin=rules.encode())

    def shape(self, port: str, rate: str, buffer_bytes: int) -> None:
        """Give a port of the switch a slower line behind a buffer."""
        words = f"qdisc replace dev {port} root tbf rate {rate} burst 16k limit {buffer_bytes}"
        run(["ip", "netns", "exec", self.switch, "tc", *words.split()])

    def passed_and_dropped(self, port: str) -> tuple[int, int]:
        """Packets that a shaped port has let through, and those that its buffer had no room for."""
        told = run(["ip", "netns", "exec", self.switch, *f"tc -s -j qdisc show dev {port} root".split()])
        (queue,) = json.loads(told)
        return queue["packets"], queue["drops"]

    def shape_sender(self, rate: str) -> None:
        """The sender's line: all that it sends takes its time there, and nothing is lost."""
        words = f"qdisc replace dev {INTERFACE} root tbf rate {rate} burst 128k limit 1500k"
        run(["ip", "netns", "exec", self.sender, "tc", *words.split()])

    def filter_group(self, port: str, group: str) -> None:
        """What goes to a multicast group does not come through this port."""
        self._drop(port, "group", f"ip daddr {group}")

    def set_mtu(self, port: str, mtu: int) -> None:
        """Of the way behind a port: longer packets are lost on it without a word.

        By a filter, as the bridge lets packets through that were cut out of one for segmentation.
        """
        self._drop(port, "mtu", f"ip length > {mtu}")

    def _drop(self, port: str, what: str, rule: str) -> None:
        hook = f'type filter hook egress device "{port}" priority 0;'
        rules = f"table netdev {what}_{port} {{ chain c {{ {hook} {rule} drop\n }}\n }}"
        run(["ip", "netns", "exec", self.switch, "nft", "-f", "-"], stdin=rules.encode())

    def carry_no_multicast(self) -> None:
        """The switch snoops, floods nothing, and has no querier."""
        run(["ip", "-n", self.switch, *["link", "set", "dev", "sw", "type", "bridge", "mcast_querier", "0"]])
        for port in ("p0", *self.ports):
            run(["ip", "netns", "exec", self.switch, *f"bridge link set dev {port} mcast_flood off".split()])

    def spoil(self, lab: Run, number: int, seed: int, stack: ExitStack) -> None:
        """From now until the stack unwinds the line to a receiver damages, doubles and reorders what is cast."""
        port = self.ports[number - 1]
        for namespace in (self.sender, self.receivers[number - 1]):
            run(["ip", "netns", "exec", namespace, "ethtool", "-K", INTERFACE, "tx", "off"])  # whole checksums
        for command in splice_commands(port, "sw"):
            run(["ip", "netns", "exec", self.switch, *command.split()])
        log = lab.logs / f"{self.switch}-line.log"
        words = [sys.executable, "-m", "classroom.bad_line", str(seed), "inner", port, "cast"]
        line = TimedProcess(self.switch, words, log, stack)
        while "ready" not in log.read_text():
            line.look()
            time.sleep(0.05)

    def sent_bytes(self) -> int:
        """Bytes of Ethernet frames that the sender has sent."""
        path = f"/sys/class/net/{INTERFACE}/statistics/tx_bytes"
        return int(run(["ip", "netns", "exec", self.sender, "cat", path]))
