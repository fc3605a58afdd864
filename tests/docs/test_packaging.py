"""The wheel's contents, the command in a clean environment, and constraints.txt."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
LINES_AT_MOST = 400
# Path in the wheel → why it may be longer.
LONGER = {"ledger/client.py": "the one place that documents every public method"}


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """The command's stdout. Its stderr is part of the failure when it does not end with 0."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution: so that one is complete as well."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def runtime_distributions() -> Iterator[Distribution]:
    """What a plain install of the project brings along: its requirements and theirs, without extras of its own."""
    pending = [(Requirement(line), "") for line in PROJECT["dependencies"]]
    seen: set[tuple[str, str]] = set()
    while pending:
        requirement, parent_extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": parent_extra}):
            continue
        found = distribution(requirement.name)
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(requirement.name), extra)) not in seen:
                seen.add(key)
                pending += [(Requirement(line), extra) for line in found.requires or ()]
                yield found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a clean environment: the wheel and links to its declared dependencies, no more. Offline."""
    folder = tmp_path_factory.mktemp("installed")
    environment, dependencies = folder / "venv", folder / "dependencies"
    dependencies.mkdir()
    for found in runtime_distributions():
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            if not (dependencies / top).exists():
                (dependencies / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=folder)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "-q")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return environment / "bin"


def plain_environment() -> dict[str, str]:
    """This process' environment without what could lead back into the checkout or to another server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LEDGER_", "PG"))}


def test_the_wheel_holds_the_package_its_sql_and_the_projections(wheel: Path) -> None:
    """Everything that runs is in it, the schema under its packaged name too."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    schema = {f"ledger/_schema/{path.name}" for path in (ROOT / "schema").iterdir() if path.is_file()}
    sources = {
        path.relative_to(base).as_posix()
        for base, package in ((ROOT, "ledger"), (ROOT / "projections", "ledger_projections"))
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in schema if name.endswith(".sql")}
    assert {"ledger/_schema/journal.json", "ledger/py.typed", "ledger_projections/__init__.py"} <= names
    assert schema | sources <= names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    """No tests, benchmarks, tools or declared schema are installed into a user's environment."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = f"auditledger-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"ledger", "ledger_projections", info}
    assert f"{info}/licenses/LICENSE" in names
    assert not [name for name in names if re.search(r"(^|/)(tests?/|test_|conftest|declared/)|\.pyc$", name)]


def test_shipped_files_stay_readable(wheel: Path) -> None:
    """A Python file is a room: under 400 lines, or listed with its reason."""
    with zipfile.ZipFile(wheel) as archive:
        lines = {name: len(archive.read(name).splitlines()) for name in archive.namelist() if name.endswith(".py")}
    too_long = {name for name, count in lines.items() if count >= LINES_AT_MOST}
    assert too_long == set(LONGER)


def test_the_command_works_from_a_clean_environment(installed: Path, database_url: str, tmp_path: Path) -> None:
    """Outside the checkout and without the extras: the help, and the migrations, from the wheel alone."""
    env = plain_environment()
    where = "import ledger, ledger_projections; print(ledger.__file__); print(ledger_projections.__file__)"
    for line in run(installed / "python", "-c", where, cwd=tmp_path, env=env).splitlines():
        assert Path(line).is_relative_to(installed.parent)

    assert "migrate" in run(installed / "auditledger", "--help", cwd=tmp_path, env=env)
    for _ in range(2):
        run(installed / "auditledger", "--database-url", database_url, "migrate", cwd=tmp_path, env=env)
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select to_regclass('ledger.audit_logs') is not null").fetchone()
        ledgers = connection.execute("select name from ledger.ledgers").fetchall()
    assert row == (True,)
    assert ledgers == [("main",)]


def pinned() -> dict[str, tuple[str, list[str]]]:
    """Name → (version, hashes) of every package in constraints.txt."""
    joined = re.sub(r" \\\n\s+", " ", CONSTRAINTS)
    rows = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    matches = [re.fullmatch(r"([\w.-]+)==(\S+)( ; [^#]*?)?((?: --hash=sha256:[0-9a-f]{64})*)", row) for row in rows]
    assert None not in matches, [row for row, match in zip(rows, matches, strict=True) if match is None]
    return {canonicalize_name(m[1]): (m[2], m[4].split()) for m in matches if m}


def declared() -> list[Requirement]:
    """Every requirement of pyproject.toml: the project's, its extras' and the build's; but its own native core."""
    extras = PROJECT["optional-dependencies"].values()
    lines = [
        *PROJECT["dependencies"],
        *PYPROJECT["build-system"]["requires"],
        *(line for extra in extras for line in extra),
    ]
    return [each for each in map(Requirement, lines) if each.name != "auditledger-native"]


def test_the_native_core_has_one_version() -> None:
    """native/pyproject.toml, Cargo.toml and Cargo.lock agree, and the extra `native` allows it."""
    [extra] = map(Requirement, PROJECT["optional-dependencies"]["native"])
    package = tomllib.loads((ROOT / "native/pyproject.toml").read_text(encoding="utf-8"))["project"]
    crate = tomllib.loads((ROOT / "native/Cargo.toml").read_text(encoding="utf-8"))["package"]
    locked = tomllib.loads((ROOT / "native/Cargo.lock").read_text(encoding="utf-8"))["package"]
    assert extra.name == package["name"] == crate["name"]
    assert package["version"] == crate["version"]
    assert {each["version"] for each in locked if each["name"] == crate["name"]} == {crate["version"]}
    assert extra.specifier.contains(crate["version"])


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_constraints_pin_every_requirement(requirement: Requirement) -> None:
    """Each is there, at a version that pyproject.toml allows."""
    pins = pinned()
    version, _ = pins[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


def test_constraints_have_hashes_and_name_no_host() -> None:
    """Which index to ask is the installing machine's setting; what comes from it is checked here."""
    pins = pinned()
    assert "pip" in pins
    assert [name for name, (_, hashes) in pins.items() if not hashes] == []
    assert "://" not in CONSTRAINTS
    assert not re.search(r"^\s*-(?!-hash=)", CONSTRAINTS, re.MULTILINE)
