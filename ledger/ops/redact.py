"""Removes the literals from an SQL statement, so that `status` can show what a session ran without its values.

In doubt it shows less: an ambiguous literal ends the text. Tokens are those of the PostgreSQL documentation, section
"Lexical Structure": strings, dollar quoting, nested comments.
"""

from __future__ import annotations

import re

_LONGEST = 200
_TOKEN = re.compile(
    r"""
      (?P<line>--[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*(?:'|\\?\Z))
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z))
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_\x80-\U0010ffff]*)?\$)
    | (?P<identifier>"(?:[^"]|"")*(?:"|\Z))
    | (?P<parameter>\$\d+)
    | (?P<word>[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_$\x80-\U0010ffff]*)
    | (?P<number>(?:\d|\.\d)[\w.]*(?:(?<=[eE])[+-]\d[\w.]*)?)
    | (?P<space>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


def without_literals(sql: str) -> str:
    """The statement on one line, each literal a `?`, comments dropped; cut after some 200 characters.

    sql: as `pg_stat_activity` shows it, which may itself be cut anywhere.
    """
    parts: list[str] = []
    index = 0
    while index < len(sql):
        token = _TOKEN.match(sql, index)
        if token is None:  # for mypy: `other` matches anything
            break
        index = token.end()
        match token.lastgroup:
            case "comment":
                index = _comment_end(sql, index)
                parts.append(" ")
            case "line" | "space":
                parts.append(" ")
            case "dollar":
                end = sql.find(token["dollar"], index)
                index = len(sql) if end < 0 else end + len(token["dollar"])
                parts.append("?")
            case "number" | "escaped":
                parts.append("?")
            case "string":
                parts.append("?")
                # With standard_conforming_strings off, or for such a string, the backslash keeps it open.
                if "\\'" in token["string"]:
                    break
            case _:
                parts.append(token[0])
    text = " ".join("".join(parts).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _comment_end(sql: str, at: int) -> int:
    depth = 1
    for found in _COMMENT.finditer(sql, at):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(sql)
