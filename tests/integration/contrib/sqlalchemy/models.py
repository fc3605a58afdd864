"""The tables of an application."""

from __future__ import annotations

import enum
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    LargeBinary,
    Numeric,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
)
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    WriteOnlyMapped,
    column_property,
    deferred,
    mapped_column,
    relationship,
)


class Base(DeclarativeBase):
    pass


class Status(enum.Enum):
    DRAFT = "d"
    SENT = "s"


class Cipher(TypeDecorator[str]):
    """Stands for a type that encrypts."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else f"cipher:{value[::-1]}"

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.removeprefix("cipher:")[::-1]


tagged = Table(
    "tagged",
    Base.metadata,
    Column("invoice_id", ForeignKey("invoice.id", ondelete="cascade"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id"), primary_key=True),
)


class Customer(Base):
    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    invoices: Mapped[list[Invoice]] = relationship()


class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    status: Mapped[Status] = mapped_column(default=Status.DRAFT)
    total: Mapped[Decimal] = mapped_column(Numeric(12, 2), default=Decimal(0))
    doubled: Mapped[Decimal] = mapped_column(Numeric, Computed("total * 2", persisted=True))
    iban: Mapped[str | None] = mapped_column("bank_account")
    notes: Mapped[str | None] = deferred(mapped_column(Text))
    data: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(JSONB()))
    made_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), onupdate=func.now())
    customer_id: Mapped[int | None] = mapped_column(ForeignKey("customer.id"))
    tags: Mapped[list[Tag]] = relationship(secondary=tagged, back_populates="invoices")


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    invoices: Mapped[list[Invoice]] = relationship(secondary=tagged, back_populates="tags")


class Seat(Base):
    """A key of two columns."""

    __tablename__ = "seat"
    row: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    place: Mapped[str] = mapped_column(primary_key=True)
    taken_by: Mapped[str | None]


class Employee(Base):
    """Joined inheritance."""

    __tablename__ = "employee"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "employee"}  # noqa: RUF012


class Manager(Employee):
    __tablename__ = "manager"
    id: Mapped[int] = mapped_column(ForeignKey("employee.id"), primary_key=True)
    budget: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager"}  # noqa: RUF012


class Pet(Base):
    """Single-table inheritance."""

    __tablename__ = "pet"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "pet"}  # noqa: RUF012


class Dog(Pet):
    tricks: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Everything(Base):
    """Each type once."""

    __tablename__ = "everything"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    exact: Mapped[Decimal | None] = mapped_column(Numeric)
    inexact: Mapped[float | None] = mapped_column(Double)
    day: Mapped[date | None]
    hour: Mapped[time | None]
    naive: Mapped[datetime | None]
    aware: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    span: Mapped[timedelta | None]
    raw: Mapped[bytes | None] = mapped_column(LargeBinary)
    numbers: Mapped[list[int] | None] = mapped_column(ARRAY(Numeric))
    tree: Mapped[Any | None] = mapped_column(JSONB)
    state: Mapped[Status | None]
    address: Mapped[Any | None] = mapped_column(INET)
    truth: Mapped[bool | None]
    hidden: Mapped[str | None] = mapped_column(Cipher)


friends = Table(
    "friends",
    Base.metadata,
    Column("one", ForeignKey("node.id", ondelete="cascade"), primary_key=True),
    Column("other", ForeignKey("node.id", ondelete="cascade"), primary_key=True),
)


class Node(Base):
    """Versions, a row that refers to its own table, a collection that is never loaded, a computed attribute."""

    __tablename__ = "node"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column("label", key="labelled")
    version: Mapped[int] = mapped_column()
    best_id: Mapped[int | None] = mapped_column(ForeignKey("node.id", ondelete="set null"))
    best: Mapped[Node | None] = relationship(remote_side=[id], post_update=True, foreign_keys=[best_id])
    friends: WriteOnlyMapped[Node] = relationship(
        secondary=friends,
        primaryjoin=id == friends.c.one,
        secondaryjoin=id == friends.c.other,
        passive_deletes=True,
    )
    upper: Mapped[str] = column_property(func.upper(name))
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012
