"""Test search: the same hits in the same order on each database, whatever the index says."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from convstore import ConversationDeleted, ConversationNotFound, DamagedRow, InvalidInput, SearchHit, Store, TurnStatus
from convstore.conversations import search_filling, text_search
from convstore.db import search_documents, search_hashes, search_index, search_selection, unit_of_work
from convstore.db.schema_upgrade import migrations_folder, upgrade
from convstore.search.folded_text import fold
from convstore.search.query import parse_query
from convstore.search.searched_text import extract_searched_text, join_texts
from convstore.testing import ChatServer, Reply
from tests.contract.conftest import ON_THREE_BACKENDS, Backend
from tests.contract.invariants import engine_of

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def find(store: Store, query: str, **options: Any) -> list[tuple[str, int | None]]:
    """Return the conversation and the position of each hit."""
    return [(hit.conversation, hit.position) for hit in store.search(query, **options).hits]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """Return a list with the time of the next transactions, which the test may change."""
    now = [BEGIN]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now[0]

    monkeypatch.setattr(unit_of_work, "datetime", Clock)
    return now


def test_a_message_is_found_with_its_place_and_the_passage(store: Store) -> None:
    id = store.new("Olympics", system="Be brief.").id
    store.append(id, user("Where were the 2008 games held?"), {"role": "assistant", "content": "In Beijing."})
    (hit,) = store.search("beijing").hits
    (record,) = store.messages(id, limit=1)
    assert hit.status in (None, TurnStatus.COMPLETED)
    assert hit == SearchHit(
        conversation=id,
        title="Olympics",
        position=record.position,
        seq=record.seq,
        role="assistant",
        on_path=True,
        is_head=True,
        status=hit.status,
        snippet="In Beijing.",
        marks=((3, 10),),
        created_at=record.created_at,
    )


def test_a_title_of_signs_is_found(store: Store) -> None:
    id = store.new("👍 -> 👎").id
    assert find(store, "👍") == [(id, None)]
    store.set(id, title="->")
    assert (find(store, "👍"), find(store, "->")) == ([], [(id, None)])


def test_titles_and_names_are_found_without_a_place(store: Store) -> None:
    id = store.new("Travel to Kyoto 京都", name="trip").id
    for query in ("kyoto", "京都", "trip", "travel trip"):
        (hit,) = store.search(query).hits
        assert (hit.conversation, hit.position, hit.seq, hit.role, hit.on_path) == (id, None, None, None, True)
    assert store.search("kyoto", role="user").hits == []


def test_a_changed_title_is_found_by_the_new_words_alone(store: Store) -> None:
    id = store.new("Old words", name="handle").id
    store.set(id, title="New ones")
    assert find(store, "new") == [(id, None)]
    assert find(store, "old") == []
    store.set(id, title=None, name="grip")
    assert find(store, "new") == find(store, "handle") == []
    assert find(store, "grip") == [(id, None)]
    store.set(id, name=None)
    assert find(store, "grip") == []
    store.set(id, title="New ones")
    assert find(store, "new ones") == [(id, None)]


def test_newest_is_first_and_pages_follow_one_another(store: Store, clock: list[datetime]) -> None:
    ids = []
    for day in (3, 1, 2):
        clock[0] = BEGIN + timedelta(days=day)
        ids.append(store.new(id=f"c{day}", messages=[user("word one"), user("word two")]).id)
    expected = [("c3", 2), ("c3", 1), ("c2", 2), ("c2", 1), ("c1", 2), ("c1", 1)]
    assert find(store, "word", limit=6) == expected
    for size in (1, 2, 4, 5):
        pages, before = [], None
        while True:
            page = store.search("word", limit=size, before=before)
            pages += [(hit.conversation, hit.position) for hit in page.hits]
            before = page.next
            if before is None:
                break
            assert len(page.hits) == size
        assert pages == expected, size


def test_a_page_may_be_bounded_in_time(store: Store, clock: list[datetime]) -> None:
    for day in range(4):
        clock[0] = BEGIN + timedelta(days=day)
        store.new(id=f"c{day}", messages=[user("word")])
    assert find(store, "word", since=date(2026, 1, 2), until=date(2026, 1, 4)) == [("c2", 1), ("c1", 1)]
    assert find(store, "word", until=BEGIN) == []
    assert find(store, "word", since=BEGIN + timedelta(days=3)) == [("c3", 1)]
    with pytest.raises(InvalidInput, match="since needs a time zone"):
        store.search("word", since=datetime(2026, 1, 1))  # noqa: DTZ001


def test_filters_of_role_model_and_conversation(store: Store, chat_server: ChatServer) -> None:
    one, two = store.new(model="small").id, store.new(model="large").id
    for id in (one, two):
        chat_server.script(Reply("word of the model"))
        store.say(id, "word of mine")
    assert find(store, "word", role="assistant") == [(two, 2), (one, 2)]
    assert find(store, "word", model="small") == [(one, 2), (one, 1)]
    assert find(store, "word", model="other") == []
    assert find(store, "word", conversation_id=two) == [(two, 2), (two, 1)]
    assert find(store, "mine", conversation_id=one, role="assistant") == []
    with pytest.raises(ConversationNotFound):
        store.search("word", conversation_id="nobody")


def test_off_the_path_and_interrupted_messages_are_found_and_marked(store: Store, chat_server: ChatServer) -> None:
    id = store.new(model="m").id
    chat_server.script(Reply("first answer"))
    store.say(id, "question")
    chat_server.script(Reply("second answer"))
    store.retry(id)
    hits = store.search("answer").hits
    assert [(hit.snippet, hit.position, hit.on_path, hit.status) for hit in hits] == [
        ("second answer", 2, True, TurnStatus.COMPLETED),
        ("first answer", 2, False, TurnStatus.COMPLETED),
    ]
    store.undo(id)
    assert [(hit.on_path, hit.is_head) for hit in store.search("answer").hits] == [(False, False)] * 2


def test_a_forks_shared_past_is_shown_in_its_home_and_in_a_living_fork_if_that_is_deleted(store: Store) -> None:
    home = store.new("Home", messages=[user("shared word"), user("shared too")]).id
    fork = store.fork(home, at=1, title="Fork").id
    store.append(fork, user("word of the fork"))
    store.append(home, user("word of home"))
    assert set(find(store, "word")) == {(home, 1), (home, 3), (fork, 2)}
    assert set(find(store, "word", conversation_id=fork)) == {(home, 1), (fork, 2)}
    assert find(store, "too", conversation_id=fork) == []
    store.delete(home)
    assert set(find(store, "word")) == {(fork, 1), (fork, 2)}
    assert find(store, "too") == []
    (shown,) = store.search("shared").hits
    assert (shown.title, shown.on_path, shown.is_head) == (
        "Fork",
        True,
        shown.seq == store.get(shown.conversation).head_seq,
    )
    assert set(find(store, "word", deleted=True)) == {(home, 1), (home, 3), (fork, 2)}
    store.delete(fork)
    assert find(store, "word") == find(store, "home") == []
    with pytest.raises(ConversationDeleted):
        store.search("word", conversation_id=fork)
    assert set(find(store, "word", deleted=True, conversation_id=fork)) == {(home, 1), (fork, 2)}


def test_one_owner_never_finds_what_another_wrote(store: Store) -> None:
    ada, bob = store.for_owner("ada"), store.for_owner("bob")
    mine = ada.new(messages=[user("secret word")]).id
    bob.new("secret", messages=[user("word"), user("->")])
    assert find(ada, "secret") == [(mine, 1)]
    assert find(store, "secret") == find(store, "->") == find(ada, "->") == []
    with pytest.raises(ConversationNotFound):
        bob.search("word", conversation_id=mine)


def test_a_query_without_words_reads_backwards_and_says_how_far(
    store: Store, clock: list[datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(12):
        clock[0] = BEGIN + timedelta(days=day)
        store.new(id=f"c{day:02}", messages=[user("a -> b" if day in (1, 9) else "nothing")])
    assert find(store, "->") == [("c09", 1), ("c01", 1)]
    assert len(find(store, "-nothing")) == 2
    monkeypatch.setattr(text_search, "MOST_COMPARED", 5)
    monkeypatch.setattr(text_search, "_FIRST_PAGE", 5)
    monkeypatch.setattr(text_search, "_NEXT_PAGE", 5)
    found = store.search("->")
    assert [hit.conversation for hit in found.hits] == ["c09"]
    assert found.searched_since == BEGIN + timedelta(days=7)
    rest = []
    while found.next is not None:
        found = store.search("->", before=found.next)
        rest += [hit.conversation for hit in found.hits]
    assert rest == ["c01"]
    assert found.searched_since is None


def test_wrong_arguments_are_refused(store: Store) -> None:
    for limit in (0, -1, 1_001, True, "3", 2.0):
        with pytest.raises(InvalidInput, match="whole number of 1 to 1,000"):
            store.search("a", limit=limit)  # type: ignore[arg-type]
    for before in ("", "x", "1:2", "a:1:c", f"{2**70}:1:c", "1:-1:c", 5):
        with pytest.raises(InvalidInput, match="not the beginning of a page"):
            store.search("a", before=before)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="must be text"):
        store.search(5)  # type: ignore[arg-type]


def test_text_that_a_database_cannot_hold_is_found(store: Store) -> None:
    id = store.new(messages=[user("nul \0 here"), user("half \ud83d emoji")]).id
    assert find(store, "here") == [(id, 1)]
    assert find(store, "emoji") == [(id, 2)]


@ON_THREE_BACKENDS
def test_a_changed_row_is_reported_and_not_shown(backend: Backend, store: Store) -> None:
    id = store.new(messages=[user("a word"), user("another")]).id
    backend.damage("UPDATE convstore_messages SET content = 'one word' WHERE seq = 1")
    with pytest.raises(DamagedRow, match="seq 1"):
        store.search("word")
    seen: list[DamagedRow] = []
    assert store.search("word", on_damaged=seen.append).hits == []
    assert len(seen) == 1
    backend.damage("UPDATE convstore_messages SET extra = '[', content = NULL WHERE seq = 1")
    with pytest.raises(DamagedRow, match="seq 1"):
        store.search("word")
    assert find(store, "another") == [(id, 2)]


def test_a_very_long_message_is_indexed_later_and_found_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index, "LONGEST_INDEXED_AT_ONCE", 50)
    id = store.new(messages=[user("needle " + "x" * 60), user("short")]).id
    found = store.search("needle")
    assert [hit.conversation for hit in found.hits] == [id]
    assert found.is_index_complete
    assert store.reindex() == 0


def test_messages_without_an_index_are_added_by_a_search_or_by_reindex(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_filling, "_CONVERSATIONS_AT_ONCE", 1)
    ids = [store.new(f"Title {n}", messages=[user("word")] * 3).id for n in range(4)]
    fork = store.fork(ids[0]).id
    forget_index(backend)
    monkeypatch.setattr("convstore.store.find_methods._FILL_SECONDS", -1.0)
    assert not store.search("word").is_index_complete
    seen: list[int] = []
    store.reindex(on_progress=seen.append)
    assert seen == sorted(seen)
    expected = {(id, position) for id in ids for position in (1, 2, 3)}
    assert set(find(store, "word")) == expected
    assert {id for id, position in find(store, "title") if position is None} == {*ids, fork}
    assert store.search("word").is_index_complete
    assert store.reindex(whole=True) == 0, "nothing is added twice"
    assert set(find(store, "word")) == expected


@ON_THREE_BACKENDS
@pytest.mark.parametrize(("texts", "size"), [(3, 4_000_000), (100, 60), (100, 4_000_000)])
def test_short_conversations_are_added_together_and_long_ones_in_parts(
    backend: Backend, store: Store, monkeypatch: pytest.MonkeyPatch, texts: int, size: int
) -> None:
    lengths = [2, 1, 9, 0, 3, 1, 1]
    ids = [store.new(f"Title {n}", messages=[user(f"word {n}")] * n).id for n in lengths]
    forget_index(backend)
    monkeypatch.setattr(search_filling, "_TEXTS_AT_ONCE", dict.fromkeys(search_index.IndexKind, texts))
    monkeypatch.setattr("convstore.db.search_gaps._BATCH_MESSAGES", 4)
    monkeypatch.setattr("convstore.db.search_gaps._BATCH_BYTES", size)
    assert store.reindex() == sum(lengths) + len(lengths)
    assert sorted(find(store, "word")) == sorted(
        (id, position) for id, length in zip(ids, lengths, strict=True) for position in range(1, length + 1)
    )
    assert {id for id, _ in find(store, "title")} == set(ids)
    assert store.search("word").is_index_complete


@ON_THREE_BACKENDS
def test_many_short_conversations_are_added_with_few_statements(backend: Backend, store: Store) -> None:
    for number in range(50):
        store.new(messages=[user(f"word {number}")] * 3)
    forget_index(backend)
    statements: list[str] = []
    event.listen(engine_of(store), "before_cursor_execute", lambda *about: statements.append(about[2]))
    assert store.reindex() == 150
    looked_up = [one for one in statements if one.startswith("SELECT") and "search_documents" in one]  # SQLite: each
    assert len(statements) - len(looked_up) < 30


def use_a_plain_table(backend: Backend) -> None:
    """Make a new SQLite database as the upgrade makes it where SQLite has no FTS5."""
    script = migrations_folder() / "versions" / "0007_search.py"
    module = run_path(str(script))
    with backend.connect() as connection, connection.begin():
        connection.execute(text(f"DROP TABLE {search_index.TERMS_TABLE}"))
        for statement in module["PLAIN_TABLE"]:
            connection.exec_driver_sql(statement)


def test_where_sqlite_cannot_read_the_index_the_newest_texts_are_read(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(sqlite_url) as store:
        before = store.new("Before", messages=[user("a word")]).id
    monkeypatch.setattr(search_index, "_read_kind", lambda _: search_index.IndexKind.NONE)
    with Store(sqlite_url) as store:
        after = store.new("After", messages=[user("another word")]).id
        store.set(before, title="Changed")
        found = store.search("word")
        assert ([hit.conversation for hit in found.hits], found.is_index_complete) == ([before], False)
        assert find(store, "word", conversation_id=before) == [(before, 1)]
        assert store.reindex() == 0
    monkeypatch.undo()
    with Store(sqlite_url) as store:
        assert find(store, "word") == [(after, 1), (before, 1)]
        assert find(store, "changed") == [(before, None)]
        assert find(store, "after") == [(after, None)]


def forget_index(backend: Backend) -> None:
    """Make the database as an upgrade leaves it: all conversations wait to be indexed."""
    terms = search_index.TERMS_TABLE
    forget = [] if backend.is_postgres else [f"INSERT INTO {terms} ({terms}) VALUES ('delete-all')"]
    forget += ["DELETE FROM convstore_search_documents"]
    forget += [
        "INSERT INTO convstore_search_backlog (owner, conversation_id, from_seq)"
        " SELECT owner, id, 0 FROM convstore_conversations"
    ]
    with backend.connect() as connection, connection.begin():
        for statement in forget:
            connection.execute(text(statement))


def test_in_a_callers_transaction_what_it_wrote_is_found(database_url: str) -> None:
    upgrade(database_url)
    engine = create_engine(database_url)
    with Store(database_url) as store:
        with engine.begin() as connection:
            view = store.using(connection)
            id = view.new("Inside", messages=[user("a new word")]).id
            assert [(hit.conversation, hit.position) for hit in view.search("new").hits] == [(id, 1)]
            assert [hit.position for hit in view.search("inside").hits] == [None]
        assert find(store, "new") == [(id, 1)]
    engine.dispose()


# fmt: off
WORDS = ["word", "words", "user", "user_id", "C++", "C++20", "don’t", "foo-bar", "天气", "今天天气好", "用户", "户",
         "Straße", "naïve", "->", "👍", "migrations", "a", "the", "THE", "日本", "が", "API接口", "сад", "42", "é"]
# fmt: on


@pytest.mark.parametrize(
    ("backend", "has_fts5"),
    [("sqlite-file", True), ("sqlite-file", False), ("postgresql", True)],
    indirect=["backend"],
)
def test_a_thousand_queries_find_what_a_scan_of_all_texts_finds(
    backend: Backend, store: Store, clock: list[datetime], monkeypatch: pytest.MonkeyPatch, has_fts5: bool
) -> None:
    """With small pages, so that most queries go through all parts of a search."""
    if not has_fts5:
        use_a_plain_table(backend)
    use_small_pages(monkeypatch)
    choose = random.Random(11)
    ids = _say_at_random(store, clock, choose)
    texts = list(_list_texts(store, ids))
    tagged = {"few": set(choose.sample(ids, 3)), "many": set(choose.sample(ids, len(ids) // 2))}
    for tag, chosen in tagged.items():
        for id in chosen:
            store.tag(id, tag)
    origins = {id: (conversation.forked_from, conversation.forked_at) for id in ids for conversation in [store.get(id)]}
    for number in range(1_000 if has_fts5 else 300):
        query = " ".join(_make_piece(choose) for _ in range(choose.choice((1, 1, 2, 3))))
        options = _choose_options(choose, number, ids)
        expected = _scan(origins, texts, query, **options)
        if number % 9 == 0:
            options["tags"] = choose.choice((["few"], ["many"], ["few", "many"]))
            chosen = set.intersection(*(tagged[tag] for tag in options["tags"]))
            expected = [hit for hit in expected if _is_shown_by(origins, chosen, *hit[1:])]
        found, before = [], None
        while True:
            page = store.search(query, limit=choose.choice((3, 50, 50, 50)), before=before, **options)
            found += [(hit.created_at, hit.conversation, hit.seq or 0) for hit in page.hits]
            before = page.next
            if before is None:
                break
        if "tags" in options:  # a tagged fork may show what its origin has
            assert [(moment, seq) for moment, _, seq in found] == [(moment, seq) for moment, _, seq in expected]
            assert {id for _, id, _ in found} <= chosen
        else:
            assert found == expected, (query, options)


def _choose_options(choose: random.Random, number: int, ids: list[str]) -> dict[str, Any]:
    """Return the options of the query with a number."""
    options: dict[str, Any] = {"role": choose.choice(("user", "assistant"))} if number % 5 == 0 else {}
    if number % 7 == 0:
        options["since"] = BEGIN + timedelta(hours=choose.randrange(200))
    if number % 11 == 0:
        options["until"] = BEGIN + timedelta(hours=choose.randrange(200))
    if number % 6 == 0:
        options["conversation_id"] = choose.choice(ids)
    return options


def use_small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_FIRST_PAGE": 3, "_NEXT_PAGE": 4, "_NEWEST": 7, "_READ_AT_ONCE": 12}.items():
        monkeypatch.setattr(text_search, name, value)
    for module in (search_documents, search_hashes):
        monkeypatch.setattr(module, "FIRST_CANDIDATES", 4)
    monkeypatch.setattr(search_selection, "_MOST_CANDIDATES", 16)
    monkeypatch.setattr(search_hashes, "_FEW", 3)
    monkeypatch.setattr(search_hashes, "_SCANNED", 9)
    monkeypatch.setattr(search_hashes, "_SCANNED_FIRST", 5)
    monkeypatch.setattr(text_search, "_MOST_TAGGED", 3)


def _is_shown_by(origins: Mapping[str, tuple[str | None, int | None]], shown: set[str], home: str, seq: int) -> bool:
    """Return True if one of these conversations shows message `seq` of another one, or is it."""
    return home in shown or (seq > 0 and any(_is_shared(origins, id, home, seq) for id in shown))


def _say_at_random(store: Store, clock: list[datetime], choose: random.Random) -> list[str]:
    ids: list[str] = []
    for _ in range(60):
        # Not in order, some at the same moment, most within a few days.
        clock[0] = BEGIN + timedelta(hours=choose.choice((0, 0, 24, 25, 60, choose.randrange(200))))
        texts = [" ".join(choose.choices(WORDS, k=choose.randrange(1, 9))) for _ in range(choose.randrange(1, 4))]
        messages = [{"role": choose.choice(("user", "assistant")), "content": content} for content in texts]
        act = choose.randrange(6)
        if act < 2 or not ids:
            ids.append(store.new(choose.choice((None, texts[0])), messages=messages).id)
        elif act == 2:
            id = choose.choice(ids)
            ids.append(store.fork(id, at=choose.randrange(store.get(id).length + 1)).id)
            store.append(ids[-1], *messages)
        elif act == 3 and store.tree(ids[0]):
            id = choose.choice(ids)
            store.checkout(id, choose.choice([0, *(record.seq for record in store.messages(id))]))
            store.append(id, *messages)
        else:
            store.append(choose.choice(ids), *messages)
    return ids


def _list_texts(store: Store, ids: list[str]) -> Iterator[tuple[datetime, str, int, str, str]]:
    """Yield each message once, in its home, and each title: time, conversation, `seq`, role, folded text."""
    for id in ids:
        conversation = store.get(id)
        if conversation.given_title:
            yield conversation.created_at, id, 0, "", fold(join_texts([conversation.given_title]))
        for record in store.tree(id):
            if conversation.forked_at is None or record.seq > conversation.forked_at:
                role = record.message["role"]
                yield record.created_at, id, record.seq, role, fold(extract_searched_text(record.message))


def _scan(
    origins: Mapping[str, tuple[str | None, int | None]],
    texts: list[tuple[datetime, str, int, str, str]],
    query: str,
    *,
    role: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    conversation_id: str | None = None,
) -> list[tuple[datetime, str, int]]:
    """Return what a query finds, by comparing all texts."""
    parsed = parse_query(query)
    found = []
    for moment, id, seq, said_by, folded in texts:
        if role is not None and said_by != role:
            continue
        if (since is not None and moment < since) or (until is not None and moment >= until):
            continue
        if conversation_id not in (None, id) and not (seq and _is_shared(origins, conversation_id, id, seq)):
            continue
        if parsed.matches(folded):
            found.append((moment, id, seq))
    return sorted(found, reverse=True)


def _is_shared(origins: Mapping[str, tuple[str | None, int | None]], fork: str | None, home: str, seq: int) -> bool:
    """Return True if a conversation shares message `seq` of another one."""
    while fork is not None and fork != home:
        fork, limit = origins[fork]
        if limit is None or seq > limit:
            return False
    return fork == home


def _make_piece(choose: random.Random) -> str:
    word = choose.choice(WORDS)
    begin = choose.randrange(len(word))
    kind = choose.randrange(8)
    if kind == 0:
        return f"-{word}"
    if kind == 1:
        return f'"{word} {choose.choice(WORDS)}"'
    if kind == 2:
        return f"{word[: begin + 1]}*"
    if kind == 3:
        return word[begin:] or word
    return word.upper() if kind == 4 else word


def test_a_turn_pays_two_statements_more_at_most_in_each_transaction(
    backend: Backend, store: Store, chat_server: ChatServer
) -> None:
    id = store.new("x", model="m").id
    chat_server.script(Reply("one"), Reply("two"))
    store.say(id, "first")
    statements: list[str] = []
    engine = engine_of(store)
    event.listen(engine, "before_cursor_execute", lambda *about: statements.append(about[2]))
    store.say(id, "second")
    of_index = [statement for statement in statements if "convstore_search" in statement]
    assert len(of_index) == (2 if backend.is_postgres else 4), statements


@ON_THREE_BACKENDS
def test_a_damaged_message_does_not_keep_the_others_out_of_the_index(backend: Backend, store: Store) -> None:
    id = store.new("Title", messages=[user("one word"), user("two words"), user("word three")]).id
    backend.damage("UPDATE convstore_messages SET extra = '[' WHERE seq = 2")
    forget_index(backend)
    assert store.reindex() >= 2
    assert find(store, "word", on_damaged=lambda _: None) == [(id, 3), (id, 1)]
    assert store.search("title").is_index_complete


@ON_THREE_BACKENDS
def test_a_damaged_status_is_reported_with_its_row(backend: Backend, store: Store, chat_server: ChatServer) -> None:
    id = store.new("Title", model="m").id
    chat_server.script(Reply("a reply"))
    store.say(id, "a question")
    backend.damage("UPDATE convstore_turns SET status = 'odd'")
    with pytest.raises(DamagedRow, match="'odd' is not a valid"):
        store.search("reply")


def test_messages_stored_at_once_cost_the_same_each_however_many_they_are(tmp_path: Path) -> None:
    """On SQLite, counted in steps of its virtual machine: all messages of one call have the same time."""
    steps = dict.fromkeys((500, 4_000), 0)
    with Store(str(tmp_path / "many.db")) as store:
        for count in steps:

            def note(count: int = count) -> None:
                steps[count] += 1

            with engine_of(store).connect() as connection:
                driver = connection.connection.driver_connection
                assert driver is not None
                driver.set_progress_handler(note, 1_000)
            store.new(messages=[{"role": "user", "content": f"question {number}"} for number in range(count)])

    assert steps[500] > 50
    assert steps[4_000] < 10 * steps[500]


def test_the_best_hits_are_those_with_the_query_most_often_in_the_shortest_text(store: Store) -> None:
    texts = [
        "games",
        "games, games and more games",
        "games " + "and other things that have nothing to do with it " * 5,
        "no match",
        "GAMES games",
    ]
    id = store.new(messages=[user(text) for text in texts]).id
    best = store.search("games", best=True)
    assert [hit.position for hit in best.hits] == [2, 5, 1, 3]
    assert [hit.position for hit in store.search("games", best=True, limit=2).hits] == [2, 5]
    assert (best.next, best.searched_since) == (None, None)
    store.append(id, "games")  # as good as the first: the newer one comes first
    assert [hit.position for hit in store.search("games", best=True).hits if hit.position in (1, 3, 6)] == [6, 1, 3]
    with pytest.raises(InvalidInput, match="no further pages"):
        store.search("games", best=True, before=store.search("games", limit=1).next)


def test_the_best_hits_are_looked_for_among_the_newest_matches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_search, "MOST_RANKED", 3)
    store.new(messages=[user("games games"), *(user(f"games {number}") for number in range(5))])
    found = store.search("games", best=True)
    assert 1 not in [hit.position for hit in found.hits]
    assert found.searched_since is not None
    assert found.next is None
