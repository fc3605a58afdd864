"""What libpq takes from its environment (PGSSLMODE, PGHOSTADDR, PGSERVICE …) where a URL leaves it out.

For the user's servers that is the user's choice. For the embedded servers the environment is overridden: it is meant
for others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict

_SAID: dict[str, str] = {
    "hostaddr": "127.0.0.1",
    "options": "",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "gssencmode": "disable",
    "channel_binding": "disable",
    "require_auth": "scram-sha-256",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}


def everything_said() -> dict[str, str]:
    """For a server on this host without TLS: what libpq else takes from its environment, where this libpq knows it."""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    return {name: value for name, value in _SAID.items() if name in known}


_environment = threading.Lock()


@contextmanager
def without_service(conninfo: str) -> Iterator[None]:
    """While libpq begins to connect by a conninfo that has everything_said: PGSERVICE is heeded even then.

    Where there is no such service, that would be an error.
    """
    if "PGSERVICE" not in os.environ or not conninfo_to_dict(conninfo).items() >= everything_said().items():
        yield
        return
    with _environment:
        service = os.environ.pop("PGSERVICE", None)
        try:
            yield
        finally:
            if service is not None:
                os.environ["PGSERVICE"] = service
