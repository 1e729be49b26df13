"""What each interface serves: its boot programs, its tree of boot files, and its DHCP as the settings say.

Leases and open offers are one for all interfaces. Addresses in what machines are told are those of their interface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog

from netboot.api.admin import InterfaceFacts
from netboot.api.boot_tree import LeasedBootFiles
from netboot.appliance import Appliance
from netboot.boot.debian_packages import debian_files
from netboot.boot.files import BootFiles, BootSettings
from netboot.boot.grub_images import BootImages, build_boot_images
from netboot.boot.render import Renderer
from netboot.boot.selection import select_boot_file
from netboot.config.loading import Loaded
from netboot.config.settings import Mode, Settings
from netboot.dhcp.beside import ServerOrProxy
from netboot.dhcp.offers import OpenOffers
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import Arrival, BootChooser, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.watch import OtherServer
from netboot.dhcp_settings import build_server_config, check_settings
from netboot.errors import ServiceError, UserError
from netboot.model import BootClient, BootFile, Ignored
from netboot.services.counters import PacketCounters
from netboot.services.dhcp import DhcpService, Responder
from netboot.services.dhcp_interface import InterfaceDhcp
from netboot.services.interface import Interface
from netboot.wire.dhcp import DhcpPacket

log = structlog.get_logger()


def make_boot_programs(settings: Settings, interfaces: Sequence[Interface]) -> list[BootImages]:
    """Those of each interface, up to date. Raises ServiceError."""
    made = []
    for interface in interfaces:
        directory = settings.boot_of(interface.name)
        debian, own = debian_files(settings.boot_packages), dict(settings.boot_programs)
        images = build_boot_images(directory, interface.address, debian, own)
        arches = ["bios", *images.uefi]
        log.info("boot programs", rebuilt=images.rebuilt, directory=str(directory), made_for=arches)
        made.append(images)
    return made


@dataclass(frozen=True, slots=True)
class ServedInterface:
    """One interface, and what is its own."""

    interface: Interface
    tree: LeasedBootFiles
    dhcp: InterfaceDhcp
    choose_boot: BootChooser


class ServedInterfaces:
    """All of them. `build` and `apply` before anything runs."""

    def __init__(self, interfaces: Sequence[Interface]) -> None:
        """At least one."""
        self.interfaces = tuple(interfaces)
        self.served: list[ServedInterface] = []
        self._offers = OpenOffers()

    def gives(self, address: IPv4Address) -> bool:
        """Whether this appliance is the server where that address is: behind relay agents, wherever it is one."""
        at = [each for each in self.served if address in each.interface.network] or self.served
        return any(each.dhcp.role.role is Mode.SERVER for each in at)

    def build(
        self, settings: Settings, appliance: Appliance, programs: Sequence[BootImages], counters: PacketCounters
    ) -> None:
        """`programs`: those of `make_boot_programs`."""
        self._appliance = appliance
        self._counters = counters
        own = frozenset(interface.address for interface in self.interfaces)
        for interface, images in zip(self.interfaces, programs, strict=True):
            files = BootFiles(
                boot_directory=settings.boot_of(interface.name),
                agent_directory=settings.agent,
                renderer=Renderer(),
                settings=BootSettings(interface.address, settings.http_port, appliance.public_key.hex()),
                next_boot=appliance.next_boots.next_boot,
                on_told=appliance.boot_log.configured,
                ways=appliance.homecoming,
                own_programs=tuple(settings.own_programs.values()),
            )
            tree = LeasedBootFiles(files, appliance.given, appliance.boot_log)
            dhcp = InterfaceDhcp(interface, own, self._make_service, self._note_other)
            choose = _boot_chooser(interface, settings, dhcp, images)
            self.served.append(ServedInterface(interface, tree, dhcp, choose))

    def apply(self, settings: Settings, loaded: Loaded | None = None) -> None:
        """From now on. Raises ConfigError or ServiceError, and then nothing has changed.

        `loaded`: where the settings came from.
        """
        if settings.mode in (Mode.SERVER, Mode.AUTO):
            check_settings(settings, self.interfaces, loaded)
        made = [(each.dhcp, self._make_responder(settings, each)) for each in self.served]
        for dhcp, responder in made:
            dhcp.apply(settings.mode, responder)

    def facts(self) -> tuple[InterfaceFacts, ...]:
        found = []
        for each in self.served:
            role = each.dhcp.role
            address = f"{each.interface.address}/{each.interface.network.prefixlen}"
            found.append(InterfaceFacts(each.interface.name, address, str(role.role), role.why, role.other))
        return tuple(found)

    def _make_responder(self, settings: Settings, each: ServedInterface) -> Responder | None:
        if settings.mode is Mode.OFF:
            return None
        try:
            server = self._make_server(settings, each)
        except (ServiceError, UserError):
            if settings.mode is not Mode.PROXY:
                raise
            server = None  # a proxy needs no pool: it gives nothing, and keeps nothing that it gave as a server
        if settings.mode is Mode.SERVER:
            assert server is not None
            return server
        own = each.interface.address
        proxy = DhcpProxy(own, each.choose_boot)
        return ServerOrProxy(server, proxy, self._appliance.leases.table, own, lambda: each.dhcp.is_beside)

    def _make_server(self, settings: Settings, each: ServedInterface) -> DhcpServer:
        others = [other for other in self.interfaces if other is not each.interface]
        config = build_server_config(settings, each.interface, others)
        return DhcpServer(config, self._appliance.leases.table, each.choose_boot, self._offers)

    def _make_service(self, interface: Interface, responder: Responder, ports: tuple[int, ...]) -> DhcpService:
        leases = self._appliance.leases
        dhcp = next(each.dhcp for each in self.served if each.interface is interface)

        def exchanged(request: DhcpPacket, arrival: Arrival, outcome: Reply | Ignored) -> None:
            self._appliance.boot_log.exchanged(request, arrival, outcome)
            self._appliance.homecoming.packet_seen(request)
            dhcp.overhear(request)

        return DhcpService(
            interface,
            responder,
            ports,
            clock=leases.clock,
            leases=leases.table,
            journal=leases.journal,
            counters=self._counters,
            on_exchange=exchanged,
            on_junk=self._appliance.boot_log.junk,
        )

    def _note_other(self, interface: Interface, other: OtherServer, follows: str) -> None:
        self._appliance.boot_log.other_server(interface.name, other, follows)


def _boot_chooser(interface: Interface, settings: Settings, dhcp: InterfaceDhcp, images: BootImages) -> BootChooser:
    address, http_port, own = interface.address, settings.http_port, settings.own_programs

    def choose(client: BootClient) -> BootFile | Ignored:
        beside = dhcp.is_beside
        return select_boot_file(client, address, http_port, by_proxy=beside, programs=images.names, own=own)

    return choose
