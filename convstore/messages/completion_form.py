"""Write a stored reply as the provider's answer: a completion, or the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from convstore.messages.message import Message

_COMPLETION, _CHUNK = "chat.completion", "chat.completion.chunk"


def make_completion(facts: Mapping[str, Any], messages: list[Message], reasons: list[str | None]) -> dict[str, Any]:
    """Return a completion.

    Args:
        facts: `id`, `created`, `model`, and all other fields of the answer that are no choices.
        messages: the message of each choice.
        reasons: why each choice ended.
    """
    kept = facts.get("choices")
    others = kept if isinstance(kept, list) else []
    choices = []
    for index, (message, reason) in enumerate(zip(messages, reasons, strict=True)):
        other = others[index] if index < len(others) and isinstance(others[index], dict) else {}
        choices.append({"index": index, "message": message, "logprobs": None, **other, "finish_reason": reason})
    rest = {name: value for name, value in facts.items() if name not in ("choices", "object")}
    return {"object": _COMPLETION, **rest, "choices": choices}


def list_events(completion: Mapping[str, Any], *, includes_usage: bool) -> Iterator[bytes]:
    """Yield the events of a stream that says what a completion says, with `[DONE]`."""
    facts = {name: value for name, value in completion.items() if name not in ("choices", "usage", "object")}
    for choice in completion["choices"]:
        delta = dict(choice["message"])
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [
                {"index": index, **call} if isinstance(call, dict) else call for index, call in enumerate(calls)
            ]
        others = {name: value for name, value in choice.items() if name not in ("message", "finish_reason", "index")}
        begin = {"index": choice["index"], "delta": delta, **others, "finish_reason": None}
        yield _write_event({"object": _CHUNK, **facts, "choices": [begin]})
        end = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}
        yield _write_event({"object": _CHUNK, **facts, "choices": [end]})
    if includes_usage:
        yield _write_event({"object": _CHUNK, **facts, "choices": [], "usage": completion.get("usage")})
    yield b"data: [DONE]\n\n"


def _write_event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
