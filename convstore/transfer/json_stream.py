"""Read the items of a large JSON file one after another.

The file is a list of items, one item, or items one after another (JSON Lines). An item is decoded as a whole by
Python's parser, as soon as enough of the file is there; no more than one item is in memory. A damaged item is a
`Problem`, and reading goes on at the next item that can be recognised.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

from convstore.transfer.export_files import READ_FAULTS, ExportFile, ExportFiles, describe_fault
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.read_progress import ReadProgress

MAX_ITEM_CHARACTERS = 64 * 2**20
"""The length of one item, which is in memory as a whole."""
MAX_INTEGER_DIGITS = 4300
"""Digits of a whole number: the most that Python reads."""
MAX_PROBLEMS = 1000
"""Problems of one file; after that many, the rest of the file is not read."""

MAX_SEARCHED_CHARACTERS = 256 * 2**20
"""How much of a file is decoded in vain to find the next items after damaged ones."""

_CHUNK_BYTES = 2**20
_BETWEEN_ITEMS = re.compile(r"[\s,\[\]\ufeff\x1e]*")
_BEFORE_OBJECT = re.compile(r"[,\n]\s*(?=\{)")
# A parser that meets the end of the text reports a place this far before it at most: `-Infinity`, `\uXXXX`.
_LONGEST_TOKEN = 16
# The end of an item may have been lost before the place where the parser noticed it.
_STEP_BACK = 256
# An item that is nested too deeply has a bracket for each level.
_MIN_TOO_DEEP_CHARACTERS = 200
# What a place costs that is tried in vain, in characters: nesting is slow to find.
_COST_OF_FAULT = 10_000


@dataclass(frozen=True, slots=True)
class Item:
    """A decoded item, and where it was."""

    place: str
    """The name of the file and the number of the item, from 1."""
    value: Any
    """Plain JSON, nested some 1,000 levels at most; NaN is its name, and 1e999 is infinite."""


@dataclass(frozen=True, slots=True)
class ItemForm:
    """How the items of a file look."""

    noun: str
    """What an item is, for problems: `conversation`."""
    fits: Callable[[Any], bool]
    """Returns True if a value is an item; by it, reading goes on after a damaged one."""
    wrappers: tuple[str, ...] = ()
    """Keys of an object around the list of items."""


def read_export(
    files: ExportFiles,
    name: re.Pattern[str],
    form: ItemForm,
    missing: str,
    read: Callable[[Item, set[str]], ImportedConversation | Problem],
) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of an export's JSON files, and a problem for each bad one.

    Args:
        name: the names of the files that have conversations.
        missing: the problem if no file has such a name.
        read: makes a conversation of an item; it gets the ids of the conversations before.
    """
    yield from files.problems
    chosen = files.select_json(name)
    if not chosen and not files.problems:
        yield Problem(f"the {files.kind}", missing)
    sizes = [file.size for file in chosen if file.size is not None]
    files.progress.size = sum(sizes) if len(sizes) == len(chosen) else None
    seen: set[str] = set()
    for file in chosen:
        for item in read_items(file, form, files.progress):
            yield item if isinstance(item, Problem) else read(item, seen)


def read_items(file: ExportFile, form: ItemForm, progress: ReadProgress | None = None) -> Iterator[Item | Problem]:
    """Yield the items of a JSON file, and a problem for each part that is not one.

    Args:
        progress: counts the bytes that were read.
    """
    try:
        with file.open() as stream:
            yield from _ItemReader(stream, file.name, form, progress or ReadProgress()).read()
    except READ_FAULTS as error:
        yield Problem(file.name, f"it cannot be read: {describe_fault(error)}")


_DECODER = json.JSONDecoder(parse_constant=str, strict=False)
_Outcome = Literal["value", "incomplete", "fault"]


