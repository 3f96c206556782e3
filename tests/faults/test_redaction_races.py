"""Test a redaction beside others: forks that are made meanwhile, late replies, dead turns, readers of the log."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, create_engine, delete, event, select, text

from convstore import (
    ConversationBusy,
    DatabaseUnavailable,
    LeaseLost,
    Redaction,
    RedactionUnfinished,
    Store,
    TurnFailed,
)
from convstore.conversations import redaction, search_filling
from convstore.db import lock_wait, quote_removal
from convstore.db.tables import conversations, deltas, messages, search_documents
from convstore.db.verification import verify
from convstore.leases import waiting
from convstore.messages.redacted_message import REDACTED_TEXT
from convstore.provider import error_texts
from convstore.testing import ChatServer, Failure, Reply
from convstore.turns import compaction, title_writing
from tests.contract.invariants import check_all, engine_of
from tests.contract.text_dump import find_text
from tests.faults.clients import open_store
from tests.processes import PATIENCE, Channel, Zygote

SECRET = "hunter2-Pa55wort"


@pytest.fixture
def store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with open_store(database_url, chat_server.url) as store:
        yield store


@pytest.fixture
def elsewhere(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    """Yield a second store on the same database."""
    with open_store(database_url, chat_server.url) as elsewhere:
        yield elsewhere


@pytest.fixture
def submit() -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


def find_in(store: Store, text: str) -> list[str]:
    with engine_of(store).connect() as connection:
        return find_text(connection, text)


def test_a_fork_made_meanwhile_shares_the_redacted_message(
    store: Store, elsewhere: Store, submit: Callable[..., Future[Any]]
) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}, {"role": "user", "content": "more"}]).id
    engine = create_engine(engine_of(store).url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", "IMMEDIATE"))
    going = threading.Event()

    def fork() -> str:
        going.set()
        made = elsewhere.fork(id)
        elsewhere.append(made.id, "in the fork")
        return made.id

    with engine.connect() as connection, connection.begin() as transaction:
        store.using(connection).redact(id, 1)
        forked = submit(fork)
        assert going.wait(PATIENCE)
        if engine.dialect.name != "sqlite":  # there, a writer waits for the other
            with pytest.raises(ConversationBusy):
                forked.result(PATIENCE)
        transaction.commit()
    fork_id = forked.result(PATIENCE) if engine.dialect.name == "sqlite" else fork()
    engine.dispose()
    assert store.history(fork_id)[0]["content"] == REDACTED_TEXT
    assert find_in(store, SECRET) == []
    check_all(engine_of(store))


@pytest.mark.parametrize("match", ["BBBB-2222", None])
def test_a_redaction_that_waited_for_another_is_planned_again(
    match: str | None, store: Store, elsewhere: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = store.new(messages=[{"role": "user", "content": "first AAAA-1111 second BBBB-2222 end"}]).id
    plan = redaction.plan_redaction
    plans: list[redaction.RedactionPlan] = []

    def plan_late(*args: Any, **options: Any) -> redaction.RedactionPlan:
        plans.append(plan(*args, **options))
        if len(plans) == 1:
            monkeypatch.setattr(redaction, "plan_redaction", plan)
            elsewhere.redact(id, 1, match="AAAA-1111", finish=False)
            monkeypatch.setattr(redaction, "plan_redaction", plan_late)
        return plans[-1]

    monkeypatch.setattr(redaction, "plan_redaction", plan_late)
    done = store.redact(id, 1, match=match, finish=False)
    assert len(plans) == 2
    assert [(one.conversation, one.seq) for one in done.redacted] == [(id, 1)]
    assert find_in(store, "BBBB-2222") == find_in(store, "AAAA-1111") == []
    # A unit of work that is repeated because its commit may have failed has nothing left to do.
    again = store._transactions.write_repeatable(redaction.redact, plans[1], limits_wait=True)
    assert isinstance(again, Redaction)
    assert [(one.conversation, one.seq) for one in again.redacted] == [(id, 1)]
    check_all(engine_of(store))


def test_a_redaction_waits_for_the_locks_of_others_for_a_short_time_only(
    postgres_url: str, chat_server: ChatServer, submit: Callable[..., Future[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOCK_WAIT_SECONDS", 0.2)
    with open_store(postgres_url, chat_server.url) as store, engine_of(store).connect() as other:
        id = store.new(messages=[{"role": "user", "content": f"My password is {SECRET}"}]).id
        other.execute(select(conversations.c.id).with_for_update()).all()
        with pytest.raises(ConversationBusy, match="another transaction"):
            store.redact(id, 1)  # rows of conversations are not waited for by the database
        other.rollback()
        monkeypatch.setattr(lock_wait, "_LIMIT", text("SELECT set_config('lock_timeout', '300ms', true)"))
        other.execute(select(messages.c.seq).with_for_update()).all()
        running = submit(store.redact, id, 1)
        with pytest.raises(DatabaseUnavailable, match="another transaction held a lock for too long"):
            running.result(PATIENCE)  # without the limit it would wait for ever
        other.rollback()
        assert store.redact(id, 1).redacted_at is not None
        # In the caller's own transaction, the limit is the caller's affair.
        store.append(id, {"role": "user", "content": f"Again {SECRET}"})
        store.using(other).redact(id, 2)
        assert other.scalar(text("SHOW lock_timeout")) == "0"
        other.rollback()


def test_a_redaction_that_is_overtaken_again_and_again_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
    monkeypatch.setattr(redaction, "redact", lambda *_, **__: None)
    with pytest.raises(ConversationBusy, match="others keep changing"):
        store.redact(id, 1)


def test_a_title_that_is_set_meanwhile_elsewhere_is_not_overwritten(
    store: Store, elsewhere: Store, submit: Callable[..., Future[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = store.new(title=f"about {SECRET}", messages=[{"role": "user", "content": "nothing"}]).id
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
    update, setting = quote_removal._update, []

    def update_late(removal: quote_removal.Removal, table: Table, changed: str, *args: Any, **options: Any) -> None:
        if changed == other:
            setting.append(submit(elsewhere.set, other, title="my own"))
            wait(setting, 1)  # it waits for the redaction
        update(removal, table, changed, *args, **options)

    monkeypatch.setattr(quote_removal, "_update", update_late)
    store.redact(id, 1, match=SECRET, everywhere=True, finish=False)
    setting[0].result(PATIENCE)
    assert store.get(other).title == "my own"
    assert verify(store._engine.transactions.database, all_terms=True).search_index.is_complete
    check_all(engine_of(store))


def test_a_late_reply_to_a_redacted_message_fits_what_is_there_now(
    store: Store, elsewhere: Store, chat_server: ChatServer
) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
    go = threading.Event()
    chat_server.script(Reply(pieces=["Hel", "lo"], hold=go, hold_after=1))
    with store.stream(id, f"again: {SECRET}") as reply:
        assert next(reply) == "Hel"
        with pytest.raises(ConversationBusy):
            elsewhere.redact(id, 1)
        assert elsewhere.stop(id, wait=0) is True
        elsewhere.redact(id, 1, match=SECRET, everywhere=True)
        go.set()
        with pytest.raises(LeaseLost, match="stored off the path"):
            list(reply)
    assert find_in(store, SECRET) == []
    assert [record.message["content"] for record in store.tree(id)][-1] == "Hello"
    check_all(engine_of(store))


def test_words_that_were_read_before_a_redaction_do_not_come_into_the_index_after_it(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET} " + "and more " * 12_000}]).id
    transactions = store._engine.transactions
    batches, _ = transactions.read(search_filling.read_batches, "", [id])
    assert [len(batch.texts) for batch in batches] == [1], "a long message is added to the index later"
    store.redact(id, 1, match=SECRET)
    assert transactions.write(search_filling.store_batches, batches) == 0
    assert find_in(store, SECRET) == []
    store.reindex()
    assert find_in(store, SECRET) == []
    assert len(store.search("more").hits) == 1


def test_a_title_that_was_read_before_a_redaction_does_not_come_into_the_index_after_it(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
    fork = store.fork(id, title=f"about {SECRET}").id
    transactions = store._engine.transactions
    transactions.write(search_filling.put_off_all, "")
    with engine_of(store).begin() as connection:
        connection.execute(delete(search_documents).where(search_documents.c.conversation_id == fork))
        if connection.dialect.name == "sqlite":
            connection.execute(text("INSERT INTO convstore_search_terms(convstore_search_terms) VALUES('delete-all')"))
            connection.execute(delete(search_documents))
    batches, _ = transactions.read(search_filling.read_batches, "", [fork])
    assert [len(batch.texts) for batch in batches] == [1]
    store.redact(id, 1, match=SECRET, finish=False)
    transactions.write(search_filling.store_batches, batches)
    search_filling.fill_index(transactions, "")
    assert find_in(store, SECRET) == []
    assert verify(transactions.database, all_terms=True).search_index.is_complete
    assert [hit.conversation for hit in store.search("about").hits] == [fork]


@pytest.mark.parametrize("what", ["compact", "write_title"])
def test_what_a_model_made_of_a_text_that_was_redacted_meanwhile_is_not_stored(
    what: str, store: Store, elsewhere: Store, chat_server: ChatServer, submit: Callable[..., Future[Any]]
) -> None:
    pairs = [{"role": role, "content": f"it is {SECRET}"} for role in ("user", "assistant")]
    id = store.new(title="Kept", messages=[*pairs, {"role": "user", "content": "more"}]).id
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply(f"About {SECRET}", hold=go, started=begun))
    call = partial(store.compact, id, keep_last=1) if what == "compact" else partial(store.write_title, id)
    writing = submit(call)
    assert begun.wait(PATIENCE)
    elsewhere.redact(id, 1, everywhere=True)
    go.set()
    with pytest.raises(TurnFailed, match="redacted meanwhile"):
        writing.result(PATIENCE)
    assert find_in(store, SECRET) == []
    assert store.get(id).title == "Kept"
    assert store.summary(id) is None
    (turn,) = store.turns(id)
    assert turn.status == "failed"
    assert turn.usage is not None  # it was paid for
    call()
    check_all(engine_of(store))


@pytest.mark.parametrize("what", ["compact", "write_title"])
def test_an_error_that_quotes_a_text_that_was_redacted_meanwhile_is_not_stored(
    what: str, store: Store, elsewhere: Store, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [{"role": role, "content": f"it is {SECRET}"} for role in ("user", "assistant")]
    id = store.new(title="Kept", messages=[*pairs, {"role": "user", "content": "more"}]).id
    module = compaction if what == "compact" else title_writing

    def describe_late(error: BaseException, client: object) -> dict[str, Any]:
        elsewhere.redact(id, 1, everywhere=True, finish=False)
        return error_texts.describe_error(error, client)

    monkeypatch.setattr(module, "describe_error", describe_late)
    chat_server.script(Failure(400, f"bad: {SECRET}"))
    with pytest.raises(TurnFailed, match="redacted meanwhile"):
        store.compact(id, keep_last=1) if what == "compact" else store.write_title(id)
    assert find_in(store, SECRET) == []
    check_all(engine_of(store))


def stream_and_die(channel: Channel, *, url: str, base_url: str, id: str) -> None:
    """Stream a reply, and never read on after its first pieces are stored."""
    store = open_store(url, base_url)
    with store.stream(id, "go on") as reply:
        next(reply)
        next(reply)
        stored = ""
        while SECRET[9:] not in stored:
            with engine_of(store).connect() as connection:
                stored = str(connection.execute(select(deltas.c.delta)).scalars().all())
        channel.send(["flushed", None])
        channel.receive()


def test_the_pieces_of_a_reply_of_a_dead_process_are_looked_through(
    store: Store, chat_server: ChatServer, database_url: str, zygote: Zygote
) -> None:
    id = store.new(messages=[{"role": "user", "content": SECRET}]).id
    chat_server.script(
        Reply(pieces=[f"It is {SECRET[:9]}", f"{SECRET[9:]}, ", "I think"], hold_after=2, hold=threading.Event())
    )
    child = zygote.start(stream_and_die, url=database_url, base_url=chat_server.url, id=id)
    child.receive("flushed")
    child.kill()
    done = store.redact(id, 1, everywhere=True)
    assert len(done.redacted) == 2
    assert find_in(store, SECRET) == []
    check_all(engine_of(store))


def test_the_callers_rollback_leaves_everything(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": SECRET}]).id
    with engine_of(store).connect() as connection:
        before = find_text(connection, SECRET)
    engine = create_engine(engine_of(store).url)
    with engine.connect() as connection, connection.begin() as transaction:
        done = store.using(connection).redact(id, 1)
        assert done.redacted_at is not None
        transaction.rollback()
    engine.dispose()
    assert find_in(store, SECRET) == before
    assert store.at(id, 1).redacted_at is None


def list_files_with(path: Path, text: str) -> list[str]:
    """Return the files of a SQLite database that have a text, in any page."""
    return [file.name for file in sorted(path.parent.glob(f"{path.name}*")) if text.encode() in file.read_bytes()]


def test_nothing_of_the_text_is_left_in_the_file_or_its_log(tmp_path: Path, chat_server: ChatServer) -> None:
    path, word = tmp_path / "chat.db", "xylophone"
    with open_store(f"sqlite:///{path}", chat_server.url) as store:
        for number in range(30):
            store.new(messages=[{"role": "user", "content": f"plain words {number} " * 40}])
        id = store.new(messages=[{"role": "user", "content": f"it is {SECRET} {word} " * 400}]).id
        for _ in range(40):
            store.append(id, "more words " * 30)
        store.fork(id)
        assert "chat.db" in " ".join(list_files_with(path, SECRET))
        store.redact(id, 1)
        assert list_files_with(path, SECRET) == list_files_with(path, word) == []
        assert list_files_with(path, SECRET[:12]) == []
    assert list_files_with(path, SECRET) == list_files_with(path, word) == []


def test_a_reader_of_the_log_is_named_and_the_rest_is_finished_later(tmp_path: Path, chat_server: ChatServer) -> None:
    path = tmp_path / "chat.db"
    with open_store(f"sqlite:///{path}", chat_server.url) as store:
        id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM convstore_messages").fetchone() == (1,)
            with pytest.raises(RedactionUnfinished) as caught:
                store.redact(id, 1)
            assert [one.position for one in caught.value.redactions] == [1]
            assert "log" in caught.value.left
            assert find_in(store, SECRET) == []
            assert list_files_with(path, SECRET) != []
        assert store.finish_purge() == []
        assert list_files_with(path, SECRET) == []
