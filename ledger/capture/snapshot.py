"""A snapshot of the audit context: as text and back, merged with another, applied to an event. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import msgspec

from ledger.errors import UsageError
from ledger.events import Event
from ledger.format.json_text import json_text

_encode = msgspec.json.Encoder(enc_hook=dict, order="sorted").encode
"""The only type that msgspec does not know here is MappingProxyType."""


@dataclass(frozen=True, slots=True)
class Context:
    """A snapshot, immutable at every level. metadata: JSON-like values; objects are mappings, arrays are tuples."""

    actor: str | None = None
    actor_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", _frozen(self.metadata))

    def __reduce__(self) -> tuple[Callable[[str], Context], tuple[str]]:
        return type(self).from_setting, (self.setting(),)

    def setting(self) -> str:
        """The value of Postgres' setting `ledger.context`: {"actor":…,"actor_type":…,"metadata":{…}} as JSON text.

        Members without a value are left out.
        """
        members = {"actor": self.actor, "actor_type": self.actor_type, "metadata": self.metadata}
        return _encode({name: value for name, value in members.items() if value}).decode()

    @classmethod
    def from_setting(cls, text: str | bytes) -> Self:
        """The context that `setting` wrote. An empty text, as an unset setting has, is an empty context.

        Raises UsageError if the text is not such JSON.
        """
        try:
            found = msgspec.json.decode(text or b"{}", type=_Setting)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not the text of an audit context: {error}") from None
        return cls(found.actor or None, found.actor_type or None, found.metadata)

    def plain_metadata(self) -> dict[str, Any]:
        """The metadata as dicts and lists of its own."""
        plain: dict[str, Any] = msgspec.json.decode(_encode(self.metadata))
        return plain

    def fields(self) -> dict[str, Any]:
        """The context as flat fields for a log: actor, actor_type, and metadata with names such as `request.id`."""
        who = {"actor": self.actor, "actor_type": self.actor_type}
        fields: dict[str, Any] = {name: value for name, value in who.items() if value is not None}
        for name, value in self.plain_metadata().items():
            if isinstance(value, dict):
                fields |= {f"{name}.{inner}": each for inner, each in value.items()}
            else:
                fields[name] = value
        return fields

    def extended(self, given: Context) -> Context:
        """This context with what is given; objects in the metadata are merged one level deep.

        The actor's type belongs to the actor: another actor without a type does not inherit this one's.
        """
        actor, actor_type = self.actor, given.actor_type or self.actor_type
        if given.actor is not None:
            if given.actor != self.actor and self.actor is not None:
                actor_type = given.actor_type
            actor = given.actor
        return Context(actor, actor_type, _merged(self.metadata, given.metadata))

    def applied(self, event: Event) -> Event:
        """The event with what this context gives; what the event has itself wins. Its actor may still be missing.

        Metadata of the event that is no JSON object becomes the member `value` of one.
        """
        changes: dict[str, Any] = {}
        if self.actor is not None and is_missing(event.actor):
            changes["actor"] = self.actor
            changes["actor_type"] = self.actor_type or event.actor_type
        if self.metadata:
            changes["metadata"] = _merged(self.plain_metadata(), _as_object(event.metadata))
        return msgspec.structs.replace(event, **changes) if changes else event


class _Setting(msgspec.Struct):
    actor: str | None = None
    actor_type: str | None = None
    metadata: dict[str, Any] = {}


def is_missing(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text)


def _as_object(metadata: Any) -> dict[str, Any]:
    """An event's metadata as members of a JSON object. What cannot be encoded is left to the draft, which says why."""
    if metadata is None:
        return {}
    if isinstance(metadata, dict):
        return metadata
    try:
        plain = msgspec.json.decode(json_text(metadata, "metadata") or b"null")
    except UsageError:
        plain = None
    return plain if isinstance(plain, dict) else {"value": metadata}


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both; what is in `more` wins. If both have an object of one name, its members are merged."""
    merged = dict(base)
    for name, value in more.items():
        inner = merged.get(name)
        merged[name] = {**inner, **value} if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def _frozen(value: Any) -> Any:
    """An immutable copy of a JSON-like value."""
    if isinstance(value, Mapping):
        return MappingProxyType({name: _frozen(each) for name, each in value.items()})
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return value
