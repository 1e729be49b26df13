"""What worked as a way home, by model, in the database. Blocking: call through `Database.run`."""

from collections.abc import Mapping

from sqlalchemy import select

from imager.wire.messages import FirmwareKind
from netboot.deployment.way_home import Model, Tally
from netboot.model import Way
from netboot.persistence.database import Database
from netboot.persistence.schema import WayHomeRow


class WayRepository:
    """Keeps tallies over restarts of the appliance."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> dict[tuple[Model, Way], Tally]:
        """All of them."""
        with self._database.reading() as session:
            return {
                (Model(row.manufacturer, row.product, FirmwareKind(row.firmware)), Way(row.way)): Tally(
                    row.worked, row.silent, row.failed, row.failed_in_a_row, row.last_s
                )
                for row in session.scalars(select(WayHomeRow))
            }

    def save(self, tallies: Mapping[tuple[Model, Way], Tally]) -> None:
        """Replace these."""
        with self._database.transaction() as session:
            for (model, way), tally in tallies.items():
                session.merge(
                    WayHomeRow(
                        manufacturer=model.manufacturer,
                        product=model.product,
                        firmware=str(model.firmware),
                        way=str(way),
                        worked=tally.worked,
                        silent=tally.silent,
                        failed=tally.failed,
                        failed_in_a_row=tally.failed_in_a_row,
                        last_s=tally.last_s,
                    )
                )