class _ItemReader:
    """Reads the items of one stream."""

    def __init__(self, stream: IO[bytes], name: str, form: ItemForm, progress: ReadProgress) -> None:
        self._stream = stream
        self._name = name
        self._form = form
        self._progress = progress
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text = ""
        """What was read of the file and may still be needed."""
        self._dropped = 0
        """The number of characters before `_text`."""
        self._at = 0
        self._is_ended = False
        self._read_fault: str | None = None
        self._open_lists = 0
        self._number = 0
        self._value: Any = None
        self._end = 0
        """The end of the value; after a fault, a place before the end of the damaged item."""
        self._reason = ""
        self._searched = 0

    def read(self) -> Iterator[Item | Problem]:
        """Yield the items and the problems."""
        faults = 0
        while self._find_item():
            self._number += 1
            place = f"{self._name}, {self._form.noun} {self._number}"
            if self._decode_item():
                self._at = self._end
                yield from self._unwrap(place)
                continue
            faults += 1
            reason = self._reason
            skipped = self._go_to_next_item()
            yield Problem(place, f"{reason}; {skipped:,} characters were skipped")
            if faults == MAX_PROBLEMS:
                yield Problem(self._name, f"it has more than {MAX_PROBLEMS:,} faults; the rest was not read")
                return
        if self._read_fault is not None:
            yield Problem(self._name, self._read_fault)
        elif self._searched > MAX_SEARCHED_CHARACTERS:
            yield Problem(self._name, "it is too damaged; the rest was not read")
        elif not self._dropped and not self._text:
            yield Problem(self._name, "it is empty")
        elif self._open_lists > 0 and not faults:
            yield Problem(self._name, "it is cut off: the list is not closed")

    def _find_item(self) -> bool:
        """Go to the beginning of the next item; return False at the end of the file."""
        while True:
            between = _BETWEEN_ITEMS.match(self._text, self._at)
            if between is not None:
                self._open_lists += between[0].count("[") - between[0].count("]")
                self._at = between.end()
            if self._at < len(self._text):
                return True
            if self._is_ended:
                return False
            self._read_more()

    def _decode_item(self) -> bool:
        """Decode the value at the current place; return False if it is damaged."""
        while True:
            outcome = self._try_to_decode()
            if outcome != "incomplete":
                return outcome == "value"
            if len(self._text) - self._at >= MAX_ITEM_CHARACTERS:
                self._reason = f"it is longer than {MAX_ITEM_CHARACTERS:,} characters"
                self._end = len(self._text) - _STEP_BACK
                return False
            self._read_more()

    def _try_to_decode(self) -> _Outcome:
        try:
            self._value, self._end = _DECODER.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            is_at_end = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _LONGEST_TOKEN
            if is_at_end and not self._is_ended:
                return "incomplete"
            is_cut = error.msg.startswith("Unterminated") or error.pos == len(self._text)
            self._reason = "it is cut off" if is_cut else f"it is not JSON: {error.msg.lower()}"
            self._end = max(self._at + 1, error.pos - _STEP_BACK)
            return "fault"
        except RecursionError:
            self._reason = "it is nested more deeply than Python's parser reads, some 1,000 levels"
            self._end = self._at + _MIN_TOO_DEEP_CHARACTERS
            return "fault"
        except ValueError:  # the only other one: Python refuses to convert the digits
            self._reason = f"it has a whole number of more than {MAX_INTEGER_DIGITS:,} digits"
            self._end = self._at + 1
            return "fault"
        is_number = not isinstance(self._value, (dict, list, str))
        if is_number and len(self._text) - self._end < _LONGEST_TOKEN and not self._is_ended:
            return "incomplete"  # more of it may follow
        if self._end - self._at > MAX_ITEM_CHARACTERS:
            self._reason = f"it is longer than {MAX_ITEM_CHARACTERS:,} characters"
            return "fault"
        return "value"

    def _unwrap(self, place: str) -> Iterator[Item]:
        value = self._value
        self._value = None  # so that no two items are in memory
        if isinstance(value, dict) and not self._form.fits(value):
            for key in self._form.wrappers:
                if isinstance(value.get(key), list):
                    for number, inner in enumerate(value[key], 1):
                        yield Item(f"{self._name}, {self._form.noun} {number}", inner)
                    return
        yield Item(place, value)

    def _go_to_next_item(self) -> int:
        """Go to the next value that is an item, or to the end.

        Return the number of characters that were skipped.
        """
        start = self._dropped + self._at
        from_ = self._end
        while self._searched <= MAX_SEARCHED_CHARACTERS:
            found = _BEFORE_OBJECT.search(self._text, from_)
            if found is not None:
                self._at = found.end()
                is_decoded = self._decode_item()
                self._searched += self._end - self._at + (0 if is_decoded else _COST_OF_FAULT)
                if is_decoded and self._form.fits(self._value):
                    return self._dropped + self._at - start
                from_ = self._end
            elif not self._is_ended:
                self._at = max(self._at, from_, len(self._text) - _LONGEST_TOKEN)
                self._read_more()
                from_ = self._at
            else:
                break
        self._at = len(self._text)
        self._is_ended = True
        return self._dropped + self._at - start

    def _read_more(self) -> None:
        """Read on, and drop what is before the current place.

        As much is read as is left, so that a long item is decoded a few times only.
        """
        try:
            data = self._stream.read(max(_CHUNK_BYTES, len(self._text) - self._at))
        except READ_FAULTS as error:
            self._read_fault = f"it cannot be read to its end: {describe_fault(error)}"
            data = b""
        if self._decoder is None:
            while data and len(data) < 4 and (rest := self._stream.read(4)):
                data += rest
            self._decoder = codecs.getincrementaldecoder(json.detect_encoding(data[:4]))("replace")
        self._is_ended = not data
        self._progress.read += len(data)
        self._dropped += self._at
        more = self._decoder.decode(data, final=not data)
        del data  # a long item is in memory often enough
        self._text = self._text[self._at :] + more
        self._at = 0
