"""Test how conversations are put in order: the archive, tags, ratings, titles, and the list by all of these."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from convstore import (
    Conversation,
    ConversationNotFound,
    DamagedRow,
    ImportedConversation,
    ImportedMessage,
    InvalidInput,
    Rating,
    RatingValue,
    Store,
    TurnFailed,
)
from convstore.db import conversation_list, unit_of_work
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_THREE_BACKENDS, Backend, HeldReply

ASSISTANT = {"role": "assistant", "content": "Beijing."}
ELEVEN = "one two three four five six seven eight nine ten eleven"


def list_titles(store: Store, text: str | None = None, **chosen: object) -> list[str | None]:
    return [conversation.title for conversation in store.list(text, **chosen)]  # type: ignore[arg-type]


# --- the archive ---


@ON_THREE_BACKENDS
def test_an_archived_conversation_has_a_list_of_its_own_and_is_read_and_continued_as_before(store: Store) -> None:
    kept, put_away = store.new("Kept").id, store.new("Put away", name="old").id
    before = store.get(put_away).updated_at
    archived = store.archive(put_away)
    assert archived.archived_at is not None
    assert archived.updated_at == before
    assert list_titles(store) == ["Kept"]
    assert list_titles(store, archived=True) == ["Put away"]
    assert store.append(store.get("old").id, "Hello")[0].position == 1
    assert store.archive(put_away).archived_at == archived.archived_at
    assert store.unarchive(put_away).archived_at is None
    assert {*list_titles(store)} == {"Kept", "Put away"}
    store.archive(kept)
    store.delete(kept)
    assert list_titles(store, archived=True) == []
    assert list_titles(store, deleted=True) == ["Kept"]
    with pytest.raises(ConversationNotFound):
        store.archive(kept)


@ON_THREE_BACKENDS
def test_a_search_leaves_archived_conversations_out_unless_it_is_asked_for_them(store: Store) -> None:
    id = store.new("Olympics", messages=[{"role": "user", "content": "Where were the games?"}]).id
    fork = store.fork(id).id
    store.archive(id)
    assert [(hit.conversation, hit.seq) for hit in store.search("games").hits] == [(fork, 1)]
    assert [(hit.conversation, hit.seq) for hit in store.search("games", archived=True).hits] == [(id, 1)]
    store.archive(fork)
    assert store.search("games").hits == store.search("olympics").hits == []


# --- tags ---


@ON_THREE_BACKENDS
def test_tags_are_added_and_removed_and_found(store: Store) -> None:
    one, two = store.new("One").id, store.new("Two").id
    assert store.tag(one, "sport", "work", "sport").tags == ("sport", "work")
    assert store.tag(one, "sport").tags == ("sport", "work")
    store.tag(two, "sport", "été")
    assert list_titles(store, tags=["sport"]) == ["Two", "One"]
    assert list_titles(store, tags=["sport", "work"]) == ["One"]
    assert list_titles(store, tags=["e\u0301te\u0301"]) == ["Two"]
    assert store.tags() == {"sport": 2, "work": 1, "été": 1}
    store.delete(two)
    assert store.tags() == {"sport": 1, "work": 1}
    assert store.untag(one, "work", "nothing").tags == ("sport",)
    assert store.for_owner("eve").tags() == {}
    for wrong in ((), ("",), ("two words",), ("-a",), ("x" * 65,), ("a\nb",)):
        with pytest.raises(InvalidInput):
            store.tag(one, *wrong)
    with pytest.raises(ConversationNotFound):
        store.for_owner("eve").tag(one, "sport")


@ON_THREE_BACKENDS
def test_a_search_finds_in_tagged_conversations_and_in_the_past_that_a_tagged_fork_shows(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Where were the games?"}]).id
    store.new(messages=[{"role": "user", "content": "Which games?"}])
    fork = store.fork(id).id
    store.tag(fork, "sport")
    assert [hit.conversation for hit in store.search("games").hits][1] == id
    assert [hit.conversation for hit in store.search("games", tags=["sport"]).hits] == [fork]
    store.delete(id)
    assert [hit.conversation for hit in store.search("games", tags=["sport"]).hits] == [fork]
    assert store.search("games", tags=["none"]).hits == []


# --- ratings ---


@ON_THREE_BACKENDS
def test_a_reply_is_rated_once_for_all_forks_that_share_it(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Where?"}, ASSISTANT]).id
    fork = store.fork(id).id
    first = store.rate(id, 2, "good", note="short")
    assert first is not None
    assert (first.seq, first.rating, first.note) == (2, RatingValue.GOOD, "short")
    assert store.rate(fork, 2, "bad") == store.ratings(id)[0] == store.ratings(fork)[0]
    store.append(fork, "And then?", {"role": "assistant", "content": "London."})
    store.rate(fork, 4, "good")
    assert [(rating.seq, rating.rating) for rating in store.ratings(fork)] == [(2, "bad"), (4, "good")]
    assert [rating.seq for rating in store.ratings(id)] == [2]
    assert [hit.seq for hit in store.search("beijing", rating="bad").hits] == [2]
    assert store.search("beijing", rating="good").hits == []
    assert store.rate(id, 2, None) is None
    assert store.ratings(id) == []
    assert isinstance(store.ratings(fork)[0], Rating)


@ON_THREE_BACKENDS
def test_only_replies_are_rated_and_only_good_or_bad(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Where?"}, ASSISTANT]).id
    with pytest.raises(InvalidInput, match="not a reply: its role is 'user'"):
        store.rate(id, 1, "good")
    with pytest.raises(InvalidInput, match="'good' or 'bad', not 'great'"):
        store.rate(id, 2, "great")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        store.rate(id, 3, "good")
    assert store.rate(id, 2, "bad", note="a\0b\ud800") == store.ratings(id)[0]


# --- titles ---


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Where were the games?", "Where were the games?"),
        ("\n\n  Two   lines\nof text", "Two lines of text"),
        ("one two three four five six seven eight nine ten eleven twelve", f"{ELEVEN}…"),
        ("天" * 80, "天" * 59 + "…"),
        ([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}], None),
    ],
)  # fmt: skip
@ON_THREE_BACKENDS
def test_the_first_message_of_a_user_makes_a_title(store: Store, text: Any, title: str | None) -> None:
    created = store.new(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}])
    appended, named = store.new(system="Be brief.").id, store.new("Named").id
    for id in (appended, named):
        assert store.append(id, text)
    assert created == store.get(created.id)
    assert [created.title, store.get(appended).title] == [title, title]
    assert store.get(named).title == "Named"
    assert (created.has_made_title, created.given_title) == (title is not None, None)


@ON_THREE_BACKENDS
def test_a_made_title_stays_and_gives_way_to_a_given_one(store: Store, chat_server: ChatServer) -> None:
    chat_server.script(Reply("In Beijing."), Reply("Many."))
    id = store.new(model="m").id
    store.say(id, "Where were the games?")
    store.say(id, "Who came?")
    assert store.get(id).title == store.fork(id).title == "Where were the games?"
    assert store.set(id, title="Olympics").given_title == "Olympics"
    assert store.set(id, title=None).title == "Where were the games?"
    assert [hit.seq for hit in store.search("where games", conversation_id=id).hits] == [1]


@ON_THREE_BACKENDS
def test_a_message_after_the_first_makes_no_title(store: Store) -> None:
    id = store.new(messages=[ASSISTANT, ASSISTANT]).id
    store.append(id, "Late.")
    assert store.get(id).title is None


@ON_THREE_BACKENDS
def test_the_model_writes_a_title_in_a_turn_of_its_own(store: Store, chat_server: ChatServer) -> None:
    id = store.new("Old", model="m", messages=[{"role": "user", "content": "Where?"}, ASSISTANT]).id
    chat_server.script(Reply('"Games of 2008."\nIt is about sport.'))
    assert store.write_title(id, temperature=0.1).title == "Games of 2008"
    [turn] = store.turns(id)
    assert (turn.purpose, turn.status, turn.base_seq) == ("title", "completed", 2)
    assert turn.request == {"temperature": 0.1, "model": "m"}
    sent = chat_server.requests[-1].body["messages"]
    assert "user: Where?\n\nassistant: Beijing." in sent[1]["content"]
    assert len(store.history(id)) == 2
    assert store.usage(id).total.turns == 1
    assert store.search("games").hits[0].title == "Games of 2008"


@ON_THREE_BACKENDS
def test_a_title_is_read_out_of_what_a_model_says_around_it(store: Store, chat_server: ChatServer) -> None:
    id = store.new(model="m", messages=[{"role": "user", "content": "Where?"}]).id
    said = {
        "<think>\nA title.\n</think>\n\n**Olympic games**": "Olympic games",
        "# Title: “The U.S.”": "The U.S.",
        "'One sentence.'": "One sentence",
        "x" * 300: "x" * 119 + "…",
    }
    for text, title in said.items():
        chat_server.script(Reply(text))
        assert store.write_title(id).title == title


@ON_THREE_BACKENDS
def test_a_title_that_was_given_meanwhile_stays(
    store: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[..., Future[Any]]
) -> None:
    id = store.new("Old", model="m", messages=[{"role": "user", "content": "Where?"}]).id
    held = hold("Written")
    written = run_in_thread(lambda: store.write_title(id))
    held.wait()
    store.set(id, title="Given")
    held.release()
    assert written.result(60).title == store.get(id).title == "Given"


@ON_THREE_BACKENDS
def test_a_title_that_was_not_written_leaves_the_old_one(store: Store, chat_server: ChatServer) -> None:
    id = store.new("Old", model="m", messages=[{"role": "user", "content": "Where?"}]).id
    chat_server.script(
        Failure(400, "no"), Reply(""), Reply("Cut", finish_reason=None), Reply("Long", finish_reason="length")
    )
    for _ in range(4):
        with pytest.raises(TurnFailed, match=r"no title was written .*the old one stays"):
            store.write_title(id)
    assert store.get(id).title == "Old"
    assert [turn.status for turn in store.turns(id)] == ["failed"] * 4
    with pytest.raises(InvalidInput, match="no messages"):
        store.write_title(store.new(model="m").id)


# --- the list ---


@ON_THREE_BACKENDS
def test_the_list_is_narrowed_by_text_in_title_and_name(store: Store) -> None:
    for title in ("Olympic games", "ÓLYMPICS", '"Quoted" olymp\0'):
        store.new(title)
    store.new(name="olympus")
    store.new("Other", name="o.ther")
    store.new(messages=[{"role": "user", "content": "Olymp, a made title"}])
    titles = {"Olympic games", "ÓLYMPICS", None, '"Quoted" olymp\0', "Olymp, a made title"}
    assert {*list_titles(store, "OLYMP")} == {*list_titles(store, "ölymp ")} == titles
    assert list_titles(store, "lymp", limit=2) == list_titles(store, "lymp", limit=None)[:2]
    assert list_titles(store, "100%") == list_titles(store, "o_ther") == []
    assert list_titles(store, "o.the") == ["Other"]
    assert len(list_titles(store, " ")) == 6
    store.new("Two  spaces\tand a tab")
    for text in ("two spaces", "spaces and", "Two  spaces\tand a tab"):
        assert list_titles(store, text) == ["Two  spaces\tand a tab"]


def test_a_common_tag_and_a_rare_one_list_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [store.new(f"Number {number}").id for number in range(9)]
    for id in ids[::2]:
        store.tag(id, "even")
    store.tag(ids[4], "four")
    few = [list_titles(store, tags=["even"]), list_titles(store, tags=["even", "four"])]
    monkeypatch.setattr(conversation_list, "_FEW", 0)
    assert [list_titles(store, tags=["even"]), list_titles(store, tags=["even", "four"])] == few
    assert few == [[f"Number {number}" for number in (8, 6, 4, 2, 0)], ["Number 4"]]


@ON_THREE_BACKENDS
def test_the_list_is_narrowed_by_time_model_metadata_and_source(
    store: Store, monkeypatch: pytest.MonkeyPatch, chat_server: ChatServer
) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    monkeypatch.setattr(unit_of_work, "datetime", type("Clock", (datetime,), {"now": lambda _: now[0]}))
    first = store.new("First", model="m-1", metadata={"topic": "sport", "n": 3, "e": "é\0"})
    now[0] += timedelta(days=1)
    second = store.new("Second", metadata={"topic": "sports", "model": "m-1"})
    chat_server.script(Reply("Yes."))
    store.say(second.id, "Hello?", model="m-2")
    store.fork(first.id, title="Fork")
    assert {*list_titles(store, since=now[0])} == {*list_titles(store, since=now[0].date())} == {"Fork", "Second"}
    assert list_titles(store, until=now[0]) == ["First"]
    assert {*list_titles(store, model="m-1")} == {"First", "Fork"}
    assert list_titles(store, model="m-2") == ["Second"]
    assert {*list_titles(store, metadata={"topic": "sport"})} == {"First", "Fork"}
    assert {*list_titles(store, metadata={"n": "3", "e": "é\0"})} == {"First", "Fork"}
    assert list_titles(store, metadata={"n": "3", "topic": "sports"}) == []
    said = ImportedMessage("1", None, {"role": "user", "content": "Hello"})
    store.import_([ImportedConversation("1", [said], None, "Imported")], kind="mine")
    store.new("Claimed", metadata={"kind": "mine", "import": {"kind": "other"}})
    assert list_titles(store, source="mine") == ["Imported"]
    assert list_titles(store, source="chatgpt") == []


@ON_THREE_BACKENDS
def test_pages_of_a_narrowed_list_follow_one_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_list, "_ROWS_AT_ONCE", 3)
    for number in range(20):
        store.new(f"{'Even' if number % 2 == 0 else 'Odd'} {number}", metadata={"third": str(number % 3)})
    whole = list_titles(store, "even", limit=None)
    assert len(whole) == 10
    page: list[Conversation] = store.list("even", limit=3)
    seen = [conversation.title for conversation in page]
    while page:
        store.delete(page[-1].id)  # a cursor outlives its conversation
        page = store.list("even", limit=3, before=page[-1].cursor)
        seen += [conversation.title for conversation in page]
    assert seen == whole
    for wrong in ("", "yesterday", "2026-01-01", "/x", "x/y"):
        with pytest.raises(InvalidInput, match="not the beginning of a page"):
            store.list(before=wrong)
    assert store.list("even", limit=0) == []


@ON_THREE_BACKENDS
def test_damaged_rows_of_a_narrowed_list_are_named(backend: Backend, store: Store) -> None:
    id = store.new("Even one", metadata={"k": "v"}).id
    store.new("Even two", metadata={"k": "v"})
    backend.damage("UPDATE convstore_conversations SET settings = '[' WHERE id = :id", id=id)
    problems: list[DamagedRow] = []
    assert list_titles(store, "even", metadata={"k": "v"}, on_damaged=problems.append) == ["Even two"]
    assert len(problems) == 1
    assert id in str(problems[0])
    with pytest.raises(DamagedRow):
        store.list("even")
