"""Log lines of addresses that are given or refused: a line each as a rule, one for many when many ask.

A machine that keeps its address is no news: it gets a line below INFO alone.
"""

import logging

import structlog

from netboot.dhcp.intake import Allowances
from netboot.dhcp.reply import Reply
from netboot.model import BootFile
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import MessageType

LINES_PER_S, LINES_BURST = 2.0, 120.0
"""A room that is switched on has a line for each machine; who asks a thousand times a second does not fill the disk."""
TELL_EVERY_S = 10.0
"""So often what had no line of its own is told as a number."""

_log = structlog.get_logger(__name__)


class LeaseLog:
    """Of one interface."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._lines = Allowances(LINES_PER_S, LINES_BURST, 1)
        self._given = self._refused = 0
        """Without a line, since the last one that told of such."""
        self._due_s = 0.0
        self._is_verbose = _log.is_enabled_for(logging.DEBUG)

    def answered(self, request: DhcpPacket, reply: Reply, now: float) -> None:
        """To be told of every answer."""
        is_refusal = reply.packet.message_type is MessageType.NAK
        if not is_refusal and (not reply.is_promise or (reply.is_renewal and not self._is_verbose)):
            return
        if not reply.is_renewal and not self._lines.take("lines", now):
            if not self._given and not self._refused:
                self._due_s = now + TELL_EVERY_S
            self._given, self._refused = self._given + (not is_refusal), self._refused + is_refusal
            return
        what = reply.boot.name if isinstance(reply.boot, BootFile) else reply.boot.reason
        if is_refusal:
            _log.info("dhcp refused", mac=request.mac, reason=what)
        elif reply.is_renewal:
            _log.debug("dhcp lease renewed", mac=request.mac, address=str(reply.packet.yiaddr))
        else:
            _log.info("dhcp lease", mac=request.mac, address=str(reply.packet.yiaddr), boot=what)

    def tell_rest(self, now: float) -> None:
        """To be called every second or so."""
        if (self._given or self._refused) and now >= self._due_s:
            _log.info(
                "dhcp leases without a line each", interface=self._interface, given=self._given, refused=self._refused
            )
            self._given = self._refused = 0
