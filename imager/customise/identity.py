"""What makes one Linux machine differ from the others of its image: hostname, machine-id, SSH host keys.

Pure: facts about a root file system go in, the changes that it needs come out; no changes when it has them already.
Names: RFC 1123, section 2.1. machine-id(5). hosts(5).
"""

import hashlib
import json
import re
from dataclasses import dataclass, field

from imager.errors import TargetError
from imager.wire.messages import Identity

MARK = "var/lib/roomcast/identity.json"
"""What was given to this root file system, and to which machine. A run that finds it true changes nothing.

It lies inside the image: one that was captured from a deployed machine brings that machine's mark to others, which
must not take it for theirs."""

KEY_TYPES = ("rsa", "ecdsa", "ed25519")

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LONGEST_HOSTNAME = 64
"""HOST_NAME_MAX of Linux: shorter than RFC 1123's 255."""
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class RootFacts:
    """What a root file system holds. Paths have no leading slash."""

    files: dict[str, str] = field(default_factory=dict)
    """Text of those of READ_FILES that are regular files."""
    has_ssh: bool = False
    """There is a directory etc/ssh."""
    has_sshd: bool = False
    """There is etc/ssh/sshd_config."""
    key_types: tuple[str, ...] = ()
    """Of the SSH host keys that are there."""
    public_keys: str = ""
    """All public host keys, in the order of key_types."""


READ_FILES = ("etc/hostname", "etc/hosts", "etc/machine-id", "var/lib/dbus/machine-id", MARK)


@dataclass(frozen=True, slots=True)
class WriteFile:
    """The whole new content of a text file."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class MakeHostKeys:
    """All host keys go, and new ones of these types come."""

    types: tuple[str, ...]


Change = WriteFile | MakeHostKeys


def check_hostname(hostname: str) -> str:
    """Return it when it may be a hostname. Raises TargetError that says what may."""
    labels = hostname.split(".")
    if (
        len(hostname) > _LONGEST_HOSTNAME
        or not all(_LABEL.fullmatch(label) for label in labels)
        or all(label.isdigit() for label in labels)
    ):
        raise TargetError(
            f"hostname {hostname!r}: use 1 to {_LONGEST_HOSTNAME} of letters, digits and dashes, no dash at an end of "
            "a part, and not only digits"
        )
    return hostname


def name_owner(system_uuid: str, boot_mac: str, disk_serial: str) -> str:
    """Who a mark belongs to: 64 hexadecimal digits that are the same for this machine with this disk only.

    Three facts, because each alone is shared somewhere: boards without a UUID of their own, network adapters that go
    from machine to machine, disks without a serial number.
    """
    facts = [fact.strip().lower() for fact in (system_uuid, boot_mac, disk_serial)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def plan_identity(facts: RootFacts, identity: Identity, fresh_machine_id: str, owner: str) -> list[Change]:
    """The changes that give `identity`, in the order to make them; empty when all of it is there.

    fresh_machine_id: 32 hexadecimal digits from the system's random source, used only if a new one is due. owner:
    from name_owner; a mark of another owner counts as none. Raises TargetError for a hostname that is none.
    """
    if not _MACHINE_ID.fullmatch(fresh_machine_id):
        raise ValueError("a machine-id is 32 lower case hexadecimal digits")
    changes: list[Change] = []
    if identity.hostname:
        changes += _hostname_changes(facts, check_hostname(identity.hostname))
    given = _read_mark(facts.files.get(MARK, ""), owner)
    if identity.new_machine_id:
        now = facts.files.get("etc/machine-id", "").strip()
        if not now or now != given.get("machine_id"):
            changes.append(WriteFile("etc/machine-id", fresh_machine_id + "\n", 0o444))
            now = fresh_machine_id
        # Where it is not a link to the other, D-Bus has a copy of its own.
        dbus = facts.files.get("var/lib/dbus/machine-id")
        if dbus is not None and dbus.strip() != now:
            changes.append(WriteFile("var/lib/dbus/machine-id", now + "\n", 0o444))
    if identity.new_host_keys and facts.has_ssh:
        types = facts.key_types or (KEY_TYPES if facts.has_sshd else ("ed25519",))
        if not facts.public_keys or facts.public_keys != given.get("host_keys"):
            changes.append(MakeHostKeys(tuple(types)))
    return changes


def build_mark(facts: RootFacts, owner: str) -> WriteFile | None:
    """The note of what `facts`, read after the changes, holds now; None when it is there already."""
    text = json.dumps(
        {
            "owner": owner,
            "hostname": facts.files.get("etc/hostname", "").strip(),
            "machine_id": facts.files.get("etc/machine-id", "").strip(),
            "host_keys": facts.public_keys,
        },
        indent=1,
    )
    return None if facts.files.get(MARK) == text + "\n" else WriteFile(MARK, text + "\n")


def set_own_address(hosts: str, hostname: str) -> str:
    """`hosts` with exactly one line for 127.0.1.1, which names this machine (Debian's way); the rest as it was."""
    names = [hostname] + ([hostname.split(".")[0]] if "." in hostname else [])
    own = "127.0.1.1\t" + " ".join(names)
    lines = hosts.splitlines()
    found = [i for i, line in enumerate(lines) if line.split()[:1] == ["127.0.1.1"]]
    if found:
        lines[found[0]] = own
        lines = [line for i, line in enumerate(lines) if i not in found[1:]]
    else:
        local = [i for i, line in enumerate(lines) if line.split()[:1] == ["127.0.0.1"]]
        if not lines:
            lines = ["127.0.0.1\tlocalhost"]
            local = [0]
        lines.insert(local[0] + 1 if local else 0, own)
    return "\n".join(lines) + "\n"


def _hostname_changes(facts: RootFacts, hostname: str) -> list[Change]:
    changes: list[Change] = []
    if facts.files.get("etc/hostname", "").strip() != hostname:
        changes.append(WriteFile("etc/hostname", hostname + "\n"))
    hosts = facts.files.get("etc/hosts", "")
    if (wanted := set_own_address(hosts, hostname)) != hosts:
        changes.append(WriteFile("etc/hosts", wanted))
    return changes


def _read_mark(text: str, owner: str) -> dict[str, str]:
    try:
        tree = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(tree, dict) or not owner or tree.get("owner") != owner:
        return {}
    return {key: value for key, value in tree.items() if isinstance(value, str)}
