"""Test exports in convstore's own format: everything is in them, and an import makes equal conversations of them."""

from __future__ import annotations

import io
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sqlalchemy import event, select, text

from convstore import ConversationNotFound, DamagedRow, InvalidInput, Store
from convstore.conversations import exporting, import_run
from convstore.db import loaded_lines
from convstore.db.models import Base
from convstore.db.tables import conversations
from convstore.store import exports
from convstore.testing import ChatServer, Failure, Reply
from convstore.transfer import own_export
from tests import export_schema
from tests.contract.conftest import ON_THREE_BACKENDS, Backend, HeldReply
from tests.contract.invariants import engine_of

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "AAAA" * 2000}}
LEASE_COLUMNS = {"running_turn", "lease_token", "lease_expires_at", "lease_ms", "compacting_until"}
COPIED_TABLES = ("conversations", "messages", "turns", "summaries", "attachments", "tags", "ratings")


def export(store: Store, *ids: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    report = store.export(stream, *ids, **options)
    assert report.problems == []
    return stream.getvalue()


def list_lines(exported: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported.splitlines()]


def join_lines(lines: list[dict[str, Any]]) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def read_tables(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that an export must carry, without leases and without the time at which bytes were stored."""
    found: dict[str, list[dict[str, Any]]] = {}
    with engine_of(store).connect() as connection:
        for name in COPIED_TABLES:
            table = Base.metadata.tables[f"convstore_{name}"]
            rows = connection.execute(select(table).order_by(*table.primary_key)).mappings()
            left_out = LEASE_COLUMNS | ({"created_at"} if name == "attachments" else set())
            found[name] = [{key: value for key, value in row.items() if key not in left_out} for row in rows]
    return found


@pytest.fixture
def other(chat_server: ChatServer) -> Iterator[Store]:
    """Return a store on another, empty database."""
    with Store(":memory:", base_url=chat_server.url) as store:
        yield store


def fill(store: Store, chat_server: ChatServer) -> dict[str, str]:
    """Fill a store with everything that a conversation can have; return the ids by what each is."""
    ids: dict[str, str] = {}
    id = ids["full"] = store.new("Olympics\0", name="games", model="m", metadata={"é": [1, 1.5, None]}, last=7).id
    chat_server.script(Reply("In Beijing.", usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}))
    store.say(id, "Where were the games?", system="Be brief.", idempotency_key="first")
    chat_server.script(Reply("In London."), Failure(400, "no"))
    store.say(id, [{"type": "text", "text": "And this?"}, IMAGE])
    with pytest.raises(Exception, match="no"):
        store.say(id, "Lost \ud800")
    store.retry(id)
    store.undo(id)
    store.append(id, {"role": "user", "name": "ann", "content": None, "x": {"y": []}})
    store.pin(id, 2)
    store.tag(id, "sport", "work")
    store.rate(id, 3, "good", note="short")
    chat_server.script(Reply("They asked where the games were."))
    store.compact(id, keep_last=0)
    fork = ids["fork"] = store.fork(id, at=3, name="copy").id
    store.append(fork, "Only here", {"role": "assistant", "content": "Yes."})
    store.rate(fork, 5, "bad")
    ids["fork of fork"] = store.fork(fork).id
    store.say(ids["fork of fork"], "On and on")
    ids["archived"] = store.new("Archived", messages=[{"role": "user", "content": "a"}]).id
    store.archive(ids["archived"])
    ids["deleted"] = store.new("Deleted").id
    ids["fork of deleted"] = store.fork(ids["deleted"]).id
    store.delete(ids["deleted"])
    ids["empty"] = store.new().id
    return ids


@ON_THREE_BACKENDS
def test_an_import_of_everything_makes_an_equal_store(store: Store, other: Store, chat_server: ChatServer) -> None:
    ids = fill(store, chat_server)
    exported = export(store)
    lines = list_lines(exported)
    assert lines[0] == {"type": "export", "convstore": 1}
    messages = sum(line["type"] == "message" for line in lines)
    assert lines[-1] == {"type": "end", "conversations": len(ids), "messages": messages}
    report = other.import_(io.BytesIO(exported))
    assert (report.kind, report.new, report.problems) == ("convstore", len(ids), [])
    assert report.messages == lines[-1]["messages"]
    assert read_tables(other) == read_tables(store)
    assert export(other) == exported
    for id in set(ids.values()) - {ids["deleted"]}:
        assert other.get(id) == store.get(id)
        assert other.history(id, exact=True) == store.history(id, exact=True)
        assert other.turns(id) == store.turns(id)
        assert other.summary(id) == store.summary(id)
    assert [hit.conversation for hit in other.search("only here").hits] == [ids["fork"]]
    assert other.say(ids["fork of fork"], "Go on").text


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
def test_every_line_is_as_the_json_schema_says(store: Store, chat_server: ChatServer) -> None:
    assert export_schema.PATH.read_text() == export_schema.write_schema(), "run `python -m tests.export_schema`"
    schema = json.loads(export_schema.PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    fill(store, chat_server)
    lines = list_lines(export(store))
    assert {line["type"] for line in lines} == {"export", "conversation", "message", "turn", "summary", "end"}
    for line in lines:
        validator.validate(line)
        assert not validator.is_valid({**line, "other": 1})
        assert not validator.is_valid({name: line[name] for name in line if name != list(line)[1]})


@ON_THREE_BACKENDS
def test_a_fork_alone_is_exported_with_the_past_that_it_shares(
    store: Store, other: Store, chat_server: ChatServer
) -> None:
    ids = fill(store, chat_server)
    id = ids["fork of fork"]
    exported = export(store, id)
    assert "forked_from" not in list_lines(exported)[1]
    assert other.import_(io.BytesIO(exported)).new == 1
    assert other.history(id, exact=True) == store.history(id, exact=True)
    assert [turn.seq for turn in other.turns(id)][-1] == store.turns(id)[-1].seq
    assert {rating.seq for rating in other.ratings(id)} == {rating.seq for rating in store.ratings(id)}
    assert export(other, id) == exported
    both = export(store, id, ids["full"], ids["fork"])
    order = [line["id"] for line in list_lines(both) if line["type"] == "conversation"]
    assert order == [ids["full"], ids["fork"], id]  # an origin comes before its forks


@ON_THREE_BACKENDS
def test_an_import_again_adds_nothing_and_a_newer_export_adds_what_is_new(
    store: Store, other: Store, chat_server: ChatServer
) -> None:
    ids = fill(store, chat_server)
    first = export(store)
    other.import_(io.BytesIO(first))
    again = other.import_(io.BytesIO(first))
    assert (again.new, again.changed, again.messages, again.problems) == (0, 0, 0, [])
    assert (again.unchanged, again.deleted) == (len(ids) - 1, 1)
    store.say(ids["full"], "More")
    store.set(ids["full"], title="Renamed")
    newer = export(store)
    report = other.import_(io.BytesIO(newer))
    assert (report.new, report.changed, report.messages, report.problems) == (0, 1, 2, [])
    assert read_tables(other) == read_tables(store)
    assert [hit.conversation for hit in other.search("renamed").hits] == [ids["full"]]
    older = other.import_(io.BytesIO(first))
    assert (older.changed, older.messages) == (0, 0)
    assert export(other) == newer


@ON_THREE_BACKENDS
def test_an_id_with_other_contents_is_refused_or_gets_a_new_one(store: Store, other: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Here"}]).id
    fork = store.fork(id).id
    exported = export(store)
    other.new(id=id, messages=[{"role": "user", "content": "There"}])
    report = other.import_(io.BytesIO(exported))
    assert report.new == 0
    assert any(f"the id {id!r} is taken by other contents" in problem.reason for problem in report.problems)
    assert len(report.problems) == 2  # the fork has no origin
    report = other.import_(io.BytesIO(exported), new_ids=True)
    assert (report.new, report.problems) == (2, [])
    renamed = next(one for one in other.list(limit=None) if one.id not in (id, fork))
    assert other.history(renamed.id) == other.history(fork) == store.history(id)
    assert other.get(fork).forked_from == renamed.id


@ON_THREE_BACKENDS
def test_both_sides_said_something_new_is_refused(store: Store, other: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Here"}]).id
    other.import_(io.BytesIO(export(store)))
    store.append(id, "this")
    other.append(id, "that")
    report = other.import_(io.BytesIO(export(store)))
    assert [problem.reason for problem in report.problems] == [
        f"the id {id!r} is taken by other contents; it can be imported with a new id"
    ]
    assert other.history(id)[-1]["content"] == "that"


@ON_THREE_BACKENDS
def test_a_name_that_is_taken_is_left_out_and_noted(store: Store, other: Store) -> None:
    id = store.new(name="games").id
    other.new(name="games")
    [note] = other.import_(io.BytesIO(export(store))).problems
    assert (note.is_note, "'games' is taken" in note.reason) == (True, True)
    assert other.get(id).name is None


@ON_THREE_BACKENDS
def test_a_running_turn_is_exported_as_interrupted(
    store: Store,
    other: Store,
    hold: Callable[..., HeldReply],
    run_in_thread: Callable[[Callable[[], Any]], Future[Any]],
) -> None:
    id = store.new(model="m").id
    held = hold("Hello.")
    said = run_in_thread(lambda: store.say(id, "Hello?"))
    held.wait()
    exported = export(store)
    held.release()
    said.result(60)
    [turn] = [line for line in list_lines(exported) if line["type"] == "turn"]
    assert (turn["status"], turn["error"]["type"]) == ("interrupted", "Exported")
    assert b"lease" not in exported
    assert other.import_(io.BytesIO(exported)).problems == []
    assert [turn.status for turn in other.turns(id)] == ["interrupted"]
    assert other.say(id, "Again?").text
    newer = other.import_(io.BytesIO(export(store)))
    assert newer.problems[0].reason.startswith("the id")


@ON_THREE_BACKENDS
def test_a_dry_run_stores_nothing_and_counts_everything(store: Store, other: Store, chat_server: ChatServer) -> None:
    ids = fill(store, chat_server)
    exported = export(store)
    report = other.import_(io.BytesIO(exported), dry_run=True)
    assert (report.new, report.problems) == (len(ids), [])
    assert report.messages == list_lines(exported)[-1]["messages"]
    assert not any(read_tables(other).values())


@ON_THREE_BACKENDS
def test_a_damaged_conversation_is_reported_and_the_others_are_written(backend: Backend, store: Store) -> None:
    good, bad = (store.new(messages=[{"role": "user", "content": word}]).id for word in ("good", "bad"))
    backend.damage("UPDATE convstore_messages SET content = 'changed' WHERE conversation_id = :id", id=bad)
    stream = io.BytesIO()
    report = store.export(stream)
    assert [(problem.conversation, problem.is_note) for problem in report.problems] == [(bad, False)]
    assert [line["id"] for line in list_lines(stream.getvalue()) if line["type"] == "conversation"] == [good]
    with pytest.raises(DamagedRow):
        store.history(bad)


@ON_THREE_BACKENDS
def test_a_search_chooses_what_is_exported(store: Store) -> None:
    id = store.new("Olympics", messages=[{"role": "user", "content": "Where?"}]).id
    store.new("Other")
    assert [line.get("id") for line in list_lines(export(store, query="olympics"))] == [None, id, None, None]
    with pytest.raises(InvalidInput, match="not both"):
        export(store, id, query="olympics")
    with pytest.raises(ConversationNotFound):
        export(store, "nothing")
    with pytest.raises(InvalidInput, match="not known"):
        export(store, format="docx")


@ON_THREE_BACKENDS
def test_a_folder_gets_a_file_for_each_conversation(
    store: Store, other: Store, chat_server: ChatServer, tmp_path: Path
) -> None:
    ids = fill(store, chat_server)
    folder = tmp_path / "chats"
    report = store.export(f"{folder}/")
    assert sorted(report.files) == sorted(str(folder / f"{id}.jsonl") for id in ids.values())
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert other.import_(folder).new == len(ids)
    for id in set(ids.values()) - {ids["deleted"]}:
        assert other.history(id, exact=True) == store.history(id, exact=True)
    with pytest.raises(InvalidInput, match="cannot be written"):
        store.export(tmp_path / "none" / "file.jsonl")


@ON_THREE_BACKENDS
def test_random_trees_come_back_as_they_were(store: Store, other: Store) -> None:
    choose = random.Random(5)
    ids: list[str] = []
    for number in range(120):
        act = choose.randrange(5)
        if act == 0 or not ids:
            ids.append(store.new(choose.choice((None, f"Title {number}"))).id)
        elif act == 1:
            id = choose.choice(ids)
            ids.append(store.fork(id, at=choose.randrange(store.get(id).length + 1)).id)
        elif act == 2:
            id = choose.choice(ids)
            store.checkout(id, choose.choice([0, *(record.seq for record in store.tree(id))]))
        else:
            role = choose.choice(("user", "assistant", "system"))
            store.append(choose.choice(ids), *({"role": role, "content": f"{number} {n}"} for n in range(3)))
    exported = export(store)
    assert other.import_(io.BytesIO(exported)).problems == []
    assert read_tables(other) == read_tables(store)
    assert export(other) == exported


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
def test_three_hundred_damaged_files_never_leave_half_a_conversation(
    store: Store, other: Store, chat_server: ChatServer
) -> None:
    ids = fill(store, chat_server)
    exported = export(store)
    messages = {id: len(store.tree(id)) for id in ids.values() if id != ids["deleted"]}
    choose = random.Random(3)
    for _ in range(300):
        damaged = damage(exported, choose)
        report = other.import_(io.BytesIO(damaged), kind="convstore")
        found = [*other.list(limit=None), *other.list(limit=None, archived=True)]
        assert report.new == len(found) + len(other.list(limit=None, deleted=True))
        for conversation in found:
            assert len(other.history(conversation.id, exact=True)) == conversation.length
            if conversation.id in messages:  # its id is not what was damaged
                assert len(other.tree(conversation.id)) == messages[conversation.id]
        wipe(other)


def damage(exported: bytes, choose: random.Random) -> bytes:
    """Return an export with one change: in its bytes, or in the fields of a line."""
    kind = choose.randrange(4)
    if kind == 0:
        return exported[: choose.randrange(len(exported))]
    if kind == 1:
        place = choose.randrange(len(exported))
        return exported[:place] + bytes([choose.randrange(256)]) + exported[place + 1 :]
    lines = list_lines(exported)
    line = choose.choice(lines)
    if kind == 2:
        lines.remove(line)
    else:
        odd: tuple[Any, ...] = (
            None,
            -1,
            2**70,
            "",
            "x",
            [],
            {},
            [1],
            {"a": 1},
            True,
            1.5,
            "2026-01-01",
            "00",
            "running",
            1,
            3,
        )
        line[choose.choice(list(line))] = choose.choice(odd)
    return join_lines(lines).getvalue()


def wipe(store: Store) -> None:
    with engine_of(store).begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            if table.name not in ("convstore_version", "convstore_compatibility"):
                connection.execute(table.delete())
        connection.execute(text("INSERT INTO convstore_search_terms (convstore_search_terms) VALUES ('delete-all')"))


@ON_THREE_BACKENDS
def test_files_that_are_no_whole_export_are_named(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.new(messages=[{"role": "user", "content": "Here"}])
    lines = list_lines(export(store))

    def get_reasons(changed: list[dict[str, Any]]) -> list[str]:
        report = other.import_(join_lines(changed), kind="convstore", dry_run=True)
        return [problem.reason for problem in report.problems]

    assert get_reasons([{"type": "export", "convstore": 2}, *lines[1:]]) == [
        "the export has version 2 of the format, and this release reads up to 1; upgrade convstore"
    ]
    assert get_reasons(lines[1:]) == ["the file does not begin as an export of convstore does"]
    assert get_reasons(lines[:-1]) == ["the file ends early: a part of the export is missing"]
    assert other.import_(join_lines(lines[:-1]), dry_run=True).new == 1  # its own numbers tell that it is whole
    assert get_reasons(lines[:-2]) == [
        "some of its lines are missing",
        "the file ends early: a part of the export is missing",
    ]
    assert get_reasons([lines[0], {"type": "what"}, *lines[2:]]) == [
        "the line belongs to no conversation; neither do those after it",
        "it had 1 conversations and 1 messages when it was written",
    ]
    assert get_reasons([*lines[:-1], {**lines[-1], "messages": 7}]) == [
        "it had 1 conversations and 7 messages when it was written"
    ]
    assert get_reasons([lines[0], {**lines[1], "new": 1}, *lines[2:]]) == [
        "the field 'new' is unknown: a newer release of convstore may have written it"
    ]
    assert get_reasons([*lines[:2], {**lines[2], "message": {"role": "user", "content": "There"}}, lines[3]]) == [
        "message seq 1 does not fit its digest: it, or a message before it, was changed"
    ]
    assert get_reasons([*lines, *lines]) == []
    monkeypatch.setattr(own_export, "MAX_OWN_LINE_BYTES", 10)
    assert "longer than" in get_reasons(lines)[0]


@ON_THREE_BACKENDS
def test_a_conversation_larger_than_the_memory_for_it_is_written_and_read(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_SPOOLED_BYTES", 100)
    monkeypatch.setattr(own_export, "_BYTES_IN_MEMORY", 100)
    id = store.new(messages=[{"role": "user", "content": f"Message {number}"} for number in range(450)]).id
    assert other.import_(io.BytesIO(export(store))).messages == 450
    assert other.history(id) == store.history(id)


# --- an import of what is here already ---


@ON_THREE_BACKENDS
def test_a_fork_that_is_imported_where_it_came_from_stays_a_fork(
    store: Store, chat_server: ChatServer, tmp_path: Path
) -> None:
    ids = fill(store, chat_server)
    before = export(store)
    store.export(tmp_path / "fork.jsonl", ids["fork of fork"])
    store.export(f"{tmp_path}/all/")
    for source in (tmp_path / "fork.jsonl", tmp_path / "all"):
        report = store.import_(source)
        assert (report.new, report.changed, report.messages, report.problems) == (0, 0, 0, [])
    assert export(store) == before


@ON_THREE_BACKENDS
def test_a_copy_of_a_fork_alone_goes_on_with_an_export_of_all(store: Store, other: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Shared"}]).id
    fork = store.fork(id).id
    store.append(fork, "Own")
    other.import_(io.BytesIO(export(store, fork)))
    store.append(fork, "More")
    report = other.import_(io.BytesIO(export(store)))
    assert (report.new, report.changed, report.messages, report.problems) == (1, 1, 2, [])
    assert other.history(fork) == store.history(fork)
    assert other.get(fork).forked_from is None


@ON_THREE_BACKENDS
def test_a_fork_alone_has_no_turns_of_what_its_origin_said_later(
    store: Store, other: Store, chat_server: ChatServer
) -> None:
    chat_server.script(*(Reply(f"Reply {number}") for number in range(3)))
    id = store.new(model="m").id
    for number in range(3):
        store.say(id, f"Question {number}")
    fork = store.fork(id, at=3).id  # the second question, without its reply
    store.append(fork, "Else", {"role": "assistant", "content": "Yes."})
    exported = export(store, fork)
    assert other.import_(io.BytesIO(exported)).problems == []
    assert [(turn.seq, turn.status, turn.output_seq) for turn in other.turns(fork)] == [
        (1, "completed", 2),
        (2, "interrupted", None),
    ]
    assert export(other, fork) == exported


@ON_THREE_BACKENDS
def test_a_turn_that_was_running_when_it_was_exported_is_replaced_by_how_it_ended(
    store: Store, other: Store, hold: Callable[..., HeldReply], run_in_thread: Callable[..., Future[Any]]
) -> None:
    id = store.new(model="m").id
    held = hold("Hello.")
    said = run_in_thread(lambda: store.say(id, "Hello?"))
    held.wait()
    other.import_(io.BytesIO(export(store)))
    held.release()
    said.result(60)
    report = other.import_(io.BytesIO(export(store)))
    assert (report.changed, report.messages, report.problems) == (1, 1, [])
    assert other.turns(id) == store.turns(id)
    assert export(other) == export(store)


@ON_THREE_BACKENDS
def test_what_was_changed_later_stays_and_an_import_never_deletes(store: Store, other: Store) -> None:
    reply = {"role": "assistant", "content": "Yes."}
    id = store.new("Old", messages=[{"role": "user", "content": "Shared"}, reply]).id
    store.rate(id, 2, "good")
    other.import_(io.BytesIO(export(store)))
    store.set(id, title="Theirs")
    store.tag(id, "theirs")
    store.rate(id, 2, "bad")
    report = other.import_(io.BytesIO(export(store)))
    assert (report.changed, report.messages) == (1, 0)
    found = other.get(id)
    assert (found.title, found.tags, other.ratings(id)[0].rating) == ("Theirs", ("theirs",), "bad")
    other.set(id, title="Ours")
    other.tag(id, "ours")
    other.archive(id)
    other.rate(id, 2, "good")
    store.append(id, "More")
    store.delete(id)
    assert other.import_(io.BytesIO(export(store))).messages == 1
    found = other.get(id)
    assert (found.tags, found.archived_at is not None, found.length) == (("ours", "theirs"), True, 3)
    assert other.ratings(id)[0].rating == "good"


@ON_THREE_BACKENDS
def test_a_deleted_conversation_keeps_the_name_that_another_one_has(store: Store, other: Store) -> None:
    for _ in range(2):
        id = store.new(name="games").id
        store.delete(id)
    store.new(name="games")
    assert other.import_(io.BytesIO(export(store))).problems == []
    assert read_tables(other) == read_tables(store)


@ON_THREE_BACKENDS
def test_a_new_id_is_the_same_each_time(store: Store, other: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Here"}]).id
    other.new(id=id, messages=[{"role": "user", "content": "There"}])
    exported = export(store)
    for new in (1, 0, 0):
        assert other.import_(io.BytesIO(exported), new_ids=True).new == new
    assert len(other.list()) == 2


@ON_THREE_BACKENDS
def test_a_conversation_that_does_not_fit_leaves_nothing_in_the_callers_transaction(store: Store, other: Store) -> None:
    good = store.new(messages=[{"role": "user", "content": "Good"}]).id
    bad = store.new(messages=[{"role": "user", "content": f"Bad {number}"} for number in range(450)]).id
    lines = list_lines(export(store, good, bad))
    changed = next(line for line in lines if line["type"] == "message" and line["seq"] == 400)
    changed["message"]["content"] = "Changed"
    assert other.list() == []  # which makes the tables
    with engine_of(other).begin() as connection:
        report = other.using(connection).import_(join_lines(lines))
    assert (report.new, len(report.problems)) == (1, 1)
    assert [conversation.id for conversation in other.list()] == [good]
    assert other.history(good) == store.history(good)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_an_import_keeps_others_from_the_conversation_that_it_compares(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the comparison and the first change, another connection must find the row locked."""
    id = other.new("Title", model="m", messages=[{"role": "user", "content": "Shared"}]).id
    store.import_(io.BytesIO(export(other)))
    other.append(id, "More")
    refused: list[bool] = []
    compare = loaded_lines._Loading._compare

    def write_meanwhile(loading: Any, stored: Any) -> Any:
        known = compare(loading, stored)
        with engine_of(store).connect() as connection, connection.begin():
            held = select(conversations.c.id).where(conversations.c.id == id).with_for_update(skip_locked=True)
            refused.append(connection.execute(held).first() is None)
        return known

    monkeypatch.setattr(loaded_lines._Loading, "_compare", write_meanwhile)
    assert store.import_(io.BytesIO(export(other))).problems == []
    assert refused == [True]
    assert store.say(id, "Still whole?", model="m").status == "completed"


@ON_THREE_BACKENDS
def test_forks_made_while_an_export_runs_are_written_with_their_past(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted(store.new(messages=[{"role": "user", "content": f"Message {number}"}]).id for number in range(3))
    store.fork(ids[0], new_id="zzz-early")
    list_ids, written = exporting.list_ids, list[int]()
    monkeypatch.setattr(exporting, "list_ids", lambda *arguments: list_ids(*arguments)[:1])
    stream = io.BytesIO()

    def go_on(messages: int) -> None:
        written.append(messages)
        if len(written) == 1:
            store.append(ids[0], "Later")
            store.fork(ids[0], new_id="zzz-late")

    assert store.export(stream, on_progress=go_on).problems == []
    report = other.import_(io.BytesIO(stream.getvalue()))
    assert report.problems == []
    assert other.history("zzz-late") == store.history("zzz-late")
    assert (other.get("zzz-early").forked_from, other.get("zzz-late").forked_from) == (ids[0], None)


def test_a_damaged_origin_does_not_take_its_forks_with_it(backend: Backend, store: Store, other: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": "Shared"}, {"role": "user", "content": "Damaged"}]).id
    fork = store.fork(id, at=1).id
    backend.damage("UPDATE convstore_messages SET content = 'changed' WHERE conversation_id = :id AND seq = 2", id=id)
    stream = io.BytesIO()
    assert [problem.conversation for problem in store.export(stream).problems] == [id]
    assert other.import_(io.BytesIO(stream.getvalue())).problems == []
    assert other.history(fork) == store.history(fork)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("conversation", {"created_at": "0001-01-01T00:00:00+14:00"}),
        ("conversation", {"updated_at": "9999-12-31T23:59:59-14:00"}),
        ("conversation", {"window": {"last": "x"}}),
        ("conversation", {"next_seq": 2**63 - 1}),
        ("conversation", {"redo": [999]}),
        ("conversation", {"pins": [[999, 1]]}),
        ("turn", {"purpose": "\ud800"}),
        ("turn", {"purpose": "a\0b"}),
        ("turn", {"cost": 1e300}),
        ("turn", {"cost": float("inf")}),
        ("turn", {"output_seq": 99}),
        ("message", {"created_at": "now"}),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
def test_odd_values_are_refused_with_their_conversation(
    store: Store, other: Store, chat_server: ChatServer, kind: str, change: dict[str, Any]
) -> None:
    chat_server.script(Reply("Yes."))
    bad, good = store.new(id="a", model="m").id, store.new(id="b").id
    store.say(bad, "Hello?")
    lines = list_lines(export(store))
    next(line for line in lines if line["type"] == kind).update(change)
    report = other.import_(join_lines(lines))
    assert len(report.problems) == 1
    assert [conversation.id for conversation in other.list()] == [good]


def test_ids_that_no_file_can_bear_get_files_of_their_own(store: Store, tmp_path: Path) -> None:
    ids = ["a:b", "a?b", "a/b", "天" * 80, ".hidden", "x" * 255]
    for id in ids:
        store.new(id=id)
    report = store.export(f"{tmp_path}/chats/")
    assert len(set(report.files)) == len(list((tmp_path / "chats").iterdir())) == len(ids)


@pytest.mark.parametrize("backend", ["sqlite-memory"], indirect=True)
def test_a_pipe_and_a_link_stay_what_they_are(store: Store, tmp_path: Path) -> None:
    store.new()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store.export(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == export(store)
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    store.export(tmp_path / "pipe")
    reader.join(10)
    assert read == [export(store)]
    assert (tmp_path / "pipe").is_fifo()


@ON_THREE_BACKENDS
def test_an_import_stores_many_conversations_in_a_transaction_and_a_refused_one_keeps_no_other_from_it(
    store: Store, other: Store
) -> None:
    ids = [store.new(messages=[{"role": "user", "content": f"Message {number}"}]).id for number in range(40)]
    lines = list_lines(export(store))
    place = next(
        place for place, line in enumerate(lines) if line["type"] == "message" and "20" in str(line["message"])
    )
    lines[place] = {**lines[place], "message": {"role": "user", "content": "changed"}}
    assert other.list() == [], "which makes the tables"
    commits: list[None] = []
    event.listen(engine_of(other), "commit", lambda _: commits.append(None))
    report = other.import_(join_lines(lines))
    assert (report.new, report.messages, len(report.problems)) == (39, 39, 1)
    assert len(commits) == 1
    assert {one.id for one in other.list(limit=50)} == set(ids) - {ids[20]}
    report = other.import_(io.BytesIO(export(store)))
    assert (report.new, report.unchanged, report.problems) == (1, 39, [])


@ON_THREE_BACKENDS
def test_a_large_import_of_an_export_leaves_messages_to_be_indexed_and_says_how_many(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "MOST_INDEXED_AT_ONCE", 3)
    ids = [
        store.new(f"Title {number}", messages=[{"role": "user", "content": f"word {number}"}] * 2).id
        for number in range(4)
    ]
    report = other.import_(io.BytesIO(export(store)))
    assert (report.new, report.messages, report.not_indexed) == (4, 8, 6)
    assert other.reindex() == 9, "the titles too"
    assert [len(other.search(f"word {number}").hits) for number in range(4)] == [2] * 4
    assert [len(other.search(f"Title {number}").hits) for number in range(4)] == [1] * 4
    store.append(ids[0], *[{"role": "user", "content": "afterwards"}] * 4)
    assert other.import_(io.BytesIO(export(store))).not_indexed == 4, "of a conversation that goes on"
    assert other.reindex() == 4
    assert len(other.search("afterwards").hits) == 4
