"""`roomcast serve`: builds the appliance's objects, hands them to each other, and runs them until a signal.

The only composition root of `netboot`. What cannot be had (an interface, a port, the data directory) is a ServiceError
before anything is served.
"""

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog

from imager.errors import ImagerError
from imager.image.keys import load_or_create_signing_key, public_key_bytes
from imager.image.store import ImageStore
from netboot.api.admin import ApplianceFacts, build_admin_app
from netboot.api.agent import build_agent_app
from netboot.api.boot_tree import LeasedBootFiles
from netboot.boot.debian_packages import debian_files
from netboot.boot.files import BootFiles, BootSettings
from netboot.boot.grub_images import BootImages, build_boot_images
from netboot.boot.render import Renderer
from netboot.boot.selection import select_boot_file
from netboot.config import Mode, Settings
from netboot.deployment.agents import Agents
from netboot.deployment.boot_log import BootHistory
from netboot.deployment.captures import Captures
from netboot.deployment.cast_events import CastEvents
from netboot.deployment.images import Images
from netboot.deployment.library import Library
from netboot.deployment.live import Board, Changes
from netboot.deployment.next_boot import NextBoots
from netboot.deployment.orders import Orders
from netboot.deployment.outcomes import Clock, Outcomes
from netboot.deployment.overview import Overview
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.server import DhcpServer
from netboot.dhcp_settings import build_server_config
from netboot.errors import ServiceError
from netboot.model import BootClient, BootFile, Ignored
from netboot.persistence.boot_log import BootRepository
from netboot.persistence.database import Database, open_database
from netboot.persistence.leases import SqlLeases
from netboot.persistence.machines import MachineRepository
from netboot.persistence.private import PRIVATE_UMASK, make_private
from netboot.persistence.sessions import SessionRepository
from netboot.services.boot_log import BootRecorder
from netboot.services.cast import CastService
from netboot.services.connections import agents_limits, other_limits, raise_open_files
from netboot.services.counters import PacketCounters
from netboot.services.dhcp import serve_dhcp
from netboot.services.http import bind_tcp, bind_unix, serve_http
from netboot.services.interface import Interface, find_interface
from netboot.services.tftp import serve_tftp
from netboot.ui.pages import build_pages_app

log = structlog.get_logger()

Say = Callable[[str], None]
"""Told a few lines for a person."""


@dataclass(frozen=True, slots=True)
class Appliance:
    """The objects of one appliance. Sockets are not theirs."""

    database: Database
    machines: MachineRepository
    sessions: SessionRepository
    leases: SqlLeases
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
    cast_events: CastEvents
    boot_log: BootRecorder
    boot_history: BootHistory
    public_key: bytes
    """Signs manifests: 32 raw bytes."""

    async def close(self) -> None:
        """End what runs beside the event loop."""
        await self.casts.close_all()
        await self.captures.close()
        self.library.close()
        self.images.close()
        self.database.close()


def build_appliance(settings: Settings, address: IPv4Address, clock: Clock | None = None) -> Appliance:
    """Open the data directory and build the objects that serve `address`. Raises ServiceError."""
    clock = clock or Clock(time.time, time.monotonic)
    database = open_database(settings.database)
    try:
        key = load_or_create_signing_key(settings.keys)
        store = ImageStore(settings.images, key)
    except ImagerError as error:
        database.close()
        raise ServiceError(str(error)) from error
    machines, sessions = MachineRepository(database), SessionRepository(database)
    leases = SqlLeases(database)
    images, captures = Images(store), Captures(store)
    board, changes = Board(), Changes()
    casts = CastService(images, str(address), clock.monotonic, settings.control_port_base)
    outcomes = Outcomes(database, sessions, board, changes, casts, captures, clock)
    boot_log = BootRecorder(database, BootRepository(database), leases if settings.mode is Mode.SERVER else None)
    return Appliance(
        database=database,
        machines=machines,
        sessions=sessions,
        leases=leases,
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
            leases if settings.mode is Mode.SERVER else None,
            settings.idle_s,
            boot_log,
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
        ),
        overview=Overview(database, machines, sessions, images, board, changes, clock),
        next_boots=NextBoots(machines, sessions),
        cast_events=CastEvents(database, sessions, board, changes, outcomes, clock),
        boot_log=boot_log,
        boot_history=BootHistory(database, machines, BootRepository(database), boot_log),
        public_key=public_key_bytes(key),
    )


async def serve(settings: Settings, say: Say) -> None:
    """Serve until SIGINT or SIGTERM. Raises ServiceError when it cannot."""
    os.umask(PRIVATE_UMASK)
    if settings.mode not in (Mode.SERVER, Mode.PROXY) or len(settings.interfaces) > 1:
        raise ServiceError("one interface, and mode server or proxy, are all that is served yet")
    interface = find_interface(settings.interface)
    with _only_one(settings):
        boot_images = build_boot_images(settings.boot, interface.address, debian_files(settings.boot_packages))
        arches = ["bios", *boot_images.uefi]
        log.info("boot programs", rebuilt=boot_images.rebuilt, directory=str(settings.boot), made_for=arches)
        appliance = build_appliance(settings, interface.address)
        try:
            await _run(settings, interface, appliance, boot_images, say)
        finally:
            await appliance.close()


