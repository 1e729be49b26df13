"""Rules as programs print them (`nft --json list ruleset`, `iptables-save`), read into the form of firewall.py. Pure.

Sources: libnftables-json(5), iptables-extensions(8).
"""

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from ipaddress import AddressValueError, IPv4Address, NetmaskValueError, ip_network
from typing import Any

from netboot.doctor.firewall import Chain, Condition, Packet, Rule, Table

_FAMILIES = ("ip", "inet", "netdev")
_VERDICTS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return"}
_SILENT = frozenset({"counter", "log", "comment", "notrack"})
"""Statements that decide nothing."""
_IPTABLES_CHAINS = {"INPUT": "input", "OUTPUT": "output", "PREROUTING": "prerouting", "POSTROUTING": "postrouting"}
_IPTABLES_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
_IPTABLES_SILENT = frozenset({"LOG", "NFLOG", "ULOG", "CT", "MARK", "CONNMARK", "TRACE", "CHECKSUM"})
_IPTABLES_MODULES = frozenset({"tcp", "udp", "multiport", "conntrack", "state", "comment"})


def read_nft(tree: Mapping[str, Any], listing: str) -> list[Table]:
    """Tables of IPv4. `listing` is `nft --handle list ruleset`, from which the rules' text is taken."""
    texts = _texts(listing)
    tables: dict[tuple[str, str], Table] = {}
    sets: dict[tuple[str, str, str], Any] = {}
    rules = []
    for entry in tree.get("nftables", []):
        for kind, item in entry.items():
            if not isinstance(item, dict) or item.get("family") not in _FAMILIES:
                continue
            family, name = str(item["family"]), str(item.get("table", item.get("name", "")))
            if kind == "table":
                tables[family, name] = Table(f"nftables {family} {name}")
            elif kind == "chain" and (family, name) in tables:
                chain = _nft_chain(item)
                tables[family, name].chains[chain.name] = chain
            elif kind in ("set", "map"):
                sets[family, name, item["name"]] = item.get("elem", [])
            elif kind == "rule":
                rules.append(item)
    for item in rules:
        family, name = item["family"], item["table"]
        if (table := tables.get((family, name))) is not None and item["chain"] in table.chains:
            chain = table.chains[item["chain"]]
            named = {key[2]: value for key, value in sets.items() if key[:2] == (family, name)}
            text = texts.get((family, name, item.get("handle", -1)), f"a rule of chain {chain.name}")
            chain.rules.append(_nft_rule(item.get("expr", []), named, text))
    return list(tables.values())


def _nft_chain(item: Mapping[str, Any]) -> Chain:
    devices = item.get("dev", ())
    return Chain(
        name=item["name"],
        hook=item.get("hook", "") if item.get("type", "filter") != "nat" else "",
        devices=(devices,) if isinstance(devices, str) else tuple(devices),
        policy=item.get("policy", "accept"),
    )


def _texts(listing: str) -> dict[tuple[str, str, int], str]:
    texts: dict[tuple[str, str, int], str] = {}
    family = table = ""
    for line in listing.splitlines():
        if match := re.match(r"table (\S+) (\S+) \{", line):
            family, table = match.groups()
        elif match := re.match(r"\s+(.*\S)\s+# handle (\d+)$", line):
            texts[family, table, int(match[2])] = re.sub(r" ?counter packets \d+ bytes \d+", "", match[1])
    return texts


def _nft_rule(expressions: Iterable[Any], sets: Mapping[str, Any], text: str) -> Rule:
    conditions: list[Condition] = []
    verdict: Callable[[Packet], str | None] = _always("")
    for expression in expressions:
        if not isinstance(expression, dict) or len(expression) != 1:
            conditions.append(_unknown)
            continue
        ((kind, value),) = expression.items()
        if kind == "match":
            conditions.append(_nft_match(value, sets))
        elif kind in _VERDICTS:
            verdict = _always(_VERDICTS[kind])
        elif kind in ("jump", "goto"):
            verdict = _always(f"{kind} {value['target']}")
        elif kind == "vmap":
            verdict = _nft_vmap(value, sets)
        elif kind not in _SILENT:
            conditions.append(_unknown)  # limit, fib, xt, queue...
    return Rule(tuple(conditions), verdict, text)


