"""Read ShareGPT files: `{"conversations": [{"from": "human", "value": …}, …]}`, in a list or JSON Lines.

There is no specification. The form was read in FastChat's data preparation (github.com/lm-sys/FastChat, `docs/` and
`fastchat/data`: `conversations`, before that `items`, and `id`) and in LLaMA-Factory's `data/README.md`
(github.com/hiyouga/LLaMA-Factory: `system`, `tools`, `function_call`, `observation`, `chosen` and `rejected`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from convstore.transfer.derived_ids import DerivedTree, derive_conversation_id
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.json_items import Item, read_items
from convstore.transfer.listed_messages import NotMessages, add_path, keep_tools
from convstore.transfer.source_lines import Source

LIST_KEYS = ("conversations", "items", "conversation")

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "system": "system",
    "function_call": "call",
    "tool_call": "call",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool": "tool",
}


def read_sharegpt(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of a file."""
    for item in read_items(source):
        if isinstance(item, Problem):
            yield item
            continue
        try:
            conversation = _build(item)
        except NotMessages as error:
            yield Problem(item.place, str(error))
            continue
        if conversation is not None:
            yield conversation


def _build(item: Item) -> ImportedConversation | None:
    record = item.value
    listed = (
        next((record[key] for key in LIST_KEYS if isinstance(record.get(key), list)), None) if _is(record) else None
    )
    if listed is None:
        raise NotMessages("has no list `conversations` or `items`")
    notes: list[str] = []
    maker = _MessageMaker(notes)
    messages = [message for turn in listed if (message := maker.make(turn)) is not None]
    system = record.get("system")
    if isinstance(system, str) and system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    tree = DerivedTree()
    head = end = add_path(tree, None, messages)
    answers = {key: maker.make(record[key]) for key in ("rejected", "chosen") if _is(record.get(key))}
    for answer in answers.values():  # the chosen one is the last, and the current path
        head = add_path(tree, end, [answer] if answer else [])
    found = tree.list_messages()
    if not found:
        return None  # deleted conversations are empty lists
    id = record.get("id")
    is_named = isinstance(id, (str, int)) and not isinstance(id, bool)
    metadata: dict[str, Any] = keep_tools(record, notes) | ({"id": id} if is_named else {})
    model = record.get("model")
    return ImportedConversation(
        derive_conversation_id(str(id) if is_named else item.number, found),
        found,
        head,
        model=model if isinstance(model, str) and model else None,
        metadata=metadata,
        notes=notes,
    )


def _is(value: Any) -> bool:
    return isinstance(value, dict)


class _MessageMaker:
    """Makes messages of turns, and pairs the results of tools with their calls."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes
        self._open_calls: list[str] = []
        self._calls = 0

    def make(self, turn: Any) -> dict[str, Any] | None:
        """Return the message of a turn; None if it says nothing."""
        sender = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        role = _ROLES.get(sender.lower()) if isinstance(sender, str) else None
        if role is None:
            raise NotMessages(f"has a message from {sender!r:.40}, who is not known")
        text = turn.get("value", turn.get("content"))
        if text is None or text == "":
            return None
        if not isinstance(text, str):
            raise NotMessages(f"has a message from {sender!r:.40} without a text")
        if role == "call":
            return self._make_call(text)
        if role == "tool" and self._open_calls:
            return {"role": "tool", "tool_call_id": self._open_calls.pop(0), "content": text}
        if role == "tool":
            note = "a tool's result has no call, and is kept as the user's message"
            self._notes += [note] if note not in self._notes else []
            role = "user"
        return {"role": role, "content": text}

    def _make_call(self, text: str) -> dict[str, Any]:
        try:
            called = json.loads(text)
        except (ValueError, RecursionError):
            called = None
        calls = called if isinstance(called, list) else [called]
        if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
            return {"role": "assistant", "content": text}  # a form of its own
        self._open_calls = []
        return {"role": "assistant", "content": None, "tool_calls": [self._make_tool_call(call) for call in calls]}

    def _make_tool_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        self._calls += 1
        id = f"call_{self._calls}"
        self._open_calls.append(id)
        arguments = call.get("arguments", call.get("parameters", {}))
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return {"id": id, "type": "function", "function": {"name": call["name"], "arguments": arguments}}
