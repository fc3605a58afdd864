"""Django 4.2 or newer, on its psycopg backend: an app for INSTALLED_APPS. Extra `django`. docs/capture.md, "Django".

conf reads the setting AUDIT_LEDGER. middleware opens the context of each request. database sends it to Postgres before
the first write of a transaction. recording records events on Django's connections. operations: of migrations.
"""

from ledger.contrib.django.database import send_context as send_context
from ledger.contrib.django.recording import record as record
from ledger.contrib.django.recording import record_many as record_many
