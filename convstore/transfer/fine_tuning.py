"""Read fine-tuning files: JSON Lines of `{"messages": […], "tools": […]}`, and of preferences.

The form is that of OpenAI's documentation ("Supervised fine-tuning": `weight` of a message; "Direct preference
optimization": `{"input": {"messages": […]}, "preferred_output": […], "non_preferred_output": […]}`). Preferences are
read in TRL's form too (https://huggingface.co/docs/trl/dataset_formats): `{"prompt": […], "chosen": […], "rejected":
[…]}`.

The two outputs of a preference are branches, and the preferred one is the current path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from convstore.transfer.derived_ids import DerivedTree, derive_conversation_id
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.json_items import Item, read_items
from convstore.transfer.listed_messages import NotMessages, add_path, check_messages, keep_tools
from convstore.transfer.source_lines import Source


def read_fine_tuning(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield a conversation for each example."""
    for item in read_items(source):
        if isinstance(item, Problem):
            yield item
            continue
        try:
            yield _build(item)
        except NotMessages as error:
            yield Problem(item.place, str(error))


def _build(item: Item) -> ImportedConversation:
    record = item.value
    if not isinstance(record, dict):
        raise NotMessages("is not an example for fine-tuning")
    notes: list[str] = []
    given = record.get("input")
    tree = DerivedTree()
    if isinstance(given, dict):
        head = _add_preference(tree, given, ("messages", "preferred_output", "non_preferred_output"), record, notes)
        metadata = keep_tools(given, notes)
    elif "chosen" in record:
        head = _add_preference(tree, record, ("prompt", "chosen", "rejected"), record, notes)
        metadata = keep_tools(record, notes)
    else:
        messages = _strip(check_messages(record.get("messages")), notes)
        head = add_path(tree, None, messages)
        metadata = keep_tools(record, notes)
    found = tree.list_messages()
    return ImportedConversation(derive_conversation_id(item.number, found), found, head, metadata=metadata, notes=notes)


def _add_preference(
    tree: DerivedTree,
    given: Mapping[str, Any],
    keys: tuple[str, str, str],
    record: Mapping[str, Any],
    notes: list[str],
) -> str | None:
    """Add the messages and the two outputs after them, and return the id of the end of the preferred one."""
    prompt, preferred, other = keys
    end = add_path(tree, None, _strip(_check_output(given, prompt), notes))
    outputs = [_strip(_check_output(record, key), notes) for key in (preferred, other)]
    heads = [add_path(tree, end, output) for output in outputs]
    return heads[0]


def _check_output(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    try:
        return [_write_arguments(message) for message in check_messages(record.get(key))]
    except NotMessages as error:
        raise NotMessages(f"{error} ({key})") from None


def _write_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with the arguments of its calls as texts; TRL has objects there."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_write_call(call) for call in calls]}


def _write_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _strip(messages: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    """Return the messages without weights, which only fine-tuning accepts."""
    if not any("weight" in message for message in messages):
        return messages
    note = "the weights of replies are left out"
    notes += [note] if note not in notes else []
    return [{key: value for key, value in message.items() if key != "weight"} for message in messages]
