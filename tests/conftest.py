"""Fixtures for every test: databases, a scripted chat server, shared data, a clean environment."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url

from tests import compiled, driver_events, memory_folder
from tests.postgres import Emptied, new_database, running_server
from tests.processes import end_zygote
from tests.pythons import choose_pythons, newest_python
from tests.shells import choose_shells

if TYPE_CHECKING:
    from convstore.testing import ChatServer

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    # A script's background and nohup ignore these signals, for all children too; but some tests send them.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

compiled.share()
driver_events.share()

# With `-n`, the process that starts the workers gives them its folder.
in_memory = None if "PYTEST_XDIST_WORKER" in os.environ else memory_folder.use()

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NO_SHARED_DATA = f"NOT RUN: the shared dialogues are not in {SHARED_DATA}"


TOGETHER = {
    "tests/contract/test_growth.py",
    "tests/faults/test_postgres_faults.py",
    "tests/test_bench.py",
    "tests/test_installed_wheel.py",
    "tests/test_real_model.py",
}
"""Files with tests that share what takes seconds to make: a wheel, a bench run, a model, a restarting server."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: give each file of `TOGETHER` to one worker, first; then give every test to a free worker.

    `--dist loadgroup` should do this, and does not with some releases of pytest:
    https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file in TOGETHER else nodeid

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """Take all present objects out of the garbage collection: they stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """End the process that others are forked from."""
    end_zygote()


def pytest_unconfigure() -> None:
    """Remove the temporary files that are in memory."""
    if in_memory is not None:
        shutil.rmtree(in_memory, ignore_errors=True)


@pytest.fixture(scope="session")
def _no_certificates(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _no_certificates: str) -> None:
    """Hide the developer's keys, settings, data and proxies from every test."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "CONVSTORE_")) and name != "CONVSTORE_TEST_POSTGRES":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for kind in ("DATA", "CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / "home" / kind.lower()))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    # Nothing is encrypted here, and reading the system's certificates for each client takes longer than a test.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", _no_certificates)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server. Without one, tests that need it fail; they never skip."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """Yield the name of a database with convstore's schema, made once: a copy is far cheaper than an upgrade."""
    from convstore.db.schema_upgrade import upgrade

    with new_database(postgres_server) as url:
        upgrade(url)
        yield make_url(url).database or ""


@pytest.fixture(scope="session")
def _postgres_emptied(postgres_server: str, postgres_template: str) -> Iterator[Emptied]:
    emptied = Emptied(postgres_server, postgres_template)
    yield emptied
    emptied.close()


@pytest.fixture
def postgres_url(_postgres_emptied: Emptied) -> str:
    """Return a PostgreSQL database with convstore's schema and no rows; one test after another uses it."""
    return _postgres_emptied.url()


@pytest.fixture
def postgres_fresh_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """Yield a new PostgreSQL database with convstore's schema, for tests that change more than rows."""
    with new_database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture
def postgres_empty_url(postgres_server: str) -> Iterator[str]:
    """Yield a new, empty PostgreSQL database."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path}/chat.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Return a database ready for convstore, on each backend in turn. A server starts only if a test needs it."""
    fixture = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def chat_server() -> "Iterator[ChatServer]":
    """Yield a scripted Chat Completions server on this machine."""
    from convstore.testing import ChatServer

    with ChatServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real dialogues beside the repository; a clone does not have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(NO_SHARED_DATA)
    return SHARED_DATA


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what did not run because something was missing, where no one can overlook it."""
    wheel = [one.nodeid for one in terminalreporter.stats.get("passed", ()) if "test_installed_wheel" in one.nodeid]
    newest = newest_python() if wheel else None
    if newest is not None and any("newest_python" in nodeid for nodeid in wheel):
        terminalreporter.write_line(f"the wheel was put to work on Python {python_version()} and on {newest[1]}")
    elif wheel and newest is None:
        missing = f"the wheel was put to work on Python {python_version()} alone: no newer one works on this machine"
        terminalreporter.write_line(missing, red=True, bold=True)
    if wheel:
        _report_oldest(terminalreporter, [nodeid for nodeid in wheel if "oldest_direct" in nodeid])
    if any("test_completion" in one.nodeid for one in terminalreporter.stats.get("passed", ())):
        for shell in choose_shells()[1]:
            line = f"NOT RUN: completion in {shell}, which is not installed"
            terminalreporter.write_line(line, red=True, bold=True)
    if any("test_instructions" in one.nodeid for one in terminalreporter.stats.get("passed", ())):
        from bench.instructions import find_valgrind

        if find_valgrind() is None:
            line = "NOT RUN: the count of instructions: valgrind is not installed"
            terminalreporter.write_line(line, red=True, bold=True)
    skipped = terminalreporter.stats.get("skipped", ())
    missed = sum(NO_SHARED_DATA in str(report.longrepr) for report in skipped)
    if missed:
        terminalreporter.write_line(f"{missed} data tests {NO_SHARED_DATA}", red=True, bold=True)


def _report_oldest(terminalreporter: pytest.TerminalReporter, passed: list[str]) -> None:
    """Print on which Pythons the oldest dependencies worked, and which are absent."""
    pythons, missing = choose_pythons()
    used = [version for version in pythons if any(f"[{version}-" in nodeid for nodeid in passed)]
    if used:
        terminalreporter.write_line(
            f"the oldest direct dependencies were put to work on Python {' and on '.join(used)}"
        )
    for python in missing:
        line = f"NOT RUN: the oldest direct dependencies on {python}: none works on this machine"
        terminalreporter.write_line(line, red=True, bold=True)
