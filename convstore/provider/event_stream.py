"""Decode server-sent events, and read chunks from them.

The rules are those of https://html.spec.whatwg.org/multipage/server-sent-events.html. convstore decodes the events of
its own clients: the openai package gives up the whole stream at a number that JSON does not have, and does not tell
whether `[DONE]` came.
"""

from __future__ import annotations

from typing import Any

from convstore.messages.completion import find_error_text
from convstore.messages.lenient_json import parse_lenient_json

DONE = object()
"""Stands for the event `[DONE]`, with which a provider says that the stream is whole."""


class EventDecoder:
    """Bytes of a stream in, data of its events out.

    >>> EventDecoder().decode(b'data: {"a": 1}\\n\\ndata: [DO')
    ['{"a": 1}']
    """

    def __init__(self) -> None:
        self._is_first = True
        self._unfinished: list[bytes] = []
        self._data: list[bytes] = []

    def decode(self, received: bytes) -> list[str]:
        """Return the data of the events that end in these bytes; comments and events without data are left out."""
        if self._is_first:
            received, self._is_first = received.removeprefix(b"\xef\xbb\xbf"), False
        self._unfinished.append(received)
        if b"\n" not in received and b"\r" not in received:
            return []  # a long line is joined once, not with every piece
        text = b"".join(self._unfinished).replace(b"\r\n", b"\n")
        held = b"\r" if text.endswith(b"\r") else b""  # the first half of \r\n, perhaps
        *lines, rest = text[: len(text) - len(held)].replace(b"\r", b"\n").split(b"\n")
        self._unfinished = [rest + held]
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data).decode("utf-8", "replace"))
                self._data = []
        return events


class StreamError(Exception):
    """The provider sent an error in the middle of a stream."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(find_error_text(body) or "the provider sent an error in the stream")
        error = body.get("error")
        self.body = error if isinstance(error, dict) else body
        self.code = self.body.get("code")


def parse_event(data: str) -> Any:
    """Return the chunk that an event holds, or DONE.

    Raises:
        ValueError: the data is not JSON.
        StreamError: it is the provider's error.
    """
    if data.startswith("[DONE]"):
        return DONE
    chunk = parse_lenient_json(data)
    if isinstance(chunk, dict) and find_error_text(chunk) is not None:
        raise StreamError(chunk)
    return chunk
