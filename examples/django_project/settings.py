"""Its settings. A project of yours has databases of its own, and AuthenticationMiddleware before AuditMiddleware."""

import os

from psycopg.conninfo import conninfo_to_dict

_given = conninfo_to_dict(os.environ["LEDGER_DATABASE_URL"])
_given["name"] = _given.pop("dbname")
_server = {key.upper(): value for key, value in _given.items()}

SECRET_KEY = "of an example"  # noqa: S105
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "ATOMIC_REQUESTS": True, **_server}}
INSTALLED_APPS = ["ledger.contrib.django", "examples.django_project"]
MIDDLEWARE = ["ledger.contrib.django.middleware.AuditMiddleware"]
AUDIT_LEDGER = {"ACTOR": "examples.django_project.urls.user", "READS": ["/invoices*"]}
ROOT_URLCONF = "examples.django_project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["*"]
