"""The app: what it connects to Django's signals."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in
from django.core.signals import setting_changed
from django.db.backends.signals import connection_created

from ledger.contrib.django import conf, database, middleware


class LedgerConfig(AppConfig):  # type: ignore[misc]
    name = "ledger.contrib.django"
    label = "auditledger"
    verbose_name = "Audit ledger"

    def ready(self) -> None:
        conf.options()  # a wrong setting is found at once
        connection_created.connect(database.connected, dispatch_uid="ledger.connected")
        user_logged_in.connect(middleware.logged_in, dispatch_uid="ledger.logged_in")
        setting_changed.connect(_forget, dispatch_uid="ledger.conf")


def _forget(setting: str, **_: Any) -> None:
    if setting == conf.SETTING:
        conf.options.cache_clear()
