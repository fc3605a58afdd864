"""The classes of one capture, and where their changes are recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import inspect as mapper_of
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper

from ledger.contrib.sqlalchemy.mapped import Mapped
from ledger.contrib.sqlalchemy.outbox import record
from ledger.contrib.sqlalchemy.policy import Policy
from ledger.errors import UsageError
from ledger.events import Event


class Tables:
    """given: the mappers that a policy was given for."""

    def __init__(self, tables: Mapping[type, Policy | None], ledger: str, digest_key: str | None) -> None:
        """Raises UsageError for what is no mapped class, and for names in a policy that the class does not have."""
        self._ledger = ledger
        self._digest_key = digest_key
        self._policies = {_mapper(each): policy or Policy() for each, policy in tables.items()}
        self._mapped: dict[Mapper[Any], Mapped | None] = {}
        self.given = list(self._policies)
        for mapper in self.given:
            self.of(mapper)

    def of(self, mapper: Mapper[Any]) -> Mapped | None:
        """None for a class that is not captured. Classes that inherit have the policy of the nearest."""
        if mapper not in self._mapped:
            base = next((each for each in mapper.iterate_to_root() if each in self._policies), None)
            found = None if base is None else Mapped(mapper, self._policies[base], base, self._digest_key)
            self._mapped[mapper] = found
        return self._mapped[mapper]

    def of_table(self, table: Any) -> Mapped | None:
        for base in self.given:
            for mapper in base.self_and_descendants:
                if mapper.local_table is table:
                    return self.of(mapper)
        return None

    def record(self, connection: Connection, events: Iterable[Event | None]) -> None:
        """None stands for a change that is not recorded. Raises InvalidEvent; DBAPIError of the driver."""
        record(connection, self._ledger, [each for each in events if each is not None])


def _mapper(of: Any) -> Mapper[Any]:
    try:
        mapper = mapper_of(of)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper):
        raise UsageError(f"not a mapped class: {of!r}")
    return mapper
