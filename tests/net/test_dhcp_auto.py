"""Mode auto beside dnsmasq and Kea, which were there before or come later; and the other modes beside them."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dhcp_peers import NAMES, start_peer
from dhcp_wire import Wire
from netns import INTERFACE, Lan
from real_clients import Client
from test_appliance_serve import Served, serving
from test_dhcp_clients import a_pxe_discover, offers_to, wait_until

from netboot.cli.client import ApplianceClient

pytestmark = pytest.mark.root

OURS, THEIRS = "10.99.0.1", "10.99.0.2"


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Host 0 is ours, host 1 is for the other server; two clients."""
    with Lan(hosts=4, addressed=False, checksum_offload=False) as network:
        for host, address in zip(network.hosts, (OURS, THEIRS), strict=False):
            host.run("ip", "address", "add", f"{address}/24", "dev", INTERFACE)
        yield network


def a_pxe_request(mac: str, server: str) -> Any:
    """Takes the offer of that server."""
    from scapy.layers.dhcp import DHCP

    packet = a_pxe_discover(mac, 7)
    packet[DHCP].options = [("message-type", "request"), ("server_id", server), ("requested_addr", "10.99.0.50"), "end"]
    return packet


def role(served: Served) -> tuple[str, str]:
    """What we are, and the other server that we know of."""
    (facts,) = served.status()["interfaces"]
    return facts["role"], facts["other_server"]


@pytest.mark.parametrize("peer", NAMES)
def test_beside_a_server_that_was_there_before_auto_is_a_proxy(lan: Lan, tmp_path: Path, peer: str) -> None:
    server, other, client = lan.hosts[:3]
    start_peer(peer, other, tmp_path / "peer")
    with serving(server, tmp_path / "ours", "--mode", "auto") as served:
        assert f"proxyDHCP beside the network's own DHCP server ({THEIRS} ({other.mac})" in served.log()
        assert role(served) == ("proxy", f"{THEIRS} ({other.mac})")
        file = tmp_path / "roomcast.toml"
        file.write_text(f'interfaces = ["{INTERFACE}"]\n')
        shown = served.roomcast("config", "show", str(file)).stdout
        assert f"running: {INTERFACE} ({OURS}/24) is proxy now: {THEIRS} ({other.mac}) gives out addresses" in shown
        found = offers_to(client, a_pxe_discover(client.mac, 0), servers=2)
        assert set(found) == {OURS, THEIRS}
        assert found[OURS][0].yiaddr == "0.0.0.0" and found[OURS][0].file.startswith(b"bios/core.0")
        assert found[THEIRS][0].yiaddr.startswith("10.99.0.5")


@pytest.mark.parametrize("peer", NAMES)
def test_server_that_appears_later_makes_auto_step_back_and_keep_the_leases_it_gave(
    lan: Lan, tmp_path: Path, peer: str
) -> None:
    server, other, early, late = lan.hosts
    with serving(server, tmp_path / "ours", "--mode", "auto") as served, Wire(server) as wire:
        assert "no other DHCP server was found" in served.log()
        assert role(served) == ("server", "")
        first = Client("udhcpc", early, tmp_path / "early").start()
        seen = wire.answered(early.mac, "REQUEST", lambda m: m.options.get("server_id") == OURS)
        held = wire.messages[seen - 1].yiaddr

        start_peer(peer, other, tmp_path / "peer")
        # dnsmasq's offer is a broadcast, which we overhear; Kea's is not, but a client's word about it is.
        wait_until(lambda: THEIRS in offers_to(late, a_pxe_discover(late.mac, 7), servers=2, seconds=1))
        offers_to(late, a_pxe_request(late.mac, THEIRS), servers=1, seconds=0)
        wait_until(lambda: role(served) == ("proxy", f"{THEIRS} ({other.mac})"))
        assert "another dhcp server gives out addresses" in served.log()
        with ApplianceClient(served.directory / "api.sock") as appliance:
            ignored = appliance.get("/api/v1/boot-log/ignored")["packets"]
        assert any(each["source"] == other.mac and "another DHCP server" in each["reason"] for each in ignored)

        seen = len(wire.messages)
        Client("udhcpc", late, tmp_path / "late").start()
        seen = wire.wait_for(lambda m: m.kind == "REQUEST" and m.mac == late.mac, after=seen)
        assert wire.messages[seen - 1].options["server_id"] == THEIRS
        first.signal(signal.SIGUSR1)  # renew
        seen = wire.wait_for(lambda m: m.kind == "REQUEST" and m.ciaddr == held, after=seen)
        seen = wire.wait_for(lambda m: m.mac == early.mac and m.kind == "ACK", after=seen)
        assert (wire.messages[seen - 1].yiaddr, wire.messages[seen - 1].options["server_id"]) == (held, OURS)
        assert not any(m.kind == "NAK" for m in wire.messages)
        assert "Traceback" not in served.log()


def test_mode_server_goes_on_and_warns(lan: Lan, tmp_path: Path) -> None:
    server, other, client = lan.hosts[:3]
    start_peer("dnsmasq", other, tmp_path / "peer")
    with serving(server, tmp_path / "ours") as served:
        wait_until(lambda: role(served) == ("server", f"{THEIRS} ({other.mac})"))
        assert "set mode to auto or proxy" in served.log()
        found = offers_to(client, a_pxe_discover(client.mac, 0), servers=2)
        assert found[OURS][0].yiaddr.startswith("10.99.0.1")


def test_mode_off_gives_files_and_leaves_dhcp_alone(lan: Lan, tmp_path: Path) -> None:
    server, other, client = lan.hosts[:3]
    start_peer("dnsmasq", other, tmp_path / "peer")
    with serving(server, tmp_path / "ours", "--mode", "off") as served, Wire(server) as wire:
        assert "no DHCP: another server must tell the machines what to boot" in served.log()
        assert role(served) == ("off", "")
        assert not any(f":{port} " in server.run("ss", "-lunH") for port in (67, 4011))
        found = offers_to(client, a_pxe_discover(client.mac, 0), servers=2, seconds=2)
        assert set(found) == {THEIRS}
        client.run("ip", "address", "add", "10.99.0.50/24", "dev", INTERFACE)
        client.run("curl", "-sSf", "-o", "/dev/null", f"tftp://{OURS}/bios/core.0")
        assert {message.mac for message in wire.messages} == {client.mac}, "we ask nothing either"
