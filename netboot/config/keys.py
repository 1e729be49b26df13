"""Every setting there is: its name in the file, what it may be, an example, and what it does. Pure: one table each.

The file, the environment, `roomcast config show` and docs/configuration.md all follow these tables.
"""

from dataclasses import dataclass
from typing import Any

from netboot.config import values
from netboot.config.settings import (
    CONTROL_PORTS,
    DATA_PORTS,
    LONGEST_LEASE_S,
    SHORTEST_LEASE_S,
    ReservationSettings,
    SubnetSettings,
)
from netboot.config.suggest import suggest
from netboot.config.toml_lines import Path
from netboot.wire.igmp import MAX_INTERVAL_S


@dataclass(frozen=True, slots=True)
class Key:
    """One setting."""

    name: str
    """In the file, with dashes."""
    field: str
    """Of the dataclass that takes it."""
    parse: values.Parse
    example: str
    """As it stands in the file."""
    meaning: str
    flag: str = ""
    """Of `roomcast serve`."""
    live: bool = False
    """Takes effect on reload; else at the next start."""
    environment: bool = True
    """Can be set by a variable: tables cannot."""

    @property
    def variable(self) -> str:
        """Of the environment; empty when there is none."""
        return f"ROOMCAST_{self.name.upper().replace('-', '_')}" if self.environment else ""


def parse_table(keys: tuple[Key, ...], tree: Any, what: str) -> dict[str, Any]:
    """The fields of a table. Raises Wrong with what could be read of it as `partial`."""
    if not isinstance(tree, dict):
        raise ValueError(f"{tree!r} is not a table: write [[{what}]] above its keys")
    by_name = {key.name: key for key in keys}
    parsed: dict[str, Any] = {}
    problems: list[values.Problem] = []
    for name, value in tree.items():
        key = by_name.get(name)
        if key is None:
            problems.append(values.Problem((name,), f"no such key of a {what}{suggest(name, by_name)}", ""))
            continue
        try:
            parsed[key.field] = key.parse(value)
        except ValueError as error:
            problems += values.problems_of(error, (name,), key.example)
    if problems:
        raise values.Wrong(problems, parsed)
    return parsed


def _subnet(tree: Any) -> SubnetSettings:
    fields = parse_table(SUBNET_KEYS, tree, "subnet")
    if "network" not in fields:
        raise ValueError("a subnet without its network")
    return SubnetSettings(**fields)


def _reservation(tree: Any) -> ReservationSettings:
    fields = parse_table(RESERVATION_KEYS, tree, "reservation")
    problems: list[values.Problem] = []
    here: Path = ()
    if "address" not in fields:
        problems.append(values.Problem(here, "a reservation without its address", 'address = "10.77.0.20"'))
    if ("mac" in fields) == ("client_id" in fields):
        text = "a reservation needs a mac or a client-id, one of the two"
        problems.append(values.Problem(here, text, 'mac = "52:54:00:12:34:56"'))
    if problems:
        raise values.Wrong(problems)
    return ReservationSettings(**fields)


_ADDRESSES = values.many(values.host_address, "IPv4 addresses")
_LEASE = values.number(SHORTEST_LEASE_S, LONGEST_LEASE_S, int)

SUBNET_KEYS = (
    Key("network", "network", values.network, 'network = "10.20.0.0/24"', "The network; needed."),
    Key(
        "pools",
        "pools",
        values.many(values.address_range, "ranges"),
        'pools = ["10.20.0.100-10.20.0.250"]',
        "Addresses to give away. None: only reserved addresses are given.",
    ),
    Key("routers", "routers", _ADDRESSES, 'routers = ["10.20.0.1"]', "Routers to tell the machines."),
    Key("dns", "dns", _ADDRESSES, 'dns = ["10.20.0.2"]', "Name servers, instead of those for all subnets."),
    Key("domain", "domain", values.domain, 'domain = "room101.example.org"', "Domain, instead of the one for all."),
    Key("lease-s", "lease_s", _LEASE, "lease-s = 3600", "Length of a lease in seconds, instead of the one for all."),
    Key(
        "options",
        "options",
        values.custom_options,
        'options = { ntp-servers = ["10.20.0.3"] }',
        "More DHCP options, added to those for all.",
    ),
)
"""Of each [[subnet]]."""

RESERVATION_KEYS = (
    Key("address", "address", values.host_address, 'address = "10.20.0.20"', "The address that is kept; needed."),
    Key("mac", "mac", values.mac, 'mac = "52:54:00:12:34:56"', "The machine, by its network card."),
    Key(
        "client-id",
        "client_id",
        values.client_id,
        'client-id = "01:52:54:00:12:34:56"',
        "Or the machine by option 61 whole, in hexadecimal digits.",
    ),
    Key(
        "hostname", "hostname", values.hostname, 'hostname = "pc-07"', "The name that the machine is told (option 12)."
    ),
)
"""Of each [[reservation]]."""

