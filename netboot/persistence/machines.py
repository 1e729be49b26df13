"""Machines, their NICs and their groups in the database.

Blocking: call through `Database.run`. Not for the event loop, except `find_by_mac`, a quick read.
"""

from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, lazyload

from imager.wire.messages import Inventory
from netboot.deployment.records import EVERY_MACHINE, Machine
from netboot.errors import ConflictError, UnknownError, UserError
from netboot.model import Way
from netboot.persistence.database import Database
from netboot.persistence.documents import from_document, to_document
from netboot.persistence.schema import GroupRow, MachineRow, MembershipRow, NicRow

AUTO = "auto"
"""In the column `boot_way`: no administrator said how the machine gets to its disk."""

USELESS_UUIDS = frozenset(
    {
        "",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
    }
)
"""SMBIOS UUIDs that boards without a UUID of their own tell: the last is seen on many mainboards."""


MOST_MACHINES = 50_000
"""Whoever reaches the agents' port may register: the database must not grow without end."""


class MachineRepository:
    """Knows machines by id, name and MAC."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, inventory: Inventory, token_digest: str, now_s: float) -> tuple[Machine, bool]:
        """Find the machine of this inventory, or make it, and renew what is known of it. True: it is new.

        A machine is known by the MAC that it booted with, then by any other of its MACs unless the UUIDs say that the
        card has moved, then by its SMBIOS UUID when that is of use: a UUID is less sure, boards of one series have
        been seen to share one.
        """
        with self._database.transaction() as session:
            row = self._match(session, inventory)
            new = row is None
            if row is None:
                if (session.scalar(select(func.count(MachineRow.id))) or 0) >= MOST_MACHINES:
                    raise ConflictError(f"{MOST_MACHINES} machines are known already: no more are taken")
                row = MachineRow(name=self._free_name(session, inventory.boot_mac), registered_s=now_s)
                session.add(row)
            row.system_uuid = inventory.system_uuid
            row.inventory = to_document(inventory)
            row.token_digest = token_digest
            row.seen_s = now_s
            session.flush()
            self._take_nics(session, row, inventory)
            session.flush()
            return _machine(row), new

    def match(self, inventory: Inventory) -> int | None:
        """The machine that `register` would take this inventory to be of; None: a new one."""
        with self._database.reading() as session:
            row = self._match(session, inventory)
            return row.id if row else None

    def macs(self, machine_id: int) -> tuple[str, ...]:
        """Of the cards that are the machine's and no other's."""
        with self._database.reading() as session:
            return tuple(session.scalars(select(NicRow.mac).where(NicRow.machine_id == machine_id)))

    def all(self) -> list[Machine]:
        """Every machine, by name."""
        with self._database.reading() as session:
            rows = select(MachineRow).order_by(MachineRow.name).options(lazyload(MachineRow.nics))
            return [_machine(row) for row in session.scalars(rows)]

    def get(self, machine_id: int) -> Machine:
        with self._database.reading() as session:
            row = session.get(MachineRow, machine_id)
            if row is None:
                raise UnknownError(f"no machine {machine_id}")
            return _machine(row)

    def find(self, name_or_mac: str) -> Machine:
        """The machine with this name or MAC. Raises UnknownError."""
        with self._database.reading() as session:
            return _machine(_find(session, name_or_mac))

    def find_by_mac(self, mac: str) -> Machine | None:
        with self._database.reading() as session:
            nic = session.get(NicRow, mac)
            row = session.get(MachineRow, nic.machine_id) if nic else None
            return _machine(row) if row else None

    def token_digest(self, machine_id: int) -> str | None:
        """The digest of the machine's token, None when there is no such machine."""
        with self._database.reading() as session:
            return session.scalar(select(MachineRow.token_digest).where(MachineRow.id == machine_id))

    def rename(self, name_or_mac: str, name: str) -> Machine:
        """Raises UnknownError, and ConflictError when the name is in use."""
        with self._database.transaction() as session:
            row = _find(session, name_or_mac)
            other = session.scalar(select(MachineRow).where(MachineRow.name == name))
            if (other is not None and other.id != row.id) or session.scalar(
                select(GroupRow).where(GroupRow.name == name)
            ):
                raise ConflictError(f"the name {name} is in use")
            if name == EVERY_MACHINE:
                raise UserError(f"{EVERY_MACHINE} means every machine: take another name")
            row.name = name
            return _machine(row)

    def set_boot_way(self, name_or_mac: str, way: Way | None) -> Machine:
        """Which way it shall take to its disk first; None: what works on its model. Raises UnknownError."""
        with self._database.transaction() as session:
            row = _find(session, name_or_mac)
            row.boot_way = way or AUTO
            return _machine(row)

    def set_groups(self, name_or_mac: str, add: Sequence[str], remove: Sequence[str]) -> Machine:
        """Put a machine into groups and take it out of others; groups come and go with their members."""
        with self._database.transaction() as session:
            row = _find(session, name_or_mac)
            for name in add:
                _put_in(session, name, [row])
            for name in remove:
                _take_out(session, name, [row])
            session.flush()
            _drop_empty_groups(session)
            session.refresh(row)
            return _machine(row)

    def set_members(self, group: str, names: Sequence[str], *, remove: bool) -> list[Machine]:
        """Put machines, by name or MAC, into a group or take them out of it: all of them or, with an error, none.

        Who is in it already stays; who is not in it cannot be taken out. Raises UnknownError that lists every name
        that means none.
        """
        with self._database.transaction() as session:
            rows: dict[int, MachineRow] = {}
            unknown: list[str] = []
            for name in names:
                try:
                    row = _find(session, name)
                except UnknownError:
                    unknown.append(name)
                else:
                    rows[row.id] = row
            if unknown:
                raise UnknownError(f"no machine {', '.join(unknown)}: see `roomcast machine list`")
            if remove:
                _take_out(session, group, list(rows.values()))
            else:
                _put_in(session, group, list(rows.values()))
            session.flush()
            _drop_empty_groups(session)
            for row in rows.values():
                session.refresh(row, ["groups"])
            return sorted((_machine(row) for row in rows.values()), key=lambda machine: machine.name)

    def resolve(self, names: Sequence[str]) -> list[Machine]:
        """The machines that these names, MACs and groups mean, each once, by name.

        Raises UnknownError that lists every name that means none.
        """
        with self._database.reading() as session:
            rows: dict[int, MachineRow] = {}
            unknown: list[str] = []
            for name in names:
                found = _members(session, name)
                if not found:
                    unknown.append(name)
                rows.update({row.id: row for row in found})
            if unknown == [EVERY_MACHINE]:
                raise UnknownError("no machine is registered yet: boot one from the network")
            if unknown:
                raise UnknownError(f"no machine or group {', '.join(unknown)}: see `roomcast machine list`")
            return sorted((_machine(row) for row in rows.values()), key=lambda machine: machine.name)

    def _match(self, session: Session, inventory: Inventory) -> MachineRow | None:
        for mac in (inventory.boot_mac, *(nic.mac for nic in inventory.nics)):
            nic = session.get(NicRow, mac)
            row = session.get(MachineRow, nic.machine_id) if nic is not None else None
            if row is not None and (
                mac == inventory.boot_mac
                or row.system_uuid in USELESS_UUIDS
                or row.system_uuid == inventory.system_uuid
            ):
                return row
        if inventory.system_uuid in USELESS_UUIDS:
            return None
        return session.scalar(select(MachineRow).where(MachineRow.system_uuid == inventory.system_uuid).limit(1))

    def _take_nics(self, session: Session, row: MachineRow, inventory: Inventory) -> None:
        named = {nic.mac: (nic.name, nic.driver) for nic in inventory.nics}
        named.setdefault(inventory.boot_mac, ("", ""))
        held = {nic.mac: nic for nic in row.nics}
        for mac, nic in held.items():
            if mac not in named:
                row.nics.remove(nic)
        for mac, (name, driver) in named.items():
            known = held.get(mac) or session.get(NicRow, mac) or NicRow(mac=mac)
            if known.machine_id not in (None, row.id):
                # Anyone may write any MAC into an inventory: a card is another machine's only when it boots from it.
                continue
            known.machine_id, known.name, known.driver = row.id, name[:64], driver[:64]
            session.add(known)
        session.flush()
        session.refresh(row, ["nics"])

    def _free_name(self, session: Session, mac: str) -> str:
        digits = mac.replace(":", "")
        for name in (f"pc-{digits[-6:]}", f"pc-{digits}"):
            taken = session.scalar(select(MachineRow).where(MachineRow.name == name)) or session.scalar(
                select(GroupRow).where(GroupRow.name == name)
            )
            if taken is None:
                return name
        raise ConflictError(f"the names pc-{digits[-6:]} and pc-{digits} are both in use: rename those machines")


