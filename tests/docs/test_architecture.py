"""The picture of the rooms in docs/architecture.md has the arrows of the imports; files named in the docs exist."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ledger"
ROOMS = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
CLIENT = {"client", "async_client", "bootstrap"}
"""Modules that the picture shows as one node, `client`."""
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

_FOLDERS = "ledger|projections|schema|tests|docs|examples|tools|bench"
_PATH = re.compile(rf"(?<![\w./-])(?:{_FOLDERS})/[\w./-]*\w")
Arrow = tuple[str, str]


def drawn() -> set[Arrow]:
    """The arrows of the first Mermaid picture: `a[label] --> b & c`, or chains of these."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    picture = re.search(r"^```mermaid\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert picture is not None
    arrows = set()
    for line in picture[1].splitlines():
        groups = [re.findall(r"\w+", part) for part in re.sub(r"\[[^]]*\]", "", line).split("-->")]
        for left, right in pairwise(groups):
            arrows |= set(product(left, right))
    return arrows


def node_of(module: str) -> str | None:
    """The node that stands for `ledger.<module>`; None for the files beside the rooms."""
    return module if module in ROOMS else "client" if module in CLIENT else None


def imported(file: Path) -> Iterator[str]:
    """The first names below `ledger` that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "ledger":
            names = [f"ledger.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("ledger."))


def imports() -> dict[str, set[str]]:
    """For each node, the nodes that its files import."""
    graph: dict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        source = node_of(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        if source is not None:
            graph[source] |= {node for node in map(node_of, imported(file)) if node not in (None, source)}
    return graph


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    nodes = set(graph.get(start, ()))
    for node in list(nodes):
        nodes |= reachable(graph, node)
    return nodes


def reduced(graph: dict[str, set[str]]) -> set[Arrow]:
    """The transitive reduction: the arrows that do not follow from others."""
    return {
        (source, target)
        for source, targets in graph.items()
        for target in targets
        if not any(target in reachable(graph, other) for other in targets - {target})
    }


def test_the_picture_of_the_rooms_has_the_arrows_of_the_imports() -> None:
    assert drawn() == reduced(imports())


def test_the_picture_has_every_room() -> None:
    assert {node for arrow in drawn() for node in arrow} == ROOMS | {"client"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_named_file_exists(document: Path) -> None:
    named = set(_PATH.findall(document.read_text(encoding="utf-8")))
    assert {path for path in named if "NNNN" not in path and not (ROOT / path).exists()} == set()
