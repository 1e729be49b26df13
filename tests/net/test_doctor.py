"""`roomcast doctor` on networks where one thing is wrong, beside a real appliance, dnsmasq and Kea."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import ROOMCAST, Served, serving

pytestmark = pytest.mark.root

KEA = "/usr/sbin/kea-dhcp4"


class Told:
    """What one run of the doctor told."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        self.code = done.returncode
        self.findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]

    def of(self, check: str, *severities: str) -> str:
        """The texts and actions of a check's findings."""
        return "\n".join(
            f"{found['text']} -> {found['action']}"
            for found in self.findings
            if found["check"] == check and (not severities or found["severity"] in severities)
        )

    def all(self, *severities: str) -> list[tuple[str, str]]:
        return [(found["check"], found["text"]) for found in self.findings if found["severity"] in severities]


def ask_doctor(host: Host, environment: dict[str, str], *only: str, more: tuple[str, ...] = ()) -> Told:
    chosen = [word for name in only for word in ("--only", name)]
    done = subprocess.run(
        host.command(ROOMCAST, "doctor", "--interface", INTERFACE, "--json", *chosen, *more),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Told(done)


def outside(directory: Path) -> dict[str, str]:
    """The environment of a machine without an appliance."""
    return {**os.environ, "ROOMCAST_DATA": str(directory / "data"), "ROOMCAST_SOCKET": str(directory / "api.sock")}


def start_dnsmasq(host: Host, directory: Path, *more: str) -> None:
    host.popen(
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--port=0",
        "--user=root",
        f"--interface={INTERFACE}",
        "--dhcp-range=10.99.0.20,10.99.0.30,1h",
        f"--dhcp-leasefile={directory}/dnsmasq.leases",
        f"--pid-file={directory}/dnsmasq.pid",
        *more,
    )


def start_kea(host: Host, directory: Path) -> None:
    configuration = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": [INTERFACE]},
            "lease-database": {"type": "memfile", "persist": False},
            "subnet4": [{"subnet": "10.99.0.0/24", "pools": [{"pool": "10.99.0.40-10.99.0.50"}]}],
        }
    }
    file = directory / "kea.json"
    file.write_text(json.dumps(configuration))
    environment = {
        **os.environ,
        "KEA_PIDFILE_DIR": str(directory),
        "KEA_LOCKFILE_DIR": str(directory),
        "KEA_LOGGER_DESTINATION": str(directory / "kea.log"),
    }
    host.popen(KEA, "-c", str(file), env=environment)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lan, Served]]:
    """An appliance with an agent of a few bytes, and a host beside it."""
    with Lan(hosts=2, checksum_offload=False) as lan:
        directory = tmp_path_factory.mktemp("doctor")
        agent = directory / "data" / "agent"
        agent.mkdir(parents=True)
        (agent / "vmlinuz").write_bytes(os.urandom(300_000))
        (agent / "initrd.img").write_bytes(os.urandom(300_000))
        with serving(lan.hosts[0], directory) as served:
            yield lan, served


def test_a_room_that_is_well_has_no_problem_and_every_file_comes_as_it_is(room: tuple[Lan, Served]) -> None:
    lan, served = room
    told = ask_doctor(lan.hosts[0], served.environment())
    assert told.all("problem") == []
    assert told.code == 0
    assert "gives out addresses: 10.99.0.1" in told.of("dhcp", "ok")
    assert "BIOS" in told.of("dhcp", "ok") and '"bios/core.0" at 10.99.0.1' in told.of("dhcp", "ok")
    files = told.of("files", "ok")
    for name in ("bios/core.0", "uefi/shimx64.efi", "http://10.99.0.1/boot/agent/initrd.img"):
        assert f'"{name}"' in files
    assert files.count("as on the disk") >= 5
    assert "by IGMPv3" in told.of("igmp", "ok")
    assert "UDP 67 (DHCP) on e0 is the appliance's" in told.of("ports", "ok")


