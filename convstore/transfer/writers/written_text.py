"""Texts and JSON as every writer writes them, and what the writers share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from convstore.messages.storable_text import join_surrogates
from convstore.values.exported import ExportedConversation, ExportedMessage

OnNote: TypeAlias = Callable[[str, str], object]
"""Is told what a format cannot hold: the id of a conversation, and the reason in one line without a stop."""

Write: TypeAlias = Callable[[Iterable[ExportedConversation], OnNote], Iterator[bytes]]
"""Writes conversations in a format, one after another."""

# The control characters that a terminal obeys (ECMA-48), without tab and line feed. JSON escapes those below 0x20.
CONTROL_CHARACTERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")
_NOT_IN_JSON = re.compile("[\x7f-\x9f\ud800-\udfff]")
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A, 0x0D)}
_PICTURES |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


def ignore_note(conversation: str, reason: str) -> None:
    """Do nothing with a note."""


def list_path(exported: ExportedConversation) -> list[ExportedMessage]:
    """Return the messages of the current path, first to last."""
    return [one for one in exported.messages if one.on_path]


def to_json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON that UTF-8 can hold and a terminal does not obey: exact, with escapes only where they are needed."""
    return _escape(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent))


def _escape(text: str) -> str:
    return text if text.isascii() and "\x7f" not in text else _NOT_IN_JSON.sub(_to_escape, text)


def _to_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def to_strict_json(value: Any) -> str:
    """Return JSON that every program reads: with U+FFFD for halves of characters, which many refuse."""
    return _escape(replace_lone_surrogates(json.dumps(value, ensure_ascii=False, allow_nan=False)))


def to_json_line(value: Any) -> bytes:
    """Return a line of JSON Lines that every program reads."""
    return to_strict_json(value).encode() + b"\n"


def replace_lone_surrogates(text: str) -> str:
    """Return the text with U+FFFD for each half of a character, because UTF-8 cannot hold them."""
    return text if text.isascii() else _LONE_SURROGATES.sub("\ufffd", join_surrogates(text))


def picture_control_characters(text: str) -> str:
    """Return the text with a picture for each control character but tab, line feed and carriage return."""
    return text.translate(_PICTURES) if CONTROL_CHARACTERS.search(text) else text


def show_control_characters(text: str) -> str:
    """Return a text to be read: with line feeds alone, and a picture for each other control character."""
    text = picture_control_characters(replace_lone_surrogates(text))
    return text.replace("\r\n", "\n").replace("\r", "\u240d")


def make_one_line(text: str) -> str:
    """Return a text to be read on one line."""
    return " ".join(show_control_characters(text).split())
