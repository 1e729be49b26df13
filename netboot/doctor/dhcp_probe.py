"""Asks DHCP on one interface as each kind of client, and gathers every answer for some seconds.

The questions are broadcast by an ordinary UDP socket of the interface. The kernel gives such a broadcast to the
wire and to this machine's own sockets, as if it had come in by the interface: so an appliance on this machine answers
by the way that it answers machines, past the same firewall. Its answer is seen as it leaves, those of others as they
come in.
"""

import contextlib
import dataclasses
import random
import select
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from netboot.doctor.offers import ROWS, Answer, Asked, Offer, Row
from netboot.doctor.packets import (
    ACK,
    OFFER,
    Heard,
    build_discover,
    build_proxy_request,
    probe_mac,
    read_frame,
    read_payload,
)
from netboot.services.capture import DHCP_ANSWERS, Capture
from netboot.services.interface import Interface

SERVER_PORT = 67
CLIENT_PORT = 68
PROXY_PORT = 4011
FIRST_WAIT_S = 1.5
"""After it, what nobody answered is asked once more."""
LISTEN_S = 4.5
"""For more servers, too, though one has answered: dnsmasq pings an address for 3 s before it offers it."""
SECOND_STEP_S = 1.0
_SPACING_S = 0.03
_MOST_OFFERS = 500
_LONGEST_DATAGRAM = 4096
_BROADCAST = "255.255.255.255"
_NO_ADDRESS = IPv4Address(0)


@dataclass(slots=True)
class _Question:
    row: Row
    xid: int
    asked_s: float = 0.0
    answered: bool = False


class DhcpProbe:
    """One round of questions on one interface. Blocks; not for an event loop."""

    def __init__(self, interface: Interface, rng: random.Random) -> None:
        self._interface = interface
        self._mac = probe_mac(interface.mac)
        self._own_mac = interface.mac.hex(":")
        self._questions = {q.xid: q for q in (_Question(row, rng.getrandbits(32)) for row in ROWS)}
        self._offers: list[Offer] = []

    def ask(self) -> Asked:
        """Raises PermissionError without CAP_NET_RAW, OSError when the interface is down."""
        began = time.monotonic()
        with (
            Capture(self._interface.name, DHCP_ANSWERS, promiscuous=True) as capture,
            contextlib.closing(_open_socket(self._interface)) as sock,
        ):
            self._send_all(sock, secs=0)
            self._gather(capture, sock, began + FIRST_WAIT_S)
            if not all(question.answered for question in self._questions.values()):
                self._send_all(sock, secs=4)
            self._gather(capture, sock, began + LISTEN_S)
            self._ask_proxies(capture, sock)
        return Asked(self._interface.name, self._interface.address, tuple(self._offers), time.monotonic() - began)

    def _send_all(self, sock: socket.socket, secs: int) -> None:
        for question in self._questions.values():
            if question.answered:
                continue
            payload = build_discover(question.row, self._mac, question.xid, secs)
            question.asked_s = question.asked_s or time.monotonic()
            sock.sendto(payload, (_BROADCAST, SERVER_PORT))
            time.sleep(_SPACING_S)

    def _ask_proxies(self, capture: Capture, sock: socket.socket) -> None:
        question = next(q for q in self._questions.values() if q.row.needed)
        proxies = {offer.server: offer for offer in self._offers if offer.answer is Answer.PROXY}
        for offer in proxies.values():
            payload = build_proxy_request(question.row, self._mac, question.xid, self._interface.address)
            question.asked_s = time.monotonic()
            # Nothing that is sent to an own address passes the interface: a broadcast does.
            sock.sendto(payload, (_BROADCAST if offer.is_own else str(offer.source), PROXY_PORT))
        if proxies:
            self._gather(capture, sock, time.monotonic() + SECOND_STEP_S)

    def _gather(self, capture: Capture, sock: socket.socket, deadline: float) -> None:
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([capture.fileno(), sock.fileno()], [], [], left)
            if capture.fileno() in ready and (got := capture.read(time.monotonic())) is not None:
                self._take(read_frame(got[0]), is_own=got[1])
            if sock.fileno() in ready:
                try:
                    payload, (source, _port) = sock.recvfrom(_LONGEST_DATAGRAM)
                except OSError:  # an ICMP error that was waiting
                    continue
                # What the wire brought was captured too; this way comes only what this machine sent to itself.
                if source == str(self._interface.address):
                    self._take(read_payload(payload, IPv4Address(source)), is_own=True)

    def _take(self, heard: Heard | None, *, is_own: bool) -> None:
        if heard is None or heard.chaddr != self._mac or len(self._offers) >= _MOST_OFFERS:
            return
        question = self._questions.get(heard.xid)
        if question is None or heard.kind not in (OFFER, ACK):
            return
        if heard.kind == ACK:
            answer = Answer.PROXY_ACK
        else:
            answer = Answer.PROXY if heard.address == _NO_ADDRESS else Answer.ADDRESS
        server = heard.server or heard.source
        offer = Offer(
            row=question.row.name,
            answer=answer,
            server=server,
            source=heard.source,
            mac=self._own_mac if is_own else heard.mac,
            is_own=is_own,
            address=heard.address,
            boot_server=heard.boot_server or server,
            boot_file=heard.boot_file,
            after_s=time.monotonic() - question.asked_s,
            skips_discovery=heard.skips_discovery,
        )
        question.answered = question.answered or answer is not Answer.PROXY_ACK
        if not any(_same(offer, known) for known in self._offers):
            self._offers.append(offer)


def _same(one: Offer, other: Offer) -> bool:
    """The same answer once more, or by another way: our socket hears what this machine broadcasts too."""
    return dataclasses.replace(one, after_s=0.0) == dataclasses.replace(other, after_s=0.0)


def _open_socket(interface: Interface) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            sock.bind((str(_NO_ADDRESS), CLIENT_PORT))
        except OSError:  # this machine's own DHCP client has it: servers answer to 68 whatever we ask from
            sock.bind((str(_NO_ADDRESS), 0))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
