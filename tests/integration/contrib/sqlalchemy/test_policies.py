"""What a policy leaves out leaves the process in no form."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import inspect
from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from ledger.contrib.sqlalchemy import Change, Policy, capture
from ledger.contrib.sqlalchemy.mapped import Mapped as Captured
from ledger.errors import InvalidSetting, UsageError
from tests.integration.contrib.sqlalchemy.database import Database, Sessions
from tests.integration.contrib.sqlalchemy.models import Invoice

KEY = "0123456789abcdef"


def test_secrets_are_in_no_statement_that_records(
    database: Database, sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    data = {"password": "hunter2", "card": "4111 1111 1111 1111", "email": "A@b.c", "plain": 1}
    policy = Policy(redact=["iban"], digest=["email", "notes"], exclude=["made_at", "number"])

    def add(session: object) -> None:
        session.add(Invoice(number="A1", iban="DE02 secret", notes="noted", data=data))  # type: ignore[attr-defined]

    with sessions.capture(Invoice, policy=policy, digest_key=KEY), caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        sessions.transact(add)
        [created] = database.recorded()
        assert created.after["bank_account"] == {"$redacted": True}
        digest = created.after["notes"]["$digest"]
        assert len(digest) == 64 and "number" not in created.after and "made_at" not in created.after
        assert created.after["data"].keys() == data.keys() and created.after["data"]["plain"] == 1
        assert created.after["data"]["password"] == created.after["data"]["card"] == {"$redacted": True}
        recording = [each.getMessage() for each in caplog.records if "$redacted" in each.getMessage()]
        assert recording and not any(
            secret in each for each in recording for secret in ("hunter2", "4111", "DE02", "noted", "A@b.c", KEY)
        )


def test_a_change_of_a_redacted_value_is_recorded_without_it(database: Database, sessions: Sessions) -> None:
    policy = Policy(redact=["bank_account"], exclude=["updated_at"])
    sessions.transact(lambda session: session.add(Invoice(number="A1", iban="DE02")))
    with sessions.capture(Invoice, policy=policy):
        sessions.transact(lambda session: setattr(session.get_one(Invoice, 1), "iban", "DE03"))
    [updated] = database.recorded()
    assert updated.before == updated.after == {"bank_account": {"$redacted": True}}


def test_when_decides_by_the_change(database: Database, sessions: Sessions) -> None:
    seen: list[Change] = []

    def when(change: Change) -> bool:
        seen.append(change)
        return change.op != "created" or change.after["total"] != 0

    with sessions.capture(Invoice, policy=Policy(when=when, resource_type="bill")):
        sessions.transact(lambda session: session.add_all([Invoice(number="A1"), Invoice(number="A2", total=2)]))
    assert [each.after["number"] for each in database.recorded()] == ["A2"]
    assert [(each.op, each.resource_type, each.resource_id) for each in seen] == [
        *[("created", "bill", "1"), ("created", "bill", "2")]
    ]


class Base(DeclarativeBase):
    pass


class Login(Base):
    """The attribute says what the column does not."""

    __tablename__ = "login"
    id: Mapped[int] = mapped_column(primary_key=True)
    password: Mapped[str | None] = mapped_column("pw_h1")
    name: Mapped[str | None]


@pytest.mark.parametrize(
    "policy", [Policy(), Policy(allow=["name"]), Policy(digest=["password"]), Policy(allow=["password"])], ids=str
)
def test_an_attribute_that_names_a_secret_redacts_its_column(database: Database, policy: Policy) -> None:
    mapper = inspect(Login)
    event = Captured(mapper, policy, mapper, KEY).whole("created", {"id": 1, "password": "x", "name": "n"}, dialect())  # type: ignore[no-untyped-call]
    assert event is not None and event.after["name"] == "n"
    if policy.digest:
        assert event.after["pw_h1"].keys() == {"$digest"}
    else:
        assert event.after["pw_h1"] == ("x" if "password" in policy.allow else {"$redacted": True})


class Card(Base):
    __tablename__ = "card"
    number: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[int] = mapped_column(primary_key=True)


def test_a_card_number_is_in_no_key() -> None:
    mapper = inspect(Card)
    row = {"number": "4111 1111 1111 1111", "holder": 7}
    for policy, key in ((Policy(), '{"$redacted":true},7'), (Policy(allow=["number"]), "4111 1111 1111 1111,7")):
        event = Captured(mapper, policy, mapper, KEY).whole("created", row, dialect())  # type: ignore[no-untyped-call]
        assert event is not None and event.resource_id == key


@pytest.mark.parametrize(
    "policy",
    [Policy(redact=["id"]), Policy(digest=["id"]), Policy(exclude=["id"]), Policy(key="password")],
    ids=str,
)
def test_a_key_that_is_not_to_be_recorded_is_refused(policy: Policy) -> None:
    with pytest.raises(UsageError, match="is not to be recorded, but the key is"):
        capture(sessionmaker(), {Login: policy}, digest_key=KEY)


def test_mistakes_are_refused_at_once() -> None:
    maker = sessionmaker()
    with pytest.raises(UsageError, match="redact names 'nmae', which is no column"):
        capture(maker, {Login: Policy(redact=["nmae"])})
    with pytest.raises(UsageError, match="key names 'ident'"):
        capture(maker, {Login: Policy(key="ident")})
    with pytest.raises(InvalidSetting, match="LEDGER_DIGEST_KEY"):
        capture(maker, {Login: Policy(digest="name")})
    with pytest.raises(UsageError, match="braces"):
        Policy(action="{table}.{op}")
    with pytest.raises(UsageError, match="no_actor"):
        Policy(no_actor="nobody")  # type: ignore[arg-type]
