"""The boot files as TFTP and HTTP ask for them: by path and the peer's address, whose lease tells the MAC."""

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Protocol

import structlog

from netboot.boot.files import BootFiles, BootRequest, Transport
from netboot.bootlog.events import Span
from netboot.dhcp.leases import Lease
from netboot.model import Ignored

log = structlog.get_logger()


class Leases(Protocol):
    """Who has which address."""

    def get_by_address(self, address: IPv4Address) -> Lease | None: ...


class FetchLog(Protocol):
    """Told of boot files that are fetched by HTTP. Must not block; called from any thread."""

    def http_started(self, peer: str, path: str, size: int, span: Span) -> None:
        """`size`: of the file; `span`: which of its bytes are asked for."""

    def http_ended(self, peer: str, path: str, size: int, span: Span, sent: int, seconds: float, why: str) -> None:
        """`sent`: bytes that left; `why` the span did not go out whole, or empty."""

    def http_refused(self, peer: str, path: str, reason: str) -> None: ...


class LeasedBootFiles:
    """Adds what the leases know to the tree of boot files. Stateless: may be called from any thread."""

    def __init__(self, files: BootFiles, leases: Leases, fetches: FetchLog | None = None) -> None:
        self._files = files
        self._leases = leases
        self.fetches = fetches
        """Whoever sends what `open_http` gave tells it `http_started` and `http_ended`."""

    def open_tftp(self, path: str, peer: str) -> bytes | Path | Ignored:
        return self._open(path, peer, Transport.TFTP)

    def open_http(self, path: str, peer: str) -> bytes | Path | Ignored:
        return self._open(path, peer, Transport.HTTP)

    def _open(self, path: str, peer: str, transport: Transport) -> bytes | Path | Ignored:
        try:
            address = IPv4Address(peer)
        except AddressValueError:
            return Ignored("a peer without an IPv4 address")
        lease = self._leases.get_by_address(address)
        answer = self._files.open(path, BootRequest(address, lease.mac if lease else None, transport))
        if isinstance(answer, Ignored):
            if transport is Transport.HTTP:  # the TFTP service tells its own refusals
                log.info("http refused", path=path, peer=peer, reason=answer.reason)
                if self.fetches is not None:
                    self.fetches.http_refused(peer, path, answer.reason)
            return answer
        if transport is Transport.HTTP:
            log.info("http serves", path=path, peer=peer, bytes=answer.size)
        return answer.content
