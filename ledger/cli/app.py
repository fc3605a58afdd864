"""The command `auditledger`: global options, the table of commands (each loaded when it is called), exit codes.

0   success
1   integrity failure: the ledger does not verify, or data was found that contradicts itself
2   usage error, or bad input
3   service unavailable: a server is unreachable, or the output cannot be written
70  internal error, of this program or of a projection (sysexits.h: EX_SOFTWARE)
130 interrupted; 141 stdout was closed by its reader
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from ledger.cli import standard_streams
from ledger.cli.context import Interrupted, Shared
from ledger.cli.text import error_line, plain, redacted, use_json_lines, writes_json_lines
from ledger.errors import IntegrityError, LedgerError, Unavailable, UsageError

PROGRAM = "auditledger"
OK, DOES_NOT_VERIFY, WRONG_USE, UNREACHABLE, FAULT, INTERRUPTED, PIPE = 0, 1, 2, 3, 70, 130, 141

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "See it": {
        "demo": ("demo", "Run an end-to-end demo on sample data, on servers of its own"),
    },
    "Servers and schema": {
        "up": ("servers", "Start the embedded Postgres and Valkey; print their URLs"),
        "down": ("servers", "Stop the embedded servers; their data stays"),
        "migrate": ("servers", "Bring the schema up to date; create ledger main"),
        "create": ("servers", "Create another ledger"),
        "grant": ("grant", "Give a database user a role: recorder, writer, reader, projector, eraser, admin"),
        "revoke": ("grant", "Take a role from a database user"),
        "status": ("status", "Show tail, stream, lag and last verification of every ledger"),
        "doctor": ("doctor", "Check versions, settings, protections, clocks and lag; print advice"),
    },
    "Record": {
        "append": ("record", "Append one event; print its receipt"),
        "import": ("record", "Append events from a file or stdin: JSON lines or CloudTrail"),
        "capture": ("capture", "Record the changes of tables: install, remove, diff, status, backfill"),
    },
    "Erase": {
        "erase": ("erase", "Remove an entry's body; record who did it and why"),
        "hold": ("erase", "Place a legal hold on a resource or an entry"),
        "release": ("erase", "Release a legal hold"),
        "quarantine": ("erase", "Let workers pass an entry that fails verification, on the record"),
    },
    "Sign": {
        "keygen": ("sign", "Create a key that signs checkpoints; print the public key"),
        "checkpoint": ("sign", "Sign a checkpoint of the ledger; publish it"),
        "rebuild-tree": ("sign", "Remove wrong tiles and checkpoints, on the record"),
        "rotate-key": ("sign", "Replace the signing key"),
    },
    "Publish and project": {
        "run": ("workers", "Run seal, relay and project in one process"),
        "seal": ("workers", "Append what applications recorded in the outbox"),
        "relay": ("workers", "Publish entries to the Redis streams"),
        "project": ("workers", "Apply entries to read views"),
        "replay": ("workers", "Rebuild read views from Postgres, beside the live ones"),
        "salvage": ("salvage", "Save entries of the stream that a rolled-back database has lost"),
        "skip": ("skip", "Leave an entry out of the projection that is blocked at it"),
        "retry": ("skip", "Undo a skip: rebuild the projection with the entry"),
        "groups": ("groups", "List consumer groups; reset or delete one"),
        "parked": ("skip", "List a consumer group's dead letters; --retry delivers one again"),
    },
    "Read": {
        "tail": ("read", "Show the newest entries; --follow waits for more"),
        "query": ("read", "Search by actor, action, resource, time, words"),
        "history": ("read", "Show the changes of a resource, field by field"),
        "state": ("read", "Show the current state of a resource"),
        "activity": ("read", "Count actions by actor and day"),
    },
    "Check": {
        "verify": ("verify", "Check the chain, bodies, tail and protections; list every finding"),
        "export": ("verify", "Write a bundle that anyone can check"),
        "prove": ("proofs", "Prove that an entry is in the ledger, or that a checkpoint continues another"),
        "check": ("proofs", "Check a proof or a checkpoint, without a database"),
    },
    "Witness other logs": {
        "witness": ("witness", "Cosign checkpoints of other logs: keygen, serve"),
    },
}
_MODULES = {name: module for section in COMMANDS.values() for name, (module, _) in section.items()}


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        setattr(context.ensure_object(Shared), str(option.name), value)


def _global_options(*, after_command: bool) -> list[click.Option]:
    """The global options, accepted before and after the command's name."""

    def option(name: str, text: str, **more: Any) -> click.Option:
        hidden = after_command and name != "--json"
        return click.Option([name], help=text, expose_value=False, callback=_keep, hidden=hidden, **more)

    return [
        option("--database-url", "Postgres; default LEDGER_DATABASE_URL.", metavar="URL"),
        option("--redis-url", "Redis or Valkey; default LEDGER_REDIS_URL.", metavar="URL"),
        option("--ledger", "The ledger; default LEDGER_NAME, then main.", metavar="NAME"),
        option("--home", "Folder of the embedded servers; default LEDGER_HOME, then .ledger.", metavar="DIR"),
        option("--json", "Print JSON: one object, or one per line.", is_flag=True),
    ]


