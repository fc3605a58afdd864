"""The ledger's own actions (format.md, "The ledger's own entries"): their names, resources and metadata. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import msgspec

OWN_ACTIONS = "ledger."
"""Actions that begin so are the ledger's own (format.md, "Envelope")."""
ERASED = "ledger.entry_erased"
ERASED_TYPE = "ledger.entry"
"""Action and resource_type of an erasure (format.md, "Body")."""
HOLD_PLACED, HOLD_RELEASED = "ledger.hold_placed", "ledger.hold_released"
"""Actions of legal holds; their resource is the one that is held."""
SKIPPED, RETRIED = "ledger.entry_skipped", "ledger.entry_retried"
SKIP_TYPE = "ledger.skip"
"""Actions and resource_type of skips; the resource_id is `<projection>:<position>`."""
KEY_ROTATED, KEY_TYPE = "ledger.key_rotated", "ledger.key"
QUARANTINED = "ledger.entry_quarantined"
"""Action of the record that work goes on past an entry that does not hold; its resource is as an erasure's."""
TREE_REBUILT, TREE_TYPE = "ledger.tree_rebuilt", "ledger.tree"
"""Action and resource_type of what takes the place of tiles and checkpoints; the resource_id is the ledger's name."""

_POSITION = "[1-9][0-9]{0,17}"
_SKIP = f"[a-z][a-z0-9_]*:{_POSITION}"
_is_position = re.compile(_POSITION).fullmatch
_is_stored_position = re.compile("[1-9][0-9]{0,18}").fullmatch
_is_skip = re.compile(_SKIP).fullmatch
_is_not_blank = re.compile(r"[^\u0001-\u0020]").search


def is_own(action: str | None) -> bool:
    """Returns whether an action is reserved for the ledger's own entries, known or not."""
    return action is not None and action.startswith(OWN_ACTIONS)


def position_named(resource_type: str | None, resource_id: str | None) -> int | None:
    """The position that a resource names: of an entry (`ledger.entry`), or of one that a view leaves out."""
    if resource_type == SKIP_TYPE and resource_id is not None and _is_skip(resource_id):
        return int(resource_id.rpartition(":")[2])
    if resource_type == ERASED_TYPE and resource_id is not None and _is_position(resource_id):
        return int(resource_id)
    return None


def erased_by(action: str, resource_type: str | None, resource_id: str | None, position: int) -> int | None:
    """The position of the entry that the entry at `position` erases; None if it is no erasure of an earlier one."""
    if action != ERASED or resource_type != ERASED_TYPE or not _is_stored_position(resource_id or ""):
        return None
    erased = int(resource_id or "")
    return erased if erased < position else None


# ------------------------------------------------------------------------------------------------- their form, as rules


def _names_entry(resource_type: str | None, resource_id: str | None) -> bool:
    return resource_type == ERASED_TYPE and _is_position(resource_id or "") is not None


def _names_what_is_held(resource_type: str | None, resource_id: str | None) -> bool:
    return resource_type is not None and (resource_type != ERASED_TYPE or _names_entry(resource_type, resource_id))


def _names_skip(resource_type: str | None, resource_id: str | None) -> bool:
    return resource_type == SKIP_TYPE and _is_skip(resource_id or "") is not None


def _has_type(wanted: str, resource_type: str | None, _resource_id: str | None) -> bool:
    return resource_type == wanted


OWN: dict[str, Callable[[str | None, str | None], bool]] = {
    ERASED: _names_entry,
    HOLD_PLACED: _names_what_is_held,
    HOLD_RELEASED: _names_what_is_held,
    KEY_ROTATED: partial(_has_type, KEY_TYPE),
    SKIPPED: _names_skip,
    RETRIED: _names_skip,
    QUARANTINED: _names_entry,
    TREE_REBUILT: partial(_has_type, TREE_TYPE),
}
"""The ledger's own actions, and whether a resource_type and resource_id are those that such an action is about."""


class _Reason(msgspec.Struct):
    reason: str


class _Keys(msgspec.Struct):
    old: str
    new: str


_reason_of = msgspec.json.Decoder(_Reason).decode
_keys_of = msgspec.json.Decoder(_Keys).decode


def has_own_metadata(action: str, metadata: bytes) -> bool:
    """Returns whether the metadata (JSON) of an own entry gives its reason, or both keys for a new key."""
    try:
        if action == KEY_ROTATED:
            keys = _keys_of(metadata)
            return "" not in (keys.old, keys.new)
        return _is_not_blank(_reason_of(metadata).reason) is not None
    except (ValueError, RecursionError):
        return False


OWN_FORM_CHECK = rf"""
not action ^@ '{OWN_ACTIONS}' or salt is null or coalesce(
    case
        when action in ('{ERASED}', '{QUARANTINED}')
            then resource_type = '{ERASED_TYPE}' and resource_id ~ '^{_POSITION}$'
        when action in ('{HOLD_PLACED}', '{HOLD_RELEASED}')
            then resource_type <> '{ERASED_TYPE}' or resource_id ~ '^{_POSITION}$'
        when action in ('{SKIPPED}', '{RETRIED}') then resource_type = '{SKIP_TYPE}' and resource_id ~ '^{_SKIP}$'
        when action = '{KEY_ROTATED}' then resource_type = '{KEY_TYPE}'
        when action = '{TREE_REBUILT}' then resource_type = '{TREE_TYPE}'
        else true
    end
    and case
        when action = '{KEY_ROTATED}'
            then before is null and after is null
            and json_typeof(metadata -> 'old') = 'string' and metadata ->> 'old' <> ''
            and json_typeof(metadata -> 'new') = 'string' and metadata ->> 'new' <> ''
        when action in (
            '{ERASED}', '{HOLD_PLACED}', '{HOLD_RELEASED}', '{SKIPPED}', '{RETRIED}', '{QUARANTINED}', '{TREE_REBUILT}'
        )
            then before is null and after is null
            and json_typeof(metadata -> 'reason') = 'string'
            and metadata ->> 'reason' ~ e'[^\\u0001-\\u0020]'
        else true
    end,
    false
)"""
"""The form of an own entry as SQL checks it: resource, and metadata alone."""
