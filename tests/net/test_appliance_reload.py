"""Reload of a running `roomcast serve`, by command and by signal, while a lease is held and a transfer is under way."""

import os
import signal
import socket
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
from dhcp_wire import Wire
from netns import INTERFACE, Host, Lan
from real_clients import Client
from test_appliance_serve import ROOMCAST, Machine, Served, keep_image, serving
from test_dhcp_clients import wait_until

from imager.image.keys import load_or_create_signing_key, public_key_bytes
from netboot.wire.tftp import Data, build_ack, parse_tftp

pytestmark = pytest.mark.root

OURS = "10.99.0.1"
FIRST = f'interfaces = ["{INTERFACE}"]\npool = "10.99.0.100-10.99.0.100"\n'
WIDER = FIRST.replace("0.100-10.99.0.100", "0.100-10.99.0.109") + "lease-s = 120\nhttp-port = 8080\n"
WRONG = FIRST.replace("10.99.0.100-10.99.0.100", "10.1.0.5-10.1.0.9") + "router = '10.2.0.1'\n"
SENSELESS = FIRST + "lease-s = 1\nmode = 'sever'\n"


class SlowReader:
    """A TFTP client that takes its next block when the test says so."""

    def __init__(self, host: Host, path: str) -> None:
        with host.entered():
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(5)
        self._sock.sendto(b"\0\1" + path.encode() + b"\0octet\0", (OURS, 69))
        self._blocks = 0
        self.content = b""

    def take(self, most: int) -> bool:
        """Whether the file has come to its end."""
        for _ in range(most):
            data, source = self._sock.recvfrom(2000)
            packet = parse_tftp(data)
            assert isinstance(packet, Data), packet
            if packet.block == self._blocks + 1:  # else it came again, for our slowness
                self._blocks += 1
                self.content += packet.payload
            self._sock.sendto(build_ack(self._blocks), source)
            if len(packet.payload) < 512:
                self._sock.close()
                return True
        return False


def is_now(host: Host, served: Served, role: str, ports: tuple[int, ...]) -> bool:
    """Whether it has this role, and of the ports of DHCP these alone."""
    sockets = host.run("ss", "-lunH")
    bound = tuple(port for port in (67, 4011) if f":{port} " in sockets)
    return served.status()["interfaces"][0]["role"] == role and bound == ports


