"""The text of a message that a search looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from convstore.messages.message import Message
from convstore.search.folded_text import SEPARATOR


def join_texts(texts: list[str]) -> str:
    """Return texts as one, so that no phrase spans two of them."""
    return f"\n{SEPARATOR}\n".join(texts)


def extract_searched_text(message: Message) -> str:
    """Return what is searched of a message: its text, its refusal, and the names and arguments of its tool calls.

    What a model thought before it replied is not searched.
    """
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str):
        return content
    return join_texts([text for text in _find_texts(message) if text])


def _find_texts(message: Message) -> Iterator[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    for part in parts:
        if isinstance(part, Mapping):
            texts = part.get("text"), part.get("refusal")
            yield from (text for text in texts if isinstance(text, str))
    if isinstance(message.get("refusal"), str):
        yield message["refusal"]
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else []), {"function": message.get("function_call")}]:
        if isinstance(call, Mapping):
            for called in (call.get("function"), call.get("custom")):
                yield from _find_call_texts(called)


def _find_call_texts(called: Any) -> Iterator[str]:
    if not isinstance(called, Mapping):
        return
    for key in ("name", "arguments", "input"):
        if isinstance(called.get(key), str):
            yield _unescape(called[key])


def _unescape(arguments: str) -> str:
    """Return JSON with its letters as people read and type them: some models write `\\u5317\\u4eac`."""
    if "\\" in arguments:
        with suppress(ValueError, RecursionError):
            return json.dumps(json.loads(arguments), ensure_ascii=False)
    return arguments
