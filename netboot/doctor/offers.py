"""The DHCP answers that the doctor got, and what they mean. Pure: packets are asked and read in dhcp_probe.py.

A server is what its own packets say (option 54), the address and hardware address that they came from, and whether
they came from this machine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from netboot.config.settings import Mode
from netboot.doctor.findings import Finding, Notes, quoted


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of client that the doctor plays."""

    name: str
    arch: int
    """Option 93."""
    vendor_class: str
    """Option 60."""
    user_class: str = ""
    """Option 77."""
    needed: bool = False
    """A room has machines of this kind: without a boot file something is wrong."""


ROWS = (
    Row("BIOS", 0, "PXEClient:Arch:00000:UNDI:002001", needed=True),
    Row("UEFI x64", 7, "PXEClient:Arch:00007:UNDI:003016", needed=True),
    Row("UEFI IA32", 6, "PXEClient:Arch:00006:UNDI:003016"),
    Row("UEFI arm64", 11, "PXEClient:Arch:00011:UNDI:003016"),
    Row("UEFI x64 HTTP", 16, "HTTPClient:Arch:00016:UNDI:003016"),
    Row("UEFI arm64 HTTP", 19, "HTTPClient:Arch:00019:UNDI:003016"),
    Row("iPXE on BIOS", 0, "PXEClient:Arch:00000:UNDI:002001", "iPXE"),
    Row("iPXE on UEFI x64", 7, "PXEClient:Arch:00007:UNDI:003010", "iPXE"),
)


class Answer(StrEnum):
    """What kind of answer it is."""

    ADDRESS = "address"
    """An OFFER with an address."""
    PROXY = "proxy"
    """An OFFER of boot information alone."""
    PROXY_ACK = "4011"
    """An ACK from port 4011."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One answer to one row."""

    row: str
    answer: Answer
    server: IPv4Address
    """Option 54; the packet's source when it has none."""
    source: IPv4Address
    """Where the packet came from: a relay agent's address, when there is one between."""
    mac: str
    """Lower case, colons."""
    is_own: bool
    """Sent by this machine."""
    address: IPv4Address
    """Offered; 0.0.0.0 by a proxy."""
    boot_server: IPv4Address
    """Of the boot file; `server` when the packet names none."""
    boot_file: str
    """A name for TFTP, or an http:// URL; empty: none. A stranger's text."""
    after_s: float
    """Since the question."""
    skips_discovery: bool = False
    """Option 43 says: take the boot file of this packet, do not ask port 4011."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one interface answered."""

    interface: str
    own: IPv4Address
    offers: tuple[Offer, ...]
    waited_s: float


def judge(asked: Asked, mode: Mode | None, *, running: bool) -> list[Finding]:
    """What the answers mean beside an appliance in `mode` (None: unknown) that is running here or not."""
    notes = Notes("dhcp")
    findings = [*_servers(asked, mode, running, notes), *_impostors(asked, notes)]
    if not asked.offers:
        return findings
    findings += _boot_files(asked, mode, running, notes)
    findings += _second_step(asked, notes)
    return findings


def _servers(asked: Asked, mode: Mode | None, running: bool, notes: Notes) -> list[Finding]:
    where = asked.interface
    givers = _by_server(offer for offer in asked.offers if offer.answer is Answer.ADDRESS)
    proxies = _by_server(offer for offer in asked.offers if offer.answer is Answer.PROXY)
    others = [offer for offer in givers if not offer.is_own]
    ours = [offer for offer in givers if offer.is_own]
    findings = []
    for offer in ours:
        findings.append(
            notes.ok(
                f"{where}: this machine gives out addresses: {_who(offer)} offered {offer.address} "
                f"after {offer.after_s * 1000:.0f} ms",
                **_facts(offer, where),
            )
        )
    for offer in others:
        findings.append(_other_giver(offer, others, asked, mode, running, bool(ours), notes))
    for offer in proxies:
        if offer.is_own:
            findings.append(
                notes.ok(f"{where}: this machine answers as proxyDHCP: {_who(offer)}", **_facts(offer, where))
            )
        else:
            findings.append(
                notes.warning(
                    f"{where}: another proxyDHCP server, {_who(offer)}, names boot files too: each machine takes the "
                    "one that it hears first",
                    "stop it (WDS, FOG and others bring one), or leave that network to it",
                    **_facts(offer, where),
                )
            )
    if not givers:
        findings.append(_nobody(asked, mode, running, bool(proxies), notes))
    elif running and mode is not Mode.OFF and not any(offer.is_own for offer in asked.offers):
        findings.append(
            notes.problem(
                f"{where}: the appliance runs on this machine and made no offer in {asked.waited_s:.0f} s",
                "see what `firewall` and `ports` tell, and its log (`roomcast serve --verbose` names the reason of "
                "each packet that it ignores)",
                interface=where,
            )
        )
    return findings