def _always(verdict: str | None) -> Callable[[Packet], str | None]:
    return lambda packet: verdict


def _unknown(packet: Packet) -> bool | None:
    del packet
    return None


def _nft_match(match: Mapping[str, Any], sets: Mapping[str, Any]) -> Condition:
    left, right, operator = match.get("left"), match.get("right"), match.get("op", "==")

    def holds(packet: Packet) -> bool | None:
        value = _nft_value(left, packet)
        if value is None:
            return None
        if operator in ("==", "in"):
            return _is_in(value, right, sets)
        if operator == "!=":
            found = _is_in(value, right, sets)
            return None if found is None else not found
        if isinstance(value, int) and isinstance(right, int):
            return {"<": value < right, ">": value > right, "<=": value <= right, ">=": value >= right}.get(operator)
        return None

    return holds


def _nft_vmap(vmap: Mapping[str, Any], sets: Mapping[str, Any]) -> Callable[[Packet], str | None]:
    data = vmap.get("data")
    pairs = data.get("set", []) if isinstance(data, dict) else sets.get(str(data).lstrip("@"))

    def verdict(packet: Packet) -> str | None:
        value = _nft_value(vmap.get("key"), packet)
        if value is None or not isinstance(pairs, list):
            return None
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], dict):
                return None
            found = True if pair[0] == "*" else _is_in(value, pair[0], sets)
            if found is None:
                return None
            if found:
                ((kind, target),) = pair[1].items()
                return _VERDICTS.get(kind) or (f"{kind} {target['target']}" if kind in ("jump", "goto") else None)
        return ""

    return verdict


def _nft_value(left: Any, packet: Packet) -> str | int | IPv4Address | None:
    """What an expression is for this packet; None: not known."""
    match left:
        case {"meta": {"key": "iifname" | "iif"}}:
            return packet.interface if packet.incoming else ""
        case {"meta": {"key": "oifname" | "oif"}}:
            return "" if packet.incoming else packet.interface
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            return packet.protocol
        case {"meta": {"key": "nfproto"}}:
            return "ipv4"
        case {"meta": {"key": "protocol"}} | {"payload": {"protocol": "ether", "field": "type"}}:
            return "ip"
        case {"payload": {"protocol": "udp" | "tcp" as protocol, "field": field}}:
            if protocol != packet.protocol:
                return "another protocol"
            return packet.port if field == "dport" else None
        case {"payload": {"protocol": "th", "field": "dport"}}:
            return packet.port
        case {"payload": {"protocol": "icmp" | "icmpv6" | "ip6" | "arp"}}:
            return "another protocol"
        case {"payload": {"protocol": "ip", "field": "saddr"}}:
            return packet.source
        case {"payload": {"protocol": "ip", "field": "daddr"}}:
            return packet.destination
        case {"ct": {"key": "state"}}:
            return packet.state
    return None


def _is_in(value: str | int | IPv4Address, right: Any, sets: Mapping[str, Any]) -> bool | None:
    match right:
        case {"set": items}:
            return _any(_is_in(value, item, sets) for item in (items if isinstance(items, list) else [items]))
        case list():
            return _any(_is_in(value, item, sets) for item in right)
        case {"elem": {"val": item}}:
            return _is_in(value, item, sets)
        case {"range": [low, high]}:
            try:
                if isinstance(value, IPv4Address):
                    return IPv4Address(low) <= value <= IPv4Address(high)
                return isinstance(value, int) and int(low) <= value <= int(high)
            except ValueError:
                return None
        case {"prefix": {"addr": address, "len": length}}:
            return _is_address(value, f"{address}/{length}")
        case str() if right.startswith("@"):
            named = sets.get(right[1:])
            return None if named is None else _is_in(value, named, sets)
        case str() if isinstance(value, IPv4Address):
            return _is_address(value, right)
        case str() if isinstance(value, str):
            return fnmatchcase(value, right) if right.endswith("*") else value == right
        case int():
            return {"udp": 17, "tcp": 6}.get(value) == right if isinstance(value, str) else value == right
    return None


