"""Test the package as users get it: built, installed without the checkout, and used from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from convstore import __version__
from convstore.testing import ChatServer, Reply
from tests.forking_python import ForkingPython, forking_python
from tests.pythons import choose_pythons, newest_python

CHECKOUT = Path(__file__).resolve().parents[1]
MIGRATIONS = {
    f"convstore/{path.relative_to(CHECKOUT)}"
    for path in (CHECKOUT / "migrations").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _run(
    *command: str, cwd: Path, env: dict[str, str] | None = None, status: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel made from it (not from the checkout)."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT), cwd=folder)
    return folder


@pytest.fixture(scope="session")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed wheel; its dependencies are those of the tests."""
    site = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index")
    _run(*pip, "--target", str(site), str(wheel), cwd=site)
    return site


@pytest.fixture(scope="session")
def forking(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkingPython]:
    """Yield a process that forks programs on the installed package."""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    with forking_python(sys.executable, "-W", "error", cwd=tmp_path_factory.mktemp("forking"), env=env) as forking:
        assert forking.package.is_relative_to(installed), f"not the wheel but {forking.package} would be tested"
        yield forking


@pytest.fixture
def run_installed(installed: Path, forking: ForkingPython, tmp_path: Path) -> Run:
    """Return a function that runs a Python program on the installed package, in an empty folder.

    With `new=True` it is a new Python; else it is forked from one that has imported the package.
    """
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*arguments: str, new: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(installed), **environment}
        if not new:
            return forking.run(*arguments, cwd=empty, env=env)
        return _run(sys.executable, "-W", "error", *arguments, cwd=empty, env=env)

    return run


def test_the_wheel_has_the_package_and_its_migrations_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= MIGRATIONS
    assert names >= {"convstore/py.typed", "convstore/testing/server.py", "convstore/cli/__init__.py"}
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"convstore"}
    stray = ("tests/", "shared", "__pycache__", ".pyc", ".db", "bench", "demo", "alembic.ini")
    assert [name for name in names if any(part in name for part in stray)] == []
    sources = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "convstore").rglob("*.py")}
    assert sources <= names


def test_the_sdist_has_what_a_packager_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "alembic.ini", "migrations/env.py", "tests/conftest.py"} <= names
    assert [name for name in names if "__pycache__" in name or name.startswith(("shared", ".venv"))] == []


