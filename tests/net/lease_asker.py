"""Asks a DHCP server for addresses for many machines, as a relay agent does whose machines they are."""

import random
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from netns import Host
from scapy.layers.dhcp import BOOTP, DHCP

SERVER_PORT = 67
ANSWER_S = 3.0
"""Nobody answers any more."""
AT_ONCE = 8


class LeaseAsker:
    """Its socket is on `host`, whose address is the relay agent's. Close it, or use it in a `with`."""

    def __init__(self, host: Host, server: str, seed: int = 7) -> None:
        self.acked: dict[str, str] = {}
        """Address by MAC, as soon as its ACK is here."""
        self._relay = host.ip
        self._server = server
        self._random = random.Random(seed)
        self._transactions: dict[int, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._lease_on)
        with host.entered():
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind((host.ip, SERVER_PORT))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._sock.close()

    def start(self) -> None:
        """Lease for one machine after the other, some at once, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def lease(self, mac: str, seconds: float = ANSWER_S) -> str | None:
        """One whole exchange; None when there is no answer."""
        self.acked.pop(mac, None)
        self._discover(mac)
        self._answer(seconds, lambda: mac not in self._transactions.values())
        self._transactions.clear()
        return self.acked.get(mac)

    def ask(self, *wishes: tuple[str, str]) -> None:
        """A DISCOVER for each MAC, with the address that it wishes for or "", at once; for `next_offer`."""
        packets = []
        for mac, wished in wishes:
            xid = self._random.getrandbits(32)
            self._transactions[xid] = mac
            wish = [("requested_addr", wished)] if wished else []
            packets.append(self._packet(mac, xid, [("message-type", "discover"), *wish]))
        for packet in packets:
            self._sock.sendto(packet, (self._server, SERVER_PORT))

    def next_offer(self) -> tuple[str, str]:
        """MAC and address of the first offer that comes for whoever asked. TimeoutError when there is none."""
        self._sock.settimeout(ANSWER_S)
        packet = BOOTP(self._sock.recv(2000))
        return self._transactions.pop(packet.xid), packet.yiaddr

    def renew(self, mac: str) -> str | None:
        """Ask to keep its address, up to three times, as a machine that has lost sight of its server; None: no ACK."""
        address = self.acked.pop(mac)
        for _ in range(3):
            xid = self._random.getrandbits(32)
            self._transactions[xid] = mac
            self._send(mac, xid, [("message-type", "request")], ciaddr=address)
            self._answer(ANSWER_S, lambda: len(self._transactions) == 0)
            if not self._transactions:
                break
            self._transactions.clear()
        return self.acked.get(mac)

    def renew_all(self, held: Mapping[str, str]) -> dict[str, str]:
        """Every machine asks to keep its address, up to three times, all at once; who was told that it may."""
        self.acked = {}
        for _ in range(3):
            for mac, address in held.items():
                if mac not in self.acked:
                    xid = self._random.getrandbits(32)
                    self._transactions[xid] = mac
                    self._send(mac, xid, [("message-type", "request")], ciaddr=address)
            self._answer(ANSWER_S, lambda: not self._transactions)
            self._transactions.clear()
        return dict(self.acked)

    def new_mac(self) -> str:
        return "02:" + self._random.randbytes(5).hex(":")

    def wait_for(self, count: int, seconds: float = 30.0) -> None:
        """So many more machines have an address."""
        self.wait_until(len(self.acked) + count, seconds)

    def wait_until(self, enough: int, seconds: float = 30.0) -> None:
        """So many machines have an address."""
        deadline = time.monotonic() + seconds
        while len(self.acked) < enough:
            assert time.monotonic() < deadline, f"{len(self.acked)} leases, {enough} are waited for"
            time.sleep(0.002)

    def _lease_on(self) -> None:
        while not self._ended.is_set():
            for _ in range(AT_ONCE):
                self._discover(self.new_mac())
            self._answer(0.5, lambda: not self._transactions or self._ended.is_set())
            self._transactions.clear()

    def _discover(self, mac: str) -> None:
        self.ask((mac, ""))

    def _answer(self, seconds: float, is_done: Any) -> None:
        """Take offers up and note ACKs until it is done or nothing comes."""
        deadline = time.monotonic() + seconds
        while not is_done() and (left := deadline - time.monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                packet = BOOTP(self._sock.recv(2000))
            except TimeoutError:
                return
            mac = self._transactions.get(packet.xid)
            options = dict(option[:2] for option in packet[DHCP].options if isinstance(option, tuple))
            if mac is None:
                continue
            if options["message-type"] == 2:
                wanted = [("requested_addr", packet.yiaddr), ("server_id", options["server_id"])]
                self._send(mac, packet.xid, [("message-type", "request"), *wanted])
            elif options["message-type"] == 5:
                self.acked[mac] = packet.yiaddr
                del self._transactions[packet.xid]
            else:
                del self._transactions[packet.xid]

    def _send(self, mac: str, xid: int, options: list[tuple[str, str]], ciaddr: str = "0.0.0.0") -> None:
        self._sock.sendto(self._packet(mac, xid, options, ciaddr), (self._server, SERVER_PORT))

    def _packet(self, mac: str, xid: int, options: list[tuple[str, str]], ciaddr: str = "0.0.0.0") -> bytes:
        packet = BOOTP(chaddr=bytes.fromhex(mac.replace(":", "")), xid=xid, giaddr=self._relay, hops=1, ciaddr=ciaddr)
        return bytes(packet / DHCP(options=[*options, "end"]))
