"""Operations of migrations.

operations = [CaptureTable("shop.Invoice", action="invoice.{op}", exclude=["updated_at"], redact=["iban"])]
"""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations.base import Operation

from ledger.capture.tables import Policy, install_sql, remove_sql
from ledger.contrib.django import conf

_COLUMNS = ("key", "exclude", "redact", "digest")


class CaptureTable(Operation):  # type: ignore[misc]
    """Captures a model's table from now on: triggers record its changes, whatever the client. Reversible.

    model: "app.Model", or "Model" of the migration's own app; "app.Model_field" is the table of a many-to-many field.
    policy: as in `ledger.capture.tables.Policy`, with names of fields for columns. To change a policy, add an operation
    with the new one: its reversal ends the capture. Raises UsageError.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, model: str, **policy: Any) -> None:
        self.model = model
        self.policy = policy

    def state_forwards(self, app_label: str, state: Any) -> None:
        """The models stay as they are."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = self._model(app_label, to_state)
        if self._is_for(schema_editor, model):
            policy = Policy(**self._options(model))
            schema_editor.execute(install_sql(_table(schema_editor, model), policy), params=None)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        model = self._model(app_label, from_state)
        if self._is_for(schema_editor, model):
            schema_editor.execute(remove_sql(_table(schema_editor, model)), params=None)

    def references_model(self, name: str, app_label: str) -> bool:
        return name.lower() == self.model.rpartition(".")[2].lower()

    def describe(self) -> str:
        return f"Captures {self.model} in the audit ledger"

    @property
    def migration_name_fragment(self) -> str:
        return f"capture_{self.model.rpartition('.')[2].lower()}"

    def _options(self, model: Any) -> dict[str, Any]:
        """The policy's, with columns for fields."""
        columns = {field.name: field.column for field in model._meta.local_concrete_fields}
        options: dict[str, Any] = {"ledger": conf.options().ledger}
        for option, value in self.policy.items():
            if option in _COLUMNS:
                options[option] = tuple(columns.get(name, name) for name in value)
            else:
                options[option] = tuple(value) if isinstance(value, list) else value
        return options

    def _model(self, app_label: str, state: Any) -> Any:
        app, _, name = self.model.rpartition(".")
        return state.apps.get_model(app or app_label, name)

    def _is_for(self, schema_editor: Any, model: Any) -> bool:
        connection = schema_editor.connection
        return connection.vendor == "postgresql" and bool(self.allow_migrate_model(connection.alias, model))


def _table(schema_editor: Any, model: Any) -> str:
    name: str = schema_editor.quote_name(model._meta.db_table)
    return name
