"""Read messages as items of OpenAI's Responses API, and store items as messages. Pure.

What came in as a chat message may be several items: its text and each of its tool calls. What came in as an item is one
message. It has the fields of a chat message, as far as the item says something that a chat message can say, so that it
is sent, shown, searched and exported as others. `ITEM_FIELD` has what the item has besides: its id, and how it differs
from the item that the message would be read as. So each item is given back exactly, also one of an unknown kind.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, TypeAlias

from convstore.messages.json_patch import apply_patch, make_patch
from convstore.messages.message import Message
from convstore.messages.request_form import ITEM_FIELD

Item: TypeAlias = dict[str, Any]
"""An item of a conversation: a JSON object, with a `type` unless it is a message."""

_SPEAKERS = ("user", "assistant", "system", "developer")  # a tuple: an item may have any value there
_CALLS = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
_RESULTS = ("function_call_output", "custom_tool_call_output")
_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_TEXT_TYPES = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ID_BYTES = 16


def make_item_id(item: Item) -> str:
    """Return a new id for an item."""
    return f"{get_id_prefix(item)}_{secrets.token_hex(_ID_BYTES)}"


def get_id_prefix(item: Item) -> str:
    """Return how the id of an item begins."""
    return _ID_PREFIXES.get(get_kind(item), "item")


def get_kind(item: Item) -> str:
    """Return the kind of an item; one without a type is a message."""
    kind = item.get("type", "message")
    return kind if isinstance(kind, str) else ""


def to_item_message(item: Item, id: str) -> Message:
    """Return the message that an item is stored as.

    Args:
        id: the id by which it is found: its own, or another one if it has none, or one that is taken.
    """
    message = _make_message(item)
    rest = {key: value for key, value in item.items() if key != "id"}
    kept: dict[str, Any] = {"id": id}
    if "id" not in item or item["id"] != id:
        kept["given"] = {"id": item["id"]} if "id" in item else {}
    patch = make_patch(_read_base(message, is_easy=_is_easy(item)), rest)
    if _is_easy(item):
        kept["easy"] = True
    if patch is not None:
        kept["patch"] = patch
    return {**message, ITEM_FIELD: kept}


def read_items(message: Message) -> list[Item]:
    """Return the items of a message, at least one.

    Those of a chat message have no ids; an item has the one that it came with, if it had one.
    """
    kept = message.get(ITEM_FIELD)
    if not isinstance(kept, dict):
        return _split(message)
    base = _read_base(message, is_easy=kept.get("easy") is True)
    try:
        item = apply_patch(base, kept.get("patch"))
    except ValueError:  # a part of it was redacted
        item = base
    given = kept.get("given", {"id": kept["id"]} if "id" in kept else {})
    return [{**item, **given} if isinstance(item, dict) and isinstance(given, dict) else base]


def get_item_id(message: Message) -> str | None:
    """Return the id by which an item is found; None: the message came in as a chat message."""
    kept = message.get(ITEM_FIELD)
    id = kept.get("id") if isinstance(kept, dict) else None
    return id if isinstance(id, str) else None


# --- from an item to a message ---


def _is_easy(item: Item) -> bool:
    """Return True if an item has the short form of a message, with a text as its content."""
    return get_kind(item) == "message" and isinstance(item.get("content"), str) and item.get("role") in _SPEAKERS


def _make_message(item: Item) -> Message:
    """Return what an item says as a chat message; one without content if there is no form for it."""
    kind, nothing = get_kind(item), {"role": "assistant", "content": None}
    if kind == "message" and item.get("role") in _SPEAKERS:
        return {"role": item["role"], "content": _join(_make_parts(item.get("content")))}
    if kind == "reasoning":
        texts = _list_texts(item.get("content")) or _list_texts(item.get("summary"))
        return {**nothing, "reasoning_content": "\n\n".join(texts)} if texts else nothing
    if kind in _CALLS:
        field, given = _CALLS[kind]
        values = [item.get(name) for name in ("call_id", "name", given)]
        if not all(isinstance(value, str) for value in values):
            return nothing
        called = {"name": values[1], given: values[2]}
        return {**nothing, "tool_calls": [{"id": values[0], "type": field, field: called}]}
    if kind in _RESULTS and isinstance(item.get("call_id"), str):
        output = item.get("output")
        content = output if isinstance(output, str) else _join(_make_parts(output))
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    return nothing


def _make_parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = [_make_part(part) for part in content] if isinstance(content, list) else []
    return [part for part in parts if part is not None]


def _make_part(part: Any) -> dict[str, Any] | None:
    """Return a part of an item's content as one of a chat message; None: it is no part."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_TYPES and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        detail = {"detail": part["detail"]} if part.get("detail") in ("low", "high") else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    if kind == "input_file":
        file = {name: part[name] for name in ("file_data", "file_id", "filename") if isinstance(part.get(name), str)}
        if file:
            return {"type": "file", "file": file}
    if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
        return {"type": "input_audio", "input_audio": part["input_audio"]}
    # The model is told that something stood here.
    return {"type": "text", "text": f"[{kind:.40}]"} if isinstance(kind, str) and kind else None


