"""The settings of the appliance as one frozen value. Values only: where they come from is told in load.py."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from netboot.boot.selection import own_program
from netboot.model import Firmware

CONFIG_FILE = Path("/etc/roomcast/roomcast.toml")
DATA_DIRECTORY = Path("/var/lib/roomcast")
SOCKET_PATH = Path("/run/roomcast/api.sock")
DATABASE_FILE = "roomcast.db"
LEASE_FILE = "leases.db"
"""In the data directory."""

SHORTEST_LEASE_S = 60
LONGEST_LEASE_S = 30 * 86400
CastNetwork = IPv4Network | IPv6Network
CAST_NETWORK = IPv4Network("239.77.0.0/16")
FIRST_CAST_HOST = 256
"""Offset in the cast network of the first group used: keeps the low 23 bits out of 0.0.x (224.0.0.x is flooded)."""
DATA_PORTS = 256
"""Sessions take ports from `data_port_base` on, this many, in turn."""
CONTROL_PORT_BASE = 7101
CONTROL_PORTS = 99
"""And as many from `control_port_base` on, one each at a time, for what machines say: a firewall must let them in."""


AddressRange = tuple[IPv4Address, IPv4Address]
"""First and last."""


class Mode(StrEnum):
    """How the appliance answers DHCP."""

    SERVER = "server"
    PROXY = "proxy"
    """Beside another DHCP server: boot information only, no addresses."""
    AUTO = "auto"
    """Looks for another DHCP server: a proxy beside it, the server where there is none."""
    OFF = "off"
    """No DHCP at all: another server tells the machines what to boot."""


@dataclass(frozen=True, slots=True)
class SubnetSettings:
    """What the DHCP server gives away in one network; what is left out is taken from the settings for all."""

    network: IPv4Network
    pools: tuple[AddressRange, ...] = ()
    """None at all: only reserved addresses are given."""
    routers: tuple[IPv4Address, ...] = ()
    dns: tuple[IPv4Address, ...] | None = None
    domain: str | None = None
    lease_s: int | None = None
    options: tuple[tuple[int, bytes], ...] = ()
    """Custom DHCP options: code and value."""


@dataclass(frozen=True, slots=True)
class ReservationSettings:
    """An address that is kept for one machine, known by its MAC or by its client identifier."""

    address: IPv4Address
    mac: str = ""
    """Lower case, colons."""
    client_id: bytes = b""
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """How one `roomcast serve` runs."""

    interfaces: tuple[str, ...]
    """At least one."""
    mode: Mode = Mode.SERVER
    pool: AddressRange | None = None
    """In an interface's network that has no subnet of its own in `subnets`. None: the upper half."""
    lease_s: int = 3600
    router: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    domain: str = ""
    options: tuple[tuple[int, bytes], ...] = ()
    """Custom DHCP options of every subnet: code and value."""
    subnets: tuple[SubnetSettings, ...] = ()
    """Of the interfaces, and of networks behind relay agents."""
    reservations: tuple[ReservationSettings, ...] = ()
    boot_programs: tuple[tuple[Firmware, Path], ...] = ()
    """The administrator's own, for firmware that is no iPXE: mostly an iPXE, which then is told ours."""
    http_port: int = 80
    page: tuple[str, int] | None = ("127.0.0.1", 8670)
    """Address and port; None: no pages."""
    data: Path = DATA_DIRECTORY
    socket: Path = SOCKET_PATH
    cast_network: CastNetwork = CAST_NETWORK
    """Each session takes a group of its own in it."""
    cast_ttl: int = 1
    """Routers that casts may pass, and one."""
    cast_mtu: int = 1500
    """The longest packets that every machine gets; the interface's own MTU bounds them too."""
    data_port_base: int = 7400
    control_port_base: int = CONTROL_PORT_BASE
    max_bitrate_bps: int = 0
    """Of all sessions together; 0: no limit."""
    silence_s: float = 300.0
    """A running machine that says nothing for longer has failed. One that lost its power needs some minutes to be back:
    self-test, network boot, loading the agent; then it goes on where its disk is."""
    idle_s: float = 900.0
    """A machine that waits in the agent without a task for so long is told to start its disk."""
    join_within_s: float = 4 * 3600.0
    """A machine that did not take its task within this time has failed."""
    unicast: bool = False
    """Sessions cast nothing, unless the deployment says otherwise."""
    querier: bool = False
    """Ask who wants multicast where nobody else does."""
    querier_interval_s: int = 125
    max_wait_s: float = 120.0
    """A session begins this long after its first machine is ready, unless the deployment says otherwise."""

    @property
    def own_programs(self) -> dict[Firmware, str]:
        """Paths in the tree of boot files of `boot_programs`."""
        return {firmware: own_program(firmware, file.name) for firmware, file in self.boot_programs}

    @property
    def interface(self) -> str:
        """The first interface."""
        return self.interfaces[0]

    @property
    def database(self) -> Path:
        return self.data / DATABASE_FILE

    @property
    def leases(self) -> Path:
        return self.data / LEASE_FILE

    @property
    def images(self) -> Path:
        return self.data / "images"

    @property
    def agent(self) -> Path:
        return self.data / "agent"

    def boot_of(self, interface: str) -> Path:
        """Boot programs for the machines of one interface: our own GRUB carries the address of it."""
        return self.data / "boot" / interface

    @property
    def boot_packages(self) -> Path:
        """Debian's files for UEFI of other architectures than x64, as far as they have been fetched."""
        return self.data / "boot-packages"

    @property
    def keys(self) -> Path:
        return self.data / "keys"


def cast_group(network: CastNetwork, number: int) -> IPv4Address | IPv6Address:
    """The multicast group of the session with this number: of IPv4, its low 23 bits are never 0.0.x."""
    if isinstance(network, IPv6Network):
        return network[number % network.num_addresses]
    return network[FIRST_CAST_HOST + number % (network.num_addresses - FIRST_CAST_HOST - 1)]
