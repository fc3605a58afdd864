"""A Flask application: each change of an invoice is recorded in the transaction that makes it, each request by itself.

    pip install 'auditledger[embedded]' flask
    export LEDGER_HOME=.ledger-flask                  # servers of its own, to try it out
    auditledger migrate && auditledger run &          # seals what is recorded
    flask --app "examples.flask_app:create()" run

    curl -X POST -H "X-User: ada" localhost:5000/invoices/7/send
    curl -X POST localhost:5000/invoices/7/send
    curl -X POST -H "X-User: ada" localhost:5000/invoices/8/send

The ledger then has:

    user:ada   invoice.sent   invoice 7              POST /invoices/7/send
    user:ada   request.post   path /invoices/7/send  success
    anonymous  request.post   path /invoices/7/send  denied
    user:ada   request.post   path /invoices/8/send  failure
"""

from __future__ import annotations

from typing import Any

import psycopg
from flask import Flask, abort, request

from ledger import Event, Ledger
from ledger.capture import current
from ledger.contrib.wsgi import AuditMiddleware

SCHEMA = "create table if not exists public.invoices (id int primary key, status text not null)"


def user(environ: dict[str, Any]) -> str | None:
    """Who makes the request. An application of yours checks a session or a token here."""
    name = environ.get("HTTP_X_USER")
    return f"user:{name}" if name else None


def create(ledger: Ledger | None = None) -> Flask:
    ledger = ledger or Ledger.open()
    url = ledger.settings.database_url or ""
    app = Flask(__name__)
    with psycopg.connect(url) as connection:
        connection.execute(SCHEMA)
        connection.execute("insert into invoices values (7, 'draft') on conflict do nothing")

    @app.before_request
    def authorize() -> None:
        context = current()
        if request.method != "GET" and (context is None or context.actor is None):
            abort(401)

    @app.post("/invoices/<int:number>/send")
    def send(number: int) -> str:
        with psycopg.connect(url) as connection:
            changed = connection.execute("update invoices set status = 'sent' where id = %s", (number,))
            # Recorded if and only if the block commits; the actor and the rest of the context are the request's.
            ledger.record(
                Event(None, "invoice.sent", "invoice", str(number), after={"status": "sent"}), connection=connection
            )
            if changed.rowcount == 0:
                abort(404)
        return "sent\n"

    app.wsgi_app = AuditMiddleware(app.wsgi_app, ledger, actor=user)  # type: ignore[method-assign]
    return app
