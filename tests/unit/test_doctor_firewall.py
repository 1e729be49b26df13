"""The doctor's reading of a firewall: certain where the rules are clear, never certain where they are not."""

from ipaddress import IPv4Address
from typing import Any

import pytest

from netboot.doctor.firewall import Fate, Packet, judge_packet
from netboot.doctor.rulesets import read_iptables, read_nft


def a_packet(port: int = 67, protocol: str = "udp", state: str = "new", interface: str = "eth1") -> Packet:
    return Packet("a packet", True, interface, protocol, port, state, IPv4Address("10.0.0.9"), IPv4Address("10.0.0.1"))


def fate_by_iptables(rules: str, packet: Packet, policy: str = "ACCEPT") -> tuple[Fate, str]:
    text = f"*filter\n:INPUT {policy} [0:0]\n:INNER - [0:0]\n{rules}\nCOMMIT\n"
    verdict = judge_packet(read_iptables(text), packet)
    return verdict.fate, verdict.rule


def an_nft_tree(*rules: list[Any], policy: str = "accept", more: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    base = {"family": "inet", "table": "f"}
    chain = {**base, "name": "in", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    entries: list[dict[str, Any]] = [{"table": {"family": "inet", "name": "f"}}, {"chain": chain}, *more]
    entries += [{"rule": {**base, "chain": "in", "handle": i, "expr": expr}} for i, expr in enumerate(rules)]
    return {"nftables": entries}


def fate_by_nft(tree: dict[str, Any], packet: Packet) -> Fate:
    return judge_packet(read_nft(tree, ""), packet).fate


def equals(left: dict[str, Any], right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


UDP_PORT = {"payload": {"protocol": "udp", "field": "dport"}}
STATE = {"ct": {"key": "state"}}
IN = {"meta": {"key": "iifname"}}


@pytest.mark.parametrize(
    ("rules", "policy", "fate"),
    [
        ("", "ACCEPT", Fate.PASSES),
        ("", "DROP", Fate.DROPPED),
        ("-A INPUT -i eth1 -p udp -m udp --dport 67 -j DROP", "ACCEPT", Fate.DROPPED),
        ("-A INPUT -i eth2 -p udp -m udp --dport 67 -j DROP", "ACCEPT", Fate.PASSES),
        ("-A INPUT ! -i eth2 -p udp -j REJECT --reject-with icmp-port-unreachable", "ACCEPT", Fate.DROPPED),
        ("-A INPUT -p udp -m multiport --dports 60:70,4011 -j ACCEPT", "DROP", Fate.PASSES),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "DROP", Fate.DROPPED),
        ("-A INPUT -s 192.168.0.0/16 -j DROP", "ACCEPT", Fate.PASSES),
        ("-A INPUT -j INNER\n-A INNER -p udp -j DROP", "ACCEPT", Fate.DROPPED),
        ("-A INPUT -j INNER\n-A INNER -p tcp -j DROP\n-A INNER -j RETURN\n-A INNER -j DROP", "ACCEPT", Fate.PASSES),
        ("-A INPUT -j LOG --log-prefix drop", "ACCEPT", Fate.PASSES),
        ("-A INPUT -m recent --set -j DROP", "ACCEPT", Fate.UNCLEAR),
        ("-A INPUT -m limit --limit 5/sec -j ACCEPT", "DROP", Fate.UNCLEAR),
        ("-A INPUT -m limit --limit 5/sec -j ACCEPT", "ACCEPT", Fate.PASSES),
    ],
)
def test_iptables_rules_decide_as_the_kernel_would(rules: str, policy: str, fate: Fate) -> None:
    assert fate_by_iptables(rules, a_packet(), policy)[0] is fate


def test_the_rule_that_drops_is_named() -> None:
    rule = "-A INPUT -i eth1 -p udp -m udp --dport 67 -j DROP"
    assert fate_by_iptables(rule, a_packet())[1] == f"iptables filter: {rule}"
    assert "policy drop of chain INPUT" in fate_by_iptables("", a_packet(), "DROP")[1]


def test_nft_sets_ranges_and_wildcards_are_understood() -> None:
    tree = an_nft_tree([equals(IN, "eth*"), equals(UDP_PORT, {"set": [69, {"range": [60, 68]}]}), {"drop": None}])
    assert fate_by_nft(tree, a_packet(67)) is Fate.DROPPED
    assert fate_by_nft(tree, a_packet(70)) is Fate.PASSES
    assert fate_by_nft(tree, a_packet(67, interface="wlan0")) is Fate.PASSES
    assert fate_by_nft(tree, a_packet(67, "tcp")) is Fate.PASSES


def test_nft_verdict_maps_and_jumps_are_followed() -> None:
    inner = {"family": "inet", "table": "f", "name": "udp_in"}
    states = {"set": [["established", {"accept": None}], ["new", {"jump": {"target": "udp_in"}}]]}
    tree = an_nft_tree([{"vmap": {"key": STATE, "data": states}}], policy="drop", more=({"chain": inner},))
    tree["nftables"].append(
        {"rule": {**inner, "chain": "udp_in", "handle": 9, "expr": [equals(UDP_PORT, 67), {"accept": None}]}}
    )
    assert fate_by_nft(tree, a_packet(67)) is Fate.PASSES
    assert fate_by_nft(tree, a_packet(4011)) is Fate.DROPPED
    assert fate_by_nft(tree, a_packet(40000, state="established")) is Fate.PASSES


def test_a_named_set_is_looked_up_and_a_missing_one_is_unclear() -> None:
    named = {"set": {"family": "inet", "table": "f", "name": "open", "type": "inet_service", "elem": [67, 69]}}
    rule = [equals(UDP_PORT, "@open"), {"accept": None}]
    assert fate_by_nft(an_nft_tree(rule, policy="drop", more=(named,)), a_packet(67)) is Fate.PASSES
    assert fate_by_nft(an_nft_tree(rule, policy="drop", more=(named,)), a_packet(68)) is Fate.DROPPED
    assert fate_by_nft(an_nft_tree(rule, policy="drop"), a_packet(67)) is Fate.UNCLEAR


def test_a_statement_that_is_not_understood_makes_nothing_certain() -> None:
    assert fate_by_nft(an_nft_tree([{"xt": None}, {"drop": None}]), a_packet()) is Fate.UNCLEAR
    assert fate_by_nft(an_nft_tree([{"limit": {}}, {"drop": None}], policy="drop"), a_packet()) is Fate.DROPPED


def test_chains_that_jump_in_a_ring_come_to_an_end() -> None:
    rules = "-A INPUT -j INNER\n-A INNER -j INNER"
    assert fate_by_iptables(rules, a_packet())[0] is Fate.UNCLEAR
