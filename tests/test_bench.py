"""Test that the quick form of `make bench` runs, prints every row and leaves nothing behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

ROOT = Path(__file__).resolve().parent.parent

ROWS = [
    *(
        f"{backend}, {label}"
        for backend in ("SQLite", "PostgreSQL")
        for label in (
            "a message alone",
            "with 10 messages before it",
            "with all its history",
            "read the last 50",
            "append one",
            "say one alone",
            "read the last 20",
            "read all 1,000",
            "a window of 4,000 tokens",
            "append 1,000 at once",
        )
    ),
    "SQLite",
    "PostgreSQL",
    *(f"PostgreSQL, {count} {kind}" for count in (1, 16, 64) for kind in ("threads", "tasks")),
    "PostgreSQL, 500 tasks",
    "PostgreSQL, 2 processes, 8 threads each",
    *(
        f"{backend}, {act}"
        for backend in ("SQLite", "PostgreSQL")
        for act in (
            "list, the first page",
            "get by id",
            "get by 7 characters of an id",
            "get by name",
            "fork of 10 messages",
            "fork of 2,000 messages",
        )
    ),
    "a reply of 4 KB",
    *(f"convstore {argument}" for argument in ("--help", "--version", "list", "say")),
]


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="session")
def databases_before(postgres_server: str) -> set[str]:
    return _databases(postgres_server)


@pytest.fixture(scope="session")
def printed(bench_folder: Path, postgres_server: str, databases_before: set[str]) -> str:
    environment = {**os.environ, "TMPDIR": str(bench_folder), "CONVSTORE_TEST_POSTGRES": postgres_server}
    done = subprocess.run(
        [sys.executable, "bench/run.py", "--quick"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("row", ROWS)
def test_every_row_begins_with_its_ratios(printed: str, row: str) -> None:
    lines = [line for line in printed.splitlines() if re.search(rf"   {re.escape(row)}(  |$)", line)]
    assert lines, printed
    for line in lines:
        first, second = line.split()[:2]
        assert float(first) > 0
        assert float(second) > 0


@pytest.mark.parametrize(
    ("row", "least"),
    [
        ("SQLite, a chunk of 260", 0.1),
        ("PostgreSQL, a chunk of 260", 0.1),
        ("text of the messages", 1),
        ("the file", 1.5),
        ("SQLite, 2,000 messages of 300 characters", 1),
    ],
)
def test_the_other_rows_begin_with_a_number(printed: str, row: str, least: float) -> None:
    (line,) = [line for line in printed.splitlines() if re.search(rf"   {re.escape(row)}(  |$)", line)]
    assert float(line.split()[0].replace(",", "")) >= least


def test_the_service_is_measured(printed: str) -> None:
    lines = printed.partition("The service on SQLite")[2].splitlines()[2:6]
    assert len(lines) == 4
    for line in lines:
        assert re.match(r" +-?[0-9.]+   (ms of CPU|ms|µs of CPU|MB at most)   ", line), line


def test_a_say_is_as_many_statements_and_commits_at_any_length(printed: str) -> None:
    counted = [line for line in printed.splitlines() if re.search(r"  10 → [\d,]+  ", line)]
    assert len(counted) == 4
    for line in counted:
        statements = 10 if "PostgreSQL" in line else 11
        assert re.search(rf"   {statements} → {statements} +2 → 2 ", line), line


def test_the_versions_are_stated(printed: str) -> None:
    head = printed.split("\n\n", maxsplit=1)[0]
    for name in ("Python", "SQLite", "SQLAlchemy", "PostgreSQL", "psycopg"):
        assert re.search(rf"\b{name} \d", head), head


@pytest.mark.usefixtures("printed")
def test_nothing_is_left_behind(bench_folder: Path, postgres_server: str, databases_before: set[str]) -> None:
    # Each process that runs turns has a lock file here while it lives; the folder stays.
    assert [path.name for path in bench_folder.rglob("*") if not path.is_dir()] == []
    assert {path.name for path in bench_folder.iterdir()} <= {f"convstore-{os.getuid()}"}
    if "CONVSTORE_TEST_POSTGRES" not in os.environ:  # else others may use that server
        assert _databases(postgres_server) <= databases_before


def _databases(server: str) -> set[str]:
    url = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
