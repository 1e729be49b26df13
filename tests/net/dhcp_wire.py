"""DHCP on a host's cable as scapy reads it: who asked what of whom, in the order of its coming."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from netns import INTERFACE, Host

KINDS = {1: "DISCOVER", 2: "OFFER", 3: "REQUEST", 4: "DECLINE", 5: "ACK", 6: "NAK", 7: "RELEASE", 8: "INFORM"}


@dataclass(frozen=True, slots=True)
class Message:
    """One DHCP packet."""

    kind: str
    mac: str
    """Of the machine that it is about."""
    destination: str
    """IP address that it was sent to."""
    ciaddr: str
    yiaddr: str
    giaddr: str
    options: dict[Any, Any]
    """By the names that scapy has for them, by number where it has none."""

    @property
    def is_broadcast(self) -> bool:
        return self.destination == "255.255.255.255"


class Wire:
    """Reads along at one host's interface until the end of its block."""

    def __init__(self, host: Host, interface: str = INTERFACE) -> None:
        self.messages: list[Message] = []
        with host.entered():
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        # ETH_P_ALL sees what leaves, too.
        self._sock.bind((interface, 0x0003))
        self._sock.settimeout(0.1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._sock.close()

    def wait_for(self, wanted: Callable[[Message], bool], seconds: float = 20, *, after: int = 0) -> int:
        """The place of the first message from `after` on that fits, one more: the next `after`."""
        deadline = time.monotonic() + seconds
        seen = after
        while True:
            while seen < len(self.messages):
                seen += 1
                if wanted(self.messages[seen - 1]):
                    return seen
            assert time.monotonic() < deadline, "\n".join(map(str, self.messages[after:]))
            time.sleep(0.02)

    def answered(
        self, mac: str, kind: str, wanted: Callable[[Message], bool], seconds: float = 20, after: int = 0
    ) -> int:
        """Wait for a message of this machine, and for an ACK of it after that."""
        asked = self.wait_for(lambda m: m.mac == mac and m.kind == kind and wanted(m), seconds, after=after)
        return self.wait_for(lambda m: m.mac == mac and m.kind == "ACK", 5, after=asked)

    def _read(self) -> None:
        from scapy.layers.dhcp import BOOTP, DHCP
        from scapy.layers.inet import IP
        from scapy.layers.l2 import Ether

        while not self._ended.is_set():
            try:
                frame = Ether(self._sock.recv(4000))
            except TimeoutError:
                continue
            if DHCP not in frame:
                continue
            bootp = frame[BOOTP]
            options = dict(option[:2] for option in frame[DHCP].options if isinstance(option, tuple))
            self.messages.append(
                Message(
                    KINDS[options["message-type"]],
                    bootp.chaddr[:6].hex(":"),
                    frame[IP].dst,
                    bootp.ciaddr,
                    bootp.yiaddr,
                    bootp.giaddr,
                    options,
                )
            )
