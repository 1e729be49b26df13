"""The last boots of each machine in the database.

Blocking: call through `Database.run`.
"""

import json
from collections.abc import Collection, Sequence

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.orm import Session

from netboot.bootlog.documents import boot_document, parse_boot
from netboot.bootlog.timeline import BootRecord, Phase, furthest
from netboot.persistence.database import Database
from netboot.persistence.schema import BootRow, MachineRow

BOOTS_OF_A_MACHINE = 20
MOST_BOOTS = 20_000
"""Of all machines: whoever makes up hardware addresses must not fill the disk."""


class BootRepository:
    """Keeps boots by MAC and start."""

    def __init__(
        self, database: Database, boots_of_a_machine: int = BOOTS_OF_A_MACHINE, most_boots: int = MOST_BOOTS
    ) -> None:
        self._database = database
        self._boots_of_a_machine = boots_of_a_machine
        self._most_boots = most_boots

    def save(self, boots: Sequence[BootRecord]) -> None:
        """Insert or replace, then forget what is too much.

        Of a machine its oldest boots go, of all machines first those boots that only asked.
        """
        with self._database.transaction() as session:
            for boot in boots:
                document = json.dumps(boot_document(boot), separators=(",", ":"))
                session.merge(BootRow(mac=boot.mac, started_ms=_ms(boot), phase=int(furthest(boot)), document=document))
            session.flush()
            for mac in {boot.mac for boot in boots}:
                self._forget_oldest(session, mac)
            surplus = (session.scalar(select(func.count()).select_from(BootRow)) or 0) - self._most_boots
            if surplus > 0:
                only_asked = BootRow.phase <= int(Phase.OFFERED)
                worst = select(BootRow.mac, BootRow.started_ms).order_by(only_asked.desc(), BootRow.started_ms)
                session.execute(
                    delete(BootRow).where(tuple_(BootRow.mac, BootRow.started_ms).in_(worst.limit(surplus)))
                )

    def boots(self, macs: Collection[str], limit: int = BOOTS_OF_A_MACHINE) -> list[BootRecord]:
        """The last boots of one machine, by all its MACs, the oldest first."""
        query = select(BootRow.document).where(BootRow.mac.in_(macs)).order_by(BootRow.started_ms.desc()).limit(limit)
        with self._database.reading() as session:
            found = [_parsed(document) for document in session.scalars(query)]
        return [boot for boot in reversed(found) if boot is not None]

    def latest(self, limit: int) -> list[BootRecord]:
        """The last boot of each machine, the latest first."""
        last = select(BootRow.mac, func.max(BootRow.started_ms).label("started_ms")).group_by(BootRow.mac)
        keys = last.order_by(func.max(BootRow.started_ms).desc()).limit(limit)
        with self._database.reading() as session:
            found = [(row.mac, row.started_ms) for row in session.execute(keys)]
            query = select(BootRow.document).where(tuple_(BootRow.mac, BootRow.started_ms).in_(found))
            boots = [_parsed(document) for document in session.scalars(query)]
        return sorted((boot for boot in boots if boot is not None), key=lambda boot: boot.started_s, reverse=True)

    def boot_macs(self, machine_ids: Collection[int]) -> dict[int, str]:
        """The MAC that each of these machines booted with last."""
        query = select(MachineRow.id, MachineRow.inventory).where(MachineRow.id.in_(machine_ids))
        with self._database.reading() as session:
            return {machine_id: str(inventory.get("boot_mac", "")) for machine_id, inventory in session.execute(query)}

    def _forget_oldest(self, session: Session, mac: str) -> None:
        kept = select(BootRow.started_ms).where(BootRow.mac == mac).order_by(BootRow.started_ms.desc())
        oldest_kept = session.scalar(kept.offset(self._boots_of_a_machine - 1).limit(1))
        if oldest_kept is not None:
            session.execute(delete(BootRow).where(BootRow.mac == mac, BootRow.started_ms < oldest_kept))


def _parsed(document: str) -> BootRecord | None:
    try:
        return parse_boot(json.loads(document))
    except ValueError:
        return None  # damaged: the others are told


def _ms(boot: BootRecord) -> int:
    return round(boot.started_s * 1000)