def test_reload_takes_effect_beside_a_lease_and_a_transfer_and_a_wrong_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text(FIRST)
    with Lan(3, addressed=False, checksum_offload=False) as lan:
        server, early, late = lan.hosts
        server.run("ip", "address", "add", f"{OURS}/24", "dev", INTERFACE)
        with serving(server, tmp_path / "server", "--config", str(file)) as served, Wire(server) as wire:
            first = Client("udhcpc", early, tmp_path / "early").start()
            seen = wire.answered(early.mac, "REQUEST", lambda m: m.options.get("server_id") == OURS)
            assert wire.messages[seen - 1].yiaddr == "10.99.0.100"
            wait_until(lambda: "10.99.0.100/24" in early.run("ip", "address", "show", "dev", INTERFACE))
            reader = SlowReader(early, "uefi/shimx64.efi")
            assert not reader.take(50)

            def renewed() -> dict[str, object]:
                start = len(wire.messages)
                first.signal(signal.SIGUSR1)
                end = wire.answered(early.mac, "REQUEST", lambda m: m.ciaddr == "10.99.0.100", after=start)
                return wire.messages[end - 1].options

            for text, told in ((WRONG, ("10.1.0.5", "10.2.0.1")), (SENSELESS, ("lease-s", "mode"))):
                file.write_text(text)
                done = served.roomcast("reload")
                lines = done.stderr.splitlines()
                assert done.returncode == 2 and len(lines) == 2, done
                assert all(f"{file}:" in line for line in lines)
                assert all(any(word in line for line in lines) for word in told), lines
            assert not reader.take(50)
            assert renewed()["lease_time"] == 3600

            seen = len(wire.messages)
            Client("udhcpc", late, tmp_path / "late").start()
            seen = wire.wait_for(lambda m: m.mac == late.mac and m.kind == "DISCOVER", after=seen)
            assert not any(m.mac == late.mac and m.kind == "OFFER" for m in wire.messages), "the pool is one address"
            file.write_text(WIDER)
            done = served.roomcast("reload")
            assert done.returncode == 0, done.stderr
            assert "pool: 10.99.0.100, 10.99.0.100 -> 10.99.0.100, 10.99.0.109 (in effect)" in done.stdout
            assert "http-port: 80 -> 8080 (at the next start)" in done.stdout
            wire.answered(late.mac, "REQUEST", lambda m: m.options.get("server_id") == OURS, after=seen)
            assert renewed()["lease_time"] == 120
            assert reader.take(10_000)
            assert reader.content == (served.data / "boot" / INTERFACE / "uefi" / "shimx64.efi").read_bytes()
            assert {m.kind for m in wire.messages if m.mac == early.mac} == {"DISCOVER", "OFFER", "REQUEST", "ACK"}

            # By signal, and another mode.
            for mode, ports in (("off", ()), ("proxy", (67, 4011)), ("server", (67,))):
                file.write_text(f'{WIDER}mode = "{mode}"\n')
                served.process.send_signal(signal.SIGHUP)
                wait_until(partial(is_now, server, served, mode, ports))
                if mode != "off":
                    assert renewed()["lease_time"] == 120, "what was given is kept, by a proxy too"
            # A mode whose port another program has meanwhile.
            file.write_text(f'{WIDER}mode = "off"\n')
            assert served.roomcast("reload").returncode == 0
            wait_until(partial(is_now, server, served, "off", ()))
            with server.entered():
                squatter = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            squatter.bind(("0.0.0.0", 67))
            file.write_text(f'{WIDER}mode = "server"\n')
            assert served.roomcast("reload").returncode == 0
            wait_until(lambda: "UDP port 67" in served.status()["interfaces"][0]["why"])
            squatter.close()
            wait_until(partial(is_now, server, served, "server", (67,)))
            file.write_text(SENSELESS)
            served.process.send_signal(signal.SIGHUP)
            wait_until(lambda: served.log().count("settings not reloaded") == 2)
            assert is_now(server, served, "server", (67,)) and served.process.poll() is None
            assert "Traceback" not in served.log(), served.log()


def test_cast_goes_on_over_a_reload(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text("silence-s = 300\n")
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path / "server", "--config", str(file)) as served:
        _, raws = keep_image(served.data, "golden", 8)
        key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
        machine = Machine(lan.hosts[1], lan.hosts[0].ip)
        machine.register()
        assert served.roomcast("deploy", "golden", "--to", machine.name, "--max-bitrate", "16m").returncode == 0
        story = threading.Thread(target=machine.deploy, args=(key,))
        story.start()
        try:
            wait_until(lambda: len(machine.held) >= 4)
            file.write_text("silence-s = 200\nlease-s = 90\n")
            done = served.roomcast("reload")
            assert "silence-s: 300.0 -> 200.0 (in effect)" in done.stdout, done
            assert len(machine.held) < len(raws), "it was under way"
        finally:
            story.join(60)
        assert machine.held == dict(enumerate(raws))
        assert served.json("session", "show")["state"] == "done"
        assert "Traceback" not in served.log()


def test_appliance_ends_when_its_terminal_is_closed(tmp_path: Path) -> None:
    """SIGHUP says that then, and there is nobody left to write to."""
    with Lan(1) as lan:
        ours, theirs = os.openpty()
        served = Served(lan.hosts[0], tmp_path, subprocess.Popen(["true"]))
        process = lan.hosts[0].popen(
            *("sh", "-c", f"exec setsid --ctty --wait {ROOMCAST} serve --interface {INTERFACE} <&1"),
            output=theirs,
            env=served.environment(),
        )
        os.close(theirs)
        told = b""
        while b"Ctrl-C ends it" not in told:
            told += os.read(ours, 4096)
        os.close(ours)
        process.wait(20)
        assert not (tmp_path / "api.sock").exists(), "it has cleaned up"