def _other_giver(
    offer: Offer,
    others: Sequence[Offer],
    asked: Asked,
    mode: Mode | None,
    running: bool,
    we_give: bool,
    notes: Notes,
) -> Finding:
    where = asked.interface
    what = f"{where}: {_who(offer)} gives out addresses: it offered {offer.address} after {offer.after_s:.1f} s"
    facts = {**_facts(offer, where), "rogue": False}
    if we_give or (running and mode is Mode.SERVER):
        return notes.problem(
            f"rogue DHCP server on {where}: {_who(offer)} gives out addresses beside this machine; it offered "
            f"{offer.address}" + (f" and boot file {quoted(offer.boot_file)}" if offer.boot_file else ""),
            f"switch it off (look for {offer.mac} in the switch's address table); or, if it is the "
            "network's own server, run `roomcast serve --mode proxy` beside it",
            **{**facts, "rogue": True},
        )
    if len(others) > 1:
        return notes.problem(
            f"{len(others)} DHCP servers on {where}: {_who(offer)} is one of them; it offered {offer.address}",
            "find out which of them belongs here and switch the others off: unless they share one pool they give an "
            "address twice",
            **{**facts, "rogue": True},
        )
    if offer.boot_file and offer.boot_server != asked.own:
        return notes.warning(
            what + f", and names boot file {quoted(offer.boot_file)} at {offer.boot_server}",
            "take options 66 and 67 (next-server, filename) out of that server's configuration, or let them name this "
            "machine: firmware may follow them instead of us",
            **facts,
        )
    return notes.ok(what, **facts)


def _nobody(asked: Asked, mode: Mode | None, running: bool, proxied: bool, notes: Notes) -> Finding:
    where = asked.interface
    text = f"{where}: nobody offers an address (waited {asked.waited_s:.0f} s)"
    if running and (mode is Mode.PROXY or proxied):
        return notes.problem(
            text + "; this appliance is a proxy, which gives none",
            "start the network's DHCP server, or a relay agent to it, or run `roomcast serve --mode server`",
            interface=where,
        )
    if running:
        return notes.problem(
            text + ", though the appliance runs on this machine",
            "see what `firewall` and `ports` tell; an empty pool shows in the appliance's log",
            interface=where,
        )
    return notes.problem(
        text,
        f"start the appliance: `roomcast serve --interface {where}`; if one runs elsewhere, see whether "
        "broadcasts reach it (VLAN, relay agent, DHCP snooping)",
        interface=where,
    )


def _impostors(asked: Asked, notes: Notes) -> list[Finding]:
    """Packets that bear our address and are not ours."""
    fakes = _by_server(offer for offer in asked.offers if not offer.is_own and offer.server == asked.own)
    return [
        notes.problem(
            f"{asked.interface}: {offer.mac} answers DHCP with this machine's own address {asked.own}",
            f"find the machine with {offer.mac}: it has our address, or means to be taken for us",
            **_facts(offer, asked.interface),
        )
        for offer in fakes
    ]


