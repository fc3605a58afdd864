"""What is never recorded unless a policy lifts it: names of keys, and card numbers. Pure.

Everything is data, and every regular expression means the same to Python and to Postgres, so that triggers written in
SQL redact what Python does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

DENY: Mapping[str, tuple[str, ...]] = {
    "password": ("password", "passwd", "passphrase", "passcode", "pwd", "userpassword", "dbpassword"),
    "secret": ("secret", "clientsecret"),
    "token": ("token", "accesstoken", "refreshtoken", "idtoken", "authtoken", "csrfmiddlewaretoken", "jwt", "bearer"),
    "api_key": ("api_key", "apikey", "access_key", "accesskey"),
    "private_key": ("private_key", "privatekey", "encryption_key", "encryptionkey"),
    "authorization": ("authorization", "basic_auth", "credential"),
    "cookie": ("cookie",),
    "session_id": ("session_id", "sessionid", "session_key", "jsessionid", "phpsessid"),
    "one_time_code": ("otp", "totp", "mfa_code", "recovery_code", "backup_code"),
    "pin": ("pin", "pincode"),
    "card_number": (
        *("card_number", "cardnumber", "card_no", "cc_number", "ccnumber", "credit_card", "creditcard", "debit_card"),
        *("pan", "primary_account_number", "track_data"),
    ),
    "cvv": ("cvv", "cvc", "csc", "card_security_code", "card_verification_code"),
    "ssn": ("ssn", "social_security"),
}
"""By name of the pattern: the words of which a key holds one as whole words, singular or plural. Joined by `_`."""
WORD_BREAKS: tuple[tuple[str, str], ...] = (
    (r"([a-z])([A-Z])", r"\1_\2"),
    (r"([A-Z])([A-Z][a-z])", r"\1_\2"),
    (r"([A-Za-z])([0-9])", r"\1_\2"),
    (r"([0-9])([A-Za-z])", r"\1_\2"),
    (r"[\u0020-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u007e]+", "_"),
)
"""Regular expressions and what to put for each match, in this order; the last one is ASCII's punctuation and space.

Then the key in lower case, without `_` at its ends, is its words.
"""
CARD_NUMBER = r"\s*[0-9](?:[ -]?[0-9]){12,18}\s*"
"""What a whole string is that may be a card number: 13 to 19 digits. It is one if `is_luhn` holds, too."""

_word_breaks = [(re.compile(pattern).sub, replacement) for pattern, replacement in WORD_BREAKS]
_card_number = re.compile(CARD_NUMBER, re.ASCII).fullmatch


def deny_pattern(allow: Collection[str] = ()) -> str:
    """A regular expression found in the `words` of each key to be redacted; allow: names of patterns to leave out."""
    return _pattern([word for name, words in DENY.items() if name not in allow for word in words])


def _pattern(words: Collection[str]) -> str:
    return f"(^|_)({'|'.join(words)})s?(_|$)"


_found = {name: re.compile(_pattern(words)).search for name, words in DENY.items()}


@lru_cache(maxsize=4096)
def words(key: str) -> str:
    """The words of a key: `apiKey2`, `API-KEY-2` and `api_key_2` are `api_key_2`."""
    for substitute, replacement in _word_breaks:
        key = substitute(replacement, key)
    return key.strip("_").lower()


@lru_cache(maxsize=4096)
def denied(key_words: str) -> frozenset[str]:
    """The names of the patterns that the words of a key match."""
    return frozenset(name for name, found in _found.items() if found(key_words))


def is_card_number(text: str) -> bool:
    """Whether the whole text is 13 to 19 digits, with single spaces or dashes between, and passes the Luhn check."""
    return _card_number(text) is not None and is_luhn("".join(filter(str.isdigit, text)))


def is_luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1, annex B: every second digit from the right counts as the digits of its double."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(doubled)) % 10 == 0
