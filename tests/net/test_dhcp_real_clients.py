"""The clients of the world at `roomcast serve`: they lease, renew, rebind and release, behind a relay agent too."""

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dhcp_wire import Message, Wire
from netns import INTERFACE, Host, Lan
from real_clients import NAMES, Client
from test_appliance_serve import Served, serving

pytestmark = pytest.mark.root

SERVER = "10.99.0.1"
LEASE_S = 60
"""The shortest that the configuration takes: T1 after 30 s, T2 after 52.5."""
HASTY = "supersede dhcp-renewal-time 2;\nsupersede dhcp-rebinding-time 5;\n"
"""For dhclient: T1 and T2 of its own."""


@pytest.fixture
def lan() -> Iterator[Lan]:
    """Host 0 serves and has 10.99.0.1; the others have no address."""
    with Lan(hosts=1 + len(NAMES), addressed=False, checksum_offload=False) as network:
        network.hosts[0].run("ip", "address", "add", f"{SERVER}/24", "dev", INTERFACE)
        yield network


def block_unicast(host: Host, hook: str) -> None:
    """From now on nothing that is sent to the server's own address passes this host's hook: broadcasts do."""
    chain = f"type filter hook {hook} priority 0; ip daddr {SERVER} udp dport 67 drop"
    host.run("nft", f"table ip deaf {{ chain c {{ {chain}\n }}\n }}")


def unblock_unicast(host: Host) -> None:
    host.run("nft", "delete table ip deaf")


def is_renewal(address: str) -> Callable[[Message], bool]:
    return lambda m: m.ciaddr == address and m.destination == SERVER and "server_id" not in m.options


def is_rebinding(address: str) -> Callable[[Message], bool]:
    return lambda m: m.ciaddr == address and m.is_broadcast and "server_id" not in m.options


def leased(wire: Wire, client: Client, after: int = 0) -> tuple[int, str]:
    """Wait for the whole exchange; where it ends on the wire, and the address."""
    mac = client.host.mac
    seen = wire.answered(mac, "REQUEST", lambda m: m.options.get("server_id") == SERVER, after=after)
    ack = wire.messages[seen - 1]
    assert ack.options["server_id"] == SERVER
    return seen, ack.yiaddr


