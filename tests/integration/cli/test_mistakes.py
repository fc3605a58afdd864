"""Typical mistakes on the command line and in projections: the error names the cause and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger import Event, Ledger, Projection
from ledger.drivers.pools import Connector
from ledger.errors import InvalidSetting
from ledger.projection.base import find_projections
from ledger.projection.rebuild import rebuild
from ledger.projection.worker import Projector
from tests.support.cli import Cli, cli_of
from tests.support.views import project


@pytest.fixture
def cli(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """On a ledger with an entry, a checkpoint and its proof, in a folder with files of several kinds."""
    monkeypatch.chdir(tmp_path)
    ledger.append(Event("user:1", "a.b", "thing", "t"))
    cli = cli_of(ledger)
    cli.well("keygen", "main.key", "--origin", "log.example")
    Path("note").write_bytes(cli.well("checkpoint", "--key", "main.key").out.encode())
    cli.well("prove", "1", "-o", "proof")
    cli.well("export", "bundle")
    for name in ("note", "proof"):
        Path(f"{name}.crlf").write_bytes(Path(name).read_bytes().replace(b"\n", b"\r\n"))
    Path("empty").touch()
    Path("folder").mkdir()
    return cli


def vkey() -> str:
    from ledger.checkpoints.keys import read_key

    return read_key(Path("main.key")).vkey


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("folder", "is a folder, not a proof or a checkpoint"),
        ("bundle", "'auditledger verify --bundle bundle'"),
        ("bundle/envelopes.jsonl", "is neither a proof nor a checkpoint"),
        ("empty", "is empty"),
        ("note.crlf", "Windows line endings (CR LF)"),
        ("proof.crlf", "Windows line endings (CR LF)"),
        ("missing", "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_evidence(cli: Cli, file: str, said: str) -> None:
    for arguments in (("check", file), ("verify", "--checkpoint", file)):
        ran = cli(*arguments, "--key", vkey())
        if arguments[0] == "verify" and file in ("folder", "bundle", "bundle/envelopes.jsonl"):
            assert ran.code in (1, 2) and "error: " in ran.err
        else:
            assert ran.code == 2 and said in ran.error, ran


def test_what_checkpoints_were_compared(cli: Cli) -> None:
    ran = cli.well("verify", "--checkpoint", "note", "--key", vkey())
    assert "Matches the checkpoint note of log.example/main, 1 entry, root " in ran.out
    [compared] = cli.well("--json", "verify", "--checkpoint", "note", "--key", vkey()).json["compared"]
    assert (compared["file"], compared["size"], len(compared["root"])) == ("note", 1, 64)
    assert compared["root"] in ran.out
    assert cli.well("check", "proof", "--key", vkey()).out.endswith(
        "in the checkpoint of log.example/main at 1 entry\n"
    )


def test_a_checkpoint_that_does_not_match_is_said_to_be_so(cli: Cli, admin: psycopg.Connection) -> None:
    for table in ("audit_logs", "tails"):
        admin.execute(f"alter table ledger.{table} disable trigger user")
    admin.execute("delete from ledger.audit_logs")
    admin.execute("update ledger.tails set position = 0, hash = decode(repeat('00', 32), 'hex')")
    ran = cli("verify", "--checkpoint", "note", "--key", vkey())
    assert ran.code == 1 and "Does not match the checkpoint note of log.example/main, 1 entry" in ran.out, ran


def test_dashes(cli: Cli) -> None:
    assert cli.well("prove", "1", "-o", "-").out.encode() == Path("proof").read_bytes()
    assert "give a folder, not '-'" in cli("export", "-").error
    assert not Path("-").exists()


def test_roles_by_their_short_names(cli: Cli, admin: psycopg.Connection) -> None:
    assert "no role nobody_there in this cluster: CREATE ROLE makes it." in cli("grant", "writer", "nobody_there").error
    assert cli("grant", "wrtier", "x").error.endswith("is not a role: did you mean ledger_writer?")
    assert "usage: ROLE USER" in cli("grant", "app", "writer").error


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (("verify", "--ledger", "mian"), "did you mean 'main'?"),
    (("status", "--ledger", "mian"), "did you mean 'main'?"),
    (("verify", "--checkpoint", "proof", "--key", "x+y"), "is not a public key"),
    (("check", "proof"), "Missing --key: the log's public key"),
    (("check", "proof", "--key", "main.key"), "main.key is a file: give the public key itself"),
    (("prove", "abc"), "neither a position (a whole number from 1) nor the id of an entry"),
    (("erase", "abc", "--actor", "a", "--reason", "b"), "'abc' is not a position: a whole number from 1"),
    (("verify", "--from", "0"), "'0' is not a position: a whole number from 1"),
    (("query", "--limit", "many"), "'many' is not a count: a whole number from 1 to 1,000,000,000"),
    (("query", "--since", "yesterday"), "'yesterday' is not a time: write it as 2026-"),
    (("verfy",), "Did you mean 'verify'?"),
    (("append", "--action", "a.b"), "Missing option '--actor'"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_arguments(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    ran = cli(*arguments)
    assert ran.code == 2 and said in ran.error, ran


def test_a_group_without_a_command_shows_its_help(cli: Cli) -> None:
    ran = cli("witness")
    assert ran.code == 2 and ran.err.startswith("Usage: auditledger witness") and not ran.out


def test_a_dropped_view_is_made_anew_by_replay(ledger: Ledger, admin: psycopg.Connection) -> None:
    ledger.append(Event("user:1", "a.b"))
    project(ledger, find_projections())
    admin.execute("drop table ledger_views.timeline")
    cli = cli_of(ledger)
    assert "'auditledger replay NAME' (or --all) makes it anew" in cli("query").error
    ledger.append(Event("user:1", "a.b"))
    assert "'auditledger replay timeline' builds it anew" in cli("project", "timeline", "--once").err
    cli.well("replay", "timeline")
    assert len(cli.well("--json", "query").jsons) >= 2


# -------------------------------------------------------------------------------------------------------- projections


class Fine(Projection):
    name = "fine"
    tables = ("fine",)
    schema = "create table fine (ledger_id int not null)"

    def apply(self, ledger_id: int, entries: Any, tx: Any) -> None:
        return


def test_methods_that_cannot_be_called_are_refused_with_the_class() -> None:
    with pytest.raises(
        InvalidSetting, match=r"projection Awaiting: apply\(self, .* must be a plain `def` without await"
    ):

        class Awaiting(Fine):
            async def apply(self, ledger_id: int, entries: Any, tx: Any) -> None:  # type: ignore[override]
                return

    with pytest.raises(InvalidSetting, match=r"Yielding: apply.* must be a plain `def`"):

        class Yielding(Fine):
            def apply(self, ledger_id: int, entries: Any, tx: Any) -> Any:
                yield

    with pytest.raises(InvalidSetting, match=r"Short: apply\(self, ledger_id, entries, tx\) is how it is called"):

        class Short(Fine):
            def apply(self, entries: Any, tx: Any) -> None:  # type: ignore[override]
                return

    with pytest.raises(InvalidSetting, match=r"Forgetful: erase\(self, ledger_id, entry, about, tx\) is how"):

        class Forgetful(Fine):
            def erase(self, ledger_id: int, entry: Any, tx: Any) -> None:  # type: ignore[override]
                return


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "My View"}, "its name must be lowercase letters"),
        ({"tables": "fine"}, "its tables must be a tuple of names"),
        (
            {"schema": "create tabel fine (ledger_id int)"},
            "the schema of projection 'fine' cannot be created: syntax error",
        ),
    ],
)
def test_a_projection_that_cannot_be_built(ledger: Ledger, fields: dict[str, Any], said: str) -> None:
    made = type("Wrong", (Fine,), fields)()
    servers = Connector(ledger.settings)
    try:
        with pytest.raises(InvalidSetting, match=said):
            Projector(servers, [made]).install()
        with pytest.raises(InvalidSetting, match=said):
            rebuild(ledger.settings, made)
        with pytest.raises(InvalidSetting, match="Fine is the class of a projection"):
            Projector(servers, [Fine])  # type: ignore[list-item]
        with pytest.raises(InvalidSetting, match="str is not a projection"):
            Projector(servers, ["fine"])  # type: ignore[list-item]
    finally:
        servers.close()
