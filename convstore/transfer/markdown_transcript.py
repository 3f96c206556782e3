"""Read the Markdown that convstore writes (`transfer.writers.markdown_writer` describes it).

A person may have changed it: a text is read as it stands, front matter may have other keys, in the forms that programs
for notes write, and a message that has no number gets one. But a conversation without its end is not read: the file
may be cut there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from convstore.transfer.checked_json import UnreadableJson, parse_json
from convstore.transfer.derived_ids import derive_conversation_id, derive_id
from convstore.transfer.file_times import read_time
from convstore.transfer.imported import ImportedConversation, ImportedMessage, Problem
from convstore.transfer.markdown_marks import (
    BRANCHES_NAME,
    FIELDS_NAME,
    FORM_VERSION,
    FRONT_MATTER_FENCE,
    MAX_FRONT_MATTER_BYTES,
    VERSION_LINE,
    is_own_markdown,
    read_end,
    read_mark,
    unescape_line,
)
from convstore.transfer.source_lines import (
    Source,
    UnreadableSource,
    describe_limit,
    describe_read_error,
    name_source,
    open_source,
)

MAX_CONVERSATION_BYTES = 64 * 2**20

_FENCE = FRONT_MATTER_FENCE.encode()
_LINE_START_BYTES = 80
_MOST_FRONT_MATTER_LINES = 1000
_MAX_NUMBER = 2**63 - 1


class _Unreadable(Exception):
    """A conversation cannot be read."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


@dataclass(slots=True)
class _Passage:
    """The lines of a conversation, from its front matter to its end."""

    line: int
    """The number of the first in the file."""
    lines: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, content: bytes) -> None:
        """Add a line; if they become too many, keep the first and the last, and go on counting."""
        self.size += len(content)
        if self.size > MAX_CONVERSATION_BYTES:
            del self.lines[1:]
            content = content[:_LINE_START_BYTES]
        self.lines.append(content)


@dataclass(slots=True)
class _Message:
    """A message as it stands in the file: its comment, and the lines below it."""

    line: int
    facts: dict[str, Any]
    is_branch: bool
    text: list[str] = field(default_factory=list)
    block: list[str] | None = None
    """The lines with its other fields, if they are below the text."""


