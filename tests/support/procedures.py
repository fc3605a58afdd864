"""The procedures of docs/operations.md: its code blocks by heading, and what runs them as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.support.cli import Cli
from tests.support.clusters import Clusters

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/operations.md"
AS_POSTGRES = "# as postgres"
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_REDIS_CLI = """\
#!{python}
import sys
import redis
url, *command = sys.argv[2:]
print(redis.Redis.from_url(url).execute_command(*command))
"""
"""Where no redis-cli is installed: `redis-cli -u URL COMMAND …`."""

T = TypeVar("T", bound=Callable[..., Any])


class Block(NamedTuple):
    """A code block under a heading."""

    heading: str
    language: str
    text: str


def performed() -> set[str]:
    """The headings that the tests of tests/docs/ name with `performs`."""
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests/docs").glob("test_*.py")]
    marks = [mark for source in sources for mark in re.findall(r"^@performs\((.*)\)$", source, re.MULTILINE)]
    return {heading for mark in marks for heading in re.findall(r'"([^"]+)"', mark)}


def blocks() -> list[Block]:
    """In order. Comments of a block of SQL or shell are part of it, comments of the document are not."""
    text = DOCUMENT.read_text(encoding="utf-8")
    headings = [(match.start(), match[1]) for match in _HEADING.finditer(_FENCE.sub(_blank, text))]
    return [
        Block(
            next(title for start, title in reversed(headings) if start < match.start()),
            match[2],
            textwrap.dedent(match[1] + match[3].removeprefix(match[1])),
        )
        for match in _FENCE.finditer(text)
    ]


def _blank(match: re.Match[str]) -> str:
    """As long, so that what follows stays where it is."""
    return " " * len(match[0])


def performs(*headings: str) -> Callable[[T], T]:
    """Marks a test that runs all blocks under these headings; it takes the fixture `perform`."""

    def mark(test: T) -> T:
        test.headings = headings  # type: ignore[attr-defined]
        return test

    return mark


class Perform:
    """Runs the blocks under a test's headings, one after the other, with the variables in `env`."""

    def __init__(self, headings: tuple[str, ...], folder: Path, clusters: Clusters) -> None:
        self.env: dict[str, str] = {}
        self.folder = folder
        self._clusters = clusters
        self._left = {
            heading: [block for block in blocks() if (block.heading, block.language) == (heading, "sh")]
            for heading in headings
        }
        bin_ = folder / "bin"
        bin_.mkdir()
        self._path = [str(Path(sys.executable).parent), str(clusters.tools), str(bin_), os.environ["PATH"]]
        if shutil.which("redis-cli") is None:
            (bin_ / "redis-cli").write_text(_REDIS_CLI.format(python=sys.executable))
            (bin_ / "redis-cli").chmod(0o755)

    def __call__(self, heading: str, **env: str) -> subprocess.CompletedProcess[str]:
        """The next block under the heading, which must succeed. env: further variables, also for what comes later."""
        return self._run(self._left[heading].pop(0), env)

    def borrow(self, heading: str, number: int, **env: str) -> subprocess.CompletedProcess[str]:
        """A block under a heading that another test performs."""
        return self._run([each for each in blocks() if (each.heading, each.language) == (heading, "sh")][number], env)

    def left(self) -> list[Block]:
        """What was not run."""
        return [block for blocks in self._left.values() for block in blocks]

    def _run(self, block: Block, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        self.env |= env
        if block.text.startswith(AS_POSTGRES):
            options = self._clusters.options()
            options["env"] = options["env"] | self.env
        else:
            kept = {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
            options = {"cwd": self.folder, "env": kept | {"PATH": ":".join(self._path), "LC_ALL": "C"} | self.env}
        # Servers that it starts must not hold our pipes.
        with (self.folder / "out").open("w+") as out, (self.folder / "err").open("w+") as err:
            code = subprocess.run(
                ["bash", "-euc", block.text], stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False, **options
            ).returncode
        done = subprocess.CompletedProcess(
            block.text, code, (self.folder / "out").read_text(), (self.folder / "err").read_text()
        )
        assert code == 0, (block.text, done.stdout, done.stderr)
        return done


def main_of(cli: Cli) -> Any:
    """What status says of the ledger."""
    [found] = cli("status", "--json").json["ledgers"]
    return found


@contextmanager
def appender(database_url: str, promises: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that appends, again and again, and notes each receipt that it was handed."""
    environment = os.environ | {"LEDGER_DATABASE_URL": database_url, "PYTHONPATH": f"{ROOT}:{ROOT / 'projections'}"}
    command = [sys.executable, "-m", "tests.support.parts", "append", "a", str(promises)]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def promised(promises: Path) -> list[tuple[int, str]]:
    """Position and hash of each receipt."""
    text = promises.read_text() if promises.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may still be being written
    return [(int(position), digest) for _, position, digest in (line.split() for line in lines)]
