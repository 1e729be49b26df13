"""Checks of an interface: cable, kind of address, networks that overlap, MTU of the interface and of the path."""

import json
import os
import socket
import struct
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from imager.errors import ToolError
from imager.programs import run
from netboot.doctor.findings import Finding, Notes
from netboot.doctor.subject import Subject
from netboot.services.interface import Interface
from netboot.wire.frame import checksum

IP_UDP_BYTES = 28
ETHERNET_MTU = 1500
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO_S = 1.0
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_SYS_NET = Path("/sys/class/net")


def check_interfaces(subject: Subject) -> list[Finding]:
    """Up, with a cable, with a fixed address, in a network that no other interface is in."""
    notes = Notes("interface")
    try:
        links: list[dict[str, Any]] = json.loads(run(["ip", "-json", "address", "show"], timeout_s=10))
    except (ToolError, ValueError) as error:
        return [notes.note(f"interfaces were not looked at: {error}", "install iproute2")]
    by_name = {link["ifname"]: link for link in links if "ifname" in link}
    findings = []
    for interface in subject.interfaces:
        findings += _one_interface(interface, by_name.get(interface.name, {}), by_name, notes)
    return findings


def _one_interface(
    interface: Interface, link: dict[str, Any], others: dict[str, dict[str, Any]], notes: Notes
) -> list[Finding]:
    name, flags = interface.name, link.get("flags", [])
    bad = []
    if "UP" not in flags:
        bad.append(notes.problem(f"{name} is down", f"`ip link set {name} up`", interface=name))
    elif "LOWER_UP" not in flags:
        bad.append(
            notes.problem(f"{name} has no carrier", "plug in its cable, or see to the switch's port", interface=name)
        )
    own = [item for item in link.get("addr_info", []) if item.get("local") == str(interface.address)]
    if any(item.get("dynamic") for item in own):
        bad.append(
            notes.warning(
                f"{name} has its address {interface.address} from a DHCP server: when it changes, machines are told "
                "the old one",
                f"give {name} a fixed address in the system's network settings",
                interface=name,
            )
        )
    for other in others.values():
        for item in other.get("addr_info", []):
            if other.get("ifname") in (name, "lo") or item.get("family") != "inet":
                continue
            if IPv4Address(item["local"]) in interface.network:
                bad.append(
                    notes.warning(
                        f"{other['ifname']} ({item['local']}) is in the network of {name} ({interface.network}) too: "
                        "answers and casts may leave by either",
                        f"give {other['ifname']} an address of another network, or join the two to a bond",
                        interface=name,
                        other=other["ifname"],
                    )
                )
    if bad:
        return bad
    fast = _speed(name)
    address = f"{interface.address}/{interface.network.prefixlen}"
    return [notes.ok(f"{name} is up with {address}{fast}", interface=name, address=address)]


def _speed(name: str) -> str:
    try:
        mbps = int((_SYS_NET / name / "speed").read_text())
    except (OSError, ValueError):
        return ""
    return f", {mbps:,} Mbit/s" if mbps > 0 else ""


def check_mtu(subject: Subject) -> list[Finding]:
    """The interface carries whole TFTP blocks, and so does the way to its router; casts take what there is."""
    notes = Notes("mtu")
    findings = []
    for interface in subject.interfaces:
        name, mtu = interface.name, interface.mtu
        facts = {"interface": name, "mtu": mtu}
        if mtu < ETHERNET_MTU:
            findings.append(
                notes.warning(
                    f"{name} has an MTU of {mtu}: firmware asks for TFTP blocks that need {ETHERNET_MTU}, which now "
                    "travel in fragments, and some firmware drops those",
                    f"`ip link set {name} mtu {ETHERNET_MTU}`, and the same in the system's network settings",
                    **facts,
                )
            )
        else:
            findings.append(notes.ok(f"{name} has an MTU of {mtu}", **facts))
        findings += _path(interface, notes)
    return findings


def _path(interface: Interface, notes: Notes) -> list[Finding]:
    """Only where somebody answers small packets and not whole ones is something known to be wrong."""
    findings = []
    for router in _routers(interface):
        facts = {"interface": interface.name, "to": str(router)}
        try:
            small = echo(interface, router, 64)
            whole = small and echo(interface, router, min(interface.mtu, ETHERNET_MTU))
        except PermissionError:
            return [notes.note(f"the path to {router} was not measured: needs root", "run this with sudo", **facts)]
        except OSError:
            continue
        if small and not whole:
            findings.append(
                notes.warning(
                    f"{router} answers small packets by {interface.name} and not those of "
                    f"{min(interface.mtu, ETHERNET_MTU)} bytes",
                    "look for a tunnel or a switch with a smaller MTU on the way; machines behind it get no whole "
                    "TFTP block and no cast",
                    **facts,
                )
            )
        elif whole:
            findings.append(notes.ok(f"{router} answers packets of {min(interface.mtu, ETHERNET_MTU)} bytes", **facts))
    return findings


def _routers(interface: Interface) -> list[IPv4Address]:
    try:
        routes = json.loads(run(["ip", "-json", "route", "show", "dev", interface.name], timeout_s=10))
    except (ToolError, ValueError):
        return []
    found = {IPv4Address(route["gateway"]) for route in routes if "gateway" in route}
    return sorted(found)[:4]


def echo(interface: Interface, to: IPv4Address, packet_bytes: int) -> bool:
    """Whether `to` answers an ICMP echo of that many bytes that must not be cut, at the second try at the latest.

    Raises PermissionError without CAP_NET_RAW, OSError when there is no way.
    """
    token = os.urandom(8)
    body = token.ljust(packet_bytes - IP_UDP_BYTES, b"\0")  # an ICMP echo's header is as long as UDP's
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.name.encode() + b"\0")
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        for sequence in (1, 2):
            head = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, 0x5243, sequence)
            head = struct.pack("!BBHHH", _ECHO_REQUEST, 0, checksum(head + body), 0x5243, sequence)
            sock.sendto(head + body, (str(to), 0))
            deadline = time.monotonic() + _ECHO_S
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    packet, (source, _) = sock.recvfrom(65535)
                except TimeoutError:
                    break
                header_bytes = (packet[0] & 15) * 4
                answer = packet[header_bytes:]
                if source == str(to) and answer[:1] == bytes([_ECHO_REPLY]) and answer[8:16] == token:
                    return True
    return False
