"""No adapter loads a library that it is not for."""

from __future__ import annotations

import subprocess
import sys

LIBRARIES = {"celery", "django", "flask", "starlette", "sqlalchemy"}
ADAPTERS = {"asgi": set[str](), "wsgi": set[str](), "celery": {"celery", "django"}, "django": {"django"}}  # Celery, too


def test_what_each_adapter_loads() -> None:
    for adapter, own in ADAPTERS.items():
        script = f"import sys, ledger.contrib.{adapter}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert LIBRARIES & set(done.stdout.split()) == own
