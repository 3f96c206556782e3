"""Define what the test server may answer, as plain values.

``completions`` makes bytes of them, ``server`` sends those.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

JSONObject = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A model's reply, sent whole or as a stream: the request's ``stream`` decides.

    A *piece* is one delta of the reply: of its text, or of any other field when ``message`` is given. Counts
    of pieces (``hold_after``, ``error_after``, ``garbage_after``) stop at the number there are, which is
    before the finishing chunk; 0 is before anything else.

        Reply("Hello", pieces=["Hel", "lo"])
        Reply("Hello", cut_after=200)                   # the connection breaks in the middle
        Reply("Hello", hold=go, started=begun)          # waits before its first byte until go.set()

    Raises ``ValueError`` at once if ``pieces`` do not make up the text.
    """

    text: str | None = ""
    _: KW_ONLY

    # What is said.
    message: Mapping[str, Any] | None = None
    """The complete message, instead of ``text``; it is sent as it is."""
    finish_reason: str | None = "stop"
    """None: a whole reply has null; a stream has no finishing chunk."""
    usage: Mapping[str, Any] | Literal["computed"] | None = "computed"
    """Default: computed, one token for every four characters of text. None: not in the reply."""
    model: str | None = None
    """Default: the model of the request."""
    id: str | None = None
    """Default: ``chatcmpl-test-N`` for the server's Nth request."""
    system_fingerprint: str | None = "fp_test"
    choices: Sequence[Mapping[str, Any]] | None = None
    """All the choices as they are, instead of the request's ``n`` equal ones. ``[]``: a reply without any."""

    # How it is streamed.
    pieces: Sequence[str] | None = None
    """How the text is split. With no text given, the text is their sum. Default: four characters each."""
    chunks: Sequence[Mapping[str, Any]] | None = None
    """All the chunks as they are; each counts as a piece, and only ``[DONE]`` is added."""
    usage_chunk: Literal["after", "before", "always", "never"] = "after"
    """``after`` or ``before`` the finishing chunk if ``stream_options.include_usage`` asks; ``always``:
    after it, asked or not; ``never``: not even if asked."""
    keep_alives: bool = False
    """A comment line ``: ping`` before every event."""
    done: bool = True
    """Whether ``data: [DONE]`` ends the stream."""
    delay: float = 0
    """Seconds between pieces."""

    # How it goes wrong.
    cut_after: int | None = None
    """The connection closes after this many bytes of the body (JSON or SSE), without a proper end."""
    clean_cut: bool = False
    """The body cut by ``cut_after`` ends properly, as if that were all of it."""
    error_event: Mapping[str, Any] | None = None
    """A stream sends ``data: {"error": …}`` with this after ``error_after`` pieces, and ends."""
    error_after: int = 0
    garbage: str | None = None
    """A stream sends this as the data of an event after ``garbage_after`` pieces, and goes on."""
    garbage_after: int = 0

    # When.
    hold: threading.Event | None = None
    """The server waits for this event (or its own end) after ``hold_after`` pieces; 0: before the headers. A
    whole reply always waits before the headers."""
    hold_after: int = 0
    started: threading.Event | None = None
    """The server sets this event when it has come to that point, also without a ``hold``."""

    def __post_init__(self) -> None:
        if self.pieces is None:
            return
        content = self.text if self.message is None else self.message.get("content")
        if content != "" and _utf16("".join(self.pieces)) != _utf16(content):
            raise ValueError(f"the pieces {list(self.pieces)!r} do not make up the text {content!r}")


@dataclass(frozen=True)
class Failure:
    """An HTTP error in OpenAI's form, with OpenAI's words for the usual statuses.

    ``retry_after`` is in seconds and becomes the header ``Retry-After``.
    """

    status: int
    message: str | None = None
    _: KW_ONLY
    type: str | None = None
    code: str | None = None
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Any body: text that is not JSON, a proxy's HTML page, a stream written by hand."""

    body: bytes | str
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """Close the connection without a byte."""


Response = Reply | Failure | Raw | Drop


def echo(body: JSONObject) -> Reply:
    """Answer ``You said: `` and the text of the last user message of a request."""
    messages = [message for message in body.get("messages") or [] if message.get("role") == "user"]
    return Reply("You said: " + (text_of(messages[-1]) if messages else ""))


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message: its content if that is a string, else the texts of its parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def _utf16(text: object) -> bytes | None:
    # Two surrogates in two pieces are one character in the text.
    return text.encode("utf-16", "surrogatepass") if isinstance(text, str) else None
