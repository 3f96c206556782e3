"""The window of a request in words: what is left out, what replaces it, and how long the request is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convstore.cli.render.output_streams import write_note, write_terminal_note

_MAX_LISTED_SEQS = 8


@dataclass(frozen=True, slots=True)
class _WindowFacts:
    """What is printed of a window."""

    tokens: int
    history: int
    left_out: int
    from_seq: int | None
    context: Sequence[int]
    pinned: Sequence[int]
    summary: int | None
    filled: Sequence[str]


def _read_facts(window: Mapping[str, Any]) -> _WindowFacts:
    """Return the facts of a request's window: the only place here that knows the form of `Request.window`."""
    return _WindowFacts(
        tokens=window["tokens"],
        history=window.get("history", 0),
        left_out=window.get("left_out", 0),
        from_seq=window.get("from_seq"),
        context=window.get("context") or (),
        pinned=window.get("pinned") or (),
        summary=window.get("summary"),
        filled=window.get("filled") or (),
    )


def print_window(window: Mapping[str, Any]) -> None:
    """Print the window of a request on stderr; if it is the whole history, only on a terminal."""
    facts = _read_facts(window)
    is_whole = not (facts.left_out or facts.summary is not None or facts.filled)
    for line in _explain(facts):
        (write_terminal_note if is_whole else write_note)(f"convstore: {line}")


def explain_window(window: Mapping[str, Any]) -> list[str]:
    """Return one or two lines: what a request leaves out, what replaces it, and its size."""
    return _explain(_read_facts(window))


def _explain(facts: _WindowFacts) -> list[str]:
    replaced = []
    if facts.summary is not None:
        replaced.append(f"the summary of turn {facts.summary} replaces older messages")
    if facts.filled:
        replaced.append(f"placeholders answer {', '.join(map(str, facts.filled))}")
    size = "; ".join([*replaced, f"about {facts.tokens:,} tokens"])
    return [_explain_left_out(facts), size] if facts.left_out else [size]


def _explain_left_out(facts: _WindowFacts) -> str:
    total = facts.left_out + facts.history
    sent = f"{facts.history} {'is' if facts.history == 1 else 'are'} sent"
    always_sent = " and ".join(
        f"{name} messages (seq {_list_seqs(seqs)})"
        for name, seqs in (("system", facts.context), ("pinned", facts.pinned))
        if seqs
    )
    from_there = f"all from seq {facts.from_seq}" if facts.from_seq is not None else ""
    before = f"before that {always_sent}" if from_there and always_sent else always_sent
    detail = ", ".join(part for part in (from_there, before) if part)
    return f"{facts.left_out} of {total} messages of the history are left out; {sent}{f': {detail}' if detail else ''}"


def _list_seqs(seqs: Sequence[int]) -> str:
    more = f" … {len(seqs) - _MAX_LISTED_SEQS} more" if len(seqs) > _MAX_LISTED_SEQS else ""
    return ", ".join(map(str, seqs[:_MAX_LISTED_SEQS])) + more
