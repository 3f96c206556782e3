"""Split a reply with tool calls into messages of Chat Completions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from convstore.transfer.export_values import join_texts, make_id, to_kept

MAX_TOOL_NAME_CHARACTERS = 64
"""The longest name of a function that APIs accept."""
MAX_CALL_ID_CHARACTERS = 40
"""The longest id of a tool call that OpenAI accepts."""


@dataclass(frozen=True, slots=True)
class ReplyText:
    """Text that the model wrote, for the reader or for itself."""

    text: str
    kind: Literal["text", "reasoning"] = "text"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool."""

    name: str
    arguments: Any
    """An object, or a text."""
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered."""

    text: str
    name: str = ""
    call_id: str | None = None
    """None: it belongs to the first call without a result, of this name if it has one."""


ReplyPiece: TypeAlias = ReplyText | ToolCall | ToolResult


@dataclass(slots=True)
class _Step:
    """An assistant's message that is being put together, and the results of its calls."""

    parts: list[str | ToolCall] = field(default_factory=list)
    """Texts, and the calls between them."""
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[str, ToolCall]] = field(default_factory=list)
    results: dict[str, ToolResult] = field(default_factory=dict)


def split_reply(pieces: Iterable[ReplyPiece], node_id: str, separator: str = "\n\n") -> list[dict[str, Any]]:
    """Return the messages of a reply: text and calls, the results, the next text …

    A call without a result becomes text, because no API accepts one; so does a result without a call.

    Args:
        pieces: in the order of the reply.
        node_id: from which the ids of calls without one are made.
        separator: between texts.
    """
    messages: list[dict[str, Any]] = []
    step = _Step()
    count = 0
    used: set[str] = set()
    for piece in pieces:
        if step.results and not isinstance(piece, ToolResult):
            messages += _to_messages(step, separator)
            step = _Step()
        if isinstance(piece, ReplyText):
            if piece.kind == "text":
                step.parts.append(piece.text)
            else:
                step.reasoning.append(piece.text)
        elif isinstance(piece, ToolCall):
            count += 1
            is_usable = piece.id and len(piece.id) <= MAX_CALL_ID_CHARACTERS and piece.id not in used
            id_ = piece.id if piece.id and is_usable else f"call_{make_id(node_id, count)}"
            used.add(id_)
            step.calls.append((id_, piece))
            step.parts.append(piece)
        else:
            answered = _find_call(step, piece)
            if answered is None:
                step.parts.append(join_texts([_label("tool result", piece.name), piece.text], "\n"))
            else:
                step.results[answered] = piece
    return messages + _to_messages(step, separator)


def _find_call(step: _Step, result: ToolResult) -> str | None:
    """Return the id of the call that a result answers, or None."""
    waiting = [(id_, call) for id_, call in step.calls if id_ not in step.results]
    if result.call_id:
        return next((id_ for id_, call in waiting if call.id == result.call_id), None)
    return next((id_ for id_, call in waiting if not result.name or call.name == result.name), None)


def _to_messages(step: _Step, separator: str) -> list[dict[str, Any]]:
    whole = [(id_, call) for id_, call in step.calls if id_ in step.results]
    answered = {id(call) for _, call in whole}
    texts = [
        _name_call(part) if isinstance(part, ToolCall) else part for part in step.parts if id(part) not in answered
    ]
    text = join_texts(texts, separator)
    reasoning = join_texts(step.reasoning)
    if not text and not reasoning and not whole:
        return []
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if whole else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if whole:
        message["tool_calls"] = [
            {
                "id": id_,
                "type": "function",
                "function": {"name": to_tool_name(call.name), "arguments": _to_arguments(call.arguments)},
            }
            for id_, call in whole
        ]
    results = [{"role": "tool", "tool_call_id": id_, "content": step.results[id_].text} for id_, _ in whole]
    return [message, *results]


def to_tool_name(name: str) -> str:
    """Return a tool's name with the characters that APIs accept."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:MAX_TOOL_NAME_CHARACTERS] or "tool"


def _to_arguments(arguments: Any) -> str:
    """Return the arguments as the text of a JSON object, which servers require."""
    if isinstance(arguments, str):
        try:
            if isinstance(json.loads(arguments), dict):
                return arguments
        except (ValueError, RecursionError):
            pass
    if not isinstance(arguments, dict):
        arguments = {} if arguments in (None, "") else {"input": arguments}
    return json.dumps(to_kept(arguments), ensure_ascii=False)


def _name_call(call: ToolCall) -> str:
    return join_texts([_label("tool call", call.name), _to_arguments(call.arguments)], "\n")


def _label(what: str, name: str) -> str:
    return f"[{what} {name}]" if name else f"[{what}]"
