"""The DHCP services with programs that are not ours: busybox udhcpc, dnsmasq, scapy's packets."""

import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dhcp_tftp_running import failure, running
from netns import INTERFACE, Host, Lan

pytestmark = pytest.mark.root

POOL = ("--pool", "10.99.0.100", "10.99.0.120")


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Host 0 serves and has 10.99.0.1; the others have no address."""
    with Lan(hosts=3, addressed=False, checksum_offload=False) as network:
        network.hosts[0].run("ip", "address", "add", "10.99.0.1/24", "dev", INTERFACE)
        yield network


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What udhcpc calls: writes each event down and configures the interface."""
    file = tmp_path / "script"
    file.write_text(
        "#!/bin/sh\n"
        'case $1 in bound|renew) ip address replace "$ip/$mask" dev "$interface";;'
        ' deconfig) ip address flush dev "$interface"; ip link set "$interface" up;; esac\n'
        # Last, so that whoever reads of an event finds the interface as it says.
        f'echo "$1 ip=$ip serverid=$serverid siaddr=$siaddr boot_file=$boot_file lease=$lease mask=$mask"'
        f" >> {tmp_path}/events\n"
    )
    file.chmod(0o755)
    return file


def events(script: Path) -> list[str]:
    file = script.with_name("events")
    return file.read_text().splitlines() if file.exists() else []


def udhcpc(*more: str, script: Path) -> tuple[str, ...]:
    return ("busybox", "udhcpc", "-f", "-i", INTERFACE, "-s", str(script), "-t", "5", "-T", "1", *more)


@pytest.mark.parametrize(("flags", "delivery"), [((), "raw"), (("-B",), "broadcast")])
def test_udhcpc_leases_renews_and_releases(lan: Lan, script: Path, flags: tuple[str, ...], delivery: str) -> None:
    server, client = lan.hosts[:2]
    with running(server, "server", *POOL) as program:
        process = client.popen(*udhcpc(*flags, script=script))
        offer = program.wait_for(lambda told: told.get("answer") == "OFFER")
        ack = program.wait_for(lambda told: told.get("answer") == "ACK")
        assert offer["delivery"] == ack["delivery"] == delivery
        assert offer["address"] == ack["address"]
        assert ack["mac"] == client.mac
        wait_until(lambda: len(events(script)) >= 2)
        bound = events(script)[-1]
        assert bound.startswith(f"bound ip={ack['address']} serverid=10.99.0.1")
        assert "lease=3600 mask=24" in bound
        client.run("busybox", "ping", "-c", "1", "-W", "2", "10.99.0.1")

        process.send_signal(signal.SIGUSR1)
        renewed = program.wait_for(lambda told: told.get("asked") == "REQUEST")
        assert (renewed["answer"], renewed["delivery"]) == ("ACK", "unicast")
        assert renewed["sent_to"] == "10.99.0.1"
        wait_until(lambda: events(script)[-1].startswith("renew"))

        process.send_signal(signal.SIGUSR2)
        released = program.wait_for(lambda told: told.get("asked") == "RELEASE")
        assert "is free" in released["ignored"]
        counters = program.counters()
        # An ACK that comes while udhcpc's sending socket is still open goes to that one and is lost: it asks once more.
        assert counters["answered"]["ACK"] in (2, 3), program.told
        assert counters["answered"]["OFFER"] == 1
        assert counters["failed"] == {}


def test_udhcpc_as_a_pxe_client_is_told_its_boot_file(lan: Lan, script: Path) -> None:
    server, client = lan.hosts[:2]
    with running(server, "server", *POOL):
        client.run(*udhcpc("-n", "-q", "-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", script=script))
    assert "siaddr=10.99.0.1 boot_file=uefi/shimx64.efi" in events(script)[-1]


def test_two_clients_get_two_addresses_and_the_pool_ends(lan: Lan, script: Path) -> None:
    server, first, second = lan.hosts
    with running(server, "server", "--pool", "10.99.0.100", "10.99.0.100") as program:
        first.run(*udhcpc("-n", "-q", script=script))
        second.popen(*udhcpc("-n", "-q", script=script))
        refused = program.wait_for(lambda told: told.get("mac") == second.mac)
        assert "pool exhausted" in refused["ignored"]


