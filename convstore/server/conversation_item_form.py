"""Items of conversations: read from a body, and written with all fields that OpenAI's types require."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convstore.conversations.item_lookup import PlacedItem
from convstore.messages.conversation_items import Item, get_kind
from convstore.server.service_errors import ServiceError

MAX_ITEMS = 20
"""How many items a request may add."""
_REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "message": {"status": "completed"},
    "function_call": {"status": "completed"},
    "function_call_output": {"status": "completed"},
    "reasoning": {"summary": []},
}


def read_items_of_body(body: Mapping[str, Any], *, may_lack: bool = False) -> list[Item]:
    """Return the items of a body.

    Args:
        may_lack: whether there may be none.

    Raises:
        ServiceError: 400.
    """
    items = body.get("items")
    if items is None and may_lack:
        return []
    if not isinstance(items, list) or not (items or may_lack):
        raise _refuse("'items' must be a list of items", "items")
    if len(items) > MAX_ITEMS:
        raise _refuse(f"a request adds at most {MAX_ITEMS} items", "items")
    for place, item in enumerate(items):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if not isinstance(kind, str) or not kind:
            raise _refuse(f"items[{place}] has no type", f"items[{place}].type")
        if kind == "message" and not isinstance(item.get("role"), str):
            raise _refuse(f"items[{place}] has no role", f"items[{place}].role")
        if kind == "message" and not isinstance(item.get("content"), (str, list)):
            raise _refuse(f"items[{place}] has no content", f"items[{place}].content")
    return items


def to_item_form(placed: PlacedItem) -> Item:
    """Return an item as it came in, with what OpenAI's types require besides."""
    item, kind = placed.item, get_kind(placed.item)
    missing = {name: value for name, value in _REQUIRED.get(kind, {}).items() if item.get(name) is None}
    form = {**item, **missing, "type": item.get("type", kind), "id": placed.id}
    if kind == "message":
        content = item.get("content")
        is_reply = item.get("role") == "assistant"
        if isinstance(content, str):
            content = [{"type": "output_text" if is_reply else "input_text", "text": content}]
        form["content"] = [_complete_part(part) for part in content] if isinstance(content, list) else []
    return form


def _complete_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "output_text":
        return {"annotations": [], **part}
    if part.get("type") == "input_image":
        return {"detail": "auto", **part}
    return part


def _refuse(text: str, param: str) -> ServiceError:
    return ServiceError(400, text, "invalid_value", param=param)
