"""What of a value is not recorded as it is: decided before anything is hashed, so that it appears nowhere. Pure.

redaction = Redaction(redact={"iban"}, digest={"email"}, digest_key=settings.digest_key)
redaction.apply({"iban": "DE02…", "email": "a@b.c", "password": "x", "total": 7})
# {"iban": {"$redacted": True}, "email": {"$digest": "5d41…"}, "password": {"$redacted": True}, "total": 7}
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ledger.capture.deny_patterns import denied, is_card_number, words
from ledger.errors import InvalidEvent, InvalidSetting
from ledger.format.json_text import LEAVES, json_text
from ledger.format.rules import MAX_DEPTH

REDACTED: Final = "$redacted"
DIGEST: Final = "$digest"
_PLAIN = (str, int, float, type(None), *LEAVES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redaction:
    """What is done with the members of objects, by their keys, at any depth; and with strings that are card numbers.

    exclude: keys that are left out. redact: keys whose values become {"$redacted": true}. digest: keys whose values
    become {"$digest": "<64 hex digits>"}, HMAC-SHA-256 over the value's JSON text, so that equal values stay equal.
    allow: what the built-in patterns (deny_patterns.DENY) do not redact: names of patterns, or keys.
    A key is compared by its words: `customerEmail` is `customer_email`, but not `email`. The first of exclude, redact,
    digest and allow that has a key decides. They are kept as words.
    digest_key: secret text (Settings.digest_key). Raises InvalidSetting if `digest` is given without it.
    """

    exclude: Collection[str] = frozenset()
    redact: Collection[str] = frozenset()
    digest: Collection[str] = frozenset()
    allow: Collection[str] = frozenset()
    digest_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("exclude", "redact", "digest", "allow"):
            given = getattr(self, name)
            object.__setattr__(self, name, frozenset(map(words, [given] if isinstance(given, str) else given)))
        if self.digest and not self.digest_key:
            raise InvalidSetting(
                "digest needs a key: set LEDGER_DIGEST_KEY to a secret of 16 to 64 characters, such as "
                "`openssl rand -hex 32` prints, and keep it: another key gives other digests"
            )

    def apply(self, value: Any) -> Any:
        """The value without what must not be recorded; the value itself is not changed.

        Objects of other types than JSON's are encoded as msgspec does, their fields being keys.
        Raises InvalidEvent for a value deeper than the format allows, or of a digest that cannot be written as JSON.
        """
        return self._applied(value, "card_number" in self.allow, MAX_DEPTH)

    def _applied(self, value: Any, card_allowed: bool, levels: int) -> Any:
        if isinstance(value, dict | list | tuple) and levels == 0:
            raise InvalidEvent("body", f"deeper than {MAX_DEPTH} levels (or contains itself)")
        if isinstance(value, str):
            return value if card_allowed or not is_card_number(value) else {REDACTED: True}
        if isinstance(value, dict):
            kept = {key: item for key, item in value.items() if _words(key) not in self.exclude}
            return {key: self._member(key, item, card_allowed, levels - 1) for key, item in kept.items()}
        if isinstance(value, list | tuple):
            return [self._applied(item, card_allowed, levels - 1) for item in value]
        if isinstance(value, _PLAIN):
            return value
        try:
            plain = msgspec.to_builtins(value, builtin_types=LEAVES)
        except (TypeError, ValueError, RecursionError):
            return value  # which the format refuses
        return self._applied(plain, card_allowed, levels)

    def _member(self, key: Any, value: Any, card_allowed: bool, levels: int) -> Any:
        name = _words(key)
        if name in self.redact:
            return {REDACTED: True}
        if name in self.digest:
            text = json_text(value, name) or b"null"
            return {DIGEST: hmac.digest((self.digest_key or "").encode(), text, "sha256").hex()}
        if name in self.allow:
            return self._applied(value, True, levels)
        patterns = denied(name)
        if patterns and not patterns.issubset(self.allow):
            return {REDACTED: True}
        return self._applied(value, card_allowed, levels)


def _words(key: Any) -> str:
    """A key that is no string, which the format refuses, has no words."""
    return words(key) if isinstance(key, str) else ""
