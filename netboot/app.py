"""`roomcast serve`: builds the appliance's objects, hands them to each other, and runs them until a signal.

The only composition root of `netboot`, with appliance.py (objects) and serving.py (interfaces). What cannot be had (an
interface, a port, the data directory) is a ServiceError before anything is served.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial

import structlog

from imager.image.ownership import handing_over
from netboot.api.admin import ApplianceFacts, build_admin_app
from netboot.api.agent import build_agent_app
from netboot.api.leases import add_leases
from netboot.api.reload import add_reload
from netboot.appliance import Appliance, build_appliance
from netboot.boot.render import Renderer
from netboot.config import Loaded, Mode, Settings
from netboot.deployment.grouping import CastInterface
from netboot.dhcp_settings import build_server_config
from netboot.errors import ServiceError
from netboot.persistence.only_one import only_one_uses
from netboot.persistence.private import PRIVATE_UMASK
from netboot.reload import Reloader
from netboot.services.connections import agents_limits, other_limits, raise_open_files
from netboot.services.counters import PacketCounters
from netboot.services.http import bind_tcp, bind_unix, serve_http
from netboot.services.interface import find_interface
from netboot.services.querier import serve_queries
from netboot.services.tftp import serve_tftp
from netboot.serving import ServedInterfaces, make_boot_programs
from netboot.ui.pages import build_pages_app

log = structlog.get_logger()

_OUTPUT = 1

Say = Callable[[str], None]
"""Told a few lines for a person."""

_Run = Callable[[], Coroutine[None, None, None]]


async def serve(load: Callable[[], Loaded], say: Say) -> None:
    """Serve until SIGINT or SIGTERM; on SIGHUP `load` the settings again. Raises ServiceError when it cannot."""
    os.umask(PRIVATE_UMASK)
    loaded = load()
    settings = loaded.settings
    for warning in loaded.warnings:
        log.warning("settings", warning=warning)
    interfaces = ServedInterfaces([find_interface(name) for name in settings.interfaces])
    with handing_over(settings.data), _only_one(settings):
        programs = make_boot_programs(settings, interfaces.interfaces)
        for_casts = [CastInterface(each.name, each.address, each.network) for each in interfaces.interfaces]
        appliance = build_appliance(settings, for_casts, gives=interfaces.gives)
        counters = {"dhcp": PacketCounters(), "tftp": PacketCounters()}
        try:
            interfaces.build(settings, appliance, programs, counters["dhcp"])
            interfaces.apply(settings, loaded)
            await _run(load, appliance, interfaces, counters, say)
        finally:
            await appliance.close()


@dataclass(frozen=True, slots=True)
class _Doors:
    """The TCP and unix sockets."""

    networks: list[socket.socket]
    """Of each interface."""
    admin: socket.socket
    pages: socket.socket | None


@contextlib.contextmanager
def _open_doors(settings: Settings, interfaces: ServedInterfaces) -> Iterator[_Doors]:
    with contextlib.ExitStack() as sockets:
        networks = [
            sockets.enter_context(bind_tcp(str(each.address), settings.http_port)) for each in interfaces.interfaces
        ]
        admin = sockets.enter_context(bind_unix(settings.socket))
        sockets.callback(settings.socket.unlink, missing_ok=True)
        pages = sockets.enter_context(bind_tcp(*settings.page)) if settings.page is not None else None
        yield _Doors(networks, admin, pages)


async def _run(
    load: Callable[[], Loaded],
    appliance: Appliance,
    interfaces: ServedInterfaces,
    counters: dict[str, PacketCounters],
    say: Say,
) -> None:
    settings = appliance.current.settings
    reloader = Reloader(load, appliance.current, interfaces.apply)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    had_terminal = os.isatty(_OUTPUT)

    def hang_up() -> None:
        if had_terminal and not os.isatty(_OUTPUT):  # closed: that is what the signal means then
            stop.set()
        else:
            reloader.reload_or_log()

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    if settings.mode is Mode.AUTO:
        say("looking for another DHCP server")
    with _open_doors(settings, interfaces) as doors, appliance.leases.journal:
        try:
            async with asyncio.TaskGroup() as outer:
                boot_log = outer.create_task(appliance.boot_log.run(), name="boot log")
                web = _build_web(appliance, interfaces, doors, reloader, counters)
                # What was built stays to the end: else the collector walks it all at times, and every boot waits.
                gc.collect()
                gc.freeze()
                async with asyncio.TaskGroup() as group:
                    running = await _start_boot_services(group, appliance, interfaces, counters)
                    await appliance.orders.resume()
                    running += [group.create_task(run(), name=name) for name, run in web]
                    running += [
                        group.create_task(appliance.casts.run(appliance.cast_events), name="casts"),
                        group.create_task(appliance.outcomes.watch(lambda: _limits(appliance)), name="watch"),
                    ]
                    _tell(appliance.current.settings, interfaces, say)
                    await stop.wait()
                    log.info("shutting down")
                    appliance.changes.stop()
                    appliance.boot_log.changes.stop()
                    for task in running:
                        task.cancel()
                boot_log.cancel()  # the last: it is told how the work of the others ended
        except* ServiceError as errors:
            raise ServiceError(str(_first(errors))) from errors


async def _start_boot_services(
    group: asyncio.TaskGroup,
    appliance: Appliance,
    interfaces: ServedInterfaces,
    counters: dict[str, PacketCounters],
) -> list[asyncio.Task[None]]:
    """DHCP and TFTP of every interface, which answer when this returns."""
    settings = appliance.current.settings
    running = [group.create_task(appliance.homecoming.run(), name="ways home")]
    ready: list[asyncio.Event] = []
    for each in interfaces.served:
        name = each.interface.name
        dhcp_ready, tftp_ready = asyncio.Event(), asyncio.Event()
        ready += [dhcp_ready, tftp_ready]
        tftp = serve_tftp(
            each.interface,
            each.tree.open_tftp,
            counters=counters["tftp"],
            on_transfer=appliance.boot_log.transferred,
            on_start=appliance.boot_log.transfer_started,
            on_ignored=appliance.boot_log.tftp_ignored,
            ready=tftp_ready,
        )
        if settings.querier:
            queries = serve_queries(each.interface, settings.querier_interval_s, settings.cast_network[-2])
            running.append(group.create_task(queries, name=f"querier {name}"))
        running.append(group.create_task(each.dhcp.run(dhcp_ready), name=f"dhcp {name}"))
        running.append(group.create_task(tftp, name=f"tftp {name}"))
    for event in ready:
        await event.wait()
    return running


def _build_web(
    appliance: Appliance,
    interfaces: ServedInterfaces,
    doors: _Doors,
    reloader: Reloader,
    counters: dict[str, PacketCounters],
) -> list[tuple[str, _Run]]:
    """The agents' server of every interface, the administrators' API, the pages: their names, and how each is run.

    Takes a good part of a second, so that it is done before the first machine can ask.
    """
    current = appliance.current

    def facts() -> ApplianceFacts:
        served, first = interfaces.facts(), interfaces.interfaces[0]
        return ApplianceFacts(first.name, str(first.address), str(current.settings.mode), served, counters)

    admin_app = build_admin_app(
        appliance.overview,
        appliance.orders,
        appliance.library,
        appliance.changes,
        Renderer(),
        lambda: current.settings.max_wait_s,
        lambda: current.settings.unicast,
        facts,
        appliance.boot_history,
    )
    add_leases(admin_app, appliance.lease_list)
    add_reload(admin_app, reloader.reload)
    open_files = raise_open_files()
    limits = other_limits(open_files)
    web: list[tuple[str, _Run]] = [("admin", partial(serve_http, admin_app, doors.admin, limits))]
    for each, network in zip(interfaces.served, doors.networks, strict=True):
        agent_app = build_agent_app(appliance.agents, each.tree)
        agents = partial(serve_http, agent_app, network, agents_limits(open_files // len(doors.networks)))
        web.append((f"agents {each.interface.name}", agents))
    if doors.pages is not None:
        page_app = build_pages_app(appliance.overview, appliance.changes, appliance.boot_history)
        web.append(("pages", partial(serve_http, page_app, doors.pages, limits)))
    return web


def _limits(appliance: Appliance) -> tuple[float, float]:
    settings = appliance.current.settings
    return settings.silence_s, settings.join_within_s


def _first(errors: BaseExceptionGroup[ServiceError]) -> BaseException:
    """The first error in a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _tell(settings: Settings, interfaces: ServedInterfaces, say: Say) -> None:
    for each, facts in zip(interfaces.interfaces, interfaces.facts(), strict=True):
        match facts.role:
            case Mode.SERVER:
                others = [other for other in interfaces.interfaces if other is not each]
                pools = build_server_config(settings, each, others).local.pools
                dhcp = f"DHCP server, addresses {', '.join(str(pool) for pool in pools) or 'as reserved'}"
            case Mode.PROXY:
                dhcp = "proxyDHCP beside the network's own DHCP server"
            case _:
                dhcp = "no DHCP: another server must tell the machines what to boot"
        why = f" ({facts.why})" if settings.mode is Mode.AUTO else ""
        say(f"[bold]Roomcast[/bold] serves [bold]{facts.name}[/bold] ({facts.address})")
        say(f"  boot      {dhcp}{why}; TFTP; HTTP port {settings.http_port}")
        if facts.other_server and facts.role == Mode.SERVER:
            say(f"  [yellow]another DHCP server gives out addresses here: {facts.other_server}[/yellow]")
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
    with contextlib.ExitStack() as held:
        for name in settings.interfaces:
            # An abstract socket belongs to the network namespace and goes with its process, however that ends.
            guard = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            try:
                guard.bind(f"\0roomcast-serve-{name}")
            except OSError as error:
                raise ServiceError(
                    f"another `roomcast serve` serves {name} already: stop it, or name another interface"
                ) from error
        held.enter_context(only_one_uses(settings.data))
        yield
