"""Read the conversations that `llm` to 0.31 stored: a row of `responses` for each reply.

The tables are those of llm 0.31's `migrations.py` and `Response.log_to_db` in `models.py` (the `llm` package, release
0.31); a release that has fewer tables and columns is read as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from convstore.transfer.data_urls import join_parts
from convstore.transfer.derived_ids import DerivedTree
from convstore.transfer.file_times import read_time
from convstore.transfer.foreign_database import Row, read_text
from convstore.transfer.llm_database import LlmDatabase
from convstore.transfer.llm_messages import make_call, make_reply, make_result


class ResponseReader:
    """Adds the responses of one conversation to its tree."""

    def __init__(self, database: LlmDatabase, tree: DerivedTree, losses: Counter[str]) -> None:
        self._database = database
        self._tree = tree
        self._losses = losses
        self._system = ""
        self._unanswered: list[Mapping[str, Any]] = []
        self.head: str | None = None

    def add(self, row: Row) -> None:
        """Add what was sent and answered in one response."""
        id = read_text(row["id"])
        moment = read_time(row["datetime_utc"])
        for message in (*self._make_inputs(row, id), self._make_reply(row, id)):
            if message is not None:
                is_reply = message["role"] == "assistant"
                self.head = self._tree.add(self.head, message, moment, find_model(row) if is_reply else None)

    def _make_inputs(self, row: Row, id: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        # As in `Prompt.system` and `Prompt.prompt` of llm 0.31.
        pieces = [*self._database.list_fragments("system_fragments", id), read_text(row["system"])]
        system = "\n\n".join(piece.strip() for piece in pieces if piece.strip())
        if system and system != self._system:
            self._system = system
            messages.append({"role": "system", "content": system})
        attached = self._list_attachments("prompt_attachments", "response_id", id)
        for result in self._database.list_of_response("tool_results", id):
            # Attachments of results are attached to the next prompt as well, which is how models see them.
            own = [
                found
                for found in self._list_attachments("tool_results_attachments", "tool_result_id", result["id"])
                if found not in attached
            ]
            parts = [{"type": "text", "text": read_text(result["output"])}, *self._make_parts(own)]
            call_id, name = result["tool_call_id"], read_text(result["name"])
            messages.append(make_result(call_id, name, join_parts(parts), self._unanswered))
        prompt = read_text(row["prompt"])
        text = "\n".join([*self._database.list_fragments("prompt_fragments", id), *([prompt] if prompt else [])])
        parts = [{"type": "text", "text": text}] if text else []
        parts += self._make_parts(attached)
        if parts:
            messages.append({"role": "user", "content": join_parts(parts)})
        return messages

    def _make_reply(self, row: Row, id: str) -> dict[str, Any] | None:
        calls = [
            make_call(call["tool_call_id"], read_text(call["name"]), read_text(call["arguments"]), number)
            for number, call in enumerate(self._database.list_of_response("tool_calls", id))
        ]
        self._unanswered = list(calls)
        return make_reply(read_text(row["response"]), read_text(row["reasoning"]), calls)

    def _list_attachments(self, table: str, column: str, id: Any) -> list[Any]:
        if not self._database.may_have(table, column, id):
            return []
        rows = self._database.query(
            f'select attachment_id from {table} where {column} = ? order by "order"',  # noqa: S608
            id,
        )
        return [row["attachment_id"] for row in rows]

    def _make_parts(self, ids: list[Any]) -> list[dict[str, Any]]:
        parts = (self._database.make_attachment_part(id, self._losses) for id in ids)
        return [part for part in parts if part is not None]


def find_model(row: Row) -> str | None:
    """Return the model of a response or a turn: the one that the provider named, else the one that was asked."""
    return read_text(row["resolved_model"]) or read_text(row["model"]) or None