async def _run(
    settings: Settings, interface: Interface, appliance: Appliance, boot_images: BootImages, say: Say
) -> None:
    renderer = Renderer()
    files = BootFiles(
        boot_directory=settings.boot,
        agent_directory=settings.agent,
        renderer=renderer,
        settings=BootSettings(interface.address, settings.http_port, appliance.public_key.hex()),
        next_boot=appliance.next_boots.next_boot,
        on_told=appliance.boot_log.configured,
    )
    tree = LeasedBootFiles(files, appliance.leases, appliance.boot_log)

    def choose_boot(client: BootClient) -> BootFile | Ignored:
        by_proxy = settings.mode is Mode.PROXY
        return select_boot_file(
            client, interface.address, settings.http_port, by_proxy=by_proxy, programs=boot_images.names
        )

    responder: DhcpServer | DhcpProxy
    if settings.mode is Mode.PROXY:
        responder = DhcpProxy(interface.address, choose_boot)
    else:
        responder = DhcpServer(build_server_config(settings, interface, probe=False), appliance.leases, choose_boot)

    with contextlib.ExitStack() as sockets:
        network = sockets.enter_context(bind_tcp(str(interface.address), settings.http_port))
        admin = sockets.enter_context(bind_unix(settings.socket))
        sockets.callback(settings.socket.unlink, missing_ok=True)
        pages = None
        if settings.page is not None:
            pages = sockets.enter_context(bind_tcp(*settings.page))
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        dhcp_ready, tftp_ready = asyncio.Event(), asyncio.Event()
        counters = {"dhcp": PacketCounters(), "tftp": PacketCounters()}
        try:
            async with asyncio.TaskGroup() as group:
                running = [
                    group.create_task(
                        serve_dhcp(
                            interface,
                            responder,
                            counters=counters["dhcp"],
                            on_exchange=appliance.boot_log.exchanged,
                            ready=dhcp_ready,
                        ),
                        name="dhcp",
                    ),
                    group.create_task(
                        serve_tftp(
                            interface,
                            tree.open_tftp,
                            counters=counters["tftp"],
                            on_transfer=appliance.boot_log.transferred,
                            on_start=appliance.boot_log.transfer_started,
                            ready=tftp_ready,
                        ),
                        name="tftp",
                    ),
                    group.create_task(appliance.boot_log.run(), name="boot log"),
                ]
                await dhcp_ready.wait()
                await tftp_ready.wait()
                await appliance.orders.resume()
                watch = appliance.outcomes.watch(settings.silence_s, settings.join_within_s)
                admin_app = build_admin_app(
                    appliance.overview,
                    appliance.orders,
                    appliance.library,
                    appliance.changes,
                    renderer,
                    settings.max_wait_s,
                    ApplianceFacts(settings.interface, str(interface.address), str(settings.mode), counters),
                    appliance.boot_history,
                )
                open_files = raise_open_files()
                agent_app, limits = build_agent_app(appliance.agents, tree), other_limits(open_files)
                running += [
                    group.create_task(serve_http(agent_app, network, agents_limits(open_files)), name="agents"),
                    group.create_task(serve_http(admin_app, admin, limits), name="admin"),
                    group.create_task(appliance.casts.run(appliance.cast_events), name="casts"),
                    group.create_task(watch, name="watch"),
                ]
                if pages is not None:
                    page_app = build_pages_app(appliance.overview, appliance.changes)
                    running.append(group.create_task(serve_http(page_app, pages, limits), name="pages"))
                _tell(settings, interface, say)
                # What was built stays to the end: else the collector walks it all at times, and every boot waits.
                gc.collect()
                gc.freeze()
                await stop.wait()
                log.info("shutting down")
                appliance.changes.stop()
                appliance.boot_log.changes.stop()
                for task in running:
                    task.cancel()
        except* ServiceError as errors:
            raise ServiceError(str(errors.exceptions[0])) from errors


def _tell(settings: Settings, interface: Interface, say: Say) -> None:
    if settings.mode is Mode.SERVER:
        pools = build_server_config(settings, interface, probe=False).local.pools
        dhcp = f"DHCP server, addresses {', '.join(str(pool) for pool in pools) or 'as reserved'}"
    else:
        dhcp = "proxyDHCP beside the network's own DHCP server"
    address = f"{interface.address}/{interface.network.prefixlen}"
    say(f"[bold]Roomcast[/bold] serves [bold]{interface.name}[/bold] ({address})")
    say(f"  boot      {dhcp}; TFTP; HTTP port {settings.http_port}")
    if settings.page is not None:
        say(f"  page      http://{settings.page[0]}:{settings.page[1]}/")
    say(f"  commands  by {settings.socket}")
    say(f"  data      {settings.data}")
    if not (settings.agent / "vmlinuz").exists():
        say("  [yellow]no agent yet: machines cannot boot it; run `roomcast agent build`[/yellow]")
    say("Ctrl-C ends it.")


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Held while this appliance serves: one a data directory, one an interface of a network namespace."""
    try:
        make_private(settings.data)
        descriptor = os.open(settings.data / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServiceError(f"{settings.data}: {error.strerror}; run it with sudo, or name another --data") from error
    # An abstract socket belongs to the network namespace and goes with its process, however that ends.
    guard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        try:
            guard.bind(f"\0roomcast-serve-{settings.interface}")
        except OSError as error:
            raise ServiceError(
                f"another `roomcast serve` serves {settings.interface} already: stop it, or name another interface"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServiceError(
                f"another `roomcast serve` uses {settings.data} already: stop it, or name another --data"
            ) from error
        yield
    finally:
        guard.close()
        os.close(descriptor)
