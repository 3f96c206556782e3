"""Format the help of a command."""

from __future__ import annotations


def format_examples(*lines: str) -> str:
    """Return the examples of a command for its help: a heading, and a line for each."""
    # Without \b at its beginning, click would wrap the paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