def wait_for_log(of: Served | Client, pattern: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not re.search(pattern, of.log()):
        assert time.monotonic() < deadline, of.log()
        time.sleep(0.05)


def test_every_client_leases_and_releases_and_its_address_is_free_again(lan: Lan, tmp_path: Path) -> None:
    server = lan.hosts[0]
    with serving(server, tmp_path / "server", "--verbose") as served, Wire(server) as wire:
        clients = [Client(name, host, tmp_path / name) for name, host in zip(NAMES, lan.hosts[1:], strict=True)]
        clients[1].settings = HASTY
        for client in clients:
            client.start()
        held = {client.name: leased(wire, client)[1] for client in clients}
        assert len(set(held.values())) == len(clients)
        udhcpc, dhclient = clients[:2]
        udhcpc.signal(signal.SIGUSR1)
        wire.answered(udhcpc.host.mac, "REQUEST", is_renewal(held["udhcpc"]))
        seen = wire.answered(dhclient.host.mac, "REQUEST", is_renewal(held["dhclient"]))
        block_unicast(server, "input")
        wire.answered(dhclient.host.mac, "REQUEST", is_rebinding(held["dhclient"]), after=seen)
        unblock_unicast(server)
        for client in clients:
            client.release()
            wait_for_log(served, rf"RELEASE, no answer is due: {re.escape(held[client.name])} is free")
        assert "Traceback" not in served.log()


@pytest.mark.long
def test_every_client_renews_at_t1_and_rebinds_at_t2(lan: Lan, tmp_path: Path) -> None:
    server = lan.hosts[0]
    with serving(server, tmp_path / "server", "--lease", str(LEASE_S), "--verbose") as served, Wire(server) as wire:
        clients = [Client(name, host, tmp_path / name).start() for name, host in zip(NAMES, lan.hosts[1:], strict=True)]
        held = {client.name: leased(wire, client)[1] for client in clients}
        renewed = {
            client.name: wire.answered(client.host.mac, "REQUEST", is_renewal(held[client.name]), seconds=45)
            for client in clients
        }
        block_unicast(server, "input")
        for client in clients:
            seen = renewed[client.name]
            wire.answered(client.host.mac, "REQUEST", is_rebinding(held[client.name]), seconds=LEASE_S, after=seen)
        for client in clients:
            kinds = {message.kind for message in wire.messages if message.mac == client.host.mac}
            assert kinds == {"DISCOVER", "OFFER", "REQUEST", "ACK"}, client.name
        assert "Traceback" not in served.log()


# Behind a relay agent


@pytest.fixture
def relay(lan: Lan) -> Host:
    """Host 1 with ISC's relay agent; host 2 is on a network of its own behind it, 10.98.0.0/24, by its interface r0."""
    server, relay, client = lan.hosts[:3]
    server.run("ip", "route", "add", "10.98.0.0/24", "via", "10.99.0.2")
    relay.run("ip", "address", "add", "10.99.0.2/24", "dev", INTERFACE)
    relay.run("ip", "link", "add", "r0", "type", "veth", "peer", "name", "r0", "netns", client.name)
    relay.run("ip", "address", "add", "10.98.0.1/24", "dev", "r0")
    relay.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    for end in (relay, client):
        end.run("ethtool", "-K", "r0", "tx", "off")
        end.run("ip", "link", "set", "r0", "up")
    client.run("ip", "link", "set", INTERFACE, "down")
    client.mac = json.loads(client.run("ip", "-json", "link", "show", "dev", "r0"))[0]["address"]
    return relay


@contextmanager
def behind_relay(lan: Lan, relay: Host, directory: Path) -> Iterator[tuple[Served, Wire, Client]]:
    """The appliance with a subnet behind the relay, and a client there that was started."""
    server, host = lan.hosts[0], lan.hosts[2]
    config = directory / "roomcast.toml"
    config.write_text(
        '[[subnet]]\nnetwork = "10.98.0.0/24"\npools = ["10.98.0.50-10.98.0.60"]\nrouters = ["10.98.0.1"]\n'
    )
    client = Client("dhclient", host, directory / "client", interface="r0", settings=HASTY)
    with serving(server, directory / "server", "--config", str(config), "--verbose") as served, Wire(server) as wire:
        relay.popen("dhcrelay", "-4", "-d", "-a", "-m", "append", "--no-pid", "-id", "r0", "-iu", INTERFACE, SERVER)
        client.start()
        yield served, wire, client
        assert "Traceback" not in served.log()


def test_a_client_behind_a_relay_leases_and_releases_and_option_82_comes_back(
    lan: Lan, relay: Host, tmp_path: Path
) -> None:
    with Wire(relay, "r0") as behind, behind_relay(lan, relay, tmp_path) as (served, wire, client):
        seen, address = leased(wire, client)
        assert address.startswith("10.98.0.5")
        talk = [message for message in wire.messages[:seen] if message.mac == client.host.mac]
        assert {message.giaddr for message in talk} == {"10.98.0.1"}
        circuits = {message.options["relay_agent_information"] for message in talk}
        assert len(circuits) == 1 and b"r0" in circuits.pop(), "option 82 comes back as the relay made it"
        behind.wait_for(lambda m: m.kind == "ACK" and m.yiaddr == address and m.options["router"] == "10.98.0.1")
        wait_for_log(client, "bound to")
        client.release()
        wait_for_log(served, rf"RELEASE, no answer is due: {re.escape(address)} is free")


@pytest.mark.long
def test_a_client_behind_a_relay_renews_past_it_and_rebinds_through_it(lan: Lan, relay: Host, tmp_path: Path) -> None:
    with Wire(relay, "r0") as behind, behind_relay(lan, relay, tmp_path) as (_, wire, client):
        seen, address = leased(wire, client)
        # ISC's relay agent takes what only passes it, too, and sends a copy.
        seen = wire.wait_for(lambda m: m.giaddr == "0.0.0.0" and is_renewal(address)(m), after=seen)
        wire.wait_for(lambda m: m.kind == "ACK" and m.destination == address, after=seen)
        block_unicast(client.host, "output")
        seen = len(wire.messages)
        behind.wait_for(is_rebinding(address), after=len(behind.messages))
        seen = wire.wait_for(lambda m: m.kind == "REQUEST" and m.giaddr == "10.98.0.1", after=seen)
        wire.wait_for(lambda m: m.kind == "ACK" and m.destination == "10.98.0.1", after=seen)


# INFORM, DECLINE


def test_a_client_with_an_address_of_its_own_asks_for_the_rest_and_gets_no_lease(lan: Lan, tmp_path: Path) -> None:
    server, host = lan.hosts[:2]
    with serving(server, tmp_path / "server", "--dns", "10.99.0.7") as served, Wire(server) as wire:
        host.run("ip", "address", "add", "10.99.0.30/24", "dev", INTERFACE)
        Client("dhcpcd", host, tmp_path / "client", more="-s 10.99.0.30/24").start()
        ack = wire.messages[wire.answered(host.mac, "INFORM", lambda m: m.ciaddr == "10.99.0.30") - 1]
        assert (ack.destination, ack.yiaddr) == ("10.99.0.30", "0.0.0.0")
        assert ack.options["name_server"] == "10.99.0.7"
        assert "lease_time" not in ack.options
        assert "dhcp lease" not in served.log()


def test_an_address_that_a_client_finds_in_use_is_declined_and_another_one_given(lan: Lan, tmp_path: Path) -> None:
    server, host, squatter = lan.hosts[:3]
    squatter.run("ip", "address", "add", "10.99.0.100/24", "dev", INTERFACE)
    # The server shall not find it: this is the client's find.
    table = f"table netdev d {{ chain c {{ type filter hook ingress device {INTERFACE} priority 0; "
    squatter.run("nft", f"{table}ether type arp ether saddr {server.mac} drop\n }}\n }}")
    client = Client("dhcpcd", host, tmp_path / "client")
    with serving(server, tmp_path / "server", "--pool", "10.99.0.100-10.99.0.101", "--verbose") as served:
        with Wire(server) as wire:
            client.start()
            seen, first = leased(wire, client)
            assert first == "10.99.0.100"
            seen = wire.wait_for(lambda m: m.kind == "DECLINE", after=seen)
            assert wire.messages[seen - 1].options["requested_addr"] == first
            # dhcpcd waits ten seconds after a DECLINE.
            _, second = leased(wire, client, after=seen)
            assert second == "10.99.0.101"
        wait_for_log(served, "DECLINE, no answer is due: 10.99.0.100 is in use by a stranger")
