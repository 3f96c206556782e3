"""Test that imports leave out what was purged here, unless they are told to bring it in again."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from convstore import ImportedConversation, ImportedMessage, Store
from convstore.conversations import importing
from convstore.db.tables import tombstones
from convstore.store.import_watch import watch_source
from tests.contract.conftest import Backend

SESSION = {"messages": [{"role": "user", "content": "Zebrawort"}, {"role": "assistant", "content": "Yes."}]}


def make(id: str, *texts: str) -> ImportedConversation:
    messages = [
        ImportedMessage(str(place), str(place - 1) if place else None, {"role": "user", "content": text})
        for place, text in enumerate(texts)
    ]
    return ImportedConversation(id, messages, None, f"Title of {id}")


def test_an_import_leaves_out_what_was_purged(store: Store, backend: Backend) -> None:
    store.import_([make("1", "One"), make("2", "Two")], kind="notes")
    id = next(one.id for one in store.list() if one.title == "Title of 1")
    store.purge(id)
    report = store.import_([make("1", "One", "More"), make("2", "Two"), make("3", "Three")], kind="notes")
    assert (report.new, report.changed, report.unchanged, report.erased, report.messages) == (1, 0, 1, 1, 1)
    assert [(one.place, one.reason, one.is_note) for one in report.problems] == [
        ("Title of 1", "it was purged here, so it was left out; an import with `again` brings it in", True)
    ]
    assert sorted(one.title or "" for one in store.list()) == ["Title of 2", "Title of 3"]
    with backend.connect() as connection:
        row = connection.execute(select(tombstones)).one()
    assert (row.owner, row.conversation_id, row.reason, row.source_kind) == ("", id, "purged", None)
    trial = store.import_([make("1", "One")], kind="notes", dry_run=True)
    assert (trial.new, trial.erased) == (0, 1)


def test_an_import_with_again_brings_it_in_and_later_ones_go_on(store: Store) -> None:
    store.import_([make("1", "One")], kind="notes")
    (first,) = store.list()
    store.purge(first.id)
    assert store.import_([make("1", "One")], kind="notes", dry_run=True, again=True).new == 1
    assert store.import_([make("1", "One")], kind="notes").erased == 1
    assert store.import_([make("1", "One")], kind="notes", again=True).new == 1
    assert store.import_([make("1", "One", "Two")], kind="notes").changed == 1
    assert [one.id for one in store.list()] == [first.id]


def test_the_same_source_of_another_owner_or_kind_is_brought_in(store: Store) -> None:
    store.import_([make("1", "One")], kind="notes")
    store.purge(store.list()[0].id)
    assert store.for_owner("ada").import_([make("1", "One")], kind="notes").new == 1
    assert store.import_([make("1", "One")], kind="other").new == 1


def export(store: Store, *ids: str) -> bytes:
    stream = io.BytesIO()
    store.export(stream, *ids)
    return stream.getvalue()


def test_an_own_export_is_left_out_too(store: Store) -> None:
    store.new(id="a", messages=[{"role": "user", "content": "One"}])
    store.fork("a", new_id="b")
    store.append("b", {"role": "user", "content": "Two"})
    before = store.history("b"), store.tree("b")
    exported = export(store)
    store.purge("a")
    report = store.import_(io.BytesIO(exported))
    assert (report.erased, report.unchanged, report.new) == (1, 1, 0)
    assert (store.history("b"), store.tree("b")) == before
    store.purge("b")
    assert store.import_(io.BytesIO(exported), new_ids=True).erased == 2
    assert store.import_(io.BytesIO(exported), dry_run=True, again=True).new == 2
    assert store.import_(io.BytesIO(exported)).erased == 2
    assert store.import_(io.BytesIO(exported), again=True).new == 2
    assert (store.history("b"), store.tree("b")) == before


def test_after_an_owner_was_purged_their_files_are_new(store: Store) -> None:
    store.import_([make("1", "One")], kind="notes")
    store.purge_owner()
    assert store.import_([make("1", "One")], kind="notes").new == 1


def test_a_watch_goes_on_after_a_purge_and_leaves_it_out(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(store, Store):
        return  # `watch_source` takes a sync store
    file = tmp_path / "sessions.jsonl"

    def write(*more: dict[str, Any]) -> None:
        session = {"messages": [*SESSION["messages"], *more]}
        file.write_text(json.dumps(session) + "\n")

    write()
    monkeypatch.setattr("convstore.store.import_watch.time.sleep", lambda _: None)
    passes = watch_source(store, file, "fine-tuning", 0)
    assert next(passes).report.new == 1
    store.purge(store.list()[0].id)
    write({"role": "user", "content": "Zebrawort again"})
    done = next(passes).report
    assert (done.new, done.changed, done.erased) == (0, 0, 1)
    assert done.problems[0].reason.startswith("it was purged here")
    assert store.list() == []


def test_a_conversation_that_is_purged_while_it_is_imported_stays_purged(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import has prepared the conversation, and another caller purges it before the rows are inserted."""
    if backend.is_memory:
        return  # one connection
    store, other = backend.open(), backend.open()
    store.import_([make("1", "One")], kind="notes")
    (first,) = store.list()
    insert = importing._insert
    done = threading.Event()

    def purge_first(work: Any, prepared: Any) -> bool:
        if not done.is_set():
            done.set()
            if backend.is_postgres:
                other.purge(first.id)  # on SQLite the import's transaction is alone
        return insert(work, prepared)

    if not backend.is_postgres:
        other.purge(first.id)
    monkeypatch.setattr(importing, "_insert", purge_first)
    assert store.import_([make("1", "One", "Two")], kind="notes").erased == 1
    assert store.list() == []


@pytest.mark.parametrize(("kind", "kept"), [("chatgpt", "chatgpt"), ("custom", "custom"), ("Zebrawort", None)])
def test_a_tombstone_has_only_kinds_that_convstore_knows(
    store: Store, backend: Backend, kind: str, kept: str | None
) -> None:
    store.purge(store.new(metadata={"import": {"kind": kind}}).id)
    with backend.connect() as connection:
        assert connection.execute(select(tombstones.c.source_kind)).scalar_one() == kept
