"""A Django project on two migrated databases, made once for all tests of a module that take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connections

from ledger import Entry, Ledger, Settings, testing
from ledger.capture.sealer import Sealer
from ledger.drivers.pools import Connector

OPTIONS = {"DATABASES": ["default", "other"], "READS": ["/patients/*"]}


def _database(url: str) -> dict[str, object]:
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.removeprefix("/"),
        "USER": parts.username,
        "PASSWORD": parts.password,
        "HOST": parts.hostname,
        "PORT": parts.port,
        "ATOMIC_REQUESTS": False,
    }


def configure(urls: list[str]) -> None:
    """Django's settings are one for the process: configured once, with the databases of the module that runs."""
    if not settings.configured:
        settings.configure(
            SECRET_KEY="of the tests",
            DATABASES={alias: _database(url) for alias, url in zip(("default", "other"), urls, strict=True)},
            INSTALLED_APPS=[
                "django.contrib.admin",
                "django.contrib.auth",
                "django.contrib.contenttypes",
                "django.contrib.messages",
                "django.contrib.sessions",
                "ledger.contrib.django",
                "tests.integration.contrib.shop",
            ],
            MIDDLEWARE=[
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
                "django.contrib.messages.middleware.MessageMiddleware",
                "ledger.contrib.django.middleware.AuditMiddleware",
            ],
            TEMPLATES=[
                {
                    "BACKEND": "django.template.backends.django.DjangoTemplates",
                    "APP_DIRS": True,
                    "OPTIONS": {
                        "context_processors": [
                            "django.template.context_processors.request",
                            "django.contrib.auth.context_processors.auth",
                            "django.contrib.messages.context_processors.messages",
                        ]
                    },
                }
            ],
            PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
            ROOT_URLCONF="tests.integration.contrib.shop.urls",
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            ALLOWED_HOSTS=["*"],
            USE_TZ=True,
            AUDIT_LEDGER=OPTIONS,
        )
        django.setup()
    for alias, url in zip(("default", "other"), urls, strict=True):
        connections[alias].close()
        connections[alias].settings_dict.update(_database(url))
        connections.settings[alias].update(_database(url))


class Project:
    """The ledgers of both databases."""

    def __init__(self, urls: list[str]) -> None:
        settings_of = {"default": Settings(database_url=urls[0]), "other": Settings(database_url=urls[1])}
        self._connectors = {alias: Connector(each) for alias, each in settings_of.items()}
        self._ledgers = {alias: Ledger(each) for alias, each in settings_of.items()}
        self._seen = dict.fromkeys(settings_of, 0)

    def entries(self, alias: str = "default") -> list[Entry]:
        """Those that are new since the last time."""
        Sealer(self._connectors[alias]).seal()
        found = list(self._ledgers[alias].read(after=self._seen[alias]))
        self._seen[alias] += len(found)
        return found

    def close(self) -> None:
        connections.close_all()
        for alias, ledger in self._ledgers.items():
            ledger.close()
            self._connectors[alias].close()


@contextmanager
def running(servers: testing.TestServers, template: str) -> Iterator[Project]:
    with ExitStack() as stack:
        urls = [stack.enter_context(testing.database(servers.database_url, template=template)) for _ in range(2)]
        configure(urls)
        for alias in ("default", "other"):
            call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
        made = Project(urls)
        try:
            yield made
        finally:
            made.close()
