"""Read the conversations of `mods`: an index in SQLite, and a gob file for each.

The form is that of github.com/charmbracelet/mods: `db.go` (the table `conversations` of `mods.db`),
`internal/cache/convo.go` (`<id>.gob` beside it, with and without tool calls) and `internal/proto/proto.go` (a message).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convstore.transfer.derived_ids import DerivedTree
from convstore.transfer.file_times import read_time
from convstore.transfer.foreign_database import (
    DATABASE_ERRORS,
    ForeignDatabase,
    Row,
    describe_error,
    open_read_only,
    read_text,
)
from convstore.transfer.gob_values import UnreadableGob, decode_gob
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.losses import list_losses
from convstore.transfer.source_lines import MAX_LINE_BYTES, UnreadableSource, describe_limit, open_path

INDEX = "mods.db"

_ROLES = frozenset({"system", "user", "assistant", "tool"})


def read_mods_conversations(source: str | os.PathLike[str]) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of an index `mods.db`, of its folder, or of one gob file."""
    path = Path(source)
    if path.is_dir():
        found = next((index for index in (path / INDEX, path / "conversations" / INDEX) if index.is_file()), None)
        if found is None:
            yield Problem(str(path), f"has no {INDEX}")
            return
        path = found
    if path.suffix == ".gob":
        yield from _read_one(path, Row(id=path.stem))
        return
    try:
        rows = _list_rows(path)
    except UnreadableSource as error:
        yield Problem(str(path), str(error))
        return
    for row in rows:
        yield from _read_one(path.parent / f"{Path(read_text(row['id'])).name}.gob", row)


def _list_rows(index: Path) -> list[Row]:
    connection = open_read_only(index)
    try:
        database = ForeignDatabase(connection)
        if not database.has("conversations", "title"):
            raise UnreadableSource("is no index of mods")
        return database.query("select * from conversations order by rowid")
    except DATABASE_ERRORS as error:
        raise UnreadableSource(f"cannot be read: {describe_error(error)}") from None
    finally:
        connection.close()


def _read_one(path: Path, row: Row) -> Iterator[ImportedConversation | Problem]:
    try:
        with open_path(path) as stream:
            data = stream.read(MAX_LINE_BYTES + 1)
        if len(data) > MAX_LINE_BYTES:
            yield Problem(str(path), f"is larger than {describe_limit(MAX_LINE_BYTES)}")
            return
        messages = decode_gob(data)
    except OSError as error:
        yield Problem(str(path), f"cannot be opened: {error.strerror or error}")
        return
    except UnreadableGob as error:
        yield Problem(str(path), str(error))
        return
    yield from _build(path, row, messages)


def _build(path: Path, row: Row, messages: Any) -> Iterator[ImportedConversation | Problem]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        yield Problem(str(path), "is no conversation of mods")
        return
    tree, losses = DerivedTree(), Counter[str]()
    head: str | None = None
    for number, message in enumerate(messages, 1):
        if (made := _make_message(message)) is not None:
            head = tree.add(head, made)
        elif read_text(message.get("Role")) not in _ROLES:
            yield Problem(f"{path}, message {number}", "has no role that mods gives")
            return
        else:
            losses["an empty message is left out"] += 1
    if head is None:
        return
    api = read_text(row["api"])
    yield ImportedConversation(
        read_text(row["id"]),
        tree.list_messages(),
        head,
        title=read_text(row["title"]) or None,
        # SQLite's CURRENT_TIMESTAMP, in UTC: when it was saved last. When it began, mods does not keep.
        created_at=read_time(row["updated_at"]),
        model=read_text(row["model"]) or None,
        metadata={"api": api} if api else {},
        notes=list_losses(losses),
    )


def _make_message(message: Mapping[str, Any]) -> dict[str, Any] | None:
    role, content = read_text(message.get("Role")), read_text(message.get("Content"))
    listed = message.get("ToolCalls")
    calls = [call for call in listed if isinstance(call, dict)] if isinstance(listed, list) else []
    if role == "tool":  # it names the call that it answers
        return {"role": role, "tool_call_id": read_text(calls[0].get("ID")), "content": content} if calls else None
    if role == "assistant" and calls:
        return {"role": role, "content": content or None, "tool_calls": [_make_call(call) for call in calls]}
    return {"role": role, "content": content} if role in _ROLES and content else None


def _make_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("Function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("Arguments")
    text = arguments.decode("utf-8", "replace") if isinstance(arguments, bytes) else ""
    return {
        "id": read_text(call.get("ID")),
        "type": "function",
        "function": {"name": read_text(function.get("Name")), "arguments": text or "{}"},
    }
