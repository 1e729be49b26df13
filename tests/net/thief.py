"""A host that makes up machines, and takes an address for each, in scapy's packets on the room's own wire."""

import random
import socket
import threading
from types import TracebackType
from typing import Self

from netns import INTERFACE, Host
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

AT_ONCE = 16
"""DISCOVERs between two looks at what came."""
_QUIET_S = 0.02


class Thief:
    """Asks from the start to the end of its block, as fast as scapy writes packets. No hardware address comes twice."""

    def __init__(self, host: Host, seed: int = 8) -> None:
        self.asked = 0
        """Machines that it made up."""
        self.acked: dict[str, str] = {}
        """Address by MAC."""
        self._mac = host.mac
        self._random = random.Random(seed)
        self._macs: dict[int, str] = {}
        """By transaction number."""
        with host.entered():
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._sock.bind((INTERFACE, 0x0800))
        self._sock.settimeout(_QUIET_S)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._steal)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._sock.close()

    def _steal(self) -> None:
        while not self._ended.is_set():
            for _ in range(AT_ONCE):
                xid = self._random.getrandbits(32)
                self._macs[xid] = "06:" + self._random.randbytes(5).hex(":")
                self._send(xid, [("message-type", "discover")])
                self.asked += 1
            while self._take_answer():
                pass

    def _take_answer(self) -> bool:
        try:
            frame = Ether(self._sock.recv(4000))
        except TimeoutError:
            return False
        if DHCP not in frame or (mac := self._macs.get(frame[BOOTP].xid)) is None:
            return True
        options = dict(option[:2] for option in frame[DHCP].options if isinstance(option, tuple))
        if options["message-type"] == 2:
            wanted = [("requested_addr", frame[BOOTP].yiaddr), ("server_id", options["server_id"])]
            self._send(frame[BOOTP].xid, [("message-type", "request"), *wanted])
        elif options["message-type"] == 5:
            self.acked[mac] = frame[BOOTP].yiaddr
        return True

    def _send(self, xid: int, options: list[tuple[str, str]]) -> None:
        """As a machine without an address; its own hardware address is in the frame, the made-up one in the packet."""
        head = Ether(src=self._mac, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
        chaddr = bytes.fromhex(self._macs[xid].replace(":", ""))
        bootp = BOOTP(chaddr=chaddr, xid=xid, flags="B") / DHCP(options=[*options, "end"])
        self._sock.send(bytes(head / UDP(sport=68, dport=67) / bootp))