def _boot_files(asked: Asked, mode: Mode | None, running: bool, notes: Notes) -> list[Finding]:
    """What each kind of client is told to fetch; kinds that fare alike are told together."""
    alike: dict[tuple[tuple[str, IPv4Address], ...], list[Row]] = {}
    answered = {offer.row for offer in asked.offers}
    for row in ROWS:
        told = {(offer.boot_file, offer.boot_server) for offer in asked.offers if offer.row == row.name}
        alike.setdefault(tuple(sorted(file for file in told if file[0])), []).append(row)
    findings = []
    for files, rows in alike.items():
        if files:
            findings.append(_told(asked.interface, files, rows, notes))
            continue
        needed = [row for row in rows if row.needed]
        others = [row for row in rows if not row.needed]
        for some in filter(None, (needed, others)):
            got = "an address and no boot file" if any(row.name in answered for row in some) else "no offer"
            findings.append(_untold(asked.interface, some, got, mode, running, notes))
    return findings


def _told(where: str, files: Sequence[tuple[str, IPv4Address]], rows: Sequence[Row], notes: Notes) -> Finding:
    facts = _row_facts(where, rows, files)
    named = " and ".join(f"{quoted(name)} at {server}" for name, server in files)
    if len(files) == 1:
        return notes.ok(f"{where}: {_names(rows)}: told {named}", **facts)
    return notes.warning(
        f"{where}: {_names(rows)}: told different boot files: {named}",
        "one server should name boot files: the firmware takes whichever it hears first",
        **facts,
    )


def _untold(where: str, rows: Sequence[Row], got: str, mode: Mode | None, running: bool, notes: Notes) -> Finding:
    facts = _row_facts(where, rows, ())
    text = f"{where}: {_names(rows)}: {got}"
    if not rows[0].needed:
        return notes.note(text, **facts)
    if running and mode is not Mode.OFF:
        action = "the appliance's log tells why it ignored the request (`roomcast serve --verbose`)"
        return notes.problem(text, action, **facts)
    if running:
        action = f"let the network's DHCP server name a boot file at this machine, or serve {where} with --mode proxy"
        return notes.warning(text, action, **facts)
    return notes.warning(text, f"start `roomcast serve --interface {where}`", **facts)


def _names(rows: Sequence[Row]) -> str:
    return ", ".join(row.name for row in rows)


def _row_facts(where: str, rows: Sequence[Row], files: Sequence[tuple[str, IPv4Address]]) -> dict[str, Any]:
    return {
        "interface": where,
        "rows": [row.name for row in rows],
        "files": [{"server": str(server), "name": name} for name, server in files],
    }


def _second_step(asked: Asked, notes: Notes) -> list[Finding]:
    """What proxies said on port 4011."""
    findings = []
    acks = {offer.server: offer for offer in asked.offers if offer.answer is Answer.PROXY_ACK}
    for offer in _by_server(offer for offer in asked.offers if offer.answer is Answer.PROXY):
        ack = acks.get(offer.server)
        facts = {"interface": asked.interface, "server": str(offer.server)}
        if ack is not None:
            named = quoted(ack.boot_file) if ack.boot_file else "no boot file"
            findings.append(notes.ok(f"{asked.interface}: {offer.server} answers on port 4011: {named}", **facts))
        elif offer.is_own:
            findings.append(
                notes.problem(
                    f"{asked.interface}: this machine's proxy does not answer on port 4011",
                    "see what `firewall` and `ports` tell of UDP 4011",
                    **facts,
                )
            )
        elif not offer.skips_discovery:
            findings.append(
                notes.note(f"{asked.interface}: {offer.server} sends clients to port 4011 and did not answer", **facts)
            )
    return findings


def _by_server(offers: Iterable[Offer]) -> list[Offer]:
    """The first offer of each server: told apart by its identifier and where it really is."""
    first: dict[tuple[IPv4Address, str, bool], Offer] = {}
    for offer in offers:
        first.setdefault((offer.server, offer.mac, offer.is_own), offer)
    return list(first.values())


def _who(offer: Offer) -> str:
    relayed = f" through {offer.source}" if offer.source != offer.server else ""
    return f"{offer.server}{relayed} ({offer.mac})"


def _facts(offer: Offer, where: str) -> dict[str, object]:
    return {
        "interface": where,
        "server": str(offer.server),
        "source": str(offer.source),
        "mac": offer.mac,
        "own": offer.is_own,
        "address": str(offer.address),
        "boot_file": offer.boot_file,
        "boot_server": str(offer.boot_server),
        "after_s": round(offer.after_s, 4),
    }