def test_the_wheel_requires_psycopg_only_as_an_extra(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        required = [line for line in archive.read(metadata).decode().splitlines() if line.startswith("Requires-Dist")]
    assert [line for line in required if "psycopg" in line] == [
        line for line in required if line.endswith("extra == 'postgres'")
    ]
    assert len([line for line in required if "extra" not in line]) >= 4


DIALOGUE = """
from convstore import Store

with Store() as store:
    conversation = store.new("Olympics", system="Be brief.")
    assert store.say(conversation.id, "Where were the 2008 games held?").text == "In Beijing."
    with store.stream(conversation.id, "And in 2012?") as reply:
        assert "".join(reply) == "In London."
    for message in store.history(conversation.id):
        print(message["role"], message["content"])
"""


def test_an_installed_package_makes_a_database_and_holds_a_dialogue(
    run_installed: Run, database_url: str, chat_server: ChatServer
) -> None:
    chat_server.script(Reply("In Beijing."), Reply("In London."))
    environment = _environment(database_url, chat_server)
    said = run_installed("-c", DIALOGUE, new=True, **environment).stdout
    assert said.splitlines() == [
        "system Be brief.",
        "user Where were the 2008 games held?",
        "assistant In Beijing.",
        "user And in 2012?",
        "assistant In London.",
    ]
    assert json.loads(run_installed("-m", "convstore", "db", "check", "--json", **environment).stdout)["up_to_date"]


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_an_installed_command_upgrades_a_database_and_remembers(
    run_installed: Run, installed: Path, backend: str, chat_server: ChatServer, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_empty_url")
    _remembers(run_installed, str(installed / "bin" / "convstore"), _environment(url, chat_server), chat_server)


def _remembers(run_installed: Run, convstore: str, environment: dict[str, str], chat_server: ChatServer) -> None:
    chat_server.script(Reply("I will."), Reply("It is 4821."))
    assert "schema none -> " in run_installed(convstore, "db", "upgrade", new=True, **environment).stdout
    id = run_installed(convstore, "new", "Secret", "--system", "Answer briefly.", **environment).stdout.strip()
    run_installed(convstore, "say", "-c", id, "The secret code is 4821. Please remember it.", **environment)
    said = run_installed(convstore, "say", "-c", id, "What is the secret code?", **environment)
    assert said.stdout == "It is 4821.\n"
    assert [message["role"] for message in chat_server.requests[-1].body["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    shown = json.loads(run_installed(convstore, "show", id, "--json", **environment).stdout)
    assert [record["position"] for record in shown["messages"]] == [1, 2, 3, 4, 5]


# --- another Python ---

NEWEST = newest_python()


@pytest.fixture(scope="session")
def installed_elsewhere(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of a new environment: the newest Python, the wheel and its dependencies."""
    assert NEWEST is not None
    folder = tmp_path_factory.mktemp("elsewhere")
    (wheel,) = built.glob("*.whl")
    _install(NEWEST[0], folder, f"{wheel}[postgres,server]")
    return folder / "bin"


def _install(python: Path, folder: Path, *packages: str) -> None:
    """Make an environment of a Python in a folder, and install packages into it.

    The pip of the tests installs: to unpack another one takes longer than all the rest.
    """
    _run(str(python), "-m", "venv", "--without-pip", str(folder), cwd=folder)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python"))
    _run(*pip, "install", "--no-compile", *packages, cwd=folder)


@pytest.fixture(scope="session")
def forking_elsewhere(installed_elsewhere: Path) -> Iterator[ForkingPython]:
    """Yield a process that forks programs on the newest Python."""
    elsewhere = str(installed_elsewhere / "python")
    with forking_python(elsewhere, "-W", "error", cwd=installed_elsewhere, env=dict(os.environ)) as forking:
        assert forking.package.is_relative_to(installed_elsewhere.parent)
        yield forking


if NEWEST is not None:  # else the summary says that no newer Python exists

    @pytest.mark.parametrize("python", [f"python{NEWEST[1].rpartition('.')[0]}"])
    @pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
    def test_the_package_works_on_the_newest_python(
        installed_elsewhere: Path,
        forking_elsewhere: ForkingPython,
        tmp_path: Path,
        backend: str,
        python: str,
        chat_server: ChatServer,
        request: pytest.FixtureRequest,
    ) -> None:
        url = request.getfixturevalue("sqlite_url" if backend == "sqlite" else "postgres_empty_url")

        def run(*arguments: str, new: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
            env = {**os.environ, **environment}
            if not new:
                return forking_elsewhere.run(*arguments, cwd=tmp_path, env=env)
            elsewhere = str(installed_elsewhere / "python")
            return _run(elsewhere, "-W", "error", *arguments, cwd=tmp_path, env=env)

        version = run("-c", "import sys; print(sys.version.split()[0])").stdout
        assert f"python{version}".startswith(f"{python}.")
        _remembers(run, str(installed_elsewhere / "convstore"), _environment(url, chat_server), chat_server)


# --- the oldest dependencies ---

OLDEST_PYTHONS = choose_pythons()[0]  # the summary names what is missing
VERSIONS = (
    "import convstore, json, sys, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
)


def read_oldest() -> dict[str, Requirement]:
    """Read the direct dependencies, each at the oldest release that is allowed."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    oldest = {}
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["postgres"], *extras["server"]):
        requirement = Requirement(text)
        (floor,) = requirement.specifier
        assert floor.operator == ">=", text
        requirement.specifier = SpecifierSet(f"=={floor.version}")
        oldest[requirement.name] = requirement
    return oldest


@pytest.fixture(scope="session", params=OLDEST_PYTHONS)
def installed_with_oldest(
    built: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """Return the folder of programs of a new environment: the wheel and its oldest dependencies."""
    folder = tmp_path_factory.mktemp("oldest")
    (wheel,) = built.glob("*.whl")
    _install(OLDEST_PYTHONS[request.param], folder, str(wheel), *map(str, read_oldest().values()))
    return folder / "bin"


def _clean_environment() -> dict[str, str]:
    # PYTHONPATH would bring the checkout in; what the first program compiles is for those after it.
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="session")
def forking_oldest(installed_with_oldest: Path) -> Iterator[ForkingPython]:
    """Yield a process that forks programs with the oldest dependencies."""
    python = str(installed_with_oldest / "python")
    with forking_python(python, "-W", "error", cwd=installed_with_oldest, env=_clean_environment()) as forking:
        where = forking.package
        assert where.is_relative_to(installed_with_oldest.parent), f"not the wheel but {where} would be tested"
        yield forking


@pytest.fixture
def run_oldest(
    installed_with_oldest: Path,
    forking_oldest: ForkingPython,
    tmp_path: Path,
    database_url: str,
    chat_server: ChatServer,
) -> Run:
    """Return a function that runs a program with the oldest dependencies.

    With `new=True` it is a new Python; else it is forked from one that has imported the package.
    """
    environment = _clean_environment() | _environment(database_url, chat_server)

    def run(*arguments: str, new: bool = False, status: int = 0) -> subprocess.CompletedProcess[str]:
        if not new:
            return forking_oldest.run(*arguments, cwd=tmp_path, env=environment, status=status)
        python = (str(installed_with_oldest / "python"), "-P", "-W", "error")
        return _run(*python, *arguments, cwd=tmp_path, env=environment, status=status)

    return run


def test_the_package_works_with_the_oldest_direct_dependencies(run_oldest: Run, installed_with_oldest: Path) -> None:
    oldest = read_oldest()
    versions = json.loads(run_oldest("-c", VERSIONS, *oldest).stdout)
    assert [name for name, floor in oldest.items() if versions[name] not in floor.specifier] == [], versions

    id, messages = run_oldest(str(CHECKOUT / "tests" / "oldest_dialogue.py"), new=True).stdout.split()
    assert messages == "9"

    command = str(installed_with_oldest / "convstore")
    assert __version__ in run_oldest(command, "--version").stdout
    assert "ready" in run_oldest(command, "db", "check").stdout
    assert run_oldest(command, "say", "-c", id, "Once more").stdout == "You said: Once more\n"
    assert id in run_oldest(command, "list").stdout
    refused = run_oldest(command, "say", "--no-such-option", status=2)  # click's own errors pass through our code
    assert "--no-such-option" in refused.stderr
    assert "Traceback" not in refused.stderr


def _environment(url: str, chat_server: ChatServer) -> dict[str, str]:
    return {
        "CONVSTORE_DB": url,
        "CONVSTORE_MODEL": "test-model",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": chat_server.url,
    }
