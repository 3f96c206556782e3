"""Read the conversations that `llm` from 0.32 on stores: a tree of messages by their hashes.

The tables are those of `migrations.py` (m023 and later) and `LogStore` in `logs.py` of the `llm` package, release 0.36.
A thread points at its last message; a turn says which messages one call of a model sent and added.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from convstore.transfer.checked_json import parse_json
from convstore.transfer.data_urls import join_parts
from convstore.transfer.derived_ids import DerivedTree
from convstore.transfer.file_times import read_time
from convstore.transfer.foreign_database import Row, read_text
from convstore.transfer.llm_database import LlmDatabase
from convstore.transfer.llm_messages import make_call, make_reply, make_result
from convstore.transfer.llm_responses import find_model

_MAX_FORKS_FOLLOWED = 20


class ThreadReader:
    """Adds the messages of one thread to its conversation's tree."""

    def __init__(self, database: LlmDatabase, tree: DerivedTree, losses: Counter[str]) -> None:
        self._database = database
        self._tree = tree
        self._losses = losses
        self._times: dict[str, datetime | None] = {}
        self._models: dict[str, str | None] = {}
        self._last: dict[str, str | None] = {}  # a hash, and the last message in the tree that it became
        self.model: str | None = None
        self.schema: str | None = None

    def add(self, thread: Row) -> str | None:
        """Add the thread's messages and those of its turns that it no longer points at; return its last message."""
        turns = self._list_turns(thread)
        for turn in turns:
            self._note_turn(turn)
        tips = [turn["tip_message_hash"] for turn in turns if turn["thread_id"] == thread["id"]]
        for tip in [*tips, thread["tip_message_hash"]]:
            self._add_chain(tip)
        return self._last.get(thread["tip_message_hash"])

    def _list_turns(self, thread: Row) -> list[Row]:
        turns: list[Row] = []
        id, forked_from = thread["id"], thread["forked_from"]
        for _ in range(_MAX_FORKS_FOLLOWED):
            turns = self._database.query("select * from turns where thread_id = ? order by id", id) + turns
            found = self._database.query("select id, forked_from from threads where id = ?", forked_from)
            if not found:
                break
            id, forked_from = found[0]["id"], found[0]["forked_from"]
        return turns

    def _note_turn(self, turn: Row) -> None:
        moment = read_time(turn["datetime_utc"])
        self.model = find_model(turn) or self.model
        self.schema = turn["schema_id"] or self.schema
        is_output = True
        for row in self._walk(turn["tip_message_hash"]):
            if row["hash"] == turn["parent_message_hash"]:
                is_output = False
            if row["hash"] in self._times:
                break
            self._times[row["hash"]] = moment
            self._models[row["hash"]] = find_model(turn) if is_output else None

    def _walk(self, tip: Any) -> Iterator[Row]:
        """Yield the messages from a tip to the first one, or to one that is in the tree."""
        seen: set[Any] = set()
        while tip is not None and tip not in seen:
            seen.add(tip)
            found = self._database.query("select * from messages where hash = ?", tip)
            if not found:
                self._losses["a message that others follow is not in the database"] += 1
                return
            yield found[0]
            if found[0]["hash"] in self._last:
                return
            tip = found[0]["parent_hash"]

    def _add_chain(self, tip: Any) -> None:
        parent: str | None = None
        for row in reversed(list(self._walk(tip))):
            key = row["hash"]
            if key not in self._last:
                for message in self._make_messages(row, parent):
                    model = self._models.get(key) if message["role"] == "assistant" else None
                    parent = self._tree.add(parent, message, self._times.get(key), model)
                self._last[key] = parent
            parent = self._last[key]

    def _make_messages(self, row: Row, parent: str | None) -> list[dict[str, Any]]:
        role = read_text(row["role"])
        parts: list[dict[str, Any]] = []
        texts: list[str] = []
        reasoning: list[str] = []
        calls: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        unanswered = self._list_unanswered(parent)
        for part in self._database.query("select * from parts where message_hash = ? order by position", row["hash"]):
            payload = self._read_payload(part)
            name = read_text(payload.get("name"))
            match part["type"]:
                case "text":
                    text = self._read_part_text(part, payload)
                    texts.append(text)
                    parts.append({"type": "text", "text": text})
                case "reasoning":
                    reasoning.append(self._read_part_text(part, payload))
                case "tool_call" if not payload.get("server_executed"):
                    arguments = json.dumps(payload.get("arguments") or {}, ensure_ascii=False)
                    calls.append(make_call(payload.get("tool_call_id"), name, arguments, len(calls)))
                case "tool_result" if not payload.get("server_executed"):
                    content = [{"type": "text", "text": read_text(payload.get("output"))}]
                    content += self._make_attachments(payload.get("attachments"))
                    results.append(make_result(payload.get("tool_call_id"), name, join_parts(content), unanswered))
                case "attachment":
                    parts += self._make_attachments([payload.get("attachment")])
                case "tool_call" | "tool_result":
                    self._losses["a tool that the provider ran is left out"] += 1
                case other:
                    self._losses[f"a part of the kind {other!r:.40} is left out"] += 1
        if role == "assistant":
            if len(parts) > len(texts):
                self._losses["an attachment of a reply is left out"] += len(parts) - len(texts)
            reply = make_reply("".join(texts), "".join(reasoning), calls)
            return [*([reply] if reply else []), *results]
        said = [{"role": role or "user", "content": join_parts(parts)}] if parts else []
        return [*results, *said]

    def _list_unanswered(self, parent: str | None) -> list[Mapping[str, Any]]:
        return list(self._tree[parent].message.get("tool_calls", ())) if parent is not None else []

    def _read_payload(self, part: Row) -> dict[str, Any]:
        text = read_text(part["payload"])
        payload = parse_json(text.encode("utf-8", "replace")) if text else {}
        return payload if isinstance(payload, dict) else {}

    def _read_part_text(self, part: Row, payload: Mapping[str, Any]) -> str:
        pieces = payload.get("text_ref")
        if part["text"] is not None or not isinstance(pieces, list):
            return read_text(part["text"])
        return "".join(
            read_text(piece["literal"]) if "literal" in piece else self._database.read_fragment(piece.get("fragment"))
            for piece in pieces
            if isinstance(piece, dict)
        )

    def _make_attachments(self, references: Any) -> list[dict[str, Any]]:
        ids = [found.get("id") for found in references or [] if isinstance(found, dict)]
        parts = (self._database.make_attachment_part(id, self._losses) for id in ids)
        return [part for part in parts if part is not None]
