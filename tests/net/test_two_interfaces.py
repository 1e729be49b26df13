"""`roomcast serve` on two interfaces, each with machines of its own, and relay agents behind both."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan
from test_appliance_serve import Machine, Served, keep_image, serving

from imager.image.keys import load_or_create_signing_key, public_key_bytes
from netboot.wire.dhcp import BOOTREQUEST, DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import MESSAGE_TYPE, REQUESTED_ADDRESS, SERVER_IDENTIFIER, MessageType

pytestmark = pytest.mark.root

SECOND = "e1"
SETTINGS = """
[[subnet]]
network = "10.91.0.0/24"
pools = ["10.91.0.50-10.91.0.60"]
[[subnet]]
network = "10.92.0.0/24"
pools = ["10.92.0.50-10.92.0.60"]
"""


@dataclass
class Side:
    """One of the appliance's interfaces, and what is on it."""

    interface: str
    server: str
    network: str
    client: Host
    relay: Host
    relay_address: str
    """Of the network behind the relay agent."""


@dataclass
class Site:
    served: Served
    sides: tuple[Side, Side]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    (directory / "roomcast.toml").write_text(SETTINGS)
    with (
        Lan(3, addressed=False, checksum_offload=False) as first,
        Lan(2, addressed=False, checksum_offload=False) as second,
    ):
        server = first.hosts[0]
        server.run("ip", "addr", "add", "10.99.0.1/24", "dev", INTERFACE)
        second.plug(server, SECOND, "10.98.0.1/24")
        sides = (
            Side(INTERFACE, "10.99.0.1", "10.99.0", first.hosts[1], first.hosts[2], "10.91.0.1"),
            Side(SECOND, "10.98.0.1", "10.98.0", second.hosts[0], second.hosts[1], "10.92.0.1"),
        )
        for side in sides:
            side.relay.run("ip", "addr", "add", f"{side.network}.3/24", "dev", INTERFACE)
            side.relay.run("ip", "addr", "add", f"{side.relay_address}/32", "dev", "lo")
            server.run("ip", "route", "add", f"{side.relay_address[:-1]}0/24", "via", f"{side.network}.3")
        more = ("--interface", SECOND, "--config", str(directory / "roomcast.toml"))
        with serving(server, directory / "server", *more) as served:
            yield Site(served, sides)


def lease(side: Side, directory: Path) -> dict[str, str]:
    """What udhcpc, as a BIOS machine, is given; its interface has the address from then on."""
    directory.mkdir()
    script = directory / "script"
    script.write_text(
        '#!/bin/sh\n[ "$1" = bound ] || exit 0\nip address replace "$ip/$mask" dev "$interface"\n'
        'echo "$ip $siaddr $boot_file $serverid"\n'
    )
    script.chmod(0o755)
    told = side.client.run(
        *("busybox", "udhcpc", "-f", "-n", "-q", "-i", INTERFACE, "-s", str(script), "-t", "8", "-T", "1"),
        *("-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"),
    )
    line = next(line for line in told.splitlines() if line.startswith(side.network))
    return dict(zip(("ip", "siaddr", "boot_file", "serverid"), line.split(), strict=True))


def test_machines_of_each_interface_get_its_addresses_and_files_that_name_it(site: Site, tmp_path: Path) -> None:
    programs = []
    for side in site.sides:
        given = lease(side, tmp_path / side.interface)
        assert IPv4Address(given["ip"]) in IPv4Interface(f"{side.server}/24").network
        assert given["siaddr"] == given["serverid"] == side.server
        fetched = tmp_path / f"{side.interface}.core"
        side.client.run("curl", "-sSf", "-o", str(fetched), f"tftp://{side.server}/{given['boot_file']}")
        programs.append(fetched.read_bytes())
        for way in ("tftp://{}/grub/machine-{}.cfg", "http://{}/boot/grub/machine-{}.cfg"):
            # No agent is built, and its disk is what such a machine is told.
            assert "first disk" in side.client.run("curl", "-sSf", way.format(side.server, side.client.mac))
        side.client.address = IPv4Interface(f"{given['ip']}/24")
    assert programs[0] != programs[1], "GRUB carries the address of its interface"
    facts = {each["name"]: each for each in site.served.status()["interfaces"]}
    assert {name: each["role"] for name, each in facts.items()} == {INTERFACE: "server", SECOND: "server"}


def relayed(side: Side, kind: MessageType, options: Options, mac: bytes) -> DhcpPacket:
    """One question as the relay agent of this side brings it, and the answer."""
    request = DhcpPacket(
        op=BOOTREQUEST,
        xid=7,
        chaddr=mac,
        hops=1,
        giaddr=IPv4Address(side.relay_address),
        options=Options({**Options().with_option(MESSAGE_TYPE, kind).raw, **options.raw}),
    )
    with side.relay.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((side.relay_address, 67))
        sock.settimeout(10)
        sock.sendto(build_dhcp(request), (side.server, 67))
        return parse_dhcp(sock.recv(2000))


def test_relay_agent_behind_each_interface_gets_leases_of_its_own_network(site: Site) -> None:
    for number, side in enumerate(site.sides):
        mac = bytes([0x52, 0x54, 0, 0x99, 0, number])
        offer = relayed(side, MessageType.DISCOVER, Options(), mac)
        assert offer.message_type is MessageType.OFFER
        assert str(offer.yiaddr).startswith(side.relay_address[:-1])
        assert str(offer.options.get(SERVER_IDENTIFIER)) == side.server
        taken = Options().with_option(SERVER_IDENTIFIER, IPv4Address(side.server))
        ack = relayed(side, MessageType.REQUEST, taken.with_option(REQUESTED_ADDRESS, offer.yiaddr), mac)
        assert ack.message_type is MessageType.ACK and ack.yiaddr == offer.yiaddr


def test_session_is_sent_on_the_interface_of_its_machines_and_refused_for_machines_of_both(site: Site) -> None:
    served = site.served
    _, raws = keep_image(served.data, "golden", 4)
    key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
    machines = []
    for side in site.sides:
        if side.client.address is None:
            side.client.address = IPv4Interface(f"{side.network}.9/24")
            side.client.run("ip", "addr", "replace", str(side.client.address), "dev", INTERFACE)
        machine = Machine(side.client, side.server)
        machine.register()
        machines.append(machine)
    both = served.roomcast("deploy", "golden", "--to", machines[0].name, "--to", machines[1].name)
    assert both.returncode == 2 and "on several" in both.stderr, both
    assert all(machine.name in both.stderr for machine in machines)
    second = machines[1]
    assert served.roomcast("deploy", "golden", "--to", second.name).returncode == 0
    result = second.deploy(key)
    assert result is not None and result.ok
    assert second.held == dict(enumerate(raws))
    assert served.json("session", "show")["state"] == "done"
    assert "Traceback" not in served.log(), served.log()
