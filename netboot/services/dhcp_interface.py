"""DHCP on one interface as its mode wants it: the server, a proxy, whichever is due, or nothing; changed while it runs.

Decides nothing about packets: `ServerWatching` knows whether somebody else is there, the responder what follows.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import structlog

from netboot.config.settings import Mode
from netboot.dhcp.reply import SERVER_PORT
from netboot.dhcp.watch import OtherServer, ServerAppeared, WatchEvent
from netboot.errors import ServiceError
from netboot.services.dhcp import DhcpService, Responder
from netboot.services.interface import Interface
from netboot.services.server_watch import ServerWatching
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.pxe import PXE_PORT

_ASKING = (Mode.SERVER, Mode.AUTO)
"""Modes in which it matters who else is there: in the others we only listen."""
_RETRY_S = 2.0
"""When a port cannot be had after a change of mode."""

_log = structlog.get_logger(__name__)

MakeService = Callable[[Interface, Responder, tuple[int, ...]], DhcpService]
OnOther = Callable[[Interface, OtherServer, str], None]
"""Told of each other DHCP server that appears, and what follows from it: for the boot log. Must not block."""


@dataclass(frozen=True, slots=True)
class DhcpRole:
    """What the appliance is on one interface at this moment."""

    role: Mode
    """SERVER, PROXY or OFF."""
    why: str
    other: str
    """The other DHCP server that was heard last; empty: none."""


class _ModeChanged(Exception):
    """Ends what ran in the old mode."""


class InterfaceDhcp:
    """Runs the DHCP of one interface. `apply` changes mode and responder, and keeps everything else."""

    def __init__(
        self,
        interface: Interface,
        own_addresses: frozenset[IPv4Address],
        make_service: MakeService,
        on_other: OnOther,
    ) -> None:
        """`own_addresses`: of all interfaces that are served."""
        self.interface = interface
        self._make_service = make_service
        self._on_other = on_other
        self._mode = Mode.OFF
        self._responder: Responder | None = None
        self._service: DhcpService | None = None
        self._watching = ServerWatching(interface, own_addresses, self._heard, lambda: self._mode in _ASKING)
        self._mode_changed = asyncio.Event()
        self._failure = ""
        """Why DHCP cannot be served in this mode, for now."""

    def overhear(self, request: DhcpPacket) -> None:
        """To be told of every packet that came in: it may name another server."""
        self._watching.overhear(request)

    @property
    def is_beside(self) -> bool:
        """Whether we are a proxy: another server gives the addresses here, or is to."""
        return self._mode is Mode.PROXY or (self._mode is Mode.AUTO and self._watching.other is not None)

    @property
    def role(self) -> DhcpRole:
        other = self._watching.other
        named = "" if other is None else str(other)
        if self._failure:
            return DhcpRole(Mode.OFF, self._failure, named)
        if self._mode is not Mode.AUTO:
            return DhcpRole(self._mode, f"mode is {self._mode}", named)
        if not self._watching.looked.is_set():
            return DhcpRole(Mode.OFF, "looking for another DHCP server", named)
        if other is None:
            return DhcpRole(Mode.SERVER, "no other DHCP server was found", named)
        return DhcpRole(Mode.PROXY, f"{other} gives out addresses", named)

    def apply(self, mode: Mode, responder: Responder | None) -> None:
        """From now on. The responder is None in mode `off` alone; leases and offers are its own affair."""
        assert (responder is None) == (mode is Mode.OFF)
        was, self._mode, self._responder = self._mode, mode, responder
        if mode is not was:
            if was not in _ASKING:
                self._watching.look_anew()
            self._mode_changed.set()
        elif self._service is not None and responder is not None:
            self._service.replace(responder)

    async def run(self, ready: asyncio.Event) -> None:
        """Serve until cancelled. ServiceError before `ready` is set when a port cannot be had.

        After a change of mode it is tried again and again: everything else goes on.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watching.run(), name=f"watch {self.interface.name}")
            while True:
                self._mode_changed.clear()
                try:
                    async with asyncio.TaskGroup() as of_mode:
                        of_mode.create_task(self._serve_mode(ready), name=f"dhcp {self.interface.name}")
                        await self._mode_changed.wait()
                        raise _ModeChanged
                except* _ModeChanged:
                    _log.info("dhcp mode changes", interface=self.interface.name, mode=str(self._mode))

    async def _serve_mode(self, ready: asyncio.Event) -> None:
        self._failure = ""
        while True:
            try:
                await self._serve(ready)
                return
            except ServiceError as error:
                if not ready.is_set():
                    raise
                if str(error) != self._failure:
                    _log.error("dhcp is not served", interface=self.interface.name, cause=str(error))
                self._failure = str(error)
            await asyncio.sleep(_RETRY_S)

    async def _serve(self, ready: asyncio.Event) -> None:
        mode = self._mode
        if mode is Mode.AUTO:
            await self._watching.looked.wait()
        responder = self._responder
        if responder is None:
            ready.set()
            return
        ports = (SERVER_PORT,) if mode is Mode.SERVER else (SERVER_PORT, PXE_PORT)
        service = self._make_service(self.interface, responder, ports)
        service.open()
        self._service = service
        self._failure = ""
        try:
            ready.set()
            await service.run()
        finally:
            self._service = None
            service.close()

    def _heard(self, event: WatchEvent) -> None:
        where = self.interface.name
        if not isinstance(event, ServerAppeared):
            _log.info(
                "the other dhcp server is gone", interface=where, server=str(event.last), role=str(self.role.role)
            )
            return
        match self._mode:
            case Mode.AUTO:
                follows = "this appliance is a proxy beside it"
            case Mode.SERVER:
                follows = (
                    "this appliance goes on giving addresses too: stop one of the two, or set mode to auto or proxy"
                )
            case _:
                _log.info("dhcp server heard", interface=where, server=str(event.other))
                return
        _log.warning("another dhcp server gives out addresses", interface=where, server=str(event.other), so=follows)
        self._on_other(self.interface, event.other, follows)
