"""Test `import_`: conversations of other programs become conversations like any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from convstore import ImportedConversation, ImportedMessage, InvalidInput, Problem, Store
from convstore.conversations import import_run, search_filling
from convstore.db.tables import search_documents
from convstore.testing import ChatServer, Reply
from tests.contract.conftest import HeldReply
from tests.contract.invariants import engine_of

BEGIN = datetime(2024, 5, 1, 12, tzinfo=UTC)


def message(id: str, parent: str | None, content: str, minutes: int | None = 0, role: str = "user") -> ImportedMessage:
    moment = None if minutes is None else BEGIN + timedelta(minutes=minutes)
    return ImportedMessage(id, parent, {"role": role, "content": content}, moment)


TREE = ImportedConversation(
    id="abc",
    title="Games",
    head="r2",
    messages=[
        message("s", None, "Be brief.", role="system"),
        message("q", "s", "Where?", 1),
        message("r1", "q", "In Beijing.", 2, "assistant"),
        message("r2", "q", "Beijing, China.", 3, "assistant"),
    ],
    metadata={"starred": True},
    notes=["an image is missing"],
)


def bring(store: Store, *conversations: object, **options: Any) -> tuple[int, int, int, int]:
    report = store.import_(list(conversations), kind="test", **options)  # type: ignore[arg-type]
    return report.new, report.changed, report.unchanged, report.messages


def texts(store: Store, id: str) -> list[str]:
    return [one["content"] for one in store.history(id)]


def only(store: Store) -> str:
    (conversation,) = store.list()
    return conversation.id


def test_a_tree_is_brought_in_with_times_branches_and_where_it_comes_from(store: Store) -> None:
    report = store.import_([TREE], kind="test")
    assert (report.new, report.messages) == (1, 4)
    assert [(problem.place, problem.reason, problem.is_note) for problem in report.problems] == [
        ("Games", "an image is missing", True)
    ]
    conversation = store.get(only(store))
    assert conversation.title == "Games"
    came_from = conversation.metadata.pop("import")
    assert datetime.fromisoformat(came_from.pop("at")) <= datetime.now(UTC)
    assert (conversation.metadata, came_from) == ({"starred": True}, {"kind": "test", "id": "abc"})
    assert conversation.created_at == BEGIN
    assert texts(store, conversation.id) == ["Be brief.", "Where?", "Beijing, China."]
    tree = store.tree(conversation.id)
    assert [(one.seq, one.parent_seq, one.position, one.created_at - BEGIN) for one in tree] == [
        (1, 0, 1, timedelta(0)),
        (2, 1, 2, timedelta(minutes=1)),
        (3, 2, 3, timedelta(minutes=2)),
        (4, 2, 3, timedelta(minutes=3)),
    ]


def test_a_second_import_adds_nothing(store: Store) -> None:
    assert bring(store, TREE) == (1, 0, 0, 4)
    before = store.get(only(store))
    assert bring(store, TREE) == (0, 0, 1, 0)
    assert store.get(before.id) == before


def test_a_newer_export_adds_what_is_new_and_a_branch_where_it_differs(store: Store) -> None:
    bring(store, TREE)
    id = only(store)
    newer = [*TREE.messages, message("q2", "r2", "And then?", 4), message("e", "s", "Where, exactly?", 5)]
    assert bring(store, replace(TREE, messages=newer, head="q2")) == (0, 1, 0, 2)
    assert texts(store, id) == ["Be brief.", "Where?", "Beijing, China.", "And then?"]
    edited = [*TREE.messages[:3], message("r2", "q", "Changed.", 3, "assistant")]
    assert bring(store, replace(TREE, messages=edited)) == (0, 1, 0, 1)
    assert len(store.tree(id)) == 7
    assert texts(store, id)[-1] == "And then?", "the head is no part of the older export's path"


def test_an_imported_conversation_goes_on_and_a_newer_export_leaves_its_head(
    store: Store, chat_server: ChatServer
) -> None:
    bring(store, TREE)
    id = only(store)
    chat_server.script(Reply("Sure."))
    store.say(id, "Thanks.")
    assert [one["content"] for one in chat_server.requests[-1].body["messages"]] == [
        "Be brief.",
        "Where?",
        "Beijing, China.",
        "Thanks.",
    ]
    newer = [*TREE.messages, message("q2", "r2", "And then?", 4)]
    assert bring(store, replace(TREE, messages=newer, head="q2")) == (0, 1, 0, 1)
    assert texts(store, id)[-2:] == ["Thanks.", "Sure."]


def test_a_deleted_conversation_stays_deleted(store: Store) -> None:
    bring(store, TREE)
    store.delete(only(store))
    report = store.import_([TREE], kind="test")
    assert (report.deleted, report.new, report.messages) == (1, 0, 0)
    assert store.list() == []


def test_one_bad_conversation_is_reported_and_the_others_are_stored(store: Store) -> None:
    bad = replace(TREE, id="bad", title="Bad", messages=[ImportedMessage("1", None, {"content": "no role"})], head=None)
    report = store.import_([Problem("file, line 3", "no JSON"), bad, TREE], kind="test")
    assert report.new == 1
    assert [(one.place, one.is_note) for one in report.problems][:2] == [("file, line 3", False), ("Bad", False)]
    assert "must have a role" in report.problems[1].reason
    assert len(store.list()) == 1, "nothing is left of the bad one"


def test_a_dry_run_stores_nothing_and_says_the_same(store: Store) -> None:
    assert bring(store, TREE, dry_run=True) == (1, 0, 0, 4)
    assert store.list() == []
    bring(store, TREE)
    newer = replace(TREE, messages=[*TREE.messages, message("q2", "r2", "And then?", 4)])
    assert bring(store, newer, dry_run=True) == (0, 1, 0, 1)
    assert len(store.tree(only(store))) == 4


def test_what_was_imported_is_found_at_its_own_time(store: Store) -> None:
    bring(store, TREE)
    (hit,) = store.search("china").hits
    assert (hit.created_at, hit.position, hit.on_path) == (BEGIN + timedelta(minutes=3), 3, True)
    assert [hit.on_path for hit in store.search("beijing").hits] == [True, False]
    assert [hit.position for hit in store.search("games").hits] == [None]


def test_owners_bring_in_the_same_file_apart(store: Store) -> None:
    ada, bob = store.for_owner("ada"), store.for_owner("bob")
    assert bring(ada, TREE) == bring(bob, TREE) == (1, 0, 0, 4)
    assert bring(ada, TREE) == (0, 0, 1, 0)


def test_messages_without_times_take_the_time_of_the_one_before(store: Store) -> None:
    timeless = [message("1", None, "a", None), message("2", "1", "b", 7), message("3", "2", "c", None)]
    bring(store, ImportedConversation("t", timeless, None, created_at=BEGIN))
    assert [one.created_at - BEGIN for one in store.messages(only(store))] == [
        timedelta(0),
        timedelta(minutes=7),
        timedelta(minutes=7),
    ]


def test_a_long_path_is_brought_in_whole(store: Store) -> None:
    many = [message(str(n), str(n - 1) if n else None, f"text {n}", n) for n in range(1_203)]
    assert bring(store, ImportedConversation("long", many, None)) == (1, 0, 0, 1_203)
    id = only(store)
    assert store.at(id, 700).message["content"] == "text 699"
    assert store.get(id).length == 1_203


def test_a_file_is_recognised_and_brought_in(store: Store, tmp_path: Path) -> None:
    chat: Sequence[dict[str, str]] = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(chat))
    report = store.import_(path)
    assert (report.kind, report.new, report.messages) == ("messages", 1, 2)
    assert store.history(only(store)) == chat
    assert store.import_(str(path)).unchanged == 1
    with path.open("rb") as stream:
        assert store.import_(stream, kind="messages").kind == "messages"


def test_a_missing_file_and_an_unknown_kind_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        store.import_(tmp_path / "nothing.json")
    (tmp_path / "odd.bin").write_bytes(b"\x00\x01\x02 odd")
    with pytest.raises(InvalidInput):
        store.import_(tmp_path / "odd.bin")
    with pytest.raises(InvalidInput, match="cannot be read; these can: chatgpt"):
        store.import_(tmp_path / "odd.bin", kind="nonsense")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": "nobody"}, "the head 'nobody' is no message"),
        ({"messages": [message("a", "z", "x")]}, "'a' follows 'z', which does not come before it"),
        ({"messages": [message("a", None, "x"), message("a", None, "y")]}, "two messages have the id 'a'"),
        ({"created_at": datetime(2024, 1, 1)}, "needs a time zone"),  # noqa: DTZ001
        ({"title": 5}, "a title must be a text"),
    ],
)
def test_a_conversation_that_is_no_tree_is_reported(store: Store, change: dict[str, Any], words: str) -> None:
    report = store.import_([replace(TREE, **{"head": None, **change})], kind="test")
    assert (report.new, store.list()) == (0, [])
    (problem,) = report.problems
    assert words in problem.reason


def test_an_older_export_does_not_make_a_conversation_old(store: Store) -> None:
    bring(store, TREE)
    id = only(store)
    store.append(id, {"role": "user", "content": "today"})
    before = store.get(id).updated_at
    assert bring(store, replace(TREE, messages=[*TREE.messages, message("x", "q", "Else.", 9)])) == (0, 1, 0, 1)
    assert store.get(id).updated_at == before


def make_many(count: int, messages: int = 2) -> list[ImportedConversation]:
    return [
        ImportedConversation(
            f"many-{number}",
            [message(str(n), str(n - 1) if n else None, f"text {number} {n}", n) for n in range(messages)],
            None,
        )
        for number in range(count)
    ]


def test_conversations_that_share_a_transaction_are_each_stored_or_refused(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    (first, second, third) = make_many(3)
    bring(store, second)
    id = only(store)
    held = hold()
    turn = run_in_thread(lambda: store.say(id, "Wait."))
    held.wait()
    longer = replace(second, messages=[*second.messages, message("new", "1", "more", 9)])
    report = store.import_([first, longer, second, third], kind="test")
    held.release()
    turn.result()
    assert (report.new, report.changed, report.unchanged, report.messages) == (2, 0, 1, 4)
    (problem,) = report.problems
    assert (problem.place, problem.is_note) == ("many-1", False)
    assert len(store.list()) == 3


def test_a_conversation_twice_in_a_file_is_one_with_the_messages_of_both(store: Store) -> None:
    (one,) = make_many(1)
    longer = replace(one, messages=[*one.messages, message("new", "1", "more", 9)])
    assert bring(store, one, longer, one) == (1, 1, 1, 3)
    assert texts(store, only(store)) == ["text 0 0", "text 0 1", "more"]


def test_a_large_import_leaves_messages_to_be_indexed_and_says_how_many(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "MOST_INDEXED_AT_ONCE", 6)
    monkeypatch.setattr(import_run, "_BATCH_MESSAGES", 4)
    report = store.import_([*make_many(4), replace(TREE, title="Late title")], kind="test")
    assert (report.new, report.messages, report.not_indexed) == (5, 12, 8)
    assert len(store.list()) == 5
    assert store.reindex() == 9, "the title too"
    assert [hit.position for hit in store.search("late title").hits] == [None]
    assert len(store.search('"text 3"').hits) == 2
    newer = replace(TREE, messages=[*TREE.messages, message("q2", "r2", "And afterwards?", 4)])
    assert store.import_([*make_many(6), newer], kind="test").not_indexed == 0, "what was there already does not count"
    assert len(store.search("afterwards").hits) == 1


def test_an_import_that_cannot_read_on_keeps_whole_conversations_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "_BATCH_MESSAGES", 4)

    def read() -> Iterator[ImportedConversation]:
        yield from make_many(5)
        raise OSError("the file is away")

    with pytest.raises(OSError, match="away"):
        store.import_(read(), kind="test")
    assert sorted(len(store.tree(one.id)) for one in store.list()) == [2] * 5
    assert bring(store, *make_many(6)) == (1, 0, 5, 2)


def test_progress_tells_messages_and_the_share_of_the_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "x"}]} for n in range(9)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    seen: list[tuple[int, float | None]] = []
    store.import_(path, on_progress=lambda messages, share: seen.append((messages, share)))
    assert seen == [(18, 1.0)]
    store.import_(make_many(1), on_progress=lambda messages, share: seen.append((messages, share)))
    assert seen[1:] == [(2, None)]


def test_what_an_import_left_is_indexed_in_the_order_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_run, "MOST_INDEXED_AT_ONCE", 0)
    monkeypatch.setattr(search_filling, "_LISTED_AT_ONCE", 7)
    without_times = [
        replace(one, messages=[replace(message, created_at=None) for message in one.messages]) for one in make_many(30)
    ]
    with Store(tmp_path / "chat.db") as store:
        assert store.import_(without_times, kind="test").not_indexed == 60
        assert store.reindex() == 60
        with engine_of(store).connect() as connection:
            late = connection.execute(select(func.count()).where(search_documents.c.late.is_not(None))).scalar_one()
    assert late == 0, "SQLite would read all texts of the day for a page of a common word"
