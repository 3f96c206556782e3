"""Read the answer to a call without a stream, and note what is odd about a reply."""

from __future__ import annotations

from typing import Any

from convstore.messages.completion import Completion
from convstore.messages.lenient_json import find_kept_text
from convstore.messages.tool_calls import find_broken_calls
from convstore.provider.raw_answer import RawAnswer
from convstore.provider.response_kind import parse_json_body
from convstore.values.steps import HangUp, ReadBody, Steps

_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_MAX_LISTED_PATHS = 8
_MAX_PATH_CHARACTERS = 60


def read_whole_answer(received: Any) -> Steps[Any]:
    """Return the answer to a call without a stream, as an openai object or as plain JSON.

    Raises:
        NotACompletion: the body is not JSON.
    """
    if not isinstance(received, RawAnswer):
        return received
    try:
        return parse_json_body((yield ReadBody(received)))
    except GeneratorExit:
        raise
    except BaseException:
        yield HangUp(received)
        raise


def note_oddities(completion: Completion) -> tuple[str, ...]:
    """Return a note for each thing about a reply that a reader of the turn should know."""
    notes = []
    reason = completion.finish_reason
    if reason is not None and reason not in _FINISH_REASONS:
        notes.append(f"unknown finish_reason: {reason}")
    for message in completion.messages[:1]:
        notes += [f"not sent again: tool call {name}, {why}" for name, why in find_broken_calls(message)]
    odd = {"messages": list(completion.messages), "usage": completion.usage, **completion.fields}
    kept = [
        path if len(path) <= _MAX_PATH_CHARACTERS else f"{path[:_MAX_PATH_CHARACTERS]}…" for path in find_kept_text(odd)
    ]
    if kept:
        more = f" and {len(kept) - _MAX_LISTED_PATHS:,} more" if len(kept) > _MAX_LISTED_PATHS else ""
        notes.append(f"kept as text: {', '.join(kept[:_MAX_LISTED_PATHS])}{more}")
    return tuple(notes)
