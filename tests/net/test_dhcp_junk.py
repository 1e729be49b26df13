"""20,000 malformed DHCP packets at `roomcast serve`: nothing raises, nothing grows, and everybody else is served."""

import random
import re
import socket
import statistics
import sys
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import serving

from netboot.errors import WireError
from netboot.wire.dhcp import BOOTREPLY, BROADCAST_FLAG, DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import MESSAGE_TYPE, REQUESTED_ADDRESS, SERVER_IDENTIFIER, MessageType
from netboot.wire.frame import build_udp_frame, parse_udp_frame

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from corpus import corpus, mutate

pytestmark = pytest.mark.root

PACKETS = 20_000
AT_ONCE = 25
PAUSE_S = 0.01
"""2,500 packets a second at most."""
EXCHANGES = 20
LONGEST_S = 0.1
"""Of a clean exchange meanwhile: the median, because the test's own machine stalls at times."""
MOST_GROWTH_BYTES = 16 << 20
ANY, EVERYBODY = IPv4Address(0), IPv4Address("255.255.255.255")
_SO_RCVBUFFORCE = 33
SERVER = IPv4Address("10.77.0.1")
"""The server that the packets of the corpus name."""


def framed(payload: bytes, mac: str) -> bytes:
    """A broadcast of a client without an address: the server's limit for one address does not spare it these."""
    return build_udp_frame(
        payload,
        source_mac=bytes.fromhex(mac.replace(":", "")),
        destination_mac=b"\xff" * 6,
        source=ANY,
        source_port=68,
        destination=EVERYBODY,
        destination_port=67,
    )


def junk(chance: random.Random, packets: list[bytes]) -> bytes:
    return chance.randbytes(chance.randrange(1400)) if chance.random() < 0.2 else mutate(chance, packets)


class CleanClient:
    """A machine with a lease, on a cable of its own."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._sock.bind((INTERFACE, 0x0800))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)  # the flood is broadcast: it comes here too
        self._mac = host.mac
        self._xid = 1
        self._address = ANY

    def exchange(self) -> float:
        """DISCOVER to ACK, in seconds."""
        self._xid += 1
        discover = DhcpPacket(
            op=1,
            xid=self._xid,
            chaddr=bytes.fromhex(self._mac.replace(":", "")),
            flags=BROADCAST_FLAG,
            options=Options().with_option(MESSAGE_TYPE, MessageType.DISCOVER),
        )
        begin = time.perf_counter()
        offer = self._ask(discover, MessageType.OFFER)
        options = Options().with_option(MESSAGE_TYPE, MessageType.REQUEST)
        options = options.with_option(SERVER_IDENTIFIER, SERVER).with_option(REQUESTED_ADDRESS, offer.yiaddr)
        assert self._ask(replace(discover, options=options), MessageType.ACK).yiaddr == offer.yiaddr
        self._address = offer.yiaddr
        return time.perf_counter() - begin

    def renew(self) -> float:
        """The same of a REQUEST in state RENEWING, whose answer goes to the address that it holds."""
        self._xid += 1
        options = Options().with_option(MESSAGE_TYPE, MessageType.REQUEST)
        chaddr = bytes.fromhex(self._mac.replace(":", ""))
        begin = time.perf_counter()
        self._ask(DhcpPacket(1, self._xid, chaddr, ciaddr=self._address, options=options), MessageType.ACK)
        return time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._sock.close()

    def _ask(self, packet: DhcpPacket, wanted: MessageType) -> DhcpPacket:
        """The answer; asked for again after a second, as clients do."""
        frame = framed(build_dhcp(packet), self._mac)
        for _ in range(5):
            self._sock.send(frame)
            deadline = time.monotonic() + 1
            while (left := deadline - time.monotonic()) > 0:
                self._sock.settimeout(left)
                try:
                    answer = parse_dhcp(parse_udp_frame(self._sock.recv(4000)).payload)
                except (WireError, TimeoutError):
                    continue
                if answer.op == BOOTREPLY and answer.xid == self._xid and answer.message_type is wanted:
                    return answer
        raise AssertionError(f"no {wanted.name} in five seconds")


def test_answers_to_addresses_that_nobody_has_do_not_hold_up_the_others(tmp_path: Path) -> None:
    """The kernel keeps them in the socket's buffer while it asks for their holders by ARP."""
    with Lan(3, network="10.77.0.0/24", addressed=False, checksum_offload=False) as lan:
        server, attacker, neighbour = lan.hosts
        server.run("ip", "address", "add", f"{SERVER}/24", "dev", INTERFACE)
        with attacker.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((INTERFACE, 0))
        inform = Options().with_option(MESSAGE_TYPE, MessageType.INFORM)
        with CleanClient(neighbour) as client, sock, serving(server, tmp_path) as served:
            client.exchange()
            for number in range(600):
                absent = IPv4Address(f"10.77.0.{10 + number % 100}")
                chaddr = bytes.fromhex("525400") + number.to_bytes(3, "big")
                sock.send(
                    framed(build_dhcp(DhcpPacket(1, number, chaddr, ciaddr=absent, options=inform)), attacker.mac)
                )
            assert client.exchange() < 2
            assert client.renew() < 2
            counters = served.status()["counters"]["dhcp"]
        assert counters["answered"]["ACK"] == 600 + 3
        assert counters["failed"] == {}


def resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_20000_malformed_packets_raise_nothing_grow_nothing_and_hold_nobody_up(tmp_path: Path) -> None:
    seed = 2131
    chance, packets = random.Random(seed), corpus("dhcp")
    payloads = [junk(chance, packets) for _ in range(PACKETS)]
    with Lan(3, network="10.77.0.0/24", addressed=False, checksum_offload=False) as lan:
        server, attacker, neighbour = lan.hosts
        server.run("ip", "address", "add", f"{SERVER}/24", "dev", INTERFACE)
        frames = [framed(payload, attacker.mac) for payload in payloads]
        with attacker.entered():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((INTERFACE, 0))

        def flood() -> None:
            for start in range(0, PACKETS, AT_ONCE):
                for frame in frames[start : start + AT_ONCE]:
                    sock.send(frame)
                time.sleep(PAUSE_S)

        with CleanClient(neighbour) as client, sock, serving(server, tmp_path, "--lease", "600") as served:
            client.exchange()
            before = resident_bytes(served.process.pid)
            received = served.status()["counters"]["dhcp"]["received"]
            flooding = threading.Thread(target=flood)
            flooding.start()
            took = []
            while flooding.is_alive() and len(took) < EXCHANGES:
                took.append(client.exchange())
                flooding.join(0.15)
            assert flooding.is_alive(), "all of the exchanges were meanwhile"
            flooding.join()
            client.exchange()
            counters = served.status()["counters"]["dhcp"]
            growth = resident_bytes(served.process.pid) - before
            log = served.log()
    print(f"seed {seed}: exchanges {sorted(took)}; grown by {growth >> 10} KiB; {counters}")
    assert statistics.median(took) < LONGEST_S, took
    assert growth < MOST_GROWTH_BYTES
    assert counters["received"] - received > 0.95 * PACKETS, "the rest found the socket's buffer full"
    assert counters["junk"] > PACKETS // 2
    assert counters["answered"]["OFFER"] > EXCHANGES and counters["answered"]["NAK"] > 100
    assert 10 < len(counters["ignored"]) < 40, "an attacker's words are no reasons of their own"
    assert set(counters["failed"]) <= {"send: Resource temporarily unavailable"}, counters["failed"]
    assert "Traceback" not in log and "[error" not in log
