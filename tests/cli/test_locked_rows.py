"""Test that no command waits longer than `say` for a row that another transaction holds (PostgreSQL)."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, create_engine, text

from convstore import Store
from convstore.leases import waiting
from convstore.testing import ChatServer, Reply
from tests.cli.program import Program

LOCK = text("SELECT 1 FROM convstore_conversations WHERE id = 'games' FOR UPDATE")
BUSY = "another transaction is writing to it; try again"


@pytest.fixture
def on_postgres(bare: Program, postgres_url: str, chat_server: ChatServer) -> Program:
    bare.set(CONVSTORE_DB=postgres_url, OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    bare("new", "--id", "games")
    return bare


@pytest.fixture
def other(postgres_url: str) -> Iterator[Connection]:
    """Yield a connection of another program, which holds locks until it is rolled back."""
    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOCK_WAIT_SECONDS", 0.2)


@pytest.mark.usefixtures("short_wait")
@pytest.mark.parametrize("command", [["set", "--title", "T"], ["compact", "--drop"]], ids=" ".join)
def test_a_change_gives_up_on_a_locked_row(on_postgres: Program, other: Connection, command: list[str]) -> None:
    other.execute(LOCK)
    on_postgres(*command).failed(5, "'games'", BUSY)
    other.rollback()
    assert on_postgres(*command).code == 0


def test_set_waits_for_a_row_that_is_locked_for_a_moment(
    on_postgres: Program, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.execute(LOCK)
    pauses = []

    def unlock_at_second_pause(deadline: float) -> Iterator[float]:
        for _ in range(3):
            pauses.append(deadline)
            if len(pauses) == 2:
                other.rollback()
            yield 0.0

    monkeypatch.setattr(waiting, "yield_pauses", unlock_at_second_pause)
    assert on_postgres("set", "--title", "T").code == 0
    assert len(pauses) == 2
    assert on_postgres("show", "--json").json["title"] == "T"


@pytest.mark.usefixtures("short_wait")
def test_stop_gives_up_on_a_locked_row_and_can_be_repeated(
    on_postgres: Program, other: Connection, chat_server: ChatServer
) -> None:
    go, started = threading.Event(), threading.Event()
    chat_server.script(Reply("late", hold=go, started=started))
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(on_postgres.real, "say", "hi")
        try:
            assert started.wait(60)
            other.execute(LOCK)
            on_postgres("stop", "--wait", "0").failed(5, "'games'", BUSY)
            other.rollback()
            on_postgres("stop", "--wait", "0").one_line("stopped the running turn")
        finally:
            other.rollback()
            go.set()
        late.result(60).one_line("the turn was stopped before this reply came")


@pytest.mark.parametrize("option", ["--id", "--name"])
def test_new_gives_up_on_an_id_or_a_name_that_is_being_created(
    on_postgres: Program, other: Connection, postgres_url: str, option: str
) -> None:
    with Store(postgres_url) as store:
        taken = {"id": "same"} if option == "--id" else {"name": "same"}
        store.using(other).new(**taken)  # type: ignore[arg-type]
    on_postgres("new", option, "same").failed(7, "another transaction held a lock for too long; try again")
    other.rollback()
    assert on_postgres("new", option, "same").code == 0


def test_the_limit_of_new_does_not_stay_in_a_callers_transaction(postgres_url: str, other: Connection) -> None:
    with Store(postgres_url) as store:
        store.using(other).new()
    assert other.scalar(text("SHOW lock_timeout")) == "0"
