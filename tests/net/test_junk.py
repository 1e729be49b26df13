"""Malformed packets at `roomcast serve`, 20,000 to each service: nothing raises or grows, everybody else is served."""

import random
import re
import socket
import sys
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from clean_client import CleanClient, framed
from netns import INTERFACE, Host, Lan
from stalls import Stalls, Took
from test_appliance_serve import serving

from netboot.wire.dhcp import DhcpPacket, Options, build_dhcp
from netboot.wire.dhcp_options import MESSAGE_TYPE, MessageType

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

from corpus import corpus, mutate

pytestmark = pytest.mark.root

PACKETS = 20_000
"""For DHCP, and as many for TFTP."""
AT_ONCE = 25
PAUSE_S = 0.015
LEAST_EXCHANGES = 100
LONGEST_S = 0.1
"""Of every clean exchange meanwhile, less what the box took; and of 19 in 20 with all."""
MOST_GROWTH_BYTES = 16 << 20
SERVER = IPv4Address("10.77.0.1")
"""The server that the packets of the corpus name."""
MENU = "/grub/grub.cfg"
"""Rendered when it is asked for: both processes have a part in it."""
GIVEN_UP_S = 24.5
"""A TFTP request that is never answered is sent 1, 2, 4, 8 and 8 s after the first packet, and given up then."""


def junk(chance: random.Random, packets: list[bytes]) -> bytes:
    return chance.randbytes(chance.randrange(1400)) if chance.random() < 0.2 else mutate(chance, packets)


def a_packet_socket(host: Host) -> socket.socket:
    with host.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((INTERFACE, 0))
    return sock


def a_udp_socket(host: Host) -> socket.socket:
    with host.entered():
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def processes_of(process: int) -> list[int]:
    """The process and all that descend from it."""
    found = [process]
    for number in found:
        for task in Path(f"/proc/{number}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def resident_bytes(processes: list[int]) -> int:
    """Of all together."""
    told = [Path(f"/proc/{process}/status").read_text() for process in processes]
    return sum(int(kib) * 1024 for text in told for kib in re.findall(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE))


def received_until(sock: socket.socket, end_s: float) -> list[bytes]:
    received = []
    while (left := end_s - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            received.append(sock.recv(2000))
        except TimeoutError:
            break
    return received


def test_answers_to_addresses_that_nobody_has_do_not_hold_up_the_others(tmp_path: Path) -> None:
    """The kernel keeps them in the socket's buffer while it asks for their holders by ARP."""
    with Lan(3, network="10.77.0.0/24", checksum_offload=False) as lan:
        server, attacker, neighbour = lan.hosts
        inform = Options().with_option(MESSAGE_TYPE, MessageType.INFORM)
        pool = ("--pool", "10.77.0.100-10.77.0.200")
        with (
            CleanClient(neighbour, SERVER) as client,
            a_packet_socket(attacker) as sock,
            serving(server, tmp_path, *pool) as served,
        ):
            client.lease()
            for number in range(600):
                absent = IPv4Address(f"10.77.0.{10 + number % 80}")
                chaddr = bytes.fromhex("525400") + number.to_bytes(3, "big")
                sock.send(
                    framed(build_dhcp(DhcpPacket(1, number, chaddr, ciaddr=absent, options=inform)), attacker.mac)
                )
            begin = time.monotonic()
            client.lease()
            client.renew()
            assert time.monotonic() - begin < 4
            counters = served.status()["counters"]["dhcp"]
        assert counters["answered"]["ACK"] == 600 + 3
        assert counters["failed"] == {}


def test_20000_malformed_packets_to_each_service_raise_nothing_grow_nothing_and_hold_nobody_up(tmp_path: Path) -> None:
    seed = 2131
    chance = random.Random(seed)
    dhcp, tftp = ([junk(chance, corpus(name)) for _ in range(PACKETS)] for name in ("dhcp", "tftp"))
    with Lan(3, network="10.77.0.0/24", checksum_offload=False) as lan:
        server, attacker, neighbour = lan.hosts
        frames = [framed(payload, attacker.mac) for payload in dhcp]
        raw, udp, silent = a_packet_socket(attacker), a_udp_socket(attacker), a_udp_socket(attacker)

        def flood() -> None:
            for start in range(0, PACKETS, AT_ONCE):
                for frame in frames[start : start + AT_ONCE]:
                    raw.send(frame)
                for payload in tftp[start : start + AT_ONCE]:
                    udp.sendto(payload, (str(SERVER), 69))
                time.sleep(PAUSE_S)

        pool = ("--pool", "10.77.0.100-10.77.0.200", "--lease", "600")
        with (
            raw,
            udp,
            silent,
            CleanClient(neighbour, SERVER) as client,
            serving(server, tmp_path, *pool) as served,
        ):
            (served.data / "agent").mkdir(exist_ok=True)
            (served.data / "agent" / "vmlinuz").write_bytes(bytes(100_000))
            client.lease()
            assert b"configfile" in client.fetch(MENU)
            processes = processes_of(served.process.pid)
            before, counted = resident_bytes(processes), served.status()["counters"]
            silent.sendto(b"\0\1agent/vmlinuz\0octet\0", (str(SERVER), 69))
            asked_s = time.monotonic()
            flooding = threading.Thread(target=flood)
            flooding.start()
            took: list[Took] = []
            with Stalls(processes, tmp_path) as stalls:
                while flooding.is_alive():
                    took += [stalls.measure(client.lease), stalls.measure(lambda: client.fetch(MENU))]
                    flooding.join(0.05)
            client.lease()
            client.fetch(MENU)
            drawn = received_until(silent, asked_s + GIVEN_UP_S)
            counters = served.status()["counters"]
            growth = resident_bytes(processes) - before
            assert processes_of(served.process.pid) == processes, "none of them was started again"
            log = served.log()
    slowest = sorted(took, key=lambda each: each.whole)[-5:]
    print(f"seed {seed}: {len(took)} exchanges, slowest {slowest}; grown by {growth >> 10} KiB; {counters}")
    assert len(took) > LEAST_EXCHANGES
    assert all(each.own < LONGEST_S for each in took), slowest
    assert sum(each.whole < LONGEST_S for each in took) > 0.95 * len(took), slowest
    assert growth < MOST_GROWTH_BYTES
    assert 1 <= len(drawn) <= 6 and sum(map(len, drawn)) <= 3000, "a forged request is no weapon"
    for name in ("dhcp", "tftp"):
        received = counters[name]["received"] - counted[name]["received"]
        assert received > 0.95 * PACKETS, "the rest found the socket's buffer full"
        assert counters[name]["junk"] > PACKETS // 2
        assert 5 < len(counters[name]["ignored"]) < 40, "an attacker's words are no reasons of their own"
        assert set(counters[name]["failed"]) <= {"send: Resource temporarily unavailable"}, counters[name]["failed"]
    assert counters["dhcp"]["answered"]["OFFER"] > len(took) // 2 and counters["dhcp"]["answered"]["NAK"] > 100
    assert "Traceback" not in log and "[error" not in log
