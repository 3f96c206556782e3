"""Turn items of the Responses API into Chat Completions messages.

The items are those of `ResponseItem` in `codex-rs/protocol/src/models.rs` of github.com/openai/codex, as Codex stores
them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from convstore.transfer.data_urls import MAX_ATTACHMENT_BYTES, join_parts, make_image_part
from convstore.transfer.derived_ids import DerivedTree
from convstore.transfer.source_lines import describe_limit

_ROLES = ("user", "assistant", "system", "developer")  # a tuple: a damaged file may have any value there


class ItemPath:
    """Adds items one after another to a tree, and joins those that make one reply.

    The reasoning, the text and the tool calls of a reply are items of their own, and results may come between calls
    that were made at once. A reply is whole when all its calls have results, or something else is said.
    """

    def __init__(self, tree: DerivedTree, losses: Counter[str]) -> None:
        self._tree = tree
        self._losses = losses
        self._reply: dict[str, Any] | None = None
        self._reply_time: datetime | None = None
        self._reply_model: str | None = None
        self._results: list[tuple[dict[str, Any], datetime | None]] = []
        self._said: list[tuple[dict[str, Any], datetime | None, bool]] = []  # while results were still to come
        self._reasoning: list[str] = []
        self._position: str | None = None
        self.model: str | None = None
        """The model that writes the next replies."""
        self.turns: list[str | None] = []
        """For each of the user's turns, the id of the message before it; None: it begins the conversation."""

    def finish(self) -> str | None:
        """Add what is still open, and return the id of the last message."""
        if self._reply is not None:
            self._position = self._tree.add(self._position, self._reply, self._reply_time, self._reply_model)
            for result, moment in self._results:
                self._position = self._tree.add(self._position, result, moment)
        for message, moment, begins_turn in self._said:
            if begins_turn:
                self.turns.append(self._position)
            self._position = self._tree.add(self._position, message, moment)
        self._reply, self._results, self._said = None, [], []
        return self._position

    def roll_back(self, count: int) -> None:
        """Go on before the last turns of the user, or before the first one if there are not as many."""
        self.finish()
        self._reasoning = []
        if count := min(count, len(self.turns)):
            self._position = self.turns[-count]
            del self.turns[-count:]

    def add(self, item: Mapping[str, Any], moment: datetime | None, *, begins_turn: bool = False) -> str | None:
        """Add an item; return why it cannot be read, or None."""
        kind = item.get("type")
        match kind:
            case "message":
                return self._add_message(item, moment, begins_turn)
            case "reasoning":
                self._reasoning += _list_texts(item.get("content")) or _list_texts(item.get("summary"))
            case "function_call" | "custom_tool_call" | "local_shell_call" | "tool_search_call":
                return self._add_call(make_call(item), moment)
            case "function_call_output" | "custom_tool_call_output" | "tool_search_output" | "local_shell_call_output":
                return self._add_result(item, moment)
            case str():
                self._losses[f"an item of the kind {kind[:40]} is left out"] += 1
            case _:
                return "has an item without a type"
        return None

    def _add_message(self, item: Mapping[str, Any], moment: datetime | None, begins_turn: bool) -> str | None:
        role, parts = item.get("role"), self._make_parts(item.get("content"))
        if role not in _ROLES or parts is None:
            return "has a message without a role or content"
        if not parts:
            return None
        if role != "assistant":
            if self._reasoning:
                self._losses["reasoning without a reply is left out"] += 1
                self._reasoning = []
            if not self._list_open_calls():
                self.finish()
            self._said.append(({"role": role, "content": join_parts(parts)}, moment, begins_turn))
            return None
        if self._reply is not None and self._list_open_calls() and not self._said:
            # Said between calls and their results, which must follow the reply.
            content = self._reply["content"]
            before = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            self._reply["content"] = join_parts([*before, *parts])
            self._add_reasoning(self._reply)
            return None
        self._begin_reply(join_parts(parts), moment)
        return None

    def _begin_reply(self, content: Any, moment: datetime | None) -> dict[str, Any]:
        self.finish()
        self._reply, self._reply_time, self._reply_model = {"role": "assistant", "content": content}, moment, self.model
        self._add_reasoning(self._reply)
        return self._reply

    def _add_reasoning(self, reply: dict[str, Any]) -> None:
        if self._reasoning:
            before = [reply["reasoning_content"]] if "reasoning_content" in reply else []
            reply["reasoning_content"] = "\n\n".join([*before, *self._reasoning])
            self._reasoning = []

    def _add_call(self, call: dict[str, Any] | None, moment: datetime | None) -> str | None:
        if call is None:
            return "has a tool call without an id or a name"
        reply = self._reply
        # A call after all results, or after something that the user said, is made in a new reply.
        if reply is None or self._said or (self._results and not self._list_open_calls()):
            reply = self._begin_reply(None, moment)
        self._add_reasoning(reply)
        reply.setdefault("tool_calls", []).append(call)
        return None

    def _list_open_calls(self) -> set[str]:
        calls = self._reply.get("tool_calls", ()) if self._reply is not None else ()
        return {call["id"] for call in calls} - {result["tool_call_id"] for result, _ in self._results}

    def _add_result(self, item: Mapping[str, Any], moment: datetime | None) -> str | None:
        call_id = item.get("call_id") or item.get("id")
        if not isinstance(call_id, str):
            return "has a tool result without an id"
        output = item.get("output", item.get("tools"))
        if isinstance(output, dict):  # {"content": …, "success": …}, of the first releases
            output = output.get("content", output)
        parts = self._make_parts(output) if isinstance(output, list) else None
        if parts is not None:
            content = join_parts(parts)
        else:
            content = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        result = {"role": "tool", "tool_call_id": call_id, "content": content}
        if call_id in self._list_open_calls():
            self._results.append((result, moment))
        else:
            self._losses["a tool result without its call is left out"] += 1
        return None

    def _make_parts(self, content: Any) -> list[dict[str, Any]] | None:
        """Return the content parts of an item's content, or None if it is not content."""
        if isinstance(content, str):
            return [{"type": "text", "text": content}] if content else []
        if not isinstance(content, list):
            return None
        parts: list[dict[str, Any]] = []
        for part in content:
            if not isinstance(part, dict):
                return None
            text, image, kind = part.get("text"), part.get("image_url"), part.get("type")
            if isinstance(text, str):
                if text:
                    parts.append({"type": "text", "text": text})
            elif isinstance(image, str):
                if len(image) // 4 * 3 > MAX_ATTACHMENT_BYTES:
                    self._losses[f"an attachment is larger than {describe_limit(MAX_ATTACHMENT_BYTES)}"] += 1
                    parts.append({"type": "text", "text": "[image]"})
                else:
                    parts.append(make_image_part(image))
            else:
                self._losses[f"content of the kind {kind!s:.40} is left out"] += 1
        return parts


def make_call(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the tool call of an item, or None if it has no id or name."""
    call_id = item.get("call_id") or item.get("id")
    kind = item["type"]
    name = item.get("name") if kind in ("function_call", "custom_tool_call") else kind.removesuffix("_call")
    if not isinstance(call_id, str) or not isinstance(name, str) or not name:
        return None
    if isinstance(namespace := item.get("namespace"), str) and namespace:
        name = f"{namespace}.{name}"
    if kind == "custom_tool_call":
        return {"id": call_id, "type": "custom", "custom": {"name": name, "input": _to_text(item.get("input"))}}
    arguments = item.get("action") if kind == "local_shell_call" else item.get("arguments")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": _to_text(arguments)}}


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def _list_texts(parts: Any) -> list[str]:
    """Return the texts of a list of `{"text": …}`."""
    if not isinstance(parts, list):
        return []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return [text for text in texts if isinstance(text, str) and text]
