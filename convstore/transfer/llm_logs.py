"""Read `logs.db`, the database of the command line tool `llm`, of either generation.

The formats are those of the `llm` package on PyPI, releases 0.31 (`llm_responses`) and 0.36 (`llm_threads`). A file
that a newer release upgraded has both: old conversations stay where they are, and one that goes on is copied into a
thread with its id. Such a conversation is one here, and its messages keep their ids.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from convstore.transfer.checked_json import UnreadableJson, parse_json
from convstore.transfer.derived_ids import DerivedTree
from convstore.transfer.foreign_database import DATABASE_ERRORS, Row, describe_error, open_read_only, read_text
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.llm_database import LlmDatabase
from convstore.transfer.llm_responses import ResponseReader, find_model
from convstore.transfer.llm_threads import ThreadReader
from convstore.transfer.losses import list_losses
from convstore.transfer.source_lines import UnreadableSource

_MAX_SCHEMA_CHARACTERS = 10_000


def read_llm_logs(source: str | os.PathLike[str]) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of a `logs.db`, one at a time."""
    name = os.fspath(source)
    try:
        connection = open_read_only(source)
    except UnreadableSource as error:
        yield Problem(name, str(error))
        return
    try:
        yield from _read(LlmDatabase(connection), name)
    except DATABASE_ERRORS as error:
        yield Problem(name, f"the rest cannot be read: {describe_error(error)}")
    finally:
        connection.close()


def _read(database: LlmDatabase, name: str) -> Iterator[ImportedConversation | Problem]:
    has_responses = database.has("responses", "conversation_id")
    has_threads = database.has("threads") and database.has("turns") and database.has("messages")
    if not has_responses and not has_threads:
        yield Problem(name, "has no conversations of `llm` 0.5 or newer")
        return
    if has_responses:
        rows = database.stream("select conversation_id, rowid from responses order by conversation_id, rowid")
        for id, group in itertools.groupby(rows, key=lambda row: row["conversation_id"]):
            row_ids = [row["rowid"] for row in group]
            if isinstance(id, str):
                thread = _find_thread(database, id) if has_threads else None
                yield from _guard(database, f"{name}, conversation {id}", id, row_ids, thread)
            else:  # logged outside a conversation
                for row_id in row_ids:
                    yield from _guard(database, f"{name}, response in row {row_id}", None, [row_id], None)
    if has_threads:
        for thread in database.stream("select * from threads order by rowid"):
            id = read_text(thread["id"])
            if not has_responses or not database.query("select 1 from responses where conversation_id = ? limit 1", id):
                yield from _guard(database, f"{name}, conversation {id}", id, [], thread)


def _find_thread(database: LlmDatabase, id: str) -> Row | None:
    found = database.query("select * from threads where id = ?", id)
    return found[0] if found else None


def _guard(
    database: LlmDatabase, place: str, id: str | None, row_ids: list[int], thread: Row | None
) -> Iterator[ImportedConversation | Problem]:
    try:
        conversation = _build(database, id, row_ids, thread)
    except UnreadableJson as error:
        yield Problem(place, f"a part of it {error}")
        return
    except DATABASE_ERRORS as error:
        yield Problem(place, f"cannot be read: {describe_error(error)}")
        return
    if conversation is not None:
        yield conversation


def _build(
    database: LlmDatabase, id: str | None, row_ids: list[int], thread: Row | None
) -> ImportedConversation | None:
    tree, losses = DerivedTree(), Counter[str]()
    responses = ResponseReader(database, tree, losses)
    model, schema = None, None
    for row_id in row_ids:
        row = database.read_response(row_id)
        id = id or read_text(row["id"])
        model = find_model(row) or model
        schema = row["schema_id"] or schema
        responses.add(row)
    head = responses.head
    title = _find_name(database, id)
    if thread is not None:
        threads = ThreadReader(database, tree, losses)
        head = threads.add(thread) or head
        model, schema = threads.model or model, threads.schema or schema
        title = title or read_text(thread["name"])
    messages = tree.list_messages()
    if not id or not messages:
        return None
    metadata = _read_schema(database, schema)
    if thread is not None and read_text(thread["forked_from"]):
        metadata["forked_from"] = thread["forked_from"]
    moments = [message.created_at for message in messages if message.created_at]
    return ImportedConversation(
        id,
        messages,
        head,
        title=title or None,
        created_at=min(moments, default=None),
        model=model,
        metadata=metadata,
        notes=list_losses(losses),
    )


def _find_name(database: LlmDatabase, id: str | None) -> str:
    if not database.has("conversations", "name"):
        return ""
    found = database.query("select name from conversations where id = ?", id)
    return read_text(found[0]["name"]) if found else ""


def _read_schema(database: LlmDatabase, id: Any) -> dict[str, Any]:
    if not id or not database.has("schemas"):
        return {}
    found = database.query("select content from schemas where id = ?", id)
    text = read_text(found[0]["content"]) if found else ""
    return {"schema": parse_json(text.encode("utf-8", "replace"))} if 0 < len(text) <= _MAX_SCHEMA_CHARACTERS else {}
