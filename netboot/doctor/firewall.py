"""Says what becomes of a packet by a firewall's rules. Pure and cautious.

Rules of nftables and iptables are brought into one form by rulesets.py: chains of rules, each with conditions and a
verdict. A condition that is not understood is unknown, and what follows from it is never told as certain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

DEEPEST_JUMP = 16


@dataclass(frozen=True, slots=True)
class Packet:
    """What a rule may ask about."""

    what: str
    """For a person: "DHCP (UDP 67)"."""
    incoming: bool
    interface: str
    protocol: str
    """udp or tcp."""
    port: int
    """Destination."""
    state: str = "new"
    """Of connection tracking: new or established."""
    source: IPv4Address | None = None
    destination: IPv4Address | None = None


class Fate(StrEnum):
    PASSES = "passes"
    DROPPED = "dropped"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet, and the rule that decides it."""

    fate: Fate
    rule: str = ""


IN_HOOKS = ("ingress", "prerouting", "input")
OUT_HOOKS = ("output", "postrouting", "egress")

Condition = Callable[[Packet], bool | None]
"""None: not understood."""


@dataclass(frozen=True, slots=True)
class Rule:
    conditions: tuple[Condition, ...]
    verdict: Callable[[Packet], str | None]
    """accept, drop, return, `jump NAME`, `goto NAME`, an empty text to go on; None: not understood."""
    text: str


@dataclass(slots=True)
class Chain:
    name: str
    hook: str = ""
    """Empty: only jumped to."""
    devices: tuple[str, ...] = ()
    """Of a chain at a device's hook; empty: of all."""
    policy: str = "accept"
    rules: list[Rule] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """Chains that may jump to each other."""

    name: str
    """For a person: "nftables inet filter"."""
    chains: dict[str, Chain] = field(default_factory=dict)


def judge_packet(tables: Sequence[Table], packet: Packet) -> Verdict:
    """Every base chain on the packet's way must let it pass."""
    unclear: Verdict | None = None
    hooks = IN_HOOKS if packet.incoming else OUT_HOOKS
    for table in tables:
        for chain in table.chains.values():
            if chain.hook not in hooks or (chain.devices and packet.interface not in chain.devices):
                continue
            verdict = _walk_base(table, chain, packet)
            if verdict.fate is Fate.DROPPED:
                return verdict
            if verdict.fate is Fate.UNCLEAR:
                unclear = unclear or verdict
    return unclear or Verdict(Fate.PASSES)


def _walk_base(table: Table, chain: Chain, packet: Packet) -> Verdict:
    doubts: list[str] = []
    end = _walk(table, chain, packet, doubts, 0)
    if end is None:
        end = ("drop", f"policy drop of chain {chain.name}") if chain.policy == "drop" else ("accept", "")
    verdict, rule = end
    if doubts:
        # Some earlier rule may have decided already, either way: only when all of them agree is the end certain.
        decisive = [doubt for doubt in doubts if not doubt.startswith(verdict + ":")]
        if decisive:
            return Verdict(Fate.UNCLEAR, f"{table.name}: {decisive[0].partition(':')[2]}")
    return Verdict(Fate.DROPPED, f"{table.name}: {rule}") if verdict == "drop" else Verdict(Fate.PASSES)


def _walk(table: Table, chain: Chain, packet: Packet, doubts: list[str], depth: int) -> tuple[str, str] | None:
    """The verdict and its rule; None: the end of the chain was reached. `doubts`: "verdict:rule" that may have held."""
    for rule in chain.rules:
        holds = _all(condition(packet) for condition in rule.conditions)
        if holds is False:
            continue
        verdict = rule.verdict(packet)
        if verdict is None:
            doubts.append(f"unknown:{rule.text}")
            continue
        word, _, target = verdict.partition(" ")
        if word in ("jump", "goto"):
            inner = table.chains.get(target)
            if inner is None or depth >= DEEPEST_JUMP:
                doubts.append(f"unknown:{rule.text}")
                continue
            before = len(doubts)
            end = _walk(table, inner, packet, doubts, depth + 1)
            if holds is None:
                if end is not None:
                    doubts.append(f"{end[0]}:{rule.text}")
                elif len(doubts) == before:
                    continue
            elif end is not None:
                return end
            elif word == "goto":
                return None
        elif word == "return":
            if holds:
                return None
            doubts.append(f"unknown:{rule.text}")
        elif word in ("accept", "drop"):
            if holds:
                return word, rule.text
            doubts.append(f"{word}:{rule.text}")
    return None


def _all(results: Iterator[bool | None]) -> bool | None:
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown = unknown or result is None
    return None if unknown else True
