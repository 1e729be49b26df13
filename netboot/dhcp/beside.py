"""The DHCP server that becomes a proxy while another server gives the addresses, and keeps what it gave. Pure.

What it does then: new machines get boot information alone. A machine that holds a lease of ours is renewed, so that no
address changes under work (RFC 2131, section 4.3.2: RENEWING, REBINDING, INIT-REBOOT), and gets its next address from
the other server, since its next DISCOVER is answered by that one. Nobody gets a NAK: the other is the authority now.
"""

from collections.abc import Callable
from ipaddress import IPv4Address

from netboot.dhcp.leases import LeaseRepository, LeaseState
from netboot.dhcp.proxy import DhcpProxy, is_boot_server_search
from netboot.dhcp.reply import SERVER_PORT, Arrival, ProbeFirst, Reply
from netboot.dhcp.server import DhcpServer
from netboot.model import Ignored
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import SERVER_IDENTIFIER, MessageType


class ServerOrProxy:
    """Answers on one interface, on ports 67 and 4011."""

    def __init__(
        self,
        server: DhcpServer | None,
        proxy: DhcpProxy,
        leases: LeaseRepository,
        own_address: IPv4Address,
        is_beside: Callable[[], bool],
    ) -> None:
        """`is_beside`: whether another server gives the addresses at this moment: always, when `server` is None."""
        self._server = server
        self._proxy = proxy
        self._leases = leases
        self._own_address = own_address
        self._is_beside = is_beside

    def respond(self, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored | ProbeFirst:
        if self._server is not None and not self._is_beside():
            if arrival.local_port != SERVER_PORT:
                return Ignored("the server itself has told what to boot: nothing is due on port 4011")
            return self._server.respond(request, arrival)
        kind = request.message_type
        is_to_server = arrival.local_port == SERVER_PORT and kind not in (None, MessageType.DISCOVER)
        if self._server is not None and is_to_server and self._is_ours(request, arrival.now):
            return self._keep(self._server, request, arrival)
        return self._proxy.respond(request, arrival)

    def _is_ours(self, request: DhcpPacket, now: float) -> bool:
        """Whether the packet is about what this server gave: a lease, or an offer that was made before.

        A lease that has ended still says why its REQUEST gets no answer, and nothing else.
        """
        chosen = request.options.get(SERVER_IDENTIFIER)
        if chosen is not None:
            return chosen == self._own_address
        if is_boot_server_search(request):
            return False
        lease = self._leases.get_by_mac(request.mac)
        if lease is None or lease.state is not LeaseState.BOUND:
            return False
        return lease.is_active(now) or request.message_type is MessageType.REQUEST

    def _keep(self, server: DhcpServer, request: DhcpPacket, arrival: Arrival) -> Reply | Ignored | ProbeFirst:
        if request.message_type is MessageType.REQUEST:
            lease = self._leases.get_by_mac(request.mac)
            if (lease is None or not lease.is_active(arrival.now)) and SERVER_IDENTIFIER not in request.options:
                return Ignored("another server gives the addresses here, and the lease of this one has ended")
        outcome = server.respond(request, arrival)
        if isinstance(outcome, Reply) and outcome.packet.message_type is MessageType.NAK:
            reason = outcome.boot.reason if isinstance(outcome.boot, Ignored) else "NAK"
            return Ignored(f"left to the other DHCP server here ({reason})")
        return outcome

    # Probes

    def note_probe(self, address: IPv4Address, holder_mac: str | None, now: float) -> None:
        if self._server is not None:
            self._server.note_probe(address, holder_mac, now)

    def addresses_to_probe(self, now: float, count: int) -> list[ProbeFirst]:
        if self._server is None or self._is_beside():
            return []
        return self._server.addresses_to_probe(now, count)
