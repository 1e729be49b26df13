"""The objects of one appliance, built from its settings and its data directory. Opens no socket of the network."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from imager.errors import ImagerError
from imager.image.keys import load_or_create_signing_key, public_key_bytes
from imager.image.store import ImageStore
from netboot.config.current import CurrentSettings
from netboot.config.settings import Settings
from netboot.deployment.agents import Agents
from netboot.deployment.boot_log import BootHistory
from netboot.deployment.captures import Captures
from netboot.deployment.cast_events import CastEvents
from netboot.deployment.grouping import CastInterface
from netboot.deployment.homecoming import Homecoming
from netboot.deployment.images import Images
from netboot.deployment.leases import LeaseList
from netboot.deployment.library import Library
from netboot.deployment.live import Board, Changes
from netboot.deployment.next_boot import NextBoots
from netboot.deployment.orders import Orders
from netboot.deployment.outcomes import Clock, Outcomes
from netboot.deployment.overview import Overview
from netboot.dhcp.leases import GivenLeases
from netboot.errors import ServiceError
from netboot.persistence.boot_log import BootRepository
from netboot.persistence.database import Database, open_database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository
from netboot.services.boot_log import BootRecorder
from netboot.services.cast import CastService
from netboot.services.leases import KeptLeases, open_leases


@dataclass(frozen=True, slots=True)
class Appliance:
    """The objects of one appliance. Sockets are not theirs."""

    current: CurrentSettings
    database: Database
    machines: MachineRepository
    sessions: SessionRepository
    leases: KeptLeases
    given: GivenLeases
    images: Images
    captures: Captures
    library: Library
    casts: CastService
    board: Board
    changes: Changes
    outcomes: Outcomes
    agents: Agents
    orders: Orders
    overview: Overview
    next_boots: NextBoots
    homecoming: Homecoming
    cast_events: CastEvents
    boot_log: BootRecorder
    boot_history: BootHistory
    lease_list: LeaseList
    public_key: bytes
    """Signs manifests: 32 raw bytes."""

    async def close(self) -> None:
        """End what runs beside the event loop."""
        await self.casts.close_all()
        await self.captures.close()
        self.library.close()
        self.images.close()
        self.leases.close()
        self.database.close()


def build_appliance(
    settings: Settings,
    interfaces: Sequence[CastInterface],
    clock: Clock | None = None,
    gives: Callable[[IPv4Address], bool] = lambda address: True,
) -> Appliance:
    """Open the data directory and build the objects that serve `interfaces`, one or more. Raises ServiceError.

    `gives`: whether this appliance gives the addresses where that one is.
    """
    clock = clock or Clock(time.time, time.monotonic)
    current = CurrentSettings(settings)
    database = open_database(settings.database, was_used=settings.leases.exists())  # the leases come after it
    try:
        key = load_or_create_signing_key(settings.keys)
        store = ImageStore(settings.images, key)
        leases = open_leases(settings.leases, database)
    except ImagerError as error:
        database.close()
        raise ServiceError(str(error)) from error
    except ServiceError:
        database.close()
        raise
    machines, sessions = MachineRepository(database), SessionRepository(database)
    given = GivenLeases(leases.table, gives, leases.clock)
    images, captures = Images(store), Captures(store)
    board, changes = Board(), Changes()
    casts = CastService(
        images,
        clock.monotonic,
        settings.control_port_base,
        lambda: current.settings.max_bitrate_bps,
        settings.cast_ttl,
        settings.cast_mtu,
    )
    outcomes = Outcomes(database, sessions, board, changes, casts, captures, clock)
    homecoming = Homecoming(database, machines, clock)
    boot_log = BootRecorder(database, BootRepository(database), given)
    return Appliance(
        current=current,
        database=database,
        machines=machines,
        sessions=sessions,
        leases=leases,
        given=given,
        images=images,
        captures=captures,
        library=Library(store, changes),
        casts=casts,
        board=board,
        changes=changes,
        outcomes=outcomes,
        agents=Agents(
            database,
            machines,
            sessions,
            images,
            captures,
            casts,
            outcomes,
            board,
            changes,
            clock,
            given,
            lambda: current.settings.idle_s,
            boot_log,
            homecoming,
            interfaces,
        ),
        orders=Orders(
            database,
            machines,
            sessions,
            images,
            casts,
            outcomes,
            changes,
            clock,
            settings.cast_network,
            settings.data_port_base,
            interfaces,
        ),
        overview=Overview(database, machines, sessions, images, board, changes, clock, homecoming),
        next_boots=NextBoots(machines, sessions, homecoming),
        homecoming=homecoming,
        cast_events=CastEvents(database, sessions, board, changes, outcomes, clock),
        boot_log=boot_log,
        boot_history=BootHistory(database, machines, BootRepository(database), boot_log),
        lease_list=LeaseList(leases.table, leases.clock, database, machines),
        public_key=public_key_bytes(key),
    )
