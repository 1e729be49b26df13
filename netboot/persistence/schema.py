"""The tables. Times are Unix seconds.

A change here brings a step in migrations.py.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """Base of the tables."""


class SchemaRow(Base):
    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True)


class MachineRow(Base):
    __tablename__ = "machine"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    system_uuid: Mapped[str] = mapped_column(String(36), index=True)
    inventory: Mapped[dict[str, Any]] = mapped_column(JSON)
    token_digest: Mapped[str] = mapped_column(String(64))
    registered_s: Mapped[float] = mapped_column(Float)
    seen_s: Mapped[float] = mapped_column(Float)
    boot_way: Mapped[str] = mapped_column(String(16), server_default="auto")
    nics: Mapped[list["NicRow"]] = relationship(cascade="all, delete-orphan", lazy="selectin")
    groups: Mapped[list["GroupRow"]] = relationship(secondary="membership", lazy="selectin", order_by="GroupRow.name")


class NicRow(Base):
    __tablename__ = "nic"
    mac: Mapped[str] = mapped_column(String(17), primary_key=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machine.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    driver: Mapped[str] = mapped_column(String(64))


class GroupRow(Base):
    __tablename__ = "machine_group"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)


class MembershipRow(Base):
    __tablename__ = "membership"
    group_id: Mapped[int] = mapped_column(ForeignKey("machine_group.id"), primary_key=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machine.id"), primary_key=True)


class SessionRow(Base):
    __tablename__ = "cast_session"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    image: Mapped[str] = mapped_column(String(63))
    version: Mapped[int] = mapped_column(Integer)
    manifest_hash: Mapped[str] = mapped_column(String(64))
    group: Mapped[str] = mapped_column("group_address", String(39))
    data_port: Mapped[int] = mapped_column(Integer)
    min_receivers: Mapped[int] = mapped_column(Integer)
    max_wait_s: Mapped[float] = mapped_column(Float)
    max_bitrate_bps: Mapped[int] = mapped_column(BigInteger)
    slow: Mapped[str] = mapped_column(String(16), server_default="demote")
    floor_bps: Mapped[int] = mapped_column(BigInteger, server_default="0")
    unicast: Mapped[bool] = mapped_column(Boolean, server_default=false())
    interface: Mapped[str] = mapped_column(String(15), server_default="")
    state: Mapped[str] = mapped_column(String(16), index=True)
    created_s: Mapped[float] = mapped_column(Float)
    ended_s: Mapped[float | None] = mapped_column(Float)
    statistics: Mapped[dict[str, Any]] = mapped_column(JSON)


class TaskRow(Base):
    __tablename__ = "task"
    id: Mapped[int] = mapped_column(primary_key=True)
    machine_id: Mapped[int] = mapped_column(ForeignKey("machine.id"))
    session_id: Mapped[int | None] = mapped_column(ForeignKey("cast_session.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    image: Mapped[str] = mapped_column(String(63))
    version: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(String(255))
    receiver: Mapped[int] = mapped_column(Integer)
    after: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    created_s: Mapped[float] = mapped_column(Float)
    started_s: Mapped[float | None] = mapped_column(Float)
    ended_s: Mapped[float | None] = mapped_column(Float)
    error: Mapped[str] = mapped_column(Text)
    log: Mapped[list[str]] = mapped_column(JSON)
    proof: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    machine: Mapped[MachineRow] = relationship(lazy="joined")

    __table_args__ = (
        UniqueConstraint("session_id", "receiver"),
        Index("task_of_machine", "machine_id", "state"),
        Index("task_by_state", "state"),
    )


class EventRow(Base):
    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True)
    at_s: Mapped[float] = mapped_column(Float)
    session_id: Mapped[int | None] = mapped_column(ForeignKey("cast_session.id"), index=True)
    machine_id: Mapped[int | None] = mapped_column(ForeignKey("machine.id"), index=True)
    task_id: Mapped[int | None] = mapped_column(ForeignKey("task.id"))
    text: Mapped[str] = mapped_column(Text)


class WayHomeRow(Base):
    """How often a way to the local disk worked on one model."""

    __tablename__ = "way_home"
    manufacturer: Mapped[str] = mapped_column(String(256), primary_key=True)
    product: Mapped[str] = mapped_column(String(256), primary_key=True)
    firmware: Mapped[str] = mapped_column(String(8), primary_key=True)
    way: Mapped[str] = mapped_column(String(16), primary_key=True)
    worked: Mapped[int] = mapped_column(Integer)
    silent: Mapped[int] = mapped_column(Integer)
    failed: Mapped[int] = mapped_column(Integer)
    failed_in_a_row: Mapped[int] = mapped_column(Integer)
    last_s: Mapped[float] = mapped_column(Float)


class BootRow(Base):
    """One boot of one machine, see bootlog/documents.py."""

    __tablename__ = "boot"
    mac: Mapped[str] = mapped_column(String(17), primary_key=True)
    started_ms: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    phase: Mapped[int] = mapped_column(Integer)
    document: Mapped[str] = mapped_column(Text)

    __table_args__ = (Index("boot_by_worth", "phase", "started_ms"),)
