"""Rooms that start at once, when more machines ask than addresses were probed ahead: what an offer takes then.

perfdhcp gives the machines; the client's namespace counts whom the server asked whether he has an address.
"""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

from classroom.bench_dhcp import CLIENT, FIRST_OFFER_MS, SERVER, Served, measure_avalanche, serving
from classroom.errors import LabError
from classroom.figures import Figure
from classroom.run import Run, inside
from imager.programs import run as run_program

NEWCOMERS = 700
"""In the server's own network: more than the 512 addresses that it asks for ahead."""
RELAYED = 500
"""Behind a relay agent, where 32 are."""
SLOWEST_OFFER_MS = 500.0
"""A probe takes 100 ms; iPXE, the most impatient, asks again after a second."""
AT_START_MS = 150.0
"""The first offer of all: nothing was probed yet."""
RELAY, RELAY_NETWORK = "10.82.0.1", "10.82.0.0/16"
RELAYED_SUBNET = """
[[subnet]]
network = "10.82.0.0/16"
pools = ["10.82.1.0-10.82.249.255"]
"""
_PROBES_SEEN = """
table arp probes {
  set asked { type ipv4_addr; size 65535; flags dynamic; }
  chain input {
    type filter hook input priority 0
    arp operation request arp saddr ip 0.0.0.0 add @asked { arp daddr ip }
  }
}
table ip probes {
  set asked { type ipv4_addr; size 65535; flags dynamic; }
  chain forward {
    type filter hook forward priority 0
    icmp type echo-request add @asked { ip daddr }
  }
}
"""


def bench_newcomers(lab: Run) -> Iterator[Figure]:
    """A large room, then one behind a relay agent, then the very first machine."""
    with serving(lab, "roomcast", prepare=_watch_probes) as served:
        ours = measure_avalanche(served, NEWCOMERS)
        unasked = _leased_without_a_probe(served, "arp")
    name = f"dhcp, {NEWCOMERS} at once"
    yield Figure(f"{name}, first offer", ours.first_offer_ms, " ms", FIRST_OFFER_MS, False, digits=1)
    yield Figure(f"{name}, slowest offer", ours.slowest_offer_ms, " ms", SLOWEST_OFFER_MS, False, digits=1)
    yield Figure(f"{name}, leased without a probe", unasked, "", 0, False, each_run=True)

    settings = lab.directory / "relayed.toml"
    settings.write_text(RELAYED_SUBNET)
    with serving(lab, "roomcast", "--config", str(settings), prepare=_stand_behind_relay) as served:
        ours = measure_avalanche(served, RELAYED, RELAY)
        unasked = _leased_without_a_probe(served, "ip")
    name = f"dhcp, {RELAYED} behind a relay"
    yield Figure(f"{name}, first offer", ours.first_offer_ms, " ms", FIRST_OFFER_MS, False, digits=1)
    yield Figure(f"{name}, slowest offer", ours.slowest_offer_ms, " ms", SLOWEST_OFFER_MS, False, digits=1)
    yield Figure(f"{name}, leased without a probe", unasked, "", 0, False, each_run=True)

    yield Figure("dhcp, first offer after the start", _first_offer_ms(lab), " ms", AT_START_MS, False, digits=1)


def _first_offer_ms(lab: Run) -> float:
    """Of a machine that asks in the moment in which the server is there."""
    asking: list[subprocess.Popen[str]] = []

    def ask(_: str, client: str) -> None:
        words = [*inside(client), sys.executable, "-m", "classroom.first_offer", CLIENT, SERVER]
        asking.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))

    with serving(lab, "roomcast", prepare=ask):
        told, _ = asking[0].communicate(timeout=120)
    if asking[0].returncode:
        raise LabError("no machine got an offer after the server's start")
    return float(told)


def _watch_probes(_: str, client: str) -> None:
    run_program([*inside(client), "nft", "--file", "-"], stdin=_PROBES_SEEN.encode())


def _stand_behind_relay(server: str, client: str) -> None:
    """The client is the way to a network in which nobody answers."""
    _watch_probes(server, client)
    run_program([*inside(client), "ip", "address", "add", f"{RELAY}/16", "dev", "e0"])
    run_program([*inside(client), "sysctl", "--quiet", "--write", "net.ipv4.ip_forward=1"])
    run_program([*inside(server), "ip", "route", "add", RELAY_NETWORK, "via", CLIENT])


def _leased_without_a_probe(served: Served, family: str) -> int:
    listed = json.loads(
        run_program([*inside(served.client), "nft", "--json", "list", "set", family, "probes", "asked"])
    )
    (asked,) = (each["set"].get("elem", []) for each in listed["nftables"] if "set" in each)
    with closing(sqlite3.connect(f"file:{served.directory}/data/leases.db?mode=ro", uri=True)) as leases:
        given = {address for (address,) in leases.execute("SELECT address FROM lease")}
    if not given:
        raise LabError("nothing was leased")
    return len(given.difference(asked))