def _find(session: Session, name_or_mac: str) -> MachineRow:
    row = session.scalar(select(MachineRow).where(MachineRow.name == name_or_mac))
    if row is None and (nic := session.get(NicRow, name_or_mac.lower().replace("-", ":"))) is not None:
        row = session.get(MachineRow, nic.machine_id)
    if row is None:
        raise UnknownError(f"no machine {name_or_mac}: see `roomcast machine list`")
    return row


def _put_in(session: Session, name: str, rows: Sequence[MachineRow]) -> None:
    if name == EVERY_MACHINE:
        raise UserError(f"{EVERY_MACHINE} means every machine: it has no members of its own")
    if session.scalar(select(MachineRow).where(MachineRow.name == name)):
        raise ConflictError(f"{name} is the name of a machine: take another one for the group")
    group = session.scalar(select(GroupRow).where(GroupRow.name == name)) or GroupRow(name=name)
    for row in rows:
        if group not in row.groups:
            row.groups.append(group)


def _take_out(session: Session, name: str, rows: Sequence[MachineRow]) -> None:
    left = [row.name for row in rows if name not in [group.name for group in row.groups]]
    if left:
        raise UserError(f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} not in group {name}")
    for row in rows:
        row.groups.remove(next(group for group in row.groups if group.name == name))


def _drop_empty_groups(session: Session) -> None:
    session.execute(delete(GroupRow).where(GroupRow.id.not_in(select(MembershipRow.group_id))))


def _members(session: Session, name: str) -> Sequence[MachineRow]:
    if name == EVERY_MACHINE:
        return session.scalars(select(MachineRow)).all()
    group = select(MachineRow).join(MembershipRow, MembershipRow.machine_id == MachineRow.id)
    members = session.scalars(
        group.join(GroupRow, GroupRow.id == MembershipRow.group_id).where(GroupRow.name == name)
    ).all()
    if members:
        return members
    try:
        return [_find(session, name)]
    except UnknownError:
        return []


def _machine(row: MachineRow) -> Machine:
    return Machine(
        id=row.id,
        name=row.name,
        inventory=from_document(Inventory, row.inventory),
        groups=tuple(group.name for group in row.groups),
        registered_s=row.registered_s,
        seen_s=row.seen_s,
        boot_way=None if row.boot_way == AUTO else Way(row.boot_way),
    )
