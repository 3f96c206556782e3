"""Test the log: it names ids and durations of what went wrong without an error, and never holds content."""

from __future__ import annotations

import ast
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from convstore import ConvstoreError, LeaseLost, Store, TurnFailed
from convstore.testing import ChatServer, Failure, Reply

PACKAGE = Path(__file__).resolve().parent.parent / "convstore"
SECRET_MESSAGE, SECRET_REPLY, SECRET_KEY = "the code is 4821-alpha", "remember 4821-beta", "sk-4821-gamma"
SECRETS = (SECRET_MESSAGE, SECRET_REPLY, SECRET_KEY, "4821")


@pytest.fixture
def store(sqlite_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET_KEY)
    chat_server.otherwise = lambda _: Reply(SECRET_REPLY)
    with Store(sqlite_url, base_url=chat_server.url, model="test-model", lease=0.3) as store:
        yield store


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Collect everything that convstore logs; assert at the end that no secret is in it."""
    with caplog.at_level(logging.DEBUG, logger="convstore"):
        yield caplog
    for record in caplog.records:
        if record.name.startswith("convstore"):
            line = f"{record.getMessage()} {record.exc_info} {record.exc_text} {record.args}"
            assert [secret for secret in SECRETS if secret in line] == [], record


def lines(logged: pytest.LogCaptureFixture, module: str) -> list[str]:
    return [record.getMessage() for record in logged.records if record.name == f"convstore.{module}"]


def test_an_upgrade_of_the_schema_is_logged(store: Store, logged: pytest.LogCaptureFixture) -> None:
    store.list()
    (line,) = lines(logged, "db.schema_upgrade")
    assert re.search(r"chat\.db: schema upgraded from none to \d{4} in \d+\.\d\d s$", line)


def test_a_turn_without_trouble_logs_nothing(store: Store, logged: pytest.LogCaptureFixture) -> None:
    id = store.new(system=SECRET_MESSAGE).id
    logged.clear()
    store.say(id, SECRET_MESSAGE)
    with store.stream(id, SECRET_MESSAGE) as reply:
        list(reply)
    assert [record for record in logged.records if record.name.startswith("convstore")] == []


def test_a_repeated_call_is_logged(store: Store, chat_server: ChatServer, logged: pytest.LogCaptureFixture) -> None:
    id = store.new().id
    chat_server.script(Failure(503, message=f"busy with {SECRET_MESSAGE}", retry_after=0))
    store.say(id, SECRET_MESSAGE)
    assert lines(logged, "turns.turn_flow") == [
        f"conversation {id}, turn 1: repeating the call in 0.00 s (InternalServerError)"
    ]


def test_a_failed_turn_logs_no_text(store: Store, chat_server: ChatServer, logged: pytest.LogCaptureFixture) -> None:
    id = store.new().id
    chat_server.script(Failure(400, message=f"I refuse {SECRET_MESSAGE} of {SECRET_KEY}"))
    with pytest.raises(TurnFailed):
        store.say(id, SECRET_MESSAGE)


def test_a_takeover_of_a_dead_turn_is_logged(
    store: Store, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    id = store.new().id
    monkeypatch.setattr("convstore.turns.turn_engine.end_turn", _raise_interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.say(id, SECRET_MESSAGE)
    monkeypatch.undo()
    store.say(id, SECRET_MESSAGE)
    assert lines(logged, "leases.takeover") == [f"conversation {id}: taking it from turn 1, which died"]
    assert lines(logged, "turns.turn_engine") == [
        f"conversation {id}: the end of turn 1 was not stored (KeyboardInterrupt)"
    ]


def _raise_interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_lost_lease_is_logged(store: Store, logged: pytest.LogCaptureFixture) -> None:
    id = store.new().id
    with store.stream(id, SECRET_MESSAGE) as reply:
        next(reply)
        assert store.stop(id, wait=0)
        with pytest.raises(LeaseLost):
            reply.close()
    assert lines(logged, "turns.turn_end") == [f"conversation {id}: turn 1 lost its lease"]
    assert lines(logged, "leases.takeover") == [f"conversation {id}: taking it from turn 1, which did not stop"]


def test_a_failed_automatic_compaction_is_logged_and_the_reply_is_returned(
    store: Store, chat_server: ChatServer, logged: pytest.LogCaptureFixture
) -> None:
    id = store.new(compact_at=1, keep_last=0).id
    chat_server.script(Reply(SECRET_REPLY), Failure(400, message=f"I cannot summarise {SECRET_MESSAGE}"))
    assert store.say(id, SECRET_MESSAGE).text == SECRET_REPLY
    assert lines(logged, "turns.compaction") == [
        f"conversation {id}: automatic compaction after turn 1 failed (TurnFailed)"
    ]


def test_a_failed_heartbeat_is_logged(
    store: Store, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    id = store.new().id
    beats: list[object] = []
    beat = store._engine._heartbeat._store_beats

    def fail_once(given: Any) -> Any:
        beats.append(given)
        if len(beats) == 1:
            raise ConvstoreError(SECRET_MESSAGE)
        return beat(given)

    monkeypatch.setattr(store._engine._heartbeat, "_store_beats", fail_once)

    def wait_for_two_beats(_body: dict[str, Any]) -> Reply:
        while len(beats) < 2:
            time.sleep(0.01)
        return Reply(SECRET_REPLY)

    chat_server.otherwise = wait_for_two_beats
    store.say(id, SECRET_MESSAGE)
    assert lines(logged, "leases.heartbeat") == [f"conversation {id}, turn 1: a heartbeat failed (ConvstoreError)"]


def test_a_repeated_transaction_is_logged(
    postgres_url: str, chat_server: ChatServer, logged: pytest.LogCaptureFixture
) -> None:
    with Store(postgres_url, base_url=chat_server.url, model="test-model") as store:
        id = store.new().id
        logged.clear()
        with store._engine.transactions.database.engine.connect() as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
        killer = create_engine(postgres_url)
        with killer.connect() as connection:
            assert connection.scalar(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": backend})
        killer.dispose()
        store.append(id, SECRET_MESSAGE)
    (line,) = lines(logged, "db.transactions")
    assert re.fullmatch(r"database postgresql\S+: repeating a transaction in \d\.\d\d s \(\w+\)", line)


def calls_of_loggers() -> Iterator[tuple[Path, ast.Call]]:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_logger"
            ):
                yield path, node


def test_log_messages_are_constants_with_only_ids_numbers_and_error_names() -> None:
    allowed = re.compile(
        r"(\w+\.)*(_?key\.id|conversation_id|turn|seq|turn\.seq|label|current( or 'none')?|HEAD|seconds|pause)"
        r"|folder|megabytes"
        r"|access_line|request_id|key_id"  # of the service; its route is the form of a path, without ids
        r"|(\w+\.)*exception"
        r"|type\((error|error\.__cause__ or error)\)\.__name__|time\.monotonic\(\) - began|before\.current or 'none'"
    )
    found = 0
    for path, call in calls_of_loggers():
        found += 1
        assert isinstance(call.args[0], ast.Constant), f"{path}: a log line is a constant"
        assert not call.keywords, f"{path}: no exc_info: a traceback may quote a message"
        for argument in call.args[1:]:
            assert allowed.fullmatch(ast.unparse(argument)), f"{path}: may {ast.unparse(argument)} be logged?"
    assert found >= 8


def test_every_module_that_logs_does_so_under_its_own_name_and_configures_nothing() -> None:
    for path in PACKAGE.rglob("*.py"):
        source = path.read_text()
        if "_logger" in source:
            assert "_logger = logging.getLogger(__name__)" in source, path
        if "cli" not in path.parts:
            assert not re.search(r"basicConfig|addHandler\((?!logging\.NullHandler)|setLevel", source), path
