"""What `from ledger import …` gives: every type that a user meets, nothing loaded before it is used, one list."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import subprocess
import sys
import typing
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

import ledger
from ledger import LedgerError, errors
from ledger.effects import Effect

PARTS_OF_PLANS = {*typing.get_args(Effect)} - {ledger.Query}
"""A user is given plans whole, and writes those of views, which are made of Query alone."""
OURS = {"Delivery.__init__", "AsyncDelivery.__init__", "Envelope.columns"}
"""Called by ourselves alone: subscribe() makes deliveries, and the rules of entries are asked of columns."""
CLASSES = [each for name in ledger.__all__ if isinstance(each := getattr(ledger, name), type)]
FUNCTIONS = [each for name in ledger.__all__ if inspect.isfunction(each := getattr(ledger, name))]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Its public methods and properties, and what makes one; of its own and of its bases that are ours."""
    for base in kind.__mro__:
        if base.__module__.startswith("ledger."):
            yield base.__name__, base  # the fields
            for name, member in vars(base).items():
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                what = f"{kind.__name__}.{name}"
                is_public = (not name.startswith("_") or name == "__init__") and what not in OURS
                if inspect.isfunction(function) and is_public:
                    yield what, function


def namespace(module: str) -> dict[str, Any]:
    """The names of a module, those that it imports for type checkers alone too."""
    spec = find_spec(module)
    assert spec is not None
    code = typing.cast(Any, spec.loader).get_code(module)
    imported = {name: getattr(import_module(home), name) for name, home in ledger._homes(code).items()}
    public = {name: getattr(ledger, name) for name in ledger.__all__}
    return {"os": os, "redis": redis} | public | imported | vars(sys.modules[module])


def types_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    elif isinstance(annotation, list):  # the parameters of a Callable
        for each in annotation:
            yield from types_in(each)
    for each in (typing.get_origin(annotation), *typing.get_args(annotation)):
        if each is not annotation and each is not None:
            yield from types_in(each)


def missing(what: str, annotated: Any) -> Iterator[str]:
    hints = typing.get_type_hints(annotated, namespace(annotated.__module__))
    for name, hint in hints.items():
        for kind in types_in(hint):
            is_ours = kind.__module__.startswith("ledger.") and not kind.__name__.startswith("_")
            if is_ours and kind not in PARTS_OF_PLANS and getattr(ledger, kind.__name__, None) is not kind:
                yield f"{what}: {name} is a {kind.__module__}.{kind.__name__}"


def test_every_type_that_public_methods_name_is_importable() -> None:
    walked: list[tuple[str, Any]] = [(each.__name__, each) for each in FUNCTIONS]
    walked += [member for kind in CLASSES for member in members(kind)]
    names = {name for name, _ in walked}
    assert {
        "Ledger.append",
        "AsyncLedger.subscribe",
        "Ledger.ref",
        "Ledger.__init__",
        "Delivery.ack",
        "Report",
    } <= names
    assert sorted({problem for what, each in walked for problem in missing(what, each)}) == []


def test_a_type_that_is_not_importable_is_found() -> None:
    hidden = type("Hidden", (), {"__module__": "ledger.client"})

    def method() -> None: ...

    method.__module__ = "ledger.client"
    method.__annotations__ = {"return": list[Callable[[ledger.Event], dict[str, hidden]]]}  # type: ignore[valid-type]
    assert list(missing("method", method)) == ["method: return is a ledger.client.Hidden"]


def test_every_name_of_the_list_is_there() -> None:
    assert len(ledger.__all__) > 60
    for name in ledger.__all__:
        assert getattr(ledger, name).__name__ == name or name in ("Plan",)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        ledger.Nothing  # type: ignore[attr-defined]  # noqa: B018


def test_every_name_is_shown_before_it_is_used() -> None:
    """For completion in a shell, and help()."""
    script = "import ledger; print(*set(ledger.__all__) - set(dir(ledger)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_error_is_importable() -> None:
    raised = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LedgerError)]
    assert [each.__name__ for each in raised if getattr(ledger, each.__name__, None) is not each] == []


ERRORS: list[LedgerError] = [
    errors.InvalidEvent("after.n", "is too large"),
    errors.ChainBroken(7, "is missing", "main"),
    errors.EntryUnreadable(7, "is missing"),
    errors.SigningRefused("forked", "two checkpoints"),
    errors.WitnessRefused("is ahead", 9),
    errors.ProjectionFailed("timeline", "main", 7, "ValueError in apply", from_entry=False),
    errors.Unavailable("Postgres cannot be reached"),
    errors.LedgerError(),
]


def pickled(error: LedgerError) -> Any:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("through", [pickled, copy.copy, copy.deepcopy])
def test_errors_reach_another_process_as_they_are(error: LedgerError, through: Callable[..., LedgerError]) -> None:
    """A pool of processes waits for ever for an error that cannot be unpickled."""
    error.add_note("event 3 of 9")
    other = through(error)
    assert (type(other), str(other), other.args, vars(other)) == (type(error), str(error), error.args, vars(error))


HEAVY = ("psycopg", "psycopg_pool", "redis", "cryptography", "blake3", "msgspec", "click", "rich")


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import ledger; dir(ledger), ledger.__all__", set()),
        ("from ledger import LedgerError", set()),
        ("from ledger import Event", {"msgspec"}),
        ("from ledger import Ledger, AsyncLedger", {"msgspec", "blake3", "psycopg", "psycopg_pool"}),
    ],
)
def test_what_an_import_loads(statement: str, loaded: set[str]) -> None:
    script = f"import sys\n{statement}\nprint(*[each for each in {HEAVY!r} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == loaded


@pytest.mark.parametrize("compiled", [False, True])
def test_the_list_is_read_where_there_is_no_source_file(tmp_path: Path, compiled: bool) -> None:
    """In a zip file, and of compiled files alone."""
    home = Path(ledger.__file__).parent
    modules = ["__init__.py", "errors.py"]
    folder = tmp_path / "code" / "ledger"
    folder.mkdir(parents=True)
    for module in modules:
        (folder / module).write_bytes((home / module).read_bytes())
    if compiled:
        subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", folder], check=True)
        for module in modules:
            (folder / module).unlink()
        path = folder.parent
    else:
        path = tmp_path / "ledger.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for module in modules:
                archive.write(folder / module, f"ledger/{module}")
    script = f"import sys; sys.path.insert(0, {str(path)!r}); import ledger; print(ledger.LedgerError, *ledger.__all__)"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["<class", "'ledger.errors.LedgerError'>", *ledger.__all__]
