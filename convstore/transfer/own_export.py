"""Read convstore's own export: the lines of each conversation, checked."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from convstore.errors import InvalidInput
from convstore.transfer.imported import Problem
from convstore.transfer.source_lines import Line as SourceLine
from convstore.transfer.source_lines import Source, name_source, read_lines
from convstore.values.export_format import (
    CONVERSATION_FIELDS,
    COUNTS,
    FORMAT_VERSION,
    MESSAGE_FIELDS,
    ORIGIN_FIELDS,
    RATING_FIELDS,
    REDACTION_FIELDS,
    SUMMARY_FIELDS,
    TURN_FIELDS,
    Field,
    Line,
    check_line,
)
from convstore.values.redaction_report import RedactionExtent
from convstore.values.results import TurnStatus
from convstore.values.validation import check_conversation_name, check_id, check_tags
from convstore.values.window_options import check_window_options

MAX_OWN_LINE_BYTES = 2**30
"""A message with its attachments; 64 MB are enough for the files of other programs."""

_BYTES_IN_MEMORY = 2_000_000  # of one conversation; as Python's values they take five times as much
_TYPE = frozenset({"type"})
_ENDED_STATUSES = tuple(status.value for status in TurnStatus if status is not TurnStatus.RUNNING)
_FIELDS = {
    "message": (MESSAGE_FIELDS, _TYPE | {"rating", "redaction"}),
    "turn": (TURN_FIELDS, _TYPE),
    "summary": (SUMMARY_FIELDS, _TYPE),
}


@dataclass(frozen=True, slots=True)
class OwnConversation:
    """A conversation of an export."""

    place: str
    """Where it is: the file, and the number of its line."""
    head: Line
    """Its line."""
    messages: int
    """The number of its messages."""
    lines: _Lines
    """The lines of its messages, turns and summaries."""

    @property
    def size(self) -> int:
        """The number of bytes of its lines."""
        return self.lines.size

    def iterate_lines(self) -> Iterator[Line]:
        """Yield the lines of its messages, turns and summaries, from the first one each time."""
        return self.lines.iterate()

    def close(self) -> None:
        """Close the temporary file of a long conversation."""
        self.lines.close()


class _Lines:
    """The lines of a conversation, in memory; those of a long one in a temporary file."""

    def __init__(self) -> None:
        self._kept: list[Line] = []
        self._spool: IO[bytes] | None = None
        self.size = 0
        """The number of their bytes."""

    def add(self, line: Line, content: bytes) -> None:
        """Add a line.

        Args:
            content: the line as it stands in the file.
        """
        self.size += len(content)
        if self._spool is None and self.size > _BYTES_IN_MEMORY:
            self._spool = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 (`close` closes it)
            for kept in self._kept:
                self._spool.write(json.dumps(kept).encode() + b"\n")
            self._kept.clear()
        if self._spool is None:
            self._kept.append(line)
        else:
            self._spool.write(content + b"\n")

    def iterate(self) -> Iterator[Line]:
        """Yield the lines, from the first one each time."""
        yield from self._kept
        if self._spool is not None:
            self._spool.seek(0)
            for line in self._spool:
                yield json.loads(line)

    def close(self) -> None:
        """Close the temporary file."""
        if self._spool is not None:
            with suppress(OSError):
                self._spool.close()
            self._spool = None


def read_own_export(source: Source) -> Iterator[OwnConversation | Problem]:
    """Yield the conversations of an export, and a problem for each that is damaged.

    The caller closes each conversation. Of a folder, the files that end with `.jsonl` are read.
    """
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        for path in sorted(Path(source).glob("*.jsonl")):
            yield from read_own_export(path)
        return
    reader = _Reader(name_source(source))
    lines = read_lines(source, MAX_OWN_LINE_BYTES)
    try:
        for line in lines:
            yield from reader.read(line)
        yield from reader.end()
    finally:
        reader.close()


class _Reader:
    """What was read of an export so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._head: Line | None = None
        self._place = name
        self._lines: _Lines | None = None
        self._fault: Problem | None = None
        """Why the conversation cannot be used."""
        self._last: dict[str, int] = {}
        """The number of the last line of each type."""
        self._found = Counter[str]()
        self._is_over = False
        self._is_foreign = False
        self._is_lost = False
        """Whether lines are passed over that belong to no conversation."""
        self._conversations = self._messages = 0
        self._number = 0

    def read(self, line: SourceLine | Problem) -> Iterator[OwnConversation | Problem]:
        """Read a line, and yield the conversation that it ends."""
        if isinstance(line, Problem):
            self._fault = self._fault or line
            if self._head is None:
                yield line
            return
        self._number += 1
        if self._is_foreign:
            return
        place = f"{self._name}, line {line.number}"
        try:
            value = _parse(line)
            kind = value.get("type")
            if self._number == 1:
                self._check_header(value)
            elif kind in ("conversation", "export", "end"):
                yield from self._finish()
                self._begin(kind, value, place)
            else:
                self._add(value, line.content or b"")
        except InvalidInput as error:
            problem = Problem(place, str(error))
            if self._head is None:
                self._is_foreign = self._number == 1
                self._is_lost = True
                yield problem
            else:
                self._fault = self._fault or problem

    def _check_header(self, value: Line) -> None:
        if value.get("type") != "export" or "convstore" not in value:
            raise InvalidInput("the file does not begin as an export of convstore does")
        version = value["convstore"]
        if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
            raise InvalidInput(
                f"the export has version {version!r:.20} of the format, and this release reads up to {FORMAT_VERSION}; "
                f"upgrade convstore"
            )

    def _begin(self, kind: str, value: Line, place: str) -> None:
        """Begin a conversation, another export that follows in the same file, or the end."""
        self._is_over = kind == "end"
        if kind == "export":
            self._check_header(value)
        elif kind == "end":
            counts = (value.get("conversations"), value.get("messages"))
            found = (self._conversations, self._messages)
            self._conversations = self._messages = 0
            if counts != found:
                raise InvalidInput(f"it had {counts[0]} conversations and {counts[1]} messages when it was written")
        else:
            self._conversations += 1
            self._is_lost = False
            self._head, self._place, self._fault = value, place, None
            self._lines = _Lines()
            _check_head(value)
            origin = value.get("forked_from") or {}
            last_turn = origin.get("up_to_turn", 0)
            self._last = {"message": origin.get("up_to_seq", 0), "turn": last_turn, "summary": last_turn}
            self._found.clear()

    def _add(self, value: Line, content: bytes) -> None:
        kind = value.get("type")
        if kind == "message":
            self._messages += 1
        if self._head is None or self._lines is None:
            if self._is_lost:
                return
            raise InvalidInput("the line belongs to no conversation; neither do those after it")
        if self._fault is not None:
            return
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise InvalidInput(f"lines of the type {kind!r:.40} are unknown: a newer release may have written them")
        fields, others = _FIELDS[kind]
        check_line(value, fields, others)
        _check_inner(value, "rating", RATING_FIELDS, ("rating", ("good", "bad")))
        _check_inner(value, "redaction", REDACTION_FIELDS, ("extent", tuple(RedactionExtent)))
        self._check_number(kind, value)
        if kind == "turn" and value["status"] not in _ENDED_STATUSES:
            raise InvalidInput(f"the status of a turn is one of {', '.join(_ENDED_STATUSES)}")
        self._lines.add(value, content)

    def _check_number(self, kind: str, value: Line) -> None:
        """Check that the numbers of messages, turns and summaries increase, and that later ones will be greater.

        Raises:
            InvalidInput: they do not.
        """
        name = "turn_seq" if kind == "summary" else "seq"
        end = (self._head or {})["next_seq" if kind == "message" else "next_turn"]
        if not self._last[kind] < value[name] < end:
            raise InvalidInput(f"the field {name!r} must be greater than in the line before, and less than {end}")
        self._last[kind] = value[name]
        self._found[kind] += 1

    def _finish(self) -> Iterator[OwnConversation | Problem]:
        if self._head is None or self._lines is None:
            return
        head, self._head = self._head, None
        lines, self._lines = self._lines, None
        if self._fault is None and any(head[name] != self._found[kind] for kind, name in COUNTS.items()):
            self._fault = Problem(self._place, "some of its lines are missing")
        if self._fault is not None:
            lines.close()
            yield Problem(f"{self._fault.place} (conversation {head.get('id')!r:.80})", self._fault.reason)
        else:
            yield OwnConversation(self._place, head, self._found["message"], lines)

    def end(self) -> Iterator[OwnConversation | Problem]:
        """Yield what is left at the end of the file."""
        if self._is_foreign:
            return
        yield from self._finish()  # its numbers of lines tell whether it is whole
        if not self._is_over:
            yield Problem(self._name, "the file ends early: a part of the export is missing")

    def close(self) -> None:
        """Close the temporary file of the conversation that is being read."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None


def _parse(line: SourceLine) -> Line:
    if line.content is None:
        raise InvalidInput(f"the line is longer than {MAX_OWN_LINE_BYTES // 2**20} MB")
    try:
        value: Any = json.loads(line.content)
    except (ValueError, RecursionError):
        raise InvalidInput("the line is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput("the line is not a JSON object")
    return value


def _check_head(line: Line) -> None:
    check_line(line, CONVERSATION_FIELDS, _TYPE | {"tags", "forked_from", *COUNTS.values()})
    check_window_options(line.get("window") or {})
    for name in COUNTS.values():
        if not _is_number(line.get(name)):
            raise InvalidInput(f"the field {name!r} must be a number of lines")
    check_id(line["id"])
    check_conversation_name(line.get("name"))
    origin, tags = line.get("forked_from"), line.get("tags")
    if origin is not None:
        if not isinstance(origin, dict):
            raise InvalidInput("the field 'forked_from' must be a JSON object")
        check_line(origin, ORIGIN_FIELDS)
    if tags is not None and (not isinstance(tags, list) or check_tags(tags) != tags):
        raise InvalidInput("the field 'tags' must be a list of tags, each once")
    if not all(map(_is_number, line.get("redo") or ())):
        raise InvalidInput("the field 'redo' must be a list of numbers of messages")
    pins = line.get("pins") or ()
    if not all(isinstance(pin, list) and len(pin) == 2 and all(map(_is_number, pin)) for pin in pins):
        raise InvalidInput("the field 'pins' must be a list of [seq, position]")


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_inner(line: Line, name: str, fields: tuple[Field, ...], closed: tuple[str, tuple[str, ...]]) -> None:
    """Check the field of a line that is an object, if the line has it.

    Args:
        closed: a field of the object, and the values that it may have.

    Raises:
        InvalidInput: it is not such an object.
    """
    if name not in line:
        return
    if not isinstance(line[name], dict):
        raise InvalidInput(f"the field {name!r} must be a JSON object")
    check_line(line[name], fields)
    key, values = closed
    if line[name][key] not in values:
        raise InvalidInput(f"the field {key!r} of a {name} is {' or '.join(map(repr, map(str, values)))}")
