"""The form of a command's help."""

from __future__ import annotations


def format_examples(*lines: str) -> str:
    """Return the examples of a command as click's help prints them: under a heading, one a line."""
    # click wraps a paragraph unless it begins with \b.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
