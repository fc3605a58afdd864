"""SQLAlchemy 2: what a session writes becomes entries, in the transaction of the session. docs/capture.md describes it.

    Session = sessionmaker(engine)
    capture(Session, {Invoice: Policy(action="invoice.{op}", resource_type="invoice")}, ledger="main")

    with audit_context(actor="user:42"), Session.begin() as session:
        session.get_one(Invoice, 7).status = "sent"
    # invoice.updated by user:42, before {"status": "draft"}, after {"status": "sent"}

`audit_setting(Session)` is the other way: triggers on the tables capture, and the session tells them the context.
"""

from ledger.contrib.sqlalchemy.capture import Capture as Capture
from ledger.contrib.sqlalchemy.capture import capture as capture
from ledger.contrib.sqlalchemy.policy import Change as Change
from ledger.contrib.sqlalchemy.policy import Policy as Policy
from ledger.contrib.sqlalchemy.setting import audit_setting as audit_setting