def _join(parts: list[Any]) -> Any:
    """Return the content of a message: a text if it is one."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _list_texts(parts: Any) -> list[str]:
    found = (part.get("text") for part in parts if isinstance(part, dict)) if isinstance(parts, list) else ()
    return [text for text in found if isinstance(text, str) and text]


# --- from a message to items ---


def _read_base(message: Message, *, is_easy: bool) -> Item:
    """Return the item that a message of one item is read as, without what `ITEM_FIELD` says."""
    if is_easy and isinstance(message.get("content"), str):
        return {"role": message["role"], "content": message["content"]}
    if message["role"] == "assistant" and not message.get("content") and not _has_more(message):
        return {}  # an item of another kind
    items = _split(message)
    return items[0] if len(items) == 1 else {}


def _has_more(message: Message) -> bool:
    return any(message.get(name) for name in ("tool_calls", "function_call", "refusal", "reasoning_content", "audio"))


def _split(message: Message) -> list[Item]:
    role = message["role"]
    if role in ("tool", "function"):
        call_id = message.get("tool_call_id") if role == "tool" else message.get("name")
        content = message.get("content")
        output = content if isinstance(content, str) else _read_parts(content, role)
        return [{"type": "function_call_output", "call_id": call_id, "output": output, "status": "completed"}]
    if role != "assistant":
        return [_make_speech(role if role in _SPEAKERS else "unknown", _read_parts(message.get("content"), role))]
    items: list[Item] = []
    reasoning = message.get("reasoning_content")
    if isinstance(reasoning, str) and reasoning:
        items.append({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": reasoning}]})
    parts = _read_parts(message.get("content"), role) + _read_other_texts(message)
    calls = [_read_call(call) for call in _list_calls(message)]
    if parts or not (calls or (items and message.get("content") is None)):
        items.append(_make_speech("assistant", parts))
    return items + calls


def _make_speech(role: str, parts: list[Any]) -> Item:
    return {"type": "message", "role": role, "status": "completed", "content": parts}


def _read_parts(content: Any, role: str) -> list[Any]:
    if isinstance(content, str):
        return [_read_text(content, role)] if content else []
    return [_read_part(part, role) for part in content] if isinstance(content, list) else []


def _read_text(text: str, role: str) -> dict[str, Any]:
    return (
        {"type": "output_text", "text": text, "annotations": []}
        if role == "assistant"
        else {"type": "input_text", "text": text}
    )


def _read_part(part: Any, role: str) -> Any:
    """Return a part of a chat message's content as one of an item; an unknown one as it is."""
    if not isinstance(part, dict):
        return _read_text(part if isinstance(part, str) else json.dumps(part), role)
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return _read_text(part["text"], role)
    image = part.get("image_url")
    if kind == "image_url" and isinstance(image, dict) and isinstance(image.get("url"), str):
        return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail") or "auto"}
    if kind == "file" and isinstance(part.get("file"), dict):
        return {"type": "input_file", **part["file"]}
    return part


def _read_other_texts(message: Message) -> list[Any]:
    refusal, audio = message.get("refusal"), message.get("audio")
    found: list[Any] = [{"type": "refusal", "refusal": refusal}] if isinstance(refusal, str) and refusal else []
    transcript = audio.get("transcript") if isinstance(audio, dict) else None
    if isinstance(transcript, str) and transcript:
        found.append(_read_text(transcript, "assistant"))
    return found


def _list_calls(message: Message) -> list[Any]:
    calls = message.get("tool_calls")
    found = list(calls) if isinstance(calls, list) else []
    if isinstance(message.get("function_call"), dict):  # the older form of a single call
        called = message["function_call"]
        found.append({"id": called.get("name"), "function": called})
    return found


def _read_call(call: Any) -> Item:
    call = call if isinstance(call, dict) else {}
    for kind, (field, given) in _CALLS.items():
        called = call.get(field)
        if isinstance(called, Mapping):
            values = {"call_id": call.get("id"), "name": called.get("name"), given: called.get(given)}
            return {"type": kind, **values, "status": "completed"}
    return {"type": "function_call", "call_id": call.get("id"), "name": None, "arguments": None, "status": "completed"}
