"""Print what a search found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from convstore.cli.render.output_streams import format_local_time, has_colours, make_one_line, neutralise, write_answer

if TYPE_CHECKING:
    from convstore.values.search_results import SearchHit


def print_hits(hits: Sequence[SearchHit]) -> None:
    """Print hits: where each is, then the passage with the match marked."""
    for number, hit in enumerate(hits):
        if number:
            write_answer("")
        write_answer(_describe(hit))
        sys.stdout.write(f"  {_mark(hit)}\n")  # its own bold is not to be made visible


def _describe(hit: SearchHit) -> str:
    """Return a line with who said it, when and where, and the command that goes on from there."""
    parts = [format_local_time(hit.created_at), hit.role or "title"]
    if hit.title:
        parts.append(make_one_line(hit.title))
    if hit.status is not None and hit.status not in ("completed", "running"):
        parts.append(str(hit.status))
    if not hit.on_path:
        parts.append("off the path")
    if hit.position is None:
        command = f"convstore show {hit.conversation}"
    elif hit.is_head:
        command = f"convstore chat {hit.conversation}"
    elif hit.on_path:
        command = f"convstore fork {hit.conversation} --at {hit.position}"
    else:
        command = f"convstore checkout {hit.seq} -c {hit.conversation}"
    return "  ".join([" · ".join(parts), command])


def _mark(hit: SearchHit) -> str:
    """Return the passage with the match in bold, or between » and « where there is no bold."""
    pieces, end = [], 0
    for begin, stop in hit.marks:
        match = make_one_line(hit.snippet[begin:stop])
        pieces += [
            neutralise(hit.snippet[end:begin]),
            click.style(match, bold=True) if has_colours(sys.stdout) else f"»{match}«",
        ]
        end = stop
    return "".join([*pieces, neutralise(hit.snippet[end:])])
