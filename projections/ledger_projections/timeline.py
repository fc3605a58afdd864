"""The view `timeline`: one row per entry, searched by actor, action, resource, time and words, newest first."""

from __future__ import annotations

import re
import struct
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from unicodedata import normalize

from msgspec import Raw

from ledger import Entry, Plan, Projection, Query, UsageError, Writes, read_views
from ledger_projections.jsontext import read
from ledger_projections.statements import checked_limit, checked_text, statements

SQL = statements("timeline")
MAX_WORDS = 32 * 1024
"""Characters of an entry that are searched. A tsvector keeps the positions of at most 16,383 words."""
MAX_TEXT = 500
"""Characters of the words that are searched for. A tsquery refuses words over 2,046 bytes."""

# Postgres' own parser takes `invoice.updated` for a host and `user/bob` for a file, which a search for their parts does
# not find; its letters depend on the database's locale. So words are split here, in entries and in searches.
_WORD = re.compile(r"[^\W_]+")
_ASCII_SPLIT = bytes(code if chr(code).isalnum() else ord(" ") for code in range(128)) + bytes(128)
_TERM = re.compile(r'(-?)(?:"([^"]*)"?|([^\s"]+))')
_CURSOR = struct.Struct(">QI")
_COLUMNS = (
    *("ledger_id", "position", "id", "recorded_at", "occurred_at"),
    *("actor", "actor_type", "action", "resource_type", "resource_id", "words"),
)
_TYPES = ("int4", "int8", "uuid", "timestamptz", "timestamptz", *["text"] * 6)


class Timeline(Projection):
    name = "timeline"
    version = 2
    tables = ("timeline",)
    schema = SQL["schema"]

    def apply(self, ledger_id: int, entries: Sequence[Entry], tx: Writes) -> None:
        tx.copy(
            "timeline",
            _COLUMNS,
            (
                (
                    *(ledger_id, entry.position, entry.id, entry.recorded_at, entry.occurred_at),
                    *(entry.actor, entry.actor_type, entry.action, entry.resource_type, entry.resource_id),
                    _words_of(entry),
                )
                for entry in entries
            ),
            _TYPES,
        )

    def erase(self, ledger_id: int, entry: Entry, about: Iterable[Entry], tx: Writes) -> None:
        tx.execute(SQL["erase"], (_words_of(entry), ledger_id, entry.position))


class Page(NamedTuple):
    """Entries, newest first, and the cursor of the next page; None if there is none."""

    entries: list[Entry]
    next_cursor: str | None


