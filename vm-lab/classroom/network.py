"""The private network of a classroom: a bridge, the appliance's port, one port and one loss rate a machine.

Nothing of it is seen from outside: bridge, taps and cables live in two network namespaces, `room` (the switch and the
machines' programs) and `server` (the appliance). The switch snoops IGMP and asks, as version 3: with a version 2
querier some of eight receivers lost the stream, because one's report suppresses another's.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from classroom.run import Run, held_back_signals
from imager.errors import ToolError
from imager.programs import run

SERVER_INTERFACE = "eth0"
SERVER_ADDRESS = "10.77.0.1"
SECOND_INTERFACE = "eth1"
PREFIX_LENGTH = 24
BRIDGE = "switch"
_SECOND_ADDRESS = "10.78.0.1"
_SECOND_BRIDGE = "switch2"
_TABLE = "loss"
_ROM_TABLE = "rom"
_NO_IPV6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"


@dataclass(frozen=True, slots=True)
class Port:
    """A machine's port of the switch."""

    tap: str
    """Name of its tap interface in the room's namespace."""


class Classroom:
    """The network of one run; a context manager. Names are free to repeat in another run: each has its namespaces."""

    def __init__(self, owner: Run) -> None:
        self.room = owner.namespace("room")
        """Network namespace of the switch: QEMU runs in it."""
        self.server = owner.namespace("server")
        """Network namespace of the appliance."""
        self._ports: list[Port] = []
        self._bridge = BRIDGE
        self._owner = owner
        self._neighbours: list[str] = []

    def __enter__(self) -> Self:
        for namespace in (self.room, self.server):
            with held_back_signals():  # `ip netns add` is a file and a mount: never one without the other
                run(["ip", "netns", "add", namespace])
            run(["ip", "netns", "exec", namespace, "sh", "-c", f"[ ! -e {_NO_IPV6} ] || echo 1 >{_NO_IPV6}"])
            self._ip(namespace, "link set lo up")
        self._add_switch(BRIDGE)
        self._plug(self.server, SERVER_INTERFACE, SERVER_ADDRESS, uplink="uplink", bridge=BRIDGE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for namespace in (self.room, self.server, *self._neighbours):
            with held_back_signals():
                try:
                    run(["ip", "netns", "delete", namespace])
                except ToolError:
                    pass  # in use or half made: the run's end removes it with what is in it

    def add_second_network(self) -> None:
        """A switch of its own at the appliance's second interface: new ports are there."""
        self._add_switch(_SECOND_BRIDGE)
        self._plug(self.server, SECOND_INTERFACE, _SECOND_ADDRESS, uplink="uplink2", bridge=_SECOND_BRIDGE)
        self._bridge = _SECOND_BRIDGE

    def add_port(self) -> Port:
        """A new port for one machine, without loss."""
        port = Port(tap=f"port{len(self._ports)}")
        self._ip(self.room, f"tuntap add dev {port.tap} mode tap")
        self._ip(self.room, f"link set {port.tap} master {self._bridge} up")
        self._ports.append(port)
        return port

    def add_neighbour(self, role: str, address: str) -> str:
        """Another server on the switch, at `address`, on an interface of the appliance's name. Its namespace."""
        namespace = self._owner.namespace(role)
        with held_back_signals():
            run(["ip", "netns", "add", namespace])
        self._neighbours.append(namespace)
        self._ip(namespace, "link set lo up")
        self._plug(namespace, SERVER_INTERFACE, address, uplink=f"to-{role}", bridge=BRIDGE)
        return namespace

    def set_loss(self, port: Port, percent: float) -> None:
        """From now on drop `percent` of the packets to this machine, each by its own random choice."""
        run(["ip", "netns", "exec", self.room, "nft", "-f", "-"], stdin=loss_ruleset(port.tap, percent).encode())

    def hide_rom(self, port: Port) -> None:
        """QEMU's ROM, an iPXE, asks DHCP from now on as a PXE ROM that is none. What it chains asks as it does."""
        run(["ip", "netns", "exec", self.room, "nft", "-f", "-"], stdin=plain_rom_ruleset(port.tap).encode())

    def dropped_packets(self, port: Port) -> int:
        """How many packets to this machine its loss has taken since `set_loss`."""
        listing = run(["ip", "netns", "exec", self.room, "nft", "list", "chain", "netdev", _TABLE, port.tap])
        _, found, rest = listing.partition("counter packets ")
        return int(rest.split()[0]) if found else 0

    def _add_switch(self, bridge: str) -> None:
        kind = "stp_state 0 forward_delay 0 mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3"
        self._ip(self.room, f"link add {bridge} type bridge {kind}")
        self._ip(self.room, f"link set {bridge} up")

    def _plug(self, namespace: str, interface: str, address: str, *, uplink: str, bridge: str) -> None:
        """A cable from `interface` of a host to the switch."""
        self._ip(self.room, f"link add {uplink} type veth peer name {interface} netns {namespace}")
        self._ip(self.room, f"link set {uplink} master {bridge} up")
        self._ip(namespace, f"address add {address}/{PREFIX_LENGTH} dev {interface}")
        self._ip(namespace, f"link set {interface} up")
        _send_as_a_card_does(namespace, interface)

    @staticmethod
    def _ip(namespace: str, command: str) -> None:
        run(["ip", "-n", namespace, *command.split()])


def _send_as_a_card_does(namespace: str, interface: str) -> None:
    """Checksum filled in (firmware checks it), one datagram each: loss then hits single packets, not bursts."""
    offloads = [word for name in ("tx", "tso", "gso", "tx-udp-segmentation") for word in (name, "off")]
    run(["ip", "netns", "exec", namespace, "ethtool", "-K", interface, *offloads])


def plain_rom_ruleset(tap: str) -> str:
    """nftables commands that make options 77 and 175 of the ROM's requests two that nobody knows.

    A chained undionly.kpxe sends the same options, and asks for broadcast answers, which the ROM does not.
    """
    udp, flags, user_class, ipxe_options = 8, 10, 290, 321  # bytes into the datagram; seen on: QEMU's ROMs of 2019
    rule = f"udp dport 67 @th,{(udp + flags) * 8},16 0"
    for place, code, hidden in ((user_class, 77, 224), (ipxe_options, 175, 225)):
        at = f"@th,{(udp + place) * 8},8"
        rule += f" {at} {code} {at} set {hidden}"
    return (
        f"add table netdev {_ROM_TABLE}\n"
        f"add chain netdev {_ROM_TABLE} {tap} "
        f'{{ type filter hook ingress device "{tap}" priority 0; policy accept; }}\n'
        f"add rule netdev {_ROM_TABLE} {tap} {rule} udp checksum set 0 counter\n"
    )


def loss_ruleset(tap: str, percent: float) -> str:
    """nftables commands that make `percent` (0 to 100, steps of 0.01) the loss of one tap, whatever it was before."""
    if not 0 <= percent <= 100:
        raise ValueError(f"loss of {percent} %: 0 to 100 is wanted")
    lines = [
        f"add table netdev {_TABLE}",
        f'add chain netdev {_TABLE} {tap} {{ type filter hook egress device "{tap}" priority 0; policy accept; }}',
        f"flush chain netdev {_TABLE} {tap}",
    ]
    share = round(percent * 100)
    if share:
        lines.append(f"add rule netdev {_TABLE} {tap} numgen random mod 10000 < {share} counter drop")
    return "\n".join(lines) + "\n"