def read_markdown_transcript(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of a file, or of the files in a folder that convstore wrote."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        for path in sorted(Path(source).rglob("*.md")):
            if _is_own(path):  # a folder may hold other notes
                yield from _read_file(path)
    else:
        yield from _read_file(source)


def _is_own(path: Path) -> bool:
    try:
        with open_source(path) as stream:
            return is_own_markdown(stream.read(MAX_FRONT_MATTER_BYTES))
    except Exception:
        return path.is_file()  # reading it reports why it cannot be read


def _read_file(source: Source) -> Iterator[ImportedConversation | Problem]:
    name = name_source(source)
    try:
        with open_source(source) as stream:
            for number, found in enumerate(_split(name, stream), 1):
                yield found if isinstance(found, Problem) else _read_passage(name, found, number)
    except UnreadableSource as error:
        yield Problem(name, str(error))
    except Exception as error:
        yield Problem(name, describe_read_error(error))


def _split(name: str, stream: BinaryIO) -> Iterator[_Passage | Problem]:
    """Yield the lines of each conversation, and a problem for lines that are in none."""
    passage: _Passage | None = None
    is_stray = False
    number = 0
    is_whole = True
    while content := stream.readline(MAX_CONVERSATION_BYTES + 1):
        if not is_whole:  # the rest of a line that is too long
            is_whole = content.endswith(b"\n")
            continue
        is_whole = content.endswith(b"\n")
        number += 1
        line = content.rstrip()
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if passage is None:
            if line == _FENCE:
                passage, is_stray = _Passage(number), False
                passage.add(line)
            elif line not in (b"", b"<!--", b"-->") and not is_stray:
                is_stray = True
                yield Problem(f"{name}, line {number}", "it is in no conversation that convstore wrote")
            continue
        if VERSION_LINE.match(line) and passage.lines[-1].rstrip() == _FENCE and len(passage.lines) > 1:
            yield _refuse_cut(name, passage)
            passage = _Passage(number - 1)
            passage.add(_FENCE)
        passage.add(content.removesuffix(b"\n"))
        if line.startswith(b"<!-- convstore: end,"):
            if passage.size > MAX_CONVERSATION_BYTES:
                limit = describe_limit(MAX_CONVERSATION_BYTES)
                yield Problem(f"{name}, line {passage.line}", f"the conversation is longer than {limit}")
            else:
                yield passage
            passage = None
    if passage is not None:
        yield _refuse_cut(name, passage)


def _refuse_cut(name: str, passage: _Passage) -> Problem:
    return Problem(f"{name}, line {passage.line}", "the conversation has no end; the file may be cut")


def _read_passage(name: str, passage: _Passage, number: int) -> ImportedConversation | Problem:
    try:
        return _build(passage, number)
    except UnicodeDecodeError:
        for at, line in enumerate(passage.lines, passage.line):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return Problem(f"{name}, line {at}", f"is not UTF-8 at byte {error.start + 1}")
        raise
    except _Unreadable as error:
        return Problem(f"{name}, line {error.line}", error.reason)


def _build(passage: _Passage, number: int) -> ImportedConversation:
    lines = [line.decode() for line in passage.lines]
    end = next((at for at, line in enumerate(lines) if at and line.rstrip() == FRONT_MATTER_FENCE), None)
    if end is None or end > _MOST_FRONT_MATTER_LINES:
        raise _Unreadable(passage.line, "its front matter has no end")
    front_matter = _read_front_matter(lines[1:end])
    version = front_matter.get("convstore")
    if version is None:
        raise _Unreadable(passage.line, "its front matter does not name convstore")
    if version != str(FORM_VERSION):
        raise _Unreadable(passage.line, f"is written in form {version!s:.20}; this release reads form {FORM_VERSION}")
    told, found = _find_messages(lines[end + 1 :], passage.line + end + 1)
    if not found:
        raise _Unreadable(passage.line, "has no messages")
    notes: list[str] = []
    if told != len(found):
        notes.append(f"it has {len(found):,} messages, and its end says {told:,}: it was changed or damaged")
    messages, head = _place_messages(found)
    if head is None:
        notes.append("its path is empty; its last message is the head now")
    id = front_matter.get("id")
    metadata = front_matter.get("metadata")
    kept = {key: front_matter[key] for key in ("name", "tags") if front_matter.get(key)}
    return ImportedConversation(
        id if isinstance(id, str) and id else derive_conversation_id(number, messages),
        messages,
        head if head is not None else messages[-1].id,
        title=_read_label(front_matter.get("title")),
        created_at=read_time(front_matter.get("created_at")),
        model=_read_label(front_matter.get("model")),
        metadata=kept | (metadata if isinstance(metadata, dict) else {}),
        notes=notes,
    )


def _read_front_matter(lines: Sequence[str]) -> dict[str, Any]:
    """Return the values of front matter: texts, or what JSON holds, or a list with a line for each item."""
    found: dict[str, Any] = {}
    key = ""
    for line in lines:
        item = line.strip()
        if item.startswith("- ") and key and isinstance(found[key], list):
            found[key].append(_read_value(item[2:]))
        elif line[:1].isalpha() and ":" in line:
            key, _, text = (part.strip() for part in line.partition(":"))
            found[key] = _read_value(text) if text else []
    return found


def _read_value(text: str) -> Any:
    text = text.strip()
    if text.startswith(('"', "[", "{")):
        with suppress(UnreadableJson):
            return parse_json(text.encode())
    return text.removeprefix("'").removesuffix("'")


def _find_messages(lines: Sequence[str], first_line: int) -> tuple[int, list[_Message]]:
    """Return the number of messages that the end names, and the messages."""
    found: list[_Message] = []
    is_branch = False
    told = 0
    below: list[str] = []  # collects the lines below a comment; those above the first message are not read
    for number, line in enumerate(lines, first_line):
        mark = read_mark(line)
        if mark is None:
            # An editor of another system may have changed the ends of all lines; a message's own are never "\r\n".
            below.append(line.removesuffix("\r"))
        elif mark == BRANCHES_NAME:
            is_branch, below = True, []
        elif mark == FIELDS_NAME and found:
            below = found[-1].block = []
        elif (end := read_end(mark)) is not None:
            told = end
        else:
            found.append(_Message(number, _read_facts(mark, number), is_branch))
            below = found[-1].text
    return told, found


def _read_facts(mark: str, line: int) -> dict[str, Any]:
    try:
        facts = parse_json(mark.encode())
    except UnreadableJson as error:
        raise _Unreadable(line, f"its comment {error}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("role"), str) or not facts["role"]:
        raise _Unreadable(line, "its comment does not name the role of a message")
    return facts


def _place_messages(found: Sequence[_Message]) -> tuple[list[ImportedMessage], str | None]:
    """Return the messages as a tree, and the id of the last on the path."""
    placed: dict[str, ImportedMessage] = {}
    head: str | None = None
    before: str | None = None
    for one in found:
        message = _read_message(one)
        parent = before
        if "parent" in one.facts:
            parent = _read_number(one.facts["parent"])
            if parent is None:
                raise _Unreadable(one.line, "its comment names the message before it wrongly")
            parent = None if parent == "0" else parent
            if parent is not None and parent not in placed:
                raise _Unreadable(one.line, f"it follows message {parent}, which does not come before it")
        id = _read_number(one.facts.get("message"))
        if id is None or id in placed:
            id = derive_id(parent, message)
        placed.setdefault(
            id,
            ImportedMessage(
                id, parent, message, read_time(one.facts.get("created_at")), _read_label(one.facts.get("model"))
            ),
        )
        before = id
        head = head if one.is_branch else id
    return list(placed.values()), head


def _read_label(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _read_number(value: Any) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER else None


def _read_message(one: _Message) -> dict[str, Any]:
    """Return a message in its exact form."""
    message: dict[str, Any] = {"role": one.facts["role"]}
    if one.facts.get("preview") is not True:
        message["content"] = _read_text(one)
    fields = one.facts.get("fields", {}) if one.block is None else _read_block(one.line, one.block)
    if not isinstance(fields, dict):
        raise _Unreadable(one.line, "its other fields are no object")
    if {"role", "content"} & fields.keys() & message.keys():
        raise _Unreadable(one.line, "its text or its role is given twice")
    return message | fields


def _read_text(one: _Message) -> str:
    lines = one.text
    if lines and lines[0].startswith("## "):
        lines = lines[1:]
    if lines and not lines[0].strip():
        lines = lines[1:]
    if lines and not lines[-1].strip():
        lines = lines[:-1]
    if one.facts.get("added_lines") == 1:
        lines = lines[:-1]
    return "\n".join(map(unescape_line, lines))


def _read_block(line: int, lines: Sequence[str]) -> Any:
    """Return the JSON in the block of code below a message's text."""
    fences = [at for at, text in enumerate(lines) if text.startswith("```")]
    if len(fences) < 2:
        raise _Unreadable(line, "the block of its other fields is not whole")
    try:
        return parse_json("\n".join(lines[fences[0] + 1 : fences[1]]).encode())
    except UnreadableJson as error:
        raise _Unreadable(line, f"the block of its other fields {error}") from None