class Command(click.Command):
    """A command that accepts the global options."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += _global_options(after_command=True)


class _Commands(click.Group):
    """Loads a command's module when it is called, so that help is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            close = get_close_matches(cmd_name, _MODULES, 1)
            if close and ctx is not None and not ctx.resilient_parsing:
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {close[0]!r}?")
            return None
        module = import_module(f"ledger.cli.commands.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _MODULES))
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in commands.items()])


def _print_version(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version  # noqa: PLC0415 - takes long to load

        from ledger.format.native import CORE  # noqa: PLC0415

        click.echo(f"{PROGRAM} {version(PROGRAM)}\ncore: {CORE}")
        context.exit()


def _root() -> None:
    """A tamper-evident audit ledger on Postgres.

    Without a database URL it starts and uses an embedded Postgres and Valkey in .ledger.
    """


cli = _Commands(
    PROGRAM,
    callback=_root,
    params=[
        *_global_options(after_command=False),
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
            help="Print the version, and which core encodes and checks entries.",
        ),
    ],
    help=_root.__doc__,
    epilog=f"Details: '{PROGRAM} COMMAND --help'. Exit codes: 0 success, 1 integrity failure, "
    "2 usage error, 3 service unavailable, 70 internal error.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    no_args_is_help=False,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code. An error is one line on stderr."""
    standard_streams.prepare()
    use_json_lines(False)
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return PIPE
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except Exception as error:
        return _fail(error)
    finally:
        standard_streams.settle()


def _run(arguments: list[str]) -> int:
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
        cli.main(arguments, prog_name=PROGRAM)  # shell completion; does not return
    if not arguments:
        with cli.make_context(PROGRAM, ["--help"], resilient_parsing=True) as context:
            click.echo(cli.get_help(context), err=True)
        return WRONG_USE
    try:
        with cli.make_context(PROGRAM, arguments) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return code if isinstance(code, int) else OK


def _fail(error: Exception) -> int:
    if os.environ.get("LEDGER_DEBUG"):
        with suppress(OSError, ValueError):
            for each in redacted("".join(traceback.format_exception(error))).splitlines():
                print(plain(each), file=sys.stderr)
    hint = ""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            with suppress(OSError, ValueError):
                click.echo(error.format_message(), err=True)
            return WRONG_USE
        case click.ClickException():
            code, text = WRONG_USE, error.format_message()
            if isinstance(error, click.UsageError) and error.ctx is not None:
                hint = f"Try '{error.ctx.command_path} --help'."
        case Interrupted():
            code, text = INTERRUPTED, str(error)
        case LedgerError():
            codes = {IntegrityError: DOES_NOT_VERIFY, UsageError: WRONG_USE, Unavailable: UNREACHABLE}
            code = next((code for kind, code in codes.items() if isinstance(error, kind)), FAULT)
            text = str(error)
        case OSError(strerror=str(reason)) if error.filename:
            code, text = WRONG_USE, f"{os.fsdecode(error.filename)}: {reason}"
        case OSError(strerror=str(reason)):
            code, text = UNREACHABLE, f"the output cannot be written: {reason}; changes that the command made stay"
        case _:
            code, text = (
                FAULT,
                f"{type(error).__name__}: {error} (an internal error; LEDGER_DEBUG=1 shows the traceback)",
            )
    for remark in getattr(error, "__notes__", ()):
        text = f"{text.rstrip('.')}. {remark}"
    error_line(text)
    if hint and not writes_json_lines():
        with suppress(OSError, ValueError):
            print(hint, file=sys.stderr)
    return code
