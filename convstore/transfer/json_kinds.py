"""Tell which program wrote JSON, by the names in it.

The forms are those that the readers name in their modules; those of other exports were read in public descriptions and
converters: ChatGPT's `mapping`, Claude's `chat_messages`, Open WebUI's `chat` with a `history`, LibreChat's
`conversationId` with `messages` or `messagesTree`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convstore.transfer.checked_json import UnreadableJson, parse_json
from convstore.transfer.json_beginnings import parse_beginning
from convstore.transfer.listed_messages import ROLES
from convstore.transfer.sharegpt import LIST_KEYS

_MOST_LINES = 200

# Tuples, because a file may have any value in the place of a name, and a set takes none that cannot be hashed.
_CODEX_LINES = ("session_meta", "response_item", "event_msg", "turn_context", "compacted", "world_state")
_CODEX_ITEMS = ("message", "reasoning", "function_call", "function_call_output", "local_shell_call", "custom_tool_call")
_CLAUDE_CODE_LINES = (
    "user",
    "assistant",
    "system",
    "attachment",
    "progress",
    "ai-title",
    "custom-title",
    "mode",
    "last-prompt",
)


def find_json_kind(data: bytes) -> str | None:
    """Return the kind of a JSON or JSON Lines file by its first bytes, or None."""
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith((b"{", b"[")):
        return None
    lines = text.split(b"\n")
    is_in_lines = len(lines) > 1 and _is_json(lines[0]) and any(line.strip() for line in lines[1:])
    if not is_in_lines:
        # One value, or JSON Lines with a damaged first line.
        found = find_kind_of(parse_beginning(text), is_line=len(lines) == 1 or not any(map(bytes.strip, lines[1:])))
        if found is not None:
            return found
    for line in lines[:_MOST_LINES]:
        found = find_kind_of(parse_beginning(line.strip()), is_line=True)
        if found is not None:
            return found
    return None


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), (dict, list))
    except UnreadableJson:
        return False


def find_kind_of(value: Any, *, is_line: bool) -> str | None:
    """Return the kind of a value, or of the first in a list that has one."""
    if isinstance(value, list):
        if value and isinstance(value[0], list):  # lists of messages
            value = value[0]
        kinds = (_find_kind_of_object(element, is_line=True) for element in value if isinstance(element, dict))
        return next((kind for kind in kinds if kind is not None), None)
    return _find_kind_of_object(value, is_line=is_line) if isinstance(value, dict) else None


def _find_kind_of_object(value: dict[str, Any], *, is_line: bool) -> str | None:
    if "messages" in value and not is_line and _is_messages(value["messages"]) and "conversationId" not in value:
        return "messages"  # one request, laid out to be read
    return next((kind for kind, is_kind in _TESTS.items() if is_kind(value)), None)


def _is_convstore(value: dict[str, Any]) -> bool:
    return "convstore" in value


def _is_chatgpt(value: dict[str, Any]) -> bool:
    return isinstance(value.get("mapping"), dict)


def _is_claude(value: dict[str, Any]) -> bool:
    return isinstance(value.get("chat_messages"), list)


def _is_open_webui(value: dict[str, Any]) -> bool:
    chat = value.get("chat", value)
    history = chat.get("history") if isinstance(chat, dict) else None
    return isinstance(history, dict) and bool({"messages", "currentId"} & history.keys())


def _is_librechat(value: dict[str, Any]) -> bool:
    return "conversationId" in value and bool({"messages", "messagesTree", "endpoint", "messageId"} & value.keys())


def _is_claude_code(value: dict[str, Any]) -> bool:
    kind = value.get("type")
    if kind == "summary":
        return "leafUuid" in value
    if kind == "file-history-snapshot":
        return "snapshot" in value
    return kind in _CLAUDE_CODE_LINES and bool({"sessionId", "parentUuid"} & value.keys())


def _is_codex(value: dict[str, Any]) -> bool:
    kind = value.get("type")
    if kind in _CODEX_LINES:
        return "payload" in value
    if kind in _CODEX_ITEMS:
        return "parentUuid" not in value
    return value.get("record_type") == "state" or {"id", "timestamp", "instructions"} <= value.keys()


def _is_sharegpt(value: dict[str, Any]) -> bool:
    turns = next((value[key] for key in LIST_KEYS if isinstance(value.get(key), list)), None)
    return turns is not None and (
        not turns or (isinstance(turns[0], dict) and bool({"from", "value"} & turns[0].keys()))
    )


def _is_fine_tuning(value: dict[str, Any]) -> bool:
    given = value.get("input")
    if isinstance(given, dict):
        return _is_messages(given.get("messages"))
    if _is_messages(value.get("prompt")):
        return "chosen" in value or "rejected" in value
    return _is_messages(value.get("messages"))


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and (not value or (isinstance(value[0], dict) and "role" in value[0]))


def _is_message(value: dict[str, Any]) -> bool:
    return value.get("role") in tuple(ROLES)  # a long content is not whole yet


# In this order: the first that fits.
_TESTS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "convstore": _is_convstore,
    "chatgpt": _is_chatgpt,
    "claude": _is_claude,
    "open-webui": _is_open_webui,
    "librechat": _is_librechat,
    "claude-code": _is_claude_code,
    "codex": _is_codex,
    "sharegpt": _is_sharegpt,
    "fine-tuning": _is_fine_tuning,
    "messages": _is_message,
}