def search(
    ledger: tuple[int, str],
    *,
    actor: str | None = None,
    action: str | None = None,
    resource: tuple[str, str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    text: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Plan[Page]:
    """Entries matching all filters, newest first, page by page.

    ledger: as `Ledger.ref` gives it. action: `*` stands for any characters. resource: (type, id).
    since, until: of occurred_at, aware; since is included, until is not. text: words that must all occur; `"a b"`,
    `or` and `-a` as in search engines. cursor: of the page before, with the same filters.
    Raises UsageError for a cursor that is malformed or of other filters, a naive datetime, and a limit below 1.
    """
    ledger_id, name = ledger
    filters = _filters(actor, action, resource, since, until)
    words = None if text is None else _search_text(text)
    search_key = repr((ledger_id, filters if words is None else [*filters, ("by_words", (words,))]))
    if cursor is not None:
        filters.append(("by_position", (_position(cursor, search_key),)))
    most = checked_limit(limit) + 1
    if words is None:
        sql = " ".join((SQL["find"], *(SQL[part] for part, _ in filters), SQL["newest"], SQL["page"]))
        params = [ledger_id, *(value for _, values in filters for value in values), most, ledger_id]
    else:
        given = dict(filters)
        sql = f"{SQL['find_words']} {SQL['page']}"
        params = [ledger_id, words, *(value for part in _PARTS for value in given.get(*part)), most, ledger_id]
    rows = yield from read_views(["timeline"], Query(sql, params))
    entries = [Entry(name, *row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(entries, _cursor(entries[-1].position, search_key) if more else None)


_NOT_GIVEN: tuple[None, ...] = (None,)
_PARTS: tuple[tuple[str, tuple[None, ...]], ...] = (
    *(("by_actor", _NOT_GIVEN), ("by_action", _NOT_GIVEN)),
    *(("by_action_prefix", 2 * _NOT_GIVEN), ("by_action_pattern", _NOT_GIVEN), ("by_resource", 2 * _NOT_GIVEN)),
    *(("by_since", _NOT_GIVEN), ("by_until", _NOT_GIVEN), ("by_position", _NOT_GIVEN)),
)
"""The filters of `find_words`, in its order, with the parameters of one that is not given."""


def _filters(
    actor: str | None,
    action: str | None,
    resource: tuple[str, str] | None,
    since: datetime | None,
    until: datetime | None,
) -> list[tuple[str, tuple[Any, ...]]]:
    """The `by_` parts of timeline.sql for the given filters, with their parameters."""
    filters: list[tuple[str, tuple[Any, ...]]] = []
    if actor is not None:
        filters.append(("by_actor", (checked_text("actor", actor),)))
    if action is not None:
        filters += _by_action(checked_text("action", action))
    if resource is not None:
        filters.append(("by_resource", tuple(checked_text("resource", part) for part in resource)))
    for filter_name, moment in (("since", since), ("until", until)):
        if moment is not None:
            if moment.utcoffset() is None:
                raise UsageError(f"{filter_name}: a naive datetime: give it a time zone")
            filters.append((f"by_{filter_name}", (moment,)))
    return filters


def _by_action(action: str) -> list[tuple[str, tuple[str, ...]]]:
    """The prefix as a range, which uses the index with any plan; the rest as a pattern."""
    if "*" not in action:
        return [("by_action", (action,))]
    filters: list[tuple[str, tuple[str, ...]]] = []
    prefix, _, rest = action.partition("*")
    if prefix:
        # No character sorts after U+10FFFF, and none can be added to it.
        filters.append(("by_action_prefix", (prefix, prefix + "\U0010ffff" * 128)))
    if rest or not prefix:
        escaped = re.sub(r"([\\%_])", r"\\\1", action).replace("*", "%")
        filters.append(("by_action_pattern", (escaped,)))
    return filters


def _words_of(entry: Entry) -> str:
    texts = [entry.actor, entry.actor_type, entry.action]
    if entry.resource_type is not None and entry.resource_id is not None:
        texts += (entry.resource_type, entry.resource_id)
    _collect([read(entry.before_json), read(entry.after_json), read(entry.metadata_json)], texts)
    return _split(" ".join(texts))[:MAX_WORDS]


def _split(text: str) -> str:
    """Its words in lower case, separated by spaces."""
    if text.isascii():  # the same, but several times as fast
        return text.lower().encode().translate(_ASCII_SPLIT).decode()
    return " ".join(_WORD.findall(normalize("NFKC", text).lower()))


def _collect(items: Iterable[Any], texts: list[str]) -> None:
    """Adds the strings and numbers of JSON values. Compares exact classes, which is fastest: each entry comes here."""
    for item in items:
        kind = item.__class__
        if kind is str:
            texts.append(item)
        elif kind is int:
            texts.append(str(item))
        elif kind is dict:
            _collect(item.values(), texts)
        elif kind is list:
            _collect(item, texts)
        elif kind is Raw:
            texts.append(bytes(item).decode())


def _search_text(text: str) -> str:
    """The text for websearch_to_tsquery, its terms split as entries are; the parts of one term stay a phrase."""
    if len(checked_text("text", text)) > MAX_TEXT:
        raise UsageError(f"text: at most {MAX_TEXT} characters")

    terms = []
    for sign, phrase, term in _TERM.findall(text):
        words = " ".join(_split(phrase or term).split())
        if words:
            terms.append("or" if term.lower() == "or" else f'{sign}"{words}"')
    return " ".join(terms)


def _cursor(position: int, search_key: str) -> str:
    checksum = zlib.crc32(f"{position} {search_key}".encode())
    return urlsafe_b64encode(_CURSOR.pack(position, checksum)).decode()


def _position(cursor: str, search_key: str) -> int:
    try:
        position, _ = _CURSOR.unpack(urlsafe_b64decode(cursor.encode("ascii")))
    except (ValueError, struct.error):
        raise UsageError("cursor: malformed; pass the one that the page before gave") from None
    if _cursor(position, search_key) != cursor:
        raise UsageError("cursor: belongs to a search with other filters, or was changed")
    return int(position)
