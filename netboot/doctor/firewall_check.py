"""Check of this machine's firewall: the rules are asked about every kind of packet that a room needs."""

import json
import os
import shutil
from collections.abc import Iterator
from ipaddress import IPv4Address

from imager.errors import ToolError
from imager.programs import run
from netboot.config import CONTROL_PORTS, Mode, cast_group
from netboot.doctor.findings import Finding, Notes
from netboot.doctor.firewall import Fate, Packet, Table, judge_packet
from netboot.doctor.rulesets import read_iptables, read_nft
from netboot.doctor.subject import Subject
from netboot.services.interface import Interface

_TRANSFER_PORT = 40_000
"""Of a TFTP transfer: the kernel gives any of the high ones."""
_TOOL_S = 10.0


def check_firewall(subject: Subject) -> list[Finding]:
    """Names the rule that drops a packet of ours."""
    notes = Notes("firewall")
    try:
        tables = read_rules()
    except ToolError as error:
        return [notes.note(f"the firewall's rules were not looked at: {error}", "run this with sudo")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [notes.note(f"the firewall's rules were not understood: {error!r}", "look at `nft list ruleset`")]
    findings = []
    for interface in subject.interfaces:
        bad = []
        for packet in packets(subject, interface):
            verdict = judge_packet(tables, packet)
            facts = {"interface": interface.name, "what": packet.what, "rule": verdict.rule}
            way = f"in by {interface.name}" if packet.incoming else f"out by {interface.name}"
            if verdict.fate is Fate.DROPPED:
                bad.append(notes.problem(f"{packet.what} {way} is dropped by {verdict.rule}", _advice(packet), **facts))
            elif verdict.fate is Fate.UNCLEAR:
                bad.append(
                    notes.note(
                        f"{packet.what} {way}: not clear whether it passes {verdict.rule}",
                        "see that the firewall lets it pass",
                        **facts,
                    )
                )
        chains = sum(1 for table in tables for chain in table.chains.values() if chain.hook)
        told = f"{chains} chains of rules let" if chains else "no firewall here:"
        passes = " everything pass that a room needs" if chains else " everything passes"
        findings += bad or [notes.ok(f"{interface.name}: {told}{passes}", interface=interface.name)]
    return findings


def read_rules() -> list[Table]:
    """All rules for IPv4. Raises ToolError when they may not be read, ValueError when they are of an unknown form."""
    tables: list[Table] = []
    if os.geteuid() != 0:
        raise ToolError("nft list ruleset", 1, "only root may read them")
    if shutil.which("iptables-save"):
        tables += read_iptables(run(["iptables-save"], timeout_s=_TOOL_S))
    if shutil.which("nft"):
        tree = json.loads(run(["nft", "--json", "list", "ruleset"], timeout_s=_TOOL_S))
        found = read_nft(tree, run(["nft", "--handle", "list", "ruleset"], timeout_s=_TOOL_S))
        # iptables keeps its rules in nftables nowadays, and prints them better
        known = {table.name.replace("iptables ", "nftables ip ") for table in tables}
        tables += [table for table in found if table.name not in known]
    return tables


def packets(subject: Subject, interface: Interface) -> Iterator[Packet]:
    """One of each kind that must pass."""
    settings = subject.settings
    name, own, machine = interface.name, interface.address, interface.network[-2]
    nobody, everybody = IPv4Address(0), IPv4Address("255.255.255.255")

    def incoming(what: str, protocol: str, port: int, state: str = "new") -> Packet:
        return Packet(what, True, name, protocol, port, state, machine, own)

    if subject.mode is not Mode.OFF:
        yield Packet("DHCP (UDP 67)", True, name, "udp", 67, "new", nobody, everybody)
        yield Packet("DHCP (UDP 68)", False, name, "udp", 68, "new", own, everybody)
    if subject.mode in (Mode.PROXY, Mode.AUTO):
        yield incoming("PXE (UDP 4011)", "udp", 4011)
    yield incoming("TFTP (UDP 69)", "udp", 69)
    yield incoming("TFTP transfers (UDP, established)", "udp", _TRANSFER_PORT, "established")
    yield incoming(f"HTTP (TCP {settings.http_port})", "tcp", settings.http_port)
    first = settings.control_port_base
    yield incoming(f"casts' control (UDP {first})", "udp", first)
    yield incoming(f"casts' control (UDP {first + CONTROL_PORTS - 1})", "udp", first + CONTROL_PORTS - 1)
    group = cast_group(settings.cast_network, 0)
    data = settings.data_port_base
    if isinstance(group, IPv4Address):  # the tables that are read are of IPv4
        yield Packet(f"casts' data (UDP {data})", False, name, "udp", data, "new", own, group)


def _advice(packet: Packet) -> str:
    if packet.state == "established":
        return "accept packets of known connections: `ct state established,related accept` early in the chain"
    direction, device = ("input", "iifname") if packet.incoming else ("output", "oifname")
    rule = f'{device} "{packet.interface}" {packet.protocol} dport {packet.port} accept'
    return f"put `{rule}` before it in the {direction} chain, or open that port in the program that writes the rules"