def test_a_client_that_asks_for_an_old_address_of_another_network_gets_a_nak_and_then_a_lease(
    lan: Lan, script: Path
) -> None:
    server, client = lan.hosts[:2]
    with running(server, "server", *POOL) as program:
        client.run(*udhcpc("-n", "-q", "-r", "192.168.7.7", script=script))
        assert program.wait_for(lambda told: told.get("answer") == "ACK")["address"].startswith("10.99.0.1")


# The proxy beside a real server


def a_pxe_discover(mac: str, arch: int) -> Any:
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import Ether

    options = [
        ("message-type", "discover"),
        ("vendor_class_id", f"PXEClient:Arch:{arch:05d}:UNDI:003016".encode()),
        (93, arch.to_bytes(2, "big")),
        (94, b"\1\3\x10"),
        (97, b"\0" + bytes(16)),
        ("param_req_list", [1, 3, 43, 54, 60, 66, 67]),
        "end",
    ]
    hardware = bytes.fromhex(mac.replace(":", ""))
    return (
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(chaddr=hardware, xid=0x1234, flags=0x8000)
        / DHCP(options=options)
    )


def offers_to(client: Host, packet: Any, servers: int, seconds: float = 5) -> dict[str, Any]:
    """Broadcast a packet; the offers by server identifier, as scapy reads them."""
    from scapy.layers.dhcp import BOOTP, DHCP
    from scapy.layers.l2 import Ether

    with client.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    found: dict[str, Any] = {}
    with sock:
        sock.bind((INTERFACE, 0x0800))
        sock.settimeout(0.2)
        sock.send(bytes(packet))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and len(found) < servers:
            try:
                frame = Ether(sock.recv(2000))
            except TimeoutError:
                continue
            if DHCP in frame and frame[BOOTP].op == 2 and frame[BOOTP].xid == 0x1234:
                options = dict(option[:2] for option in frame[DHCP].options if isinstance(option, tuple))
                found[options["server_id"]] = (frame[BOOTP], options)
    return found


@pytest.fixture
def dnsmasq(lan: Lan, tmp_path: Path) -> Host:
    host = lan.hosts[2]
    host.run("ip", "address", "add", "10.99.0.2/24", "dev", INTERFACE)
    host.popen(
        "dnsmasq", "--keep-in-foreground", "--port=0", "--no-ping", "--conf-file=/dev/null", "--bind-interfaces",
        f"--interface={INTERFACE}", "--dhcp-range=10.99.0.50,10.99.0.59,1h", "--dhcp-authoritative", "--user=root",
        f"--dhcp-leasefile={tmp_path}/leases", f"--pid-file={tmp_path}/pid",
    )  # fmt: skip
    wait_until(lambda: " *:67 " in host.run("ss", "-lunH") or ":67 " in host.run("ss", "-lunH"))
    return host


@pytest.mark.parametrize(("arch", "file"), [(0, b"bios/core.0"), (7, b"uefi/shimx64.efi")])
def test_a_pxe_client_sees_the_offers_of_dnsmasq_and_of_our_proxy(
    lan: Lan, dnsmasq: Host, arch: int, file: bytes
) -> None:
    server, client = lan.hosts[:2]
    with running(server, "proxy"):
        found = offers_to(client, a_pxe_discover(client.mac, arch), servers=2)
    assert set(found) == {"10.99.0.1", "10.99.0.2"}
    theirs, _ = found["10.99.0.2"]
    assert theirs.yiaddr.startswith("10.99.0.5")
    ours, options = found["10.99.0.1"]
    assert ours.yiaddr == "0.0.0.0"
    assert ours.siaddr == "10.99.0.1"
    assert ours.file.rstrip(b"\0") == file
    assert options["vendor_class_id"] == b"PXEClient"
    # A BIOS ROM is told of a boot server and a menu, UEFI of none: discovery control (43.6) says so.
    assert options["vendor_specific"].startswith(bytes.fromhex("06010b" if arch == 0 else "060108ff"))
    assert "lease_time" not in options
    assert options["boot-file-name"] == file


