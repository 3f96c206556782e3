"""Test that a short soak runs and leaves nothing behind, and that the checks find what they are for."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from convstore import Store
from convstore.db.schema_upgrade import upgrade
from tests.processes import ROOT
from tests.soak.checker import Checker
from tests.soak.checks import check_takes
from tests.soak.evidence import EvidenceReader
from tests.soak.journal import Entry, Journal
from tests.soak.lanes import Lane, Target
from tests.soak.model_server import CALM, LOG, TroubledServer
from tests.soak.plan import Plan
from tests.soak.workers import noting_takes, open_sync

TARGET = Target("", "c")
LAST_REPLY = "(SELECT max(output_seq) FROM convstore_turns)"
LAST_APPENDED = "(SELECT max(seq) FROM convstore_messages WHERE content LIKE 'appended %')"
KEYED = "(SELECT seq FROM convstore_turns WHERE idempotency_key IS NOT NULL)"

# What is done to the database, and a part of the violation that must be reported then.
DAMAGES = [
    (f"DELETE FROM convstore_messages WHERE seq = {LAST_APPENDED}", "is missing, not 'appended "),
    (f"UPDATE convstore_messages SET content = 'other' WHERE seq = {LAST_APPENDED}", "is 'other', not 'appended "),
    (f"DELETE FROM convstore_messages WHERE seq = {LAST_REPLY}", "is stored 0 times"),
    (f"UPDATE convstore_messages SET content = 'other' WHERE seq = {LAST_REPLY}", "the server sent '#"),
    (f"UPDATE convstore_messages SET content = 'other' WHERE seq = {LAST_REPLY}", "db verify: "),
    ("DELETE FROM convstore_messages WHERE content LIKE 'said %'", "the message 'said "),
    ("UPDATE convstore_messages SET position = 9 WHERE seq = 3", "AssertionError: message seq 3: wrong position"),
    ("DELETE FROM convstore_turns WHERE seq = 1", "turn 1 is missing"),
    ("UPDATE convstore_turns SET status = 'running' WHERE seq = 1", "turn 1 is still running"),
    ("UPDATE convstore_turns SET status = 'failed' WHERE seq = 1", "turn 1 was completed, and is failed"),
    ("UPDATE convstore_turns SET response_id = 'x-99' WHERE seq = 1", "turn 1: the server never sent the reply"),
    ("UPDATE convstore_turns SET response_id = 'x-1'", "its reply is also that of turn"),
    (f"UPDATE convstore_turns SET idempotency_key = 'other' WHERE seq = {KEYED}", "key 'other': its reply was asked"),
    (
        "DROP INDEX convstore_turns_owner_conversation_id_idempotency_key_key; "
        f"UPDATE convstore_turns SET idempotency_key = one.idempotency_key "
        f"FROM convstore_turns AS one WHERE one.seq = {KEYED}",
        "several completed turns: [1, 2, 3]",
    ),
    (
        "CREATE TEMP TABLE copies AS SELECT * FROM convstore_messages WHERE content LIKE 'appended %'; "
        "UPDATE copies SET seq = seq + 20; INSERT INTO convstore_messages SELECT * FROM copies",
        "was appended once, and is stored 2 times",
    ),
    (
        f"CREATE TEMP TABLE copies AS SELECT * FROM convstore_messages WHERE seq = {LAST_REPLY}; "
        "UPDATE copies SET seq = seq + 20; INSERT INTO convstore_messages SELECT * FROM copies",
        "is stored in several places",
    ),
    ("UPDATE convstore_turns SET ended_at = '2999-01-01 00:00:00.000000' WHERE seq = 1", "turn 2 asked the model"),
    ("UPDATE convstore_conversations SET id = 'other'", "conversation 'c' is missing"),
    ("INSERT INTO convstore_deltas VALUES ('', 'c', 1, 1, '{}')", "deltas of turn 1 are left"),
]

# The first turn seems to run in a process that is gone.
ABANDON = (
    "UPDATE convstore_turns SET status = 'running', ended_at = NULL WHERE seq = 1; "
    "UPDATE convstore_conversations SET running_turn = 1, lease_token = 'gone', "
    "lease_expires_at = '2000-01-01 00:00:00.000000'"
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = Plan("sqlite", seed=1, seconds=60, folder=str(tmp_path), began=time.monotonic())
    plan.journals.mkdir()
    upgrade(plan.url_of_file)
    return plan


@pytest.fixture
def lane(plan: Plan) -> Iterator[Lane]:
    with closing(Journal(plan.journals / "calm.jsonl")) as journal:
        yield Lane(CALM, plan, journal)


@pytest.fixture
def log(plan: Plan) -> Iterator[Journal]:
    with closing(Journal(Path(plan.folder, LOG))) as log:
        yield log


@pytest.fixture
def store(plan: Plan, lane: Lane, log: Journal) -> Iterator[Store]:
    """Yield a store with which a lane has made some calls."""
    with TroubledServer(plan, log) as server, open_sync(plan, plan.url_of_file, server.url, lane) as store:
        made = [lane.create, lane.say, lane.say_with_key, lane.append, lane.stream]
        assert all("error" not in make(store, TARGET) for make in made)
        yield store


@pytest.fixture
def check(plan: Plan, store: Store) -> Callable[[], list[str]]:
    """Return a function that makes the last check, and returns the violations."""
    checker = Checker(plan, plan.url_of_file)

    def check() -> list[str]:
        checker.check(at_end=True)
        return list(checker.violations)

    return check


def test_a_short_soak_finds_nothing_and_leaves_nothing_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("soak")  # a short name: the path of a socket has 107 bytes at most
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak.run", "--minutes", "0.06", "--seed", "1", "--databases", "sqlite"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("no violation, SEED=1\n")
    assert "kills" in done.stdout
    # Each process that runs turns has a lock file here while it lives; the folder stays.
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == []
    assert {path.name for path in folder.iterdir()} <= {f"convstore-{os.getuid()}"}


def test_the_checks_find_nothing_in_an_undamaged_database(check: Callable[[], list[str]]) -> None:
    assert check() == []


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_the_checks_find_planted_damage(plan: Plan, check: Callable[[], list[str]], damage: str, problem: str) -> None:
    with closing(sqlite3.connect(Path(plan.folder, "soak.db"))) as connection:
        connection.executescript(damage)
    assert [violation for violation in check() if problem in violation]


def test_the_checks_find_a_call_that_asked_the_model_after_its_key_was_used(
    store: Store, lane: Lane, log: Journal, check: Callable[[], list[str]]
) -> None:
    again = lane.say_with_key(store, TARGET)
    assert check() == []
    asked: Entry = {"request": 9, "call": again["call"], "at": time.time(), "trouble": "500", "reply": None}
    log.write(asked)
    (violation,) = check()
    assert "asked the model (request 9) although request 2 had completed it" in violation


def test_the_checks_find_errors_that_calls_must_not_have(
    store: Store, lane: Lane, check: Callable[[], list[str]]
) -> None:
    store.undo(TARGET.id, 2)
    lane.do("say", TARGET, lambda: {"turn": 1 // 0})
    lane.do("redo", TARGET, lambda: {"head": store.redo(TARGET.id).head_seq})
    lane.redo(store, TARGET)  # there is nothing more to redo: allowed
    lane.do("say", TARGET, lambda: {"head": store.redo(TARGET.id).head_seq})
    first, second = check()
    assert "ZeroDivisionError" in first
    assert "InvalidInput" in second


def test_the_checks_find_a_live_call_that_was_taken_over_on_its_own_host(plan: Plan, store: Store, lane: Lane) -> None:
    begun = {"does": "say", "owner": "", "conversation": "c", "text": None, "key": None, "began": 0.0}
    with closing(Journal(plan.journals / "w1h0s.jsonl")) as journal:
        journal.write({"call": "w1h0s-1", **begun})
        journal.write({"call": "w1h0s-1", "error": "LeaseLost", "turn": 1})
    reader = EvidenceReader(plan)
    for worker, expected in (("w2h1", 0), ("w3h0", 1)):  # another host may, this one must not
        with closing(sqlite3.connect(Path(plan.folder, "soak.db"))) as connection:
            connection.executescript(ABANDON)
        with closing(Journal(plan.journals / f"{worker}-takes.jsonl")) as takes, noting_takes(takes, worker):
            assert "error" not in lane.append(store, TARGET)
        reader.read_told()
        assert len(list(check_takes(reader.evidence))) == expected
