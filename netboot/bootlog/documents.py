"""Boots as JSON documents, for the database, the API and recorded boots in tests. Pure.

What another version of us wrote and this one does not know is left out, never an error.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imager.errors import MessageError
from imager.wire.messages import decode
from netboot.bootlog.events import Agent, BootEvent, Configured, Entry, Exchange, Fetch, Registered
from netboot.bootlog.timeline import BootRecord

EVENT_KINDS: Mapping[str, type[BootEvent]] = {
    kind.kind: kind for kind in (Exchange, Fetch, Configured, Registered, Agent)
}


def boot_document(boot: BootRecord) -> dict[str, Any]:
    """The boot as JSON can tell it."""
    return {
        "mac": boot.mac,
        "started_s": round(boot.started_s, 3),
        "machine": boot.machine,
        "address": boot.address,
        "dropped": boot.dropped,
        "next_s": None if boot.next_s is None else round(boot.next_s, 3),
        "entries": [entry_document(entry) for entry in boot.entries],
    }


def entry_document(entry: Entry) -> dict[str, Any]:
    """An entry; fields of its event that are as by default are left out."""
    tree: dict[str, Any] = {
        "number": entry.number,
        "at_s": round(entry.at_s, 3),
        "last_s": round(entry.last_s, 3),
        "count": entry.count,
        "kind": entry.event.kind,
    }
    for field in dataclasses.fields(entry.event):
        value = getattr(entry.event, field.name)
        value = round(value, 3) if isinstance(value, float) else value
        value = [dataclasses.asdict(each) for each in value] if isinstance(value, tuple) else value
        if field.default is dataclasses.MISSING or value not in (field.default, []):
            tree[field.name] = value
    return tree


def parse_boot(tree: Any) -> BootRecord | None:
    """The boot of a document; None when it is none."""
    try:
        head = decode(_Head, json.dumps(tree).encode())
    except (MessageError, ValueError, TypeError):
        return None
    listed = tree.get("entries")
    entries = tuple(filter(None, map(parse_entry, listed))) if isinstance(listed, list) else ()
    return BootRecord(head.mac, head.started_s, head.machine, head.address, entries, head.dropped, head.next_s)


def parse_entry(tree: Any) -> Entry | None:
    """The entry of a document; None for one of an unknown kind or form."""
    kind = EVENT_KINDS.get(str(tree.get("kind"))) if isinstance(tree, dict) else None
    if kind is None:
        return None
    try:
        text = json.dumps(tree).encode()
        place = decode(_Place, text)
        return Entry(place.number, place.at_s, decode(kind, text), place.count, place.last_s)
    except (MessageError, ValueError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class _Head:
    mac: str
    started_s: float
    machine: str = ""
    address: str = ""
    dropped: int = 0
    next_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    number: int
    at_s: float
    count: int = 1
    last_s: float = 0.0