def _is_address(value: str | int | IPv4Address, text: str) -> bool | None:
    if not isinstance(value, IPv4Address):
        return False
    try:
        return value in ip_network(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        return None


def _any(results: Iterable[bool | None]) -> bool | None:
    unknown = False
    for result in results:
        if result:
            return True
        unknown = unknown or result is None
    return None if unknown else False


def read_iptables(text: str) -> list[Table]:
    """What `iptables-save` prints. Targets of nat decide no packet's fate and are left out."""
    tables: list[Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(Table(f"iptables {line[1:].strip()}"))
        elif line.startswith(":") and tables:
            name, policy, *_ = [*line[1:].split(), "-"]
            hook = "" if tables[-1].name.endswith(" nat") else _IPTABLES_CHAINS.get(name, "")
            tables[-1].chains[name] = Chain(name, hook, policy="drop" if policy == "DROP" else "accept")
        elif line.startswith("-A ") and tables:
            try:
                words = shlex.split(line)
            except ValueError:
                continue
            if (chain := tables[-1].chains.get(words[1])) is not None:
                chain.rules.append(_iptables_rule(words[2:], line))
    return tables


def _iptables_rule(words: list[str], text: str) -> Rule:
    conditions: list[Condition] = []
    verdict: str | None = ""
    position, negated = 0, False
    while position < len(words):
        word = words[position]
        argument = words[position + 1] if position + 1 < len(words) else ""
        position += 1
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            jump = "goto" if word == "-g" else "jump"
            known = _IPTABLES_VERDICTS.get(argument) or ("" if argument in _IPTABLES_SILENT else None)
            verdict = known if known is not None else f"{jump} {argument}"
            break  # what follows belongs to the target
        if argument.startswith("-") or argument == "!":  # an option without an argument
            argument = ""
        else:
            position += 1
        if word == "--comment" or (word == "-m" and argument in _IPTABLES_MODULES):
            continue
        condition = _iptables_condition(word, argument)
        conditions.append(_negated(condition) if negated else condition)
        negated = False
    return Rule(tuple(conditions), _always(verdict), text)


def _negated(condition: Condition) -> Condition:
    def holds(packet: Packet) -> bool | None:
        found = condition(packet)
        return None if found is None else not found

    return holds


def _iptables_condition(word: str, argument: str) -> Condition:
    match word:
        case "-i" | "-o":
            pattern = argument[:-1] + "*" if argument.endswith("+") else argument
            return lambda packet: packet.incoming == (word == "-i") and fnmatchcase(packet.interface, pattern)
        case "-p":
            return lambda packet: argument in (packet.protocol, "all")
        case "--dport" | "--dports" | "--destination-port":
            return lambda packet: _is_port(packet.port, argument)
        case "-s":
            return lambda packet: None if packet.source is None else _is_address(packet.source, argument)
        case "-d":
            return lambda packet: None if packet.destination is None else _is_address(packet.destination, argument)
        case "--state" | "--ctstate":
            return lambda packet: packet.state.upper() in argument.split(",")
    return _unknown


def _is_port(port: int, ranges: str) -> bool | None:
    try:
        for part in ranges.split(","):
            low, colon, high = part.partition(":")
            if int(low or 0) <= port <= int((high or 65535) if colon else low):
                return True
    except ValueError:
        return None
    return False
