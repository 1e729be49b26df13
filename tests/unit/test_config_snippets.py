"""Snippets for other DHCP servers, as those servers read them; `roomcast config` as a command; settings to the core."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from netboot.boot.selection import BIOS_GRUB, UEFI_GRUB, UEFI_SHIM
from netboot.boot.snippets import Peer, boot_rows, render_snippet
from netboot.config import ConfigError
from netboot.config.loading import load
from netboot.dhcp.subnets import Pool
from netboot.dhcp_settings import build_server_config, check_settings
from netboot.model import Firmware
from netboot.services.interface import Interface

SERVER = IPv4Address("10.77.0.1")
ETH1 = Interface("eth1", 2, bytes(6), SERVER, IPv4Network("10.77.0.0/24"), 1500)
ETH2 = Interface("eth2", 3, bytes(6), IPv4Address("10.78.0.1"), IPv4Network("10.78.0.0/24"), 1500)


def accepts(*command: str) -> None:
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dnsmasq_accepts_its_snippet(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.conf"
    file.write_text(render_snippet(Peer.DNSMASQ, SERVER, 80))
    accepts("dnsmasq", "--test", f"--conf-file={file}")
    assert f"dhcp-boot=tag:roomcast-uefi,tag:!roomcast-ipxe,{UEFI_SHIM},,10.77.0.1" in file.read_text()


def test_kea_accepts_its_snippet(tmp_path: Path) -> None:
    file = tmp_path / "kea.json"
    file.write_text(render_snippet(Peer.KEA, SERVER, 80))
    accepts("kea-dhcp4", "-t", str(file))


def test_isc_accepts_its_snippet(tmp_path: Path) -> None:
    file = tmp_path / "dhcpd.conf"
    file.write_text(render_snippet(Peer.ISC, SERVER, 80))
    accepts("dhcpd", "-t", "-cf", str(file))


@pytest.mark.parametrize("peer", list(Peer))
def test_every_snippet_names_the_server_and_the_files_of_our_own_answers(peer: Peer) -> None:
    text = render_snippet(peer, SERVER, 80)
    files = (BIOS_GRUB, UEFI_SHIM) if peer is Peer.WINDOWS else (BIOS_GRUB, UEFI_SHIM, UEFI_GRUB)
    assert all(file in text for file in files) and str(SERVER) in text
    assert "{{" not in text and "{%" not in text


def test_a_boot_program_of_the_administrators_own_stands_in_the_snippet_for_firmware_and_not_for_ipxe() -> None:
    text = render_snippet(Peer.DNSMASQ, SERVER, 80, {Firmware.UEFI_X64: "own/uefi-x64/snponly.efi"})
    assert "dhcp-boot=tag:roomcast-uefi,tag:!roomcast-ipxe,own/uefi-x64/snponly.efi,,10.77.0.1" in text
    assert f"dhcp-boot=tag:roomcast-uefi,tag:roomcast-ipxe,{UEFI_GRUB},,10.77.0.1" in text


def test_every_kind_of_machine_has_one_row() -> None:
    rows = boot_rows(SERVER, 80)
    assert {(arch, row.ipxe) for row in rows for arch in row.arches} == {
        (arch, ipxe) for arch in (0, 7, 9) for ipxe in (False, True)
    }


def config(*arguments: str, file: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "roomcast"), "config", *arguments]
    more = {"ROOMCAST_CONFIG": str(file), "ROOMCAST_LEASE_S": "700", "COLUMNS": "200"}
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


def test_check_tells_every_mistake_on_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text('interfaces = ["nosuch0"]\nhttp-port = 0\n[[subnet]]\nnetwork = "10.0.0.0"\n')
    done = config("check", file=file)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith(f"roomcast: {file}:2: http-port: ") and second.startswith(f"roomcast: {file}:4: subnet[1]")
    file.write_text('interfaces = ["nosuch0"]\n')
    done = config("check", str(file), file=file)
    assert done.returncode == 0 and "no interface nosuch0" in done.stdout and "no mistakes" in done.stdout


def test_check_looks_for_the_boot_programs(tmp_path: Path) -> None:
    file, there = tmp_path / "roomcast.toml", tmp_path / "undionly.kpxe"
    there.touch()
    text = f'interfaces = ["nosuch0"]\n[boot-programs]\nbios = "{tmp_path}"\nuefi-x64 = "{tmp_path}/nosuch.efi"\n'
    file.write_text(text)
    done = config("check", file=file)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"roomcast: {file}:{line}: boot-programs.{kind}: there is no file {program}: install it, or take it out"
        for line, kind, program in ((3, "bios", tmp_path), (4, "uefi-x64", tmp_path / "nosuch.efi"))
    ]
    file.write_text(f'interfaces = ["nosuch0"]\nboot-programs = {{ bios = "{there}" }}\n')
    assert config("check", file=file).returncode == 0


def test_show_tells_where_each_setting_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text('interfaces = ["eth1"]\n[[subnet]]\nnetwork = "10.0.0.0/24"\n')
    shown = json.loads(config("show", "--json", file=file).stdout)
    assert shown["interfaces"] == {"value": ["eth1"], "from": f"{file}:1"}
    assert shown["lease-s"] == {"value": 700, "from": "ROOMCAST_LEASE_S"}
    assert shown["http-port"] == {"value": 80, "from": "default"}
    assert shown["subnet"]["value"][0]["network"] == "10.0.0.0/24" and shown["subnet"]["from"] == f"{file}:2"
    table = config("show", file=file).stdout
    assert "network=10.0.0.0/24" in table and f"{file}:1" in table


def test_snippet_command_prints_and_refuses_in_words(tmp_path: Path) -> None:
    file = tmp_path / "none.toml"
    file.write_text("")
    assert config("snippet", "kea", "--server", "10.77.0.1", file=file).stdout == render_snippet(Peer.KEA, SERVER, 80)
    assert "is not dnsmasq, kea, isc or windows" in config("snippet", "bind", file=file).stderr
    assert "is not an IPv4 address" in config("snippet", "kea", "--server", "x;y", file=file).stderr


def test_snippet_for_another_appliance_has_the_programs_and_the_port_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text('http-port = 8080\nboot-programs = { uefi-x64 = "/usr/lib/ipxe/snponly.efi" }\n')
    own = {Firmware.UEFI_X64: "own/uefi-x64/snponly.efi"}
    done = config("snippet", "dnsmasq", "--server", "10.77.0.1", file=file)
    assert done.stdout == render_snippet(Peer.DNSMASQ, SERVER, 8080, own)
    assert "own/uefi-x64/snponly.efi" in done.stdout
    file.write_text("http-port = 0\n")
    assert f"{file}:1: http-port" in config("snippet", "kea", "--server", "10.77.0.1", file=file).stderr


def test_what_the_file_says_reaches_the_dhcp_core(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text(
        'interfaces = ["eth1"]\ndns = ["10.0.0.53"]\ndomain = "lab.example.org"\n'
        'options = { ntp-servers = ["10.0.0.3"] }\n'
        '[[subnet]]\nnetwork = "10.77.0.0/24"\npools = ["10.77.0.10-10.77.0.20"]\n'
        "options = { 26 = 1400 }\nlease-s = 90\n"
        '[[subnet]]\nnetwork = "10.78.0.0/24"\ndns = []\nrouters = ["10.78.0.1"]\n'
        '[[reservation]]\nmac = "52:54:00:00:00:01"\naddress = "10.78.0.9"\nhostname = "pc-1"\n'
    )
    built = build_server_config(load({}, file, {}).settings, ETH1)
    assert built.local.pools == (Pool(IPv4Address("10.77.0.10"), IPv4Address("10.77.0.20")),)
    assert (built.local.lease_s, built.local.dns_servers, built.local.domain) == (
        90,
        (IPv4Address("10.0.0.53"),),
        "lab.example.org",
    )
    assert built.local.options == {42: IPv4Address("10.0.0.3").packed, 26: (1400).to_bytes(2, "big")}
    (far,) = built.relayed
    assert (far.pools, far.dns_servers, far.routers) == ((), (), (IPv4Address("10.78.0.1"),))
    assert built.reservations[0].hostname == "pc-1" and built.probe
    plain = build_server_config(load({"interfaces": ["eth1"]}, None, {}).settings, ETH1)
    assert plain.local.pools == (Pool(IPv4Address("10.77.0.128"), IPv4Address("10.77.0.254")),)


def test_pool_outside_the_interface_is_told(tmp_path: Path) -> None:
    flags = {"interfaces": ["eth1"], "pool": "10.0.0.1-10.0.0.9"}
    with pytest.raises(ConfigError, match="is not inside the network of an interface"):
        check_settings(load(flags, None, {}).settings, [ETH1])


def test_each_interface_has_its_own_part_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text(
        'interfaces = ["eth1", "eth2"]\npool = "10.77.0.50-10.77.0.60"\nrouter = "10.77.0.254"\n'
        '[[subnet]]\nnetwork = "10.78.0.0/24"\npools = ["10.78.0.10-10.78.0.20"]\n'
        '[[subnet]]\nnetwork = "10.90.0.0/24"\npools = ["10.90.0.10-10.90.0.20"]\n'
        '[[reservation]]\nmac = "52:54:00:00:00:01"\naddress = "10.78.0.9"\n'
    )
    loaded = load({}, file, {})
    check_settings(loaded.settings, [ETH1, ETH2], loaded)
    first = build_server_config(loaded.settings, ETH1, [ETH2])
    second = build_server_config(loaded.settings, ETH2, [ETH1])
    assert first.local.pools == (Pool(IPv4Address("10.77.0.50"), IPv4Address("10.77.0.60")),)
    assert first.local.routers == (IPv4Address("10.77.0.254"),) and second.local.routers == ()
    assert second.local.pools == (Pool(IPv4Address("10.78.0.10"), IPv4Address("10.78.0.20")),)
    behind_relays = [str(subnet.network) for subnet in first.relayed]
    assert behind_relays == [str(subnet.network) for subnet in second.relayed] == ["10.90.0.0/24"]
    assert first.reservations == () and second.reservations[0].mac == "52:54:00:00:00:01"
    assert first.other_addresses == {ETH2.address} and second.other_addresses == {ETH1.address}
    plain = build_server_config(dataclasses.replace(loaded.settings, subnets=()), ETH2, [ETH1])
    assert plain.local.pools == (Pool(IPv4Address("10.78.0.128"), IPv4Address("10.78.0.254")),)
