"""The lines by which convstore's own Markdown is read again: written by one module, read by another."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

FORM_VERSION = 1
FRONT_MATTER_FENCE = "---"
MAX_FRONT_MATTER_BYTES = 2**16
_MOST_FRONT_MATTER_LINES = 100
VERSION_LINE = re.compile(rb"convstore:\s*\d+\s*$")

_START = "<!-- convstore: "
_MARK = re.compile(r"<!-- convstore: (.*) -->\s*$")
# What a reader would take for a comment, or for the beginning of another conversation.
_LIKE_A_MARK = re.compile(r"\\*(<!-- convstore: |convstore:\s*\d+\s*$)")

BRANCHES_NAME = "other branches"
BRANCHES_MARK = f"{_START}{BRANCHES_NAME} -->"
FIELDS_NAME = "fields"
FIELDS_MARK = f"{_START}{FIELDS_NAME} -->"
_END = re.compile(r"end, (\d{1,18}) messages?$", re.ASCII)

# Neither UTF-8 nor a comment can hold these, and a terminal would obey some.
_NOT_IN_COMMENTS = re.compile("[>\x7f-\x9f\ud800-\udfff]")


def to_comment_json(value: Any) -> str:
    """Return JSON on one line that can stand in a comment of HTML, and as a value in YAML."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _NOT_IN_COMMENTS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def make_mark(facts: dict[str, Any]) -> str:
    """Return the comment before a message."""
    return f"{_START}{to_comment_json(facts)} -->"


def make_end_mark(count: int) -> str:
    """Return the comment after the last of a conversation's messages."""
    return f"{_START}end, {count} message{'' if count == 1 else 's'} -->"


def read_mark(line: str) -> str | None:
    """Return what the comment of a line says: "" if it is damaged, None if the line is no such comment."""
    if not line.startswith(_START):
        return None
    found = _MARK.match(line)
    return found[1] if found is not None else ""


def read_end(mark: str) -> int | None:
    """Return the number of messages that the comment at the end names, or None if it is not the end."""
    found = _END.match(mark)
    return int(found[1]) if found is not None else None


def escape_line(line: str) -> str:
    """Return a line of a text, with a backslash before what would be read as something else."""
    return f"\\{line}" if _LIKE_A_MARK.match(line) else line


def unescape_line(line: str) -> str:
    """Return the line that `escape_line` was given."""
    return line[1:] if line.startswith("\\") and _LIKE_A_MARK.match(line) else line


def is_own_markdown(start: bytes) -> bool:
    """Return True if a text begins with the front matter of our own export, which names convstore in a key."""
    first, *lines = start.removeprefix(b"\xef\xbb\xbf").splitlines()[:_MOST_FRONT_MATTER_LINES] or [b""]
    fence = FRONT_MATTER_FENCE.encode()
    if first.rstrip() != fence:
        return False
    keys = itertools.takewhile(lambda line: line.rstrip() != fence, lines)
    return any(line.startswith(b"convstore") and b":" in line for line in keys)
