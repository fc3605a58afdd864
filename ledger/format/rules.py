"""The rules that every stored entry keeps: one table, which says what format.md demands and how it is looked at. Pure.

- `schema/0008_entry_rules.sql` has the column `check` of each rule in the function of a CHECK constraint, whose error
  names the rule.
- `canonical` makes no entry that breaks one, from the same limits.
- `verify`, on a database or a bundle, names each entry that breaks one: kind `rule_broken`, with the rule's name.

tests/integration/store/test_rules.py holds the four against each other. Rules about several entries (nothing is erased
while a legal hold is on it) are in verify/own_entries.py.

A text `null` in a column is the same to every hash as NULL, so no rule tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Self

from ledger.format.actions import OWN, OWN_ACTIONS, OWN_FORM_CHECK, has_own_metadata, is_own
from ledger.format.times import microseconds

MAX_BODY = 256 * 1024
"""Bytes of a body, its punctuation and salt included."""
MAX_DEPTH = 64
"""Levels of objects and arrays in one value of a body."""
LIMITS = {"actor": 255, "actor_type": 64, "action": 128, "resource_type": 64, "resource_id": 255}
"""Characters (Unicode code points) that a string of the envelope may have; at least one."""


class Columns(NamedTuple):
    """An entry as it is stored; any column but the position may be NULL in a forged one.

    id: 16 bytes. recorded, occurred: microseconds since 2000-01-01 UTC. before, after, metadata: JSON texts, UTF-8.
    """

    position: int
    id: bytes
    recorded: int
    occurred: int
    actor: str
    actor_type: str
    action: str
    resource_type: str | None
    resource_id: str | None
    before: bytes | None
    after: bytes | None
    metadata: bytes | None
    salt: bytes | None
    body_hash: bytes
    prev_hash: bytes
    hash: bytes

    def without_body(self) -> Self:
        return self._replace(before=None, after=None, metadata=None, salt=None)


class Rule(NamedTuple):
    """One rule. name: what findings and the database's error call it. section: of format.md. demands: what it says.

    kept: returns whether an entry keeps it. check: the same as SQL, with `texts` for the body's JSON texts, joined;
    None if a trigger sees to it.
    """

    name: str
    section: str
    demands: str
    kept: Callable[[Columns], bool]
    check: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.demands}"


# ---------------------------------------------------------------------------------------------------------- envelope

_FIRST_TIME, _LAST_TIME = (microseconds(moment.replace(tzinfo=UTC)) for moment in (datetime.min, datetime.max))
_TIMES = " and ".join(
    f"{column} >= to_timestamp(-62135596800) and {column} < to_timestamp(253402300800)"
    for column in ("recorded_at", "occurred_at")
)


def _has_form(entry: Columns) -> bool:
    return (
        entry.position >= 1
        and all(isinstance(each, bytes) and len(each) == 32 for each in (entry.hash, entry.prev_hash, entry.body_hash))
        and (entry.resource_type is None) == (entry.resource_id is None)
        and (entry.salt is None or len(entry.salt) == 16)
    )


def _has_times(entry: Columns) -> bool:
    return all(isinstance(each, int) and _FIRST_TIME <= each <= _LAST_TIME for each in (entry.recorded, entry.occurred))


def _length(column: str) -> Rule:
    limit, optional = LIMITS[column], column.startswith("resource")

    def kept(entry: Columns) -> bool:
        value = getattr(entry, column)
        if value is None:
            return optional
        return isinstance(value, str) and 1 <= len(value) <= limit and "\0" not in value

    return Rule(
        f"{column}_length",
        "Envelope",
        f"{column} has 1 to {limit} characters, none of them U+0000",  # which no text in Postgres can hold
        kept,
        f"char_length({column}) >= 1 and char_length({column}) <= {limit}",
    )


# -------------------------------------------------------------------------------------------------------------- body

_FRAME = len('{"after":,"before":,"metadata":,"salt":""}') + 32
# What is left once escaped backslashes and pairs of surrogates are taken out.
_SOUND_ESCAPES = r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F].."
_BAD_ESCAPES = r"\\u(0000|[dD][89a-fA-F])"


def _literal(text: str) -> str:
    """As SQL takes it whatever standard_conforming_strings says."""
    return "e'" + text.replace("\\", r"\\") + "'"


_sound_escapes = re.compile(_SOUND_ESCAPES.encode()).sub
_bad_escapes = re.compile(_BAD_ESCAPES.encode()).search
_strings = re.compile(rb'"(?:[^"\\]|\\.)*"').sub
_brackets = re.compile(rb"[\[\]{}]").findall


def _texts(entry: Columns) -> list[bytes]:
    return [text for text in (entry.before, entry.after, entry.metadata) if text is not None]


def _fits(entry: Columns) -> bool:
    texts = _texts(entry)
    return sum(map(len, texts)) + 4 * (3 - len(texts)) <= MAX_BODY - _FRAME


def _has_no_line_breaks(entry: Columns) -> bool:
    return not any(b"\n" in text or b"\r" in text for text in _texts(entry))


def _has_characters_only(entry: Columns) -> bool:
    return not any(b"\\" in text and _bad_escapes(_sound_escapes(b" ", text)) for text in _texts(entry))


def _is_flat(entry: Columns) -> bool:
    return all(_depth(text) <= MAX_DEPTH for text in _texts(entry))


def _depth(text: bytes) -> int:
    """Levels of objects and arrays; no more than there are brackets is not counted exactly."""
    most = text.count(b"[") + text.count(b"{")
    if most <= MAX_DEPTH:
        return most
    depth = most = 0
    for bracket in _brackets(_strings(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        most = max(most, depth)
    return most


# --------------------------------------------------------------------------------------------- the ledger's own entries


def _is_known(entry: Columns) -> bool:
    return not is_own(entry.action) or entry.action in OWN


def _has_own_form(entry: Columns) -> bool:
    if entry.action not in OWN or entry.salt is None:  # one whose body is gone is named for that
        return True
    return (
        OWN[entry.action](entry.resource_type, entry.resource_id)
        and entry.before is None
        and entry.after is None
        and entry.metadata is not None
        and has_own_metadata(entry.action, entry.metadata)
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "entry_format",
        "Envelope",
        "positions begin at 1, hashes have 32 bytes, a salt has 16, resource_type and resource_id go together",
        _has_form,
        "position >= 1 and octet_length(hash) = 32 and octet_length(prev_hash) = 32 and octet_length(body_hash) = 32"
        " and (resource_type is null) = (resource_id is null)"
        " and coalesce(octet_length(salt), 16 + num_nonnulls(before, after, metadata)) = 16",
    ),
    Rule("entry_times", "Envelope", "recorded_at and occurred_at lie in the years 0001-9999", _has_times, _TIMES),
    *(_length(column) for column in LIMITS),
    Rule(
        "body_size",
        "Body",
        f"a body has at most {MAX_BODY:,} bytes",
        _fits,
        f"octet_length(texts) + 4 * num_nulls(before, after, metadata) <= {MAX_BODY - _FRAME}",
    ),
    Rule(
        "body_line_breaks",
        "Body",
        "a body holds no line break",
        _has_no_line_breaks,
        "strpos(texts, chr(10)) = 0 and strpos(texts, chr(13)) = 0",
    ),
    Rule(
        "body_characters",
        "Body",
        "a body holds neither U+0000 nor a lone surrogate",
        _has_characters_only,
        rf"strpos(texts, e'\\') = 0"
        f" or regexp_replace(texts, {_literal(_SOUND_ESCAPES)}, ' ', 'g') !~ {_literal(_BAD_ESCAPES)}",
    ),
    Rule(
        "body_depth",
        "Body",
        f"before, after and metadata have at most {MAX_DEPTH} levels",
        _is_flat,
        f"octet_length(texts) - octet_length(replace(replace(texts, '[', ''), '{{', '')) <= {MAX_DEPTH}"
        " or jsonb_path_exists(('[' || concat_ws(',', before, after, metadata) || ']')::jsonb,"
        f' \'strict $.**{{{MAX_DEPTH + 1}}} ? (@.type() == "array" || @.type() == "object")\') is not true',
    ),
    Rule(
        "known_own_action",
        "The ledger's own entries",
        f"actions that begin with {OWN_ACTIONS} are those of format.md",
        _is_known,
        None,
    ),
    Rule(
        "own_entry_form",
        "The ledger's own entries",
        "an entry of the ledger's own names the resource that its action is about, and gives its reason (a new key:"
        " both keys) as metadata; it has nothing else",
        _has_own_form,
        OWN_FORM_CHECK,
    ),
)
ENVELOPE = tuple(rule for rule in RULES if rule.section == "Envelope")
"""The rules about nothing but the envelope."""


def broken(entry: Columns, rules: Iterable[Rule] = RULES) -> Iterator[Rule]:
    """Those of these rules that this entry does not keep."""
    return (rule for rule in rules if not rule.kept(entry))


def surely_kept(
    actor: str, actor_type: str, action: str, resource_type: str | None, resource_id: str | None, body: bytes
) -> bool:
    """A quick check of an entry with a sound envelope: True if it keeps all rules, False if only `broken` can tell.

    body: its bytes, all of them.
    """
    return (
        _who_is_sound(actor, actor_type, action)
        and (
            resource_id is None
            if resource_type is None
            else resource_id is not None
            and 0 < len(resource_id) < 256
            and 0 < len(resource_type) < 65
            and "\0" not in resource_id
            and "\0" not in resource_type
        )
        and b"\n" not in body
        and b"\r" not in body
        and b"\\u" not in body
        and body.count(b"{") + body.count(b"[") <= MAX_DEPTH
        and len(body) <= MAX_BODY
    )


@lru_cache(maxsize=4096)  # they come again and again
def _who_is_sound(actor: str, actor_type: str, action: str) -> bool:
    sound = 0 < len(actor) < 256 and 0 < len(actor_type) < 65 and 0 < len(action) < 129
    return sound and not action.startswith(OWN_ACTIONS) and "\0" not in f"{actor}{actor_type}{action}"
