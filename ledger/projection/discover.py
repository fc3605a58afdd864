"""Finds projections by name: the entry points `auditledger.projections`, or MODULE:CLASS."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from ledger.errors import UnknownProjection
from ledger.projection.base import Projection, check_projection

GROUP = "auditledger.projections"
"""The entry points under which packages offer their projections."""


def find_projections(names: list[str] | None = None) -> list[Projection]:
    """Projections by name, or as `module:Class`; without names, all installed ones. Raises UnknownProjection."""
    offered = {entry.name: entry for entry in entry_points(group=GROUP)}
    projections: list[Projection] = []
    for name in names or sorted(offered):
        try:
            loaded = offered[name].load() if name in offered else _load(name)
        except (ImportError, AttributeError, SyntaxError) as error:
            raise UnknownProjection(f"projection {name!r} cannot be loaded: {error}") from error
        if isinstance(loaded, Projection):
            raise UnknownProjection(f"{name!r} is an instance: name its class, {type(loaded).__name__}")
        if not (isinstance(loaded, type) and issubclass(loaded, Projection)):
            raise UnknownProjection(f"{name!r} is not a Projection: it must be a subclass of ledger.Projection")
        try:
            projections.append(check_projection(loaded()))
        except TypeError as error:  # its __init__ takes arguments, or a method is missing
            raise UnknownProjection(f"{name!r} cannot be made: {error}") from error
    return projections


def _load(name: str) -> object:
    module, colon, attribute = name.partition(":")
    if not colon or not all(each.isidentifier() for each in (*module.split("."), attribute)):
        known = ", ".join(sorted(entry.name for entry in entry_points(group=GROUP)))
        raise UnknownProjection(f"there is no projection {name!r}; known are {known}; name your own as module:Class")
    return getattr(import_module(module), attribute)
