"""Explain the window of a request in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convstore.cli.render.output_streams import write_note, write_terminal_note

if TYPE_CHECKING:
    from convstore.values.window_report import WindowReport

_MAX_LISTED_SEQS = 8


def print_window(report: WindowReport) -> None:
    """Print the window of a request on stderr.

    If it is the whole history, print it only on a terminal.
    """
    for line in explain_window(report):
        (write_note if report.is_partial else write_terminal_note)(line)


def explain_window(report: WindowReport) -> list[str]:
    """Return one or two lines about what a request leaves out, replaces, and its size."""
    replaced = []
    if report.summary is not None:
        replaced.append(f"the summary of turn {report.summary} replaces older messages")
    if report.filled:
        replaced.append(f"placeholders answer {', '.join(report.filled)}")
    replaced += report.changes
    size = "; ".join([*replaced, f"about {report.tokens or 0:,} tokens"])
    return [_explain_left_out(report), size] if report.left_out else [size]


def _explain_left_out(report: WindowReport) -> str:
    total = report.left_out + report.history
    sent = f"{report.history} {'is' if report.history == 1 else 'are'} sent"
    always_sent = " and ".join(
        f"{name} messages (seq {_list_seqs(seqs)})"
        for name, seqs in (("system", report.context), ("pinned", report.pinned))
        if seqs
    )
    from_there = f"all from seq {report.from_seq}" if report.from_seq is not None else ""
    detail = ", and ".join(part for part in (always_sent, from_there) if part)
    return f"{report.left_out} of {total} messages of the history are left out; {sent}{f': {detail}' if detail else ''}"


def _list_seqs(seqs: Sequence[int]) -> str:
    more = f" … {len(seqs) - _MAX_LISTED_SEQS} more" if len(seqs) > _MAX_LISTED_SEQS else ""
    return ", ".join(map(str, seqs[:_MAX_LISTED_SEQS])) + more
