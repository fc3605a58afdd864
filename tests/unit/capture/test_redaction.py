"""What a redaction replaces, and that what it replaced appears nowhere in what is recorded."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import Event, InvalidEvent, InvalidSetting
from ledger.capture.deny_patterns import DENY, denied, is_card_number, words
from ledger.capture.redaction import Redaction
from ledger.format.json_text import json_text
from ledger.settings import Settings
from ledger.testing import Recorder

GONE = {"$redacted": True}
KEY = "0123456789abcdef0123456789abcdef"
CARD = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *(("password", "password"), ("user_password", "password"), ("newPassword", "password"), ("PASSWD", "password")),
        *(("password2", "password"), ("password-hash", "password"), ("DB_PASSWORDS", "password"), ("pwd", "password")),
        *(("secret", "secret"), ("clientSecret", "secret"), ("SECRET_KEY", "secret"), ("webhook secrets", "secret")),
        *(("token", "token"), ("accessToken", "token"), ("X-CSRF-Token", "token"), ("oauth2Token", "token")),
        *(("api_key", "api_key"), ("apikey", "api_key"), ("X-API-Key", "api_key"), ("stripeAPIKeys", "api_key")),
        *(("private_key", "private_key"), ("sshPrivateKey", "private_key"), ("AWS_ACCESS_KEY_ID", "api_key")),
        *(("Authorization", "authorization"), ("proxy-authorization", "authorization"), ("Set-Cookie", "cookie")),
        *(("cookies", "cookie"), ("sessionId", "session_id"), ("PHPSESSID", "session_id"), ("otp", "one_time_code")),
        *(
            ("pin", "pin"),
            ("card_pin", "pin"),
            ("PINCode", "pin"),
            ("cardNumber", "card_number"),
            ("PAN", "card_number"),
        ),
        *(("credit-card", "card_number"), ("cvv", "cvv"), ("CVV2", "cvv"), ("cvc", "cvv"), ("SSN", "ssn")),
        *(
            ("socialSecurityNumber", "ssn"),
            ("user.password", "password"),
            ("$token", "token"),
            ("mot_de_passe_pin", "pin"),
        ),
    ],
)
def test_keys_that_are_denied(key: str, name: str) -> None:
    assert name in denied(words(key))
    assert Redaction().apply({"outer": [{key: 7}]}) == {"outer": [{key: GONE}]}
    assert Redaction(allow={name}).apply({key: 7}) == ({key: 7} if denied(words(key)) == {name} else {key: GONE})
    assert Redaction(allow={key}).apply({key: 7}) == {key: 7}


@pytest.mark.parametrize(
    "key",
    [
        *("tokenizer", "secretary", "passwordless_login_enabled", "tokenized", "compass", "shipping", "pinned", "spin"),
        *(
            "opinion",
            "key",
            "public_key",
            "keyboard",
            "cookiecutter",
            "authorized",
            "author",
            "card",
            "company",
            "panel",
        ),
        *("session", "accession", "total", "iban", "email", "épin", "", "_", "пароль", "assn", "discvv"),
    ],
)
def test_keys_that_only_look_like_it(key: str) -> None:
    assert denied(words(key)) == frozenset()
    assert Redaction().apply({key: "x"}) == {key: "x"}


def test_every_pattern_is_found_by_each_of_its_words() -> None:
    for name, each in DENY.items():
        assert words(name) == name
        for word in each:
            assert name in denied(words(word)), word


@pytest.mark.parametrize(
    "text",
    [CARD, "4111111111111111", "4111-1111-1111-1111", "378282246310005", " 6011 1111 1111 1117\n", "4222222222222"],
)
def test_card_numbers_are_redacted_wherever_they_stand(text: str) -> None:
    assert is_card_number(text)
    assert Redaction().apply(text) == GONE
    assert Redaction().apply({"note": [text, {"x": text}]}) == {"note": [GONE, {"x": GONE}]}
    assert Redaction(allow="card_number").apply([text]) == [text]
    assert Redaction(allow={"order"}).apply({"order": [text], "x": text}) == {"order": [text], "x": GONE}


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "411111111111",
        "4" * 20,
        "4111  1111 1111 1111",
        "x4111111111111111",
        "١" * 16,
        "",
        "2026-11-29",
    ],
)
def test_other_digits_are_no_card_number(text: str) -> None:
    assert Redaction().apply([text]) == [text]


def test_a_policy_names_keys_by_their_words() -> None:
    redaction = Redaction(exclude={"updated_at"}, redact={"iban"}, digest={"email"}, digest_key=KEY)
    value = {"updatedAt": 1, "Iban": "DE", "iban_country": "DE", "email": "a@b.c", "customer_email": "a@b.c", "n": [1]}
    assert redaction.apply({"rows": (value,)}) == {
        "rows": [
            {
                "Iban": GONE,
                "iban_country": "DE",
                "email": {"$digest": hmac.new(KEY.encode(), b'"a@b.c"', hashlib.sha256).hexdigest()},
                "customer_email": "a@b.c",
                "n": [1],
            }
        ]
    }


def test_the_strictest_rule_for_a_key_decides() -> None:
    everything = {"exclude": {"a"}, "redact": {"a", "b"}, "digest": {"a", "b", "ssn"}, "allow": {"a", "b", "ssn", "d"}}
    found = Redaction(**everything, digest_key=KEY).apply({"a": 1, "b": 2, "ssn": 3, "d": 4, "pin": 5})
    assert found == {"b": GONE, "ssn": {"$digest": found["ssn"]["$digest"]}, "d": 4, "pin": GONE}


def test_allowing_a_key_does_not_allow_what_is_denied_within_it() -> None:
    assert Redaction(allow={"cookie"}).apply({"cookie": {"token": 1, "x": 2}}) == {"cookie": {"token": GONE, "x": 2}}


def test_names_beyond_ascii_are_told_apart() -> None:
    assert Redaction(exclude={"größe"}).apply({"größe": 1, "grüße": 2, "пароль": 3}) == {"grüße": 2, "пароль": 3}


@pytest.mark.parametrize("value", [None, True, 0, "x", 1.5, [1, 2], {"b": 1, "a": 2}, Decimal("1.50")])
def test_equal_values_have_equal_digests_and_other_keys_give_others(value: Any) -> None:
    def digest(value: Any, key: str = KEY) -> Any:
        return Redaction(digest={"x"}, digest_key=key).apply({"x": value})["x"]["$digest"]

    text = json_text(value, "x") or b"null"
    assert digest(value) == hmac.new(KEY.encode(), text, hashlib.sha256).hexdigest()
    assert digest(value) == digest(copy.deepcopy(value)) != digest([value]) != digest(value, KEY[::-1])


def test_a_digest_needs_a_key_which_nothing_shows() -> None:
    with pytest.raises(InvalidSetting, match="digest needs a key: set LEDGER_DIGEST_KEY"):
        Redaction(digest={"email"})
    redaction = Redaction(digest={"email"}, digest_key=KEY)
    settings = Settings.load(environment={"LEDGER_DIGEST_KEY": KEY})
    assert settings.digest_key == KEY and Settings.load(environment={"LEDGER_DIGEST_KEY": ""}).digest_key is None
    for shown in (repr(redaction), str(redaction), repr(settings), f"{settings}"):
        assert KEY not in shown
    assert pickle.loads(pickle.dumps(redaction)) == redaction  # noqa: S301
    with pytest.raises(AttributeError):
        redaction.digest = frozenset()  # type: ignore[misc]


@pytest.mark.parametrize("key", ["k" * 15, "k" * 65, "é" * 20, "k" * 20 + "\n", "\udcff" * 20])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Settings.load(environment={"LEDGER_DIGEST_KEY": key})
    assert key not in str(refused.value) and "LEDGER_DIGEST_KEY must have 16 to 64" in str(refused.value)


@dataclass
class Login:
    name: str
    password: str


class Card(msgspec.Struct):
    holder: Login
    number: str


class Text(StrEnum):
    CARD = CARD


def test_values_of_other_types_are_redacted_by_their_fields() -> None:
    value = {"cards": [Card(Login("x", "hidden"), CARD)], "kind": Text.CARD, "set": {CARD}}
    assert Redaction().apply(value) == {
        "cards": [{"holder": {"name": "x", "password": GONE}, "number": GONE}],
        "kind": GONE,
        "set": [GONE],
    }
    leaves = [
        b"x",
        bytearray(b"x"),
        datetime(2026, 1, 1, tzinfo=UTC),
        Decimal("1.50"),
        uuid.UUID(int=1),
        1.5,
        None,
        True,
    ]
    assert Redaction().apply(leaves) == leaves


def test_what_the_format_refuses_is_left_to_it_or_refused() -> None:
    odd = object()
    assert Redaction().apply({"x": odd, 1: "y"}) == {"x": odd, 1: "y"}
    endless: list[Any] = []
    endless += [endless, endless]
    with pytest.raises(InvalidEvent, match="deeper than 64 levels"):
        Redaction().apply(endless)
    deep: Any = "x"
    for _ in range(64):
        deep = [deep]
    assert Redaction().apply(deep) == deep


HIDDEN = "hidden-7f3a9"
PLAIN = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
DENIED = st.sampled_from(["password", "apiKey", "X-Auth-Token", "iban", "email", "updated_at", "CARD_NUMBER"])
SECRETS = st.recursive(
    st.just(HIDDEN), lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.just("x"), inner)
)
VALUES = st.recursive(
    PLAIN | st.just(CARD) | st.builds(lambda key, value: {key: value}, DENIED, SECRETS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        | st.tuples(DENIED, SECRETS, inner).map(lambda parts: {parts[0]: parts[1], "beside": parts[2]})
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_redacted_appears_nowhere_and_the_value_stays_as_it_is(value: Any) -> None:
    before = copy.deepcopy(value)
    redaction = Redaction(exclude="updated_at", redact="iban", digest="email", digest_key=KEY)
    text = msgspec.json.encode(redaction.apply(value)).decode()
    assert HIDDEN not in text and CARD not in text and KEY not in text
    assert value == before


def test_a_redacted_value_is_in_no_byte_that_is_hashed() -> None:
    recorder = Recorder()
    recorder.append(Event("user:1", "a.b", after=Redaction().apply({"password": HIDDEN, "note": CARD, "n": 1})))
    [event] = recorder.events
    assert event.after == {"password": GONE, "note": GONE, "n": 1}
    [link] = recorder._links.values()
    assert HIDDEN.encode() not in (link.draft.after or b"") and CARD.encode() not in (link.draft.after or b"")