def test_an_ordinary_client_beside_our_proxy_gets_dnsmasqs_lease_alone(lan: Lan, dnsmasq: Host, script: Path) -> None:
    server, client = lan.hosts[:2]
    with running(server, "proxy") as program:
        client.run(*udhcpc("-n", "-q", script=script))
        assert re.match(r"bound ip=10\.99\.0\.5\d serverid=10\.99\.0\.2 ", events(script)[-1])
        program.wait_for(lambda told: "not a boot client" in told.get("ignored", ""))
        assert program.counters()["answered"] == {}


@pytest.mark.parametrize("port", [68, 4011])
def test_the_proxy_answers_a_request_on_port_4011(lan: Lan, port: int) -> None:
    from scapy.layers.dhcp import BOOTP, DHCP

    server, client = lan.hosts[:2]
    client.run("ip", "address", "add", "10.99.0.50/24", "dev", INTERFACE)
    request = a_pxe_discover(client.mac, 7)[BOOTP]
    request.ciaddr = "10.99.0.50"
    request[DHCP].options[0] = ("message-type", "request")
    with running(server, "proxy"), client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.99.0.50", port))
        sock.settimeout(5)
        sock.sendto(bytes(request), ("10.99.0.1", 4011))
        data, source = sock.recvfrom(2000)
    answer = BOOTP(data)
    assert source == ("10.99.0.1", 4011)
    assert ("message-type", 5) in answer[DHCP].options
    assert answer.file.rstrip(b"\0") == b"uefi/shimx64.efi"


# Junk and faults


@pytest.mark.parametrize(("service", "ports"), [(("server", *POOL), (67,)), (("proxy",), (67, 4011))])
def test_junk_is_counted_and_a_clean_exchange_goes_on(
    lan: Lan, service: tuple[str, ...], ports: tuple[int, ...]
) -> None:
    server, client = lan.hosts[:2]
    client.run("ip", "address", "add", "10.99.0.50/24", "dev", INTERFACE)
    rng = random.Random(67)
    clean = bytes(a_pxe_discover(client.mac, 0))[42:]
    with running(server, *service) as program:
        with client.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for port in ports:
                for number in range(1000):
                    junk = bytearray(clean)
                    for _ in range(rng.randrange(1, 8)):
                        junk[rng.randrange(len(junk))] = rng.randrange(256)
                    if number % 3 == 0:
                        junk = bytearray(rng.randbytes(rng.randrange(1500)))
                    sock.sendto(bytes(junk), ("10.99.0.1", port))
                    if number % 50 == 49:
                        program.counters()  # keeps pace, so that no buffer overflows
        # Another machine's: what parsed counts as this one's, and one machine is answered so many times a second only.
        found = offers_to(client, a_pxe_discover("52:54:00:77:00:01", 0), servers=1)
        assert set(found) == {"10.99.0.1"}
        counters = program.counters()
        assert counters["junk"] >= 300 * len(ports)
        assert counters["received"] == 1000 * len(ports) + 1
        assert counters["failed"].get("answer") is None


def test_a_port_in_use_is_one_clear_line(lan: Lan) -> None:
    server = lan.hosts[0]
    with running(server, "server", *POOL):
        line = failure(server, "proxy")
    assert line.startswith(f"UDP port 67 on {INTERFACE} is in use, so DHCP cannot be served: stop the other program")


def test_an_interface_that_is_not_there_or_has_no_address_is_one_clear_line(lan: Lan) -> None:
    assert failure(lan.hosts[0], "proxy", interface="eth77") == (
        f"there is no interface eth77: choose one of {INTERFACE}"
    )
    assert "has no IPv4 address: give it one" in failure(lan.hosts[1], "proxy")
    assert "is not Ethernet" in failure(lan.hosts[1], "proxy", interface="lo")
    assert "is not the name of an interface" in failure(lan.hosts[1], "proxy", interface="x" * 16)


@pytest.mark.parametrize(
    ("dropped", "reason"),
    [("-all", "no right to serve DHCP on UDP port 67"), ("-net_raw", "no right to send raw frames")],
)
def test_missing_privilege_is_one_clear_line(lan: Lan, dropped: str, reason: str) -> None:
    drop = ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")
    assert reason in failure(lan.hosts[0], "server", *POOL, wrapper=drop)


def wait_until(holds: Any, seconds: float = 10) -> None:
    """For what another program does on its own: there is nothing to wait on but its effect."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)
