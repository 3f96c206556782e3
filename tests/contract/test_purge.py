"""Test purging: everything of a conversation is removed, and its forks keep what they share."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from convstore import (
    ConversationBusy,
    ConversationDeleted,
    ConversationNotFound,
    DamagedRow,
    PurgeUnfinished,
    Store,
)
from convstore.db.tables import attachments, metadata, tombstones
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_ALL_BACKENDS, Backend, HeldReply

DAY = timedelta(days=1)


def say_words(store: Store, server: ChatServer, id: str, word: str) -> None:
    """Store a word wherever a conversation can have one."""
    store.new(id=id, title=f"{word} title", name=f"{word}-name", metadata={word: word}, user=f"{word}-user", last=4)
    store.append(id, {"role": "system", "content": f"{word} system", "x_note": f"{word} extra"})
    server.script(Reply(f"{word} reply", system_fingerprint=f"{word}-fp"))
    store.say(id, f"{word} question", idempotency_key=f"{word}-key")
    server.script(Failure(401, message=f"{word} failure"))
    with pytest.raises(Exception, match="failure"):
        store.say(id, f"{word} fails")
    store.edit(id, 2, f"{word} edited")
    store.say(id, f"{word} goes on")
    server.script(Reply(f"{word} summary"))
    store.compact(id, keep_last=1)
    store.tag(id, f"{word}-tag")
    store.rate(id, 3, "good", note=f"{word} note")
    store.append(id, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture(word)}}]})


def picture(word: str) -> str:
    return "data:image/png;base64," + base64.b64encode(word.encode() * 2000).decode()


def find_words(backend: Backend, word: str, *, ids: tuple[str, ...] = ()) -> list[str]:
    """Return where a word, its terms or an id still stand in the tables."""
    found = []
    with backend.connect() as connection:
        for table in metadata.sorted_tables:
            for row in connection.execute(select(table)):
                for column, value in zip(table.c, row, strict=True):
                    text = bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview) else str(value)
                    if word in text or (value in ids and table is not tombstones):
                        found.append(f"{table.name}.{column.name}: {text[:60]}")
    return found


def read_all(store: Store, id: str) -> dict[str, Any]:
    """Return what a conversation shows, except from where it was forked and which turns it lists."""
    conversation = replace(store.get(id), forked_from=None, forked_at=None)
    return {
        "conversation": conversation,
        "history": store.history(id, exact=True),
        "tree": store.tree(id),
        "summary": store.summary(id),
    }


@ON_ALL_BACKENDS
def test_nothing_of_a_purged_conversation_is_left(store: Store, backend: Backend, chat_server: ChatServer) -> None:
    say_words(store, chat_server, "secret", "Zebrawort")
    say_words(store, chat_server, "other", "Another")
    before = read_all(store, "other")
    assert find_words(backend, "Zebrawort")
    receipt = store.purge("secret")
    assert (receipt.conversation_id, receipt.owner, receipt.kept_by, receipt.digest) == ("secret", "", (), None)
    assert (receipt.messages, receipt.turns, receipt.summaries) == (9, 5, 1)
    assert (receipt.attachments, receipt.attachment_bytes) == (1, 18_000)
    assert receipt.purged_at is not None
    assert find_words(backend, "Zebrawort", ids=("secret",)) == []
    assert find_words(backend, "zebrawort") == []
    assert read_all(store, "other") == before
    assert store.search("Zebrawort").hits == []
    assert len(store.search("Another").hits) > 3
    with pytest.raises(ConversationNotFound) as error:
        store.get("secret")
    assert not isinstance(error.value, ConversationDeleted)


def test_a_dry_run_says_what_would_be_removed_and_removes_nothing(
    store: Store, backend: Backend, chat_server: ChatServer
) -> None:
    say_words(store, chat_server, "secret", "Zebrawort")
    before, words = read_all(store, "secret"), find_words(backend, "Zebrawort")
    planned = store.purge("secret", dry_run=True)
    assert read_all(store, "secret") == before
    assert find_words(backend, "Zebrawort") == words
    done = store.purge("secret")
    assert planned.purged_at is None
    assert replace(done, purged_at=None) == planned


def test_the_receipt_has_a_digest_only_if_it_is_asked_for(store: Store) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "Hi"}])
    digest = store.messages("a")[-1].digest
    assert store.purge("a", dry_run=True).digest is None
    assert store.purge("a", keep_digest=True).digest == digest.hex()


def test_a_conversation_is_purged_once(store: Store) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "Hi"}])
    store.purge("a")
    with pytest.raises(ConversationNotFound, match="no conversation 'a'"):
        store.purge("a")
    with pytest.raises(ConversationNotFound):
        store.purge("a", dry_run=True)


def test_a_deleted_conversation_can_be_purged_and_its_id_and_name_are_free(store: Store) -> None:
    store.new(id="a", name="n", messages=[{"role": "user", "content": "Hi"}])
    store.delete("a")
    store.purge("a")
    with pytest.raises(ConversationNotFound):
        store.restore("a")
    assert store.new(id="a", name="n", messages=[{"role": "user", "content": "Anew"}]).length == 1
    assert [hit.conversation for hit in store.search("Anew").hits] == ["a"]


def test_a_fork_keeps_its_own_copy_of_what_it_shares(store: Store, backend: Backend, chat_server: ChatServer) -> None:
    say_words(store, chat_server, "origin", "Shared")
    store.pin("origin", 2)
    store.fork("origin", at=4, new_id="fork", name="fork")
    say_more(store, "origin", "Zebrawort")
    say_more(store, "fork", "Own")
    store.fork("fork", new_id="fork-of-fork", name="ff")
    store.fork("fork", at=2, new_id="low", name="low")
    say_more(store, "fork-of-fork", "Deep")
    forks = ("fork", "fork-of-fork", "low")
    before = [read_all(store, id) for id in forks]
    receipt = store.purge("origin")
    assert [(kept.fork_id, kept.messages > 0) for kept in receipt.kept_by] == [("fork", True)]
    assert [read_all(store, id) for id in forks] == before
    assert store.get("fork").forked_from is None
    assert store.get("fork-of-fork").forked_from == "fork"
    assert find_words(backend, "Zebrawort", ids=("origin",)) == []
    for id in forks:
        store.say(id, "And now?")
        store.retry(id)
    store.reindex()
    assert {hit.conversation for hit in store.search("Shared").hits} >= {"fork"}
    store.purge("fork")
    assert store.history("fork-of-fork")[:3] == before[1]["history"][:3]
    store.purge("fork-of-fork")
    store.purge("low")
    assert find_words(backend, "Shared", ids=("origin", "fork", "low", "fork-of-fork")) == []


def say_more(store: Store, id: str, word: str) -> None:
    store.say(id, f"{word} more")
    store.append(id, {"role": "user", "content": f"{word} at the end"})


def test_a_fork_in_the_middle_of_a_turn_keeps_nothing_of_the_reply(
    store: Store, backend: Backend, chat_server: ChatServer
) -> None:
    store.new(id="origin", messages=[{"role": "system", "content": "Be brief."}])
    chat_server.script(Reply("Zebrawort reply", system_fingerprint="Zebrawort"))
    store.say("origin", "A question", idempotency_key="key")
    store.fork("origin", at=2, new_id="fork")
    store.purge("origin")
    assert find_words(backend, "Zebrawort") == []
    (turn,) = store.turns("fork")
    assert (turn.status, turn.error, turn.output_seq) == (
        "interrupted",
        {"type": "NotShared", "message": "the reply is not in the past that the fork shares"},
        None,
    )
    store.say("fork", "Another", idempotency_key="key")
    assert [message["role"] for message in store.history("fork")] == ["system", "user", "user", "assistant"]


def test_a_fork_of_a_purged_fork_belongs_to_the_first_origin(store: Store) -> None:
    store.new(id="first", messages=[{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}])
    store.fork("first", new_id="second")
    store.append("second", {"role": "user", "content": "Three"})
    store.fork("second", new_id="third")
    store.fork("second", at=1, new_id="below")
    store.append("third", {"role": "user", "content": "Four"})
    before = [read_all(store, id) for id in ("first", "third", "below")]
    receipt = store.purge("second")
    assert [(kept.fork_id, kept.messages) for kept in receipt.kept_by] == [("below", 0), ("third", 1)]
    assert [read_all(store, id) for id in ("first", "third", "below")] == before
    assert (store.get("third").forked_from, store.get("below").forked_from) == ("first", "first")
    store.purge("first")
    assert [read_all(store, id) for id in ("third", "below")] == before[1:]


@pytest.mark.parametrize("purged", [0, 17])
def test_a_chain_of_forty_forks_goes_on_without_one_of_them(store: Store, purged: int) -> None:
    store.new(id="f0", messages=[{"role": "user", "content": "At the beginning"}])
    for number in range(1, 41):
        store.fork(f"f{number - 1}", new_id=f"f{number}")
        if number % 3 == 0:
            store.append(f"f{number}", {"role": "user", "content": f"Added by {number}"})
    left = [f"f{number}" for number in range(41) if number != purged]
    before = [store.history(id) for id in left]
    store.purge(f"f{purged}", finish=False)
    assert [store.history(id) for id in left] == before
    store.append("f40", {"role": "user", "content": "At the end"})


def test_attachments_stay_while_another_message_of_the_owner_has_them(
    store: Store, backend: Backend, chat_server: ChatServer
) -> None:
    def add(owner: str, id: str, *words: str) -> None:
        parts = [{"type": "image_url", "image_url": {"url": picture(word)}} for word in words]
        store.for_owner(owner).new(id=id, messages=[{"role": "user", "content": parts}])

    add("", "a", "one", "two")
    add("", "b", "two")
    add("ada", "a", "one")
    before = store.history("b", exact=True), store.for_owner("ada").history("a", exact=True)
    receipt = store.purge("a")
    assert (receipt.attachments, receipt.attachment_bytes) == (1, 6000)
    assert (store.history("b", exact=True), store.for_owner("ada").history("a", exact=True)) == before
    assert count(backend, "") == 1
    store.purge("b")
    assert (count(backend, ""), count(backend, "ada")) == (0, 1)


def count(backend: Backend, owner: str) -> int:
    with backend.connect() as connection:
        return len(connection.execute(select(attachments.c.digest).where(attachments.c.owner == owner)).all())


def test_an_attachment_that_a_fork_keeps_stays(store: Store, backend: Backend) -> None:
    parts = [{"type": "image_url", "image_url": {"url": picture("one")}}]
    store.new(id="a", messages=[{"role": "user", "content": parts}])
    store.fork("a", new_id="b")
    before = store.history("b", exact=True)
    assert store.purge("a").attachments == 0
    assert store.history("b", exact=True) == before
    assert store.purge("b").attachments == 1


def test_a_conversation_with_a_running_turn_is_refused(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    store.new(id="a")
    held = hold()
    turn = run_in_thread(lambda: store.say("a", "Hi"))
    held.wait()
    with pytest.raises(ConversationBusy, match="conversation 'a' is busy: turn 1 is running"):
        store.purge("a")
    store.new(id="b")
    with pytest.raises(PurgeUnfinished, match="1 not purged, because a turn of it") as error:
        store.purge_older_than(timedelta())
    assert (error.value.busy, [receipt.conversation_id for receipt in error.value.receipts]) == (("a",), ["b"])
    held.release()
    turn.result()
    assert store.history("a")[-1]["content"] == "At last."
    store.purge("a")


def test_an_origin_is_refused_while_a_turn_of_a_fork_runs(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "One"}])
    store.fork("a", new_id="b")
    held = hold()
    turn = run_in_thread(lambda: store.say("b", "Hi"))
    held.wait()
    with pytest.raises(ConversationBusy, match="conversation 'b' is busy: turn 1 is running"):
        store.purge("a")
    assert len(store.history("a")) == 1
    held.release()
    turn.result()
    store.purge("a")
    assert [message["content"] for message in store.history("b")] == ["One", "Hi", "At last."]


def test_conversations_are_purged_by_their_age(store: Store, backend: Backend) -> None:
    for id in ("old", "new", "old-deleted", "new-deleted"):
        store.new(id=id, messages=[{"role": "user", "content": id}])
        if "deleted" in id:
            store.delete(id)
    store.fork("old", new_id="old-fork")
    make_older(backend, "old", "old-fork", "old-deleted")
    planned = store.purge_older_than(90 * DAY, dry_run=True)
    assert [receipt.conversation_id for receipt in planned] == ["old-fork", "old", "old-deleted"]
    done = store.purge_older_than(90 * DAY, deleted=True)
    assert [receipt.conversation_id for receipt in done] == ["old-deleted"]
    done = store.purge_older_than(90 * DAY)
    assert [(receipt.conversation_id, receipt.kept_by) for receipt in done] == [("old-fork", ()), ("old", ())]
    assert [one.id for one in (*store.list(), *store.list(deleted=True))] == ["new", "new-deleted"]
    with pytest.raises(ValueError, match="must not be negative"):
        store.purge_older_than(-DAY)


def make_older(backend: Backend, *ids: str) -> None:
    with backend.connect() as connection, connection.begin():
        table = metadata.tables["convstore_conversations"]
        for row in connection.execute(select(table).where(table.c.id.in_(ids))).all():
            moment = row.updated_at - 100 * DAY
            values = {"updated_at": moment, "deleted_at": moment if row.deleted_at is not None else None}
            connection.execute(table.update().where(table.c.id == row.id).values(values))


@ON_ALL_BACKENDS
def test_a_title_made_of_a_message_stays_only_with_forks_that_have_it(store: Store, backend: Backend) -> None:
    store.new(id="a", messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Zebrawort"}])
    for id, at in (("none", 0), ("system", 1), ("whole", 2)):
        store.fork("a", at=at, new_id=id)
    store.fork("whole", at=1, new_id="deep")
    store.purge("a")
    assert [store.get(id).title for id in ("none", "system", "deep", "whole")] == [None, None, None, "Zebrawort"]
    store.purge("whole")
    assert find_words(backend, "Zebrawort") == []


@ON_ALL_BACKENDS
def test_a_title_that_an_older_release_made_of_a_message_stays_only_with_forks_that_have_it(
    store: Store, backend: Backend
) -> None:
    # It stored such a title as if it had been given, and a fork copied it.
    title = "Zebrawort grows where?"
    store.new(id="a", title="Zebrawort grows", messages=[{"role": "user", "content": f"{title} I mean in Peru."}])
    for id, at in (("none", 0), ("whole", 1)):
        store.fork("a", at=at, new_id=id, name=f"{id}-fork")
    store.fork("a", at=0, new_id="other", title="Mine")
    assert [hit.conversation for hit in store.search("zebrawort").hits if hit.position is None].count("none") == 1
    store.purge("a")
    assert [store.get(id).title for id in ("none", "whole", "other")] == [None, "Zebrawort grows", "Mine"]
    assert {hit.conversation for hit in store.search("zebrawort").hits} == {"whole"}
    assert store.search("none-fork").hits
    store.purge("whole")
    assert find_words(backend, "Zebrawort") == []


@pytest.mark.parametrize("id", ["100%_!", "ünal-天气", 'quote"back\\slash', "Case"])
def test_a_fork_is_found_by_any_id_of_its_origin(store: Store, id: str) -> None:
    store.new(id=id, messages=[{"role": "user", "content": "Hi"}])
    store.fork(id, new_id="near")
    store.fork("near", new_id="deep")
    store.purge(id)
    store.purge("near")
    assert store.history("deep") == [{"role": "user", "content": "Hi"}]


def test_a_conversation_that_is_its_own_origin_is_purged(store: Store, backend: Backend) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "Hi"}])
    store.fork("a", new_id="b")
    backend.is_intact = False
    with backend.connect() as connection, connection.begin():
        table = metadata.tables["convstore_conversations"]
        connection.execute(table.update().where(table.c.id == "a").values(lineage='[["b",1,0]]'))
    assert len(store.purge_owner()) == 2


@ON_ALL_BACKENDS
def test_a_damaged_lineage_does_not_keep_others_from_being_purged(store: Store, backend: Backend) -> None:
    for id in ("a", "b", "c"):
        store.new(id=id, messages=[{"role": "user", "content": id}])
    store.fork("b", new_id="fork")
    for id in ("a", "b", "c"):
        store.delete(id)
    backend.is_intact = False
    with backend.connect() as connection, connection.begin():
        table = metadata.tables["convstore_conversations"]
        connection.execute(table.update().where(table.c.id == "fork").values(lineage='[["b", oops'))
    with pytest.raises(PurgeUnfinished, match="1 not purged: 'b'") as planned:
        store.purge_older_than(timedelta(), deleted=True, dry_run=True)
    assert len(planned.value.receipts) == 2
    with pytest.raises(PurgeUnfinished, match="1 not purged: 'b'") as caught:
        store.purge_older_than(timedelta(), deleted=True)
    assert [receipt.conversation_id for receipt in caught.value.receipts] == ["a", "c"]
    ((id, error),) = caught.value.failures
    assert (id, type(error), caught.value.left) == ("b", DamagedRow, ())
    assert [one.id for one in store.list(deleted=True)] == ["b"]
    assert store.finish_purge() == []


@ON_ALL_BACKENDS
def test_purging_an_owner_leaves_nothing_of_them(store: Store, backend: Backend, chat_server: ChatServer) -> None:
    ada = store.for_owner("ada-zebra")
    say_words(ada, chat_server, "secret", "Zebrawort")
    ada.fork("secret", new_id="fork")
    ada.new(id="purged-before", messages=[{"role": "user", "content": "Zebrawort"}])
    ada.purge("purged-before")
    ada.usage(by="day")
    say_words(store, chat_server, "other", "Another")
    before = read_all(store, "other")
    planned = ada.purge_owner(dry_run=True)
    receipts = ada.purge_owner()
    assert [receipt.conversation_id for receipt in receipts] == ["fork", "secret"]
    assert [receipt.conversation_id for receipt in planned] == ["fork", "secret"]
    assert find_words(backend, "Zebrawort", ids=("secret", "fork", "purged-before", "ada-zebra")) == []
    assert find_words(backend, "ada-zebra") == []
    with backend.connect() as connection:
        assert connection.execute(select(tombstones)).all() == []
    assert read_all(store, "other") == before
    assert ada.purge_owner() == []


def test_one_owner_cannot_purge_conversations_of_another(store: Store) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(ConversationNotFound):
        store.for_owner("ada").purge("a")
    assert store.for_owner("ada").purge_owner() == []
    assert store.for_owner("ada").purge_older_than(timedelta()) == []
    assert store.history("a") == [{"role": "user", "content": "Hi"}]


def test_a_conversation_with_a_damaged_message_can_be_purged(store: Store, backend: Backend) -> None:
    store.new(id="other", messages=[{"role": "user", "content": "Another"}])
    store.new(id="a", title="Zebrawort", messages=[{"role": "user", "content": "Zebrawort", "x": 1}])
    backend.damage("UPDATE convstore_messages SET extra = '{', content = NULL WHERE conversation_id = 'a'")
    store.purge("a")
    assert find_words(backend, "Zebrawort", ids=("a",)) == []
    assert [hit.conversation for hit in store.search("Another").hits] == ["other"]
    assert store.search("Zebrawort").hits == []


def test_reports_of_usage_count_what_is_left(store: Store, backend: Backend) -> None:
    for id in ("a", "b"):
        store.new(id=id)
        store.say(id, "Hi")
    before = store.usage()
    store.purge("a")
    assert store.usage().total.turns == before.total.turns - 1
    with backend.connect() as connection:
        kept = connection.execute(select(metadata.tables["convstore_daily_usage"].c.sums)).scalars().all()
    assert all(sums is None or json.loads(sums) is not None for sums in kept)


def test_damaged_rows_of_an_owner_are_purged_with_all_others(store: Store, backend: Backend) -> None:
    ada = store.for_owner("ada")
    ada.new(id="a", title="Zebrawort", messages=[{"role": "user", "content": "Zebrawort"}])
    ada.new(id="alone", messages=[{"role": "user", "content": "Zebrawort"}])
    ada.fork("a", new_id="fork")
    backend.damage("UPDATE convstore_conversations SET lineage = '[[\"a\", ' WHERE id = 'fork'")
    ada.purge("alone")
    with pytest.raises(DamagedRow, match="conversation 'fork': its lineage cannot be decoded"):
        ada.purge("a")
    assert len(ada.history("a")) == 1
    assert {receipt.conversation_id for receipt in ada.purge_owner()} == {"a", "fork"}
    assert find_words(backend, "Zebrawort", ids=("a", "fork")) == []
    ada.new(id="b", messages=[{"role": "user", "content": "Zebrawort"}])
    backend.damage("UPDATE convstore_conversations SET lineage = 'x', metadata = 'y' WHERE id = 'b'")
    ada.purge("b")
    assert find_words(backend, "Zebrawort") == []