def test_querier_of_ipv6_is_told_where_casts_are_by_ipv6(tmp_path: Path) -> None:
    environment = {**outside(tmp_path), "ROOMCAST_CAST_NETWORK": "ff12::a077:0/112"}
    with Lan(hosts=1) as lan:
        told = ask_doctor(lan.hosts[0], environment, "igmp", "mld", more=("--listen", "3"))
        assert "fe80::" in told.of("mld", "ok") and "asks who wants multicast, by MLDv" in told.of("mld", "ok")
        lan.bridge.run("ip", "link", "set", "br0", "type", "bridge", "mcast_querier", "0")
        told = ask_doctor(lan.hosts[0], environment, "mld", more=("--listen", "1"))
        assert "enable an MLDv2 querier" in told.of("mld", "note")
        lan.hosts[0].run("sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.disable_ipv6=1")
        told = ask_doctor(lan.hosts[0], environment, "mld", more=("--listen", "1"))
        assert "disable_ipv6=0" in told.of("mld", "problem")


def test_dnsmasq_beside_the_appliance_is_named_as_a_rogue_and_its_text_is_harmless(
    room: tuple[Lan, Served], tmp_path: Path
) -> None:
    lan, served = room
    start_dnsmasq(lan.hosts[1], tmp_path, "--dhcp-boot=evil\x1b[31m[bold].0")
    try:
        told = ask_doctor(lan.hosts[0], served.environment(), "dhcp")
        shown = subprocess.run(
            lan.hosts[0].command(ROOMCAST, "doctor", "-i", INTERFACE, "--only", "dhcp"),
            env={**served.environment(), "COLUMNS": "80"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        lan.hosts[1].end_processes()
    problem = told.of("dhcp", "problem")
    assert f"rogue DHCP server on e0: 10.99.0.2 ({lan.hosts[1].mac})" in problem
    assert "--mode proxy" in problem
    assert told.code == 1
    assert "\x1b" not in problem and r"evil\x1b[31m[bold].0" in problem
    assert "\x1b" not in shown.stdout and "[bold]" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    assert shown.returncode == 1


def test_kea_beside_the_appliance_is_named_as_a_rogue(room: tuple[Lan, Served], tmp_path: Path) -> None:
    lan, served = room
    start_kea(lan.hosts[1], tmp_path)
    try:
        told = ask_doctor(lan.hosts[0], served.environment(), "dhcp")
    finally:
        lan.hosts[1].end_processes()
    assert f"rogue DHCP server on e0: 10.99.0.2 ({lan.hosts[1].mac})" in told.of("dhcp", "problem")


def test_a_rule_that_drops_dhcp_is_named_and_the_offer_is_missed(room: tuple[Lan, Served]) -> None:
    lan, served = room
    host = lan.hosts[0]
    host.run("nft", "add table inet wall; add chain inet wall in { type filter hook input priority 0; policy accept; }")
    host.run("nft", 'add rule inet wall in iifname "e0" udp dport { 67, 69 } drop')
    try:
        told = ask_doctor(host, served.environment(), "dhcp", "firewall")
    finally:
        host.run("nft", "delete table inet wall")
    rules = told.of("firewall", "problem")
    assert 'DHCP (UDP 67) in by e0 is dropped by nftables inet wall: iifname "e0" udp dport { 67, 69 } drop' in rules
    assert "TFTP (UDP 69)" in rules and "HTTP" not in rules
    assert "nobody offers an address" in told.of("dhcp", "problem")


def test_a_boot_file_that_is_gone_is_told_with_what_mends_it(room: tuple[Lan, Served]) -> None:
    lan, served = room
    file = served.data / "boot" / INTERFACE / "uefi" / "shimx64.efi"
    kept = file.with_name("kept")
    file.rename(kept)
    try:
        told = ask_doctor(lan.hosts[0], served.environment(), "files")
    finally:
        kept.rename(file)
    problem = told.of("files", "problem")
    assert f"{file} is missing" in problem and "start `roomcast serve` again" in problem
    assert '"uefi/shimx64.efi" from 10.99.0.1 by TFTP does not come' in problem


def test_a_small_mtu_is_told(room: tuple[Lan, Served]) -> None:
    lan, served = room
    host = lan.hosts[0]
    host.run("ip", "link", "set", INTERFACE, "mtu", "1400")
    try:
        told = ask_doctor(host, served.environment(), "mtu")
    finally:
        host.run("ip", "link", "set", INTERFACE, "mtu", "1500")
    assert "e0 has an MTU of 1400: firmware asks for TFTP blocks that need 1500" in told.of("mtu", "warning")


def test_without_an_appliance_nobody_offers_and_what_is_missing_is_named(tmp_path: Path) -> None:
    with Lan(hosts=2, checksum_offload=False) as lan:
        told = ask_doctor(lan.hosts[0], outside(tmp_path), "appliance", "agent", "dhcp", "files")
    assert "no appliance runs here" in told.of("appliance", "warning")
    assert "no agent to boot" in told.of("agent", "problem") and "roomcast agent build" in told.of("agent", "problem")
    assert "nobody offers an address" in told.of("dhcp", "problem")
    assert "boot programs are not made yet" in told.of("files", "note")
    assert told.code == 1


def test_a_program_on_our_port_is_named(tmp_path: Path) -> None:
    with (
        Lan(hosts=1) as lan,
        lan.hosts[0].entered(),
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken,
    ):
        taken.bind(("0.0.0.0", 69))
        name = Path("/proc/self/comm").read_text().strip()
        told = ask_doctor(lan.hosts[0], outside(tmp_path), "ports")
    assert f"UDP 69 (TFTP) on e0 is held by {name} (process {os.getpid()})" in told.of("ports", "problem")
    assert "UDP 67 (DHCP) on e0 is free" in told.of("ports", "ok")


def test_a_proxy_without_an_address_server_is_told_and_with_one_all_is_well(tmp_path: Path) -> None:
    with (
        Lan(hosts=2, checksum_offload=False) as lan,
        serving(lan.hosts[0], tmp_path / "appliance", "--mode", "proxy") as served,
    ):
        alone = ask_doctor(lan.hosts[0], served.environment(), "dhcp", "ports")
        start_dnsmasq(lan.hosts[1], tmp_path)
        beside = ask_doctor(lan.hosts[0], served.environment(), "dhcp")
    assert "this appliance is a proxy, which gives none" in alone.of("dhcp", "problem")
    assert "UDP 4011 (PXE) on e0 is the appliance's" in alone.of("ports", "ok")
    assert beside.all("problem") == []
    told = beside.of("dhcp", "ok")
    assert f"10.99.0.2 ({lan.hosts[1].mac}) gives out addresses" in told
    assert "this machine answers as proxyDHCP: 10.99.0.1" in told
    assert "10.99.0.1 answers on port 4011" in told


def test_no_querier_is_told_and_a_full_disk_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(data)], check=True)
    try:
        with Lan(hosts=1) as lan:
            lan.bridge.run("ip", "link", "set", "br0", "type", "bridge", "mcast_querier", "0")
            told = ask_doctor(lan.hosts[0], outside(tmp_path), "igmp", "disk", more=("--listen", "2"))
    finally:
        subprocess.run(["umount", str(data)], check=True)
    assert "nobody asked who wants multicast" in told.of("igmp", "note")
    assert "enable an IGMPv3 querier" in told.of("igmp", "note")
    assert "only 0.0 GB of 0.0 GB free" in told.of("disk", "problem")


def test_a_pulled_cable_and_a_second_interface_in_the_same_network_are_told(tmp_path: Path) -> None:
    with Lan(hosts=1) as lan:
        host = lan.hosts[0]
        host.run("ip", "link", "add", "other", "type", "bridge")
        host.run("ip", "address", "add", "10.99.0.77/24", "dev", "other")
        host.run("ip", "link", "set", "other", "up")
        lan.set_cable(host, False)
        told = ask_doctor(host, outside(tmp_path), "interface")
    assert "e0 has no carrier" in told.of("interface", "problem")
    assert "other (10.99.0.77) is in the network of e0 (10.99.0.0/24) too" in told.of("interface", "warning")
