"""Write ShareGPT: a list of `{"id": …, "conversations": [{"from": "human", "value": …}, …]}`.

There is no specification; `transfer.sharegpt` names where the form was read. It has texts alone: images and other
parts, names, refusals, the ids of tool calls and everything about turns are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from convstore.messages.message import Message, extract_text
from convstore.messages.tool_calls import list_calls, repair_arguments
from convstore.transfer.losses import list_losses
from convstore.transfer.writers.training_messages import find_tools, parse_arguments, to_plain_text
from convstore.transfer.writers.written_text import (
    OnNote,
    ignore_note,
    list_path,
    to_strict_json,
)
from convstore.values.exported import ExportedConversation

_SENDERS = {
    "system": "system",
    "developer": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
    "function": "observation",
}


def write_sharegpt(conversations: Iterable[ExportedConversation], on_note: OnNote = ignore_note) -> Iterator[bytes]:
    """Yield a list with the path of each conversation; notes say what is left out."""
    separator = b"[\n"
    for exported in conversations:
        path = [one.record.message for one in list_path(exported)]
        unknown = next((message["role"] for message in path if message["role"] not in _SENDERS), None)
        if unknown is not None:
            on_note(exported.conversation.id, f"not written: it has a message of the role {unknown!r:.40}")
            continue
        losses: Counter[str] = Counter()
        entries = [entry for message in path for entry in _make_entries(message, losses)]
        for note in list_losses(losses):
            on_note(exported.conversation.id, note)
        if not entries:
            on_note(exported.conversation.id, "not written: it has no text")
            continue
        record: dict[str, Any] = {"id": exported.conversation.id, "conversations": entries}
        record |= {"model": exported.conversation.model} if exported.conversation.model else {}
        # LLaMA-Factory wants the tools as a text.
        record |= {"tools": to_strict_json(tools["tools"])} if (tools := find_tools(exported)) else {}
        yield separator + to_strict_json(record).encode()
        separator = b",\n"
    yield b"\n]\n" if separator == b",\n" else b"[]\n"


def _make_entries(message: Message, losses: Counter[str]) -> Iterator[dict[str, str]]:
    text, lost = to_plain_text(message.get("content"))
    text = text or extract_text(message)
    if lost:
        losses["a part of a message that is no text is left out"] += lost
    calls = [call for call in map(_make_call, list_calls(message)) if call is not None]
    if len(calls) < len(list_calls(message)):
        losses["a tool call that is not whole is left out"] += len(list_calls(message)) - len(calls)
    if isinstance(message.get("function_call"), dict) and (call := _make_call({"function": message["function_call"]})):
        calls.append(call)
    if text:
        yield {"from": _SENDERS[message["role"]], "value": text}
        if calls:
            losses["a text beside tool calls is an entry of its own"] += 1
    elif not calls:
        losses["a message without a text is left out"] += 1
    if calls:
        yield {"from": "function_call", "value": to_strict_json(calls[0] if len(calls) == 1 else calls)}


def _make_call(call: dict[str, Any]) -> dict[str, Any] | None:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    arguments = repair_arguments(function.get("arguments"))
    return {"name": function["name"], "arguments": parse_arguments(arguments)} if arguments is not None else None