KEYS = (
    Key(
        "interfaces",
        "interfaces",
        values.interfaces,
        'interfaces = ["eth1"]',
        "Network interfaces of the machines, each in a network of its own. Needed.",
        flag="--interface",
    ),
    Key(
        "mode",
        "mode",
        values.mode,
        'mode = "auto"',
        "`server` gives addresses; `proxy` tells only what to boot, beside another DHCP server; `auto` looks for "
        "another one and is a proxy beside it; `off` leaves DHCP alone.",
        flag="--mode",
        live=True,
    ),
    Key(
        "pool",
        "pool",
        values.address_range,
        'pool = "10.20.0.100-10.20.0.250"',
        "Addresses to give away in an interface's own network, when it has no [[subnet]]. Default: the upper half.",
        flag="--pool",
        live=True,
    ),
    Key("router", "router", values.host_address, 'router = "10.20.0.1"', "As `pool`: the router.", "--router", True),
    Key("dns", "dns", _ADDRESSES, 'dns = ["10.20.0.2"]', "Name servers of all subnets.", "--dns", True),
    Key("domain", "domain", values.domain, 'domain = "lab.example.org"', "Domain of all subnets.", live=True),
    Key("lease-s", "lease_s", _LEASE, "lease-s = 3600", "Length of a lease in seconds.", "--lease", True),
    Key(
        "options",
        "options",
        values.custom_options,
        'options = { ntp-servers = ["10.20.0.3"] }',
        "More DHCP options of all subnets, by name or code.",
        live=True,
        environment=False,
    ),
    Key(
        "subnet",
        "subnets",
        values.many(_subnet, "tables: write [[subnet]] above the keys of each"),
        '[[subnet]]\nnetwork = "10.20.0.0/24"\npools = ["10.20.0.100-10.20.0.250"]',
        "A network: an interface's own, or one behind a relay agent.",
        live=True,
        environment=False,
    ),
    Key(
        "reservation",
        "reservations",
        values.many(_reservation, "tables: write [[reservation]] above the keys of each"),
        '[[reservation]]\nmac = "52:54:00:12:34:56"\naddress = "10.20.0.20"',
        "An address that is kept for one machine.",
        live=True,
        environment=False,
    ),
    Key(
        "boot-programs",
        "boot_programs",
        values.boot_programs,
        'boot-programs = { bios = "/usr/lib/ipxe/undionly.kpxe", uefi-x64 = "/usr/lib/ipxe/snponly.efi" }',
        "A program of yours that PXE firmware starts first, iPXE mostly, for `bios`, `uefi-ia32`, `uefi-x64` or "
        "`uefi-arm64`; iPXE then gets ours.",
        environment=False,
    ),
    Key(
        "http-port",
        "http_port",
        values.number(1, 65535, int),
        "http-port = 80",
        "TCP port of boot files and agents.",
        flag="--http-port",
    ),
    Key(
        "page",
        "page",
        values.page,
        'page = "127.0.0.1:8670"',
        "Address and port of the page, or `off`.",
        flag="--page",
    ),
    Key("data", "data", values.path, 'data = "/var/lib/roomcast"', "Directory of images, leases, machines.", "--data"),
    Key("socket", "socket", values.path, 'socket = "/run/roomcast/api.sock"', "Where commands reach it.", "--socket"),
    Key(
        "cast-network",
        "cast_network",
        values.cast_network,
        'cast-network = "239.77.0.0/16"',
        "Multicast network; each session takes a group of its own in it. Casts by IPv6: ff12::a077:0/112 for the link, "
        "ff15::a077:0/112 for a site of several.",
    ),
    Key(
        "cast-ttl",
        "cast_ttl",
        values.number(1, 255, int),
        "cast-ttl = 1",
        "Routers that casts may pass, and one: more than 1 for machines behind relay agents and multicast routers.",
    ),
    Key(
        "cast-mtu",
        "cast_mtu",
        values.number(540, 9243, int),
        "cast-mtu = 1500",
        "Longest packets of casts; 9000 where every machine gets jumbo frames. The interface's MTU bounds them too.",
    ),
    Key(
        "unicast",
        "unicast",
        values.boolean,
        "unicast = true",
        "Sessions cast nothing; each machine fetches its chunks: for a network that carries no multicast.",
        live=True,
    ),
    Key(
        "querier",
        "querier",
        values.boolean,
        "querier = true",
        "Ask by IGMPv3 (casts by IPv6: MLDv2) who wants multicast, where nobody else does: switches that snoop forget "
        "it otherwise.",
    ),
    Key(
        "querier-interval-s",
        "querier_interval_s",
        values.number(2, MAX_INTERVAL_S, int),
        "querier-interval-s = 125",
        "How often (seconds) the querier asks; less than half of what switches remember.",
    ),
    Key(
        "data-port-base",
        "data_port_base",
        values.number(1024, 65536 - DATA_PORTS, int),
        "data-port-base = 7400",
        f"First of {DATA_PORTS} UDP ports that sessions send to.",
    ),
    Key(
        "control-port-base",
        "control_port_base",
        values.number(1024, 65536 - CONTROL_PORTS, int),
        "control-port-base = 7101",
        f"First of {CONTROL_PORTS} UDP ports where sessions hear the machines.",
    ),
    Key(
        "max-bitrate",
        "max_bitrate_bps",
        values.bitrate,
        'max-bitrate = "900m"',
        "Bits a second at most, of all sessions together; they share it fairly. 0: no limit.",
        live=True,
    ),
    Key(
        "silence-s",
        "silence_s",
        values.number(5, 86400, float),
        "silence-s = 300",
        "A running machine that is silent for longer (seconds) has failed.",
        flag="--silence",
        live=True,
    ),
    Key(
        "idle-s",
        "idle_s",
        values.number(10, 30 * 86400, float),
        "idle-s = 900",
        "A machine that waits without a task for longer (seconds) is sent to its disk.",
        live=True,
    ),
    Key(
        "join-within-s",
        "join_within_s",
        values.number(10, 30 * 86400, float),
        "join-within-s = 14400",
        "A machine that did not take its task within this time (seconds) has failed.",
        live=True,
    ),
    Key(
        "max-wait-s",
        "max_wait_s",
        values.number(0, 86400, float),
        "max-wait-s = 120",
        "A session begins so long (seconds) after its first machine is ready, unless the deployment says otherwise.",
        live=True,
    ),
)
"""Of the file's top."""
