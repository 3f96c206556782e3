"""Read chunks of a stream that differ from one before in their text alone, without parsing them.

Most chunks of a stream do. Parsing one and merging it takes about 25 µs, reading it here about 2. A chunk that differs
in anything else is not read: the caller parses it, and merges it with `ChunkAccumulator`, the oracle of the tests.
"""

from __future__ import annotations

import json.decoder
import re
from collections.abc import Mapping
from typing import Any

from convstore.messages.storable_text import is_storable

_scan_string = json.decoder.scanstring  # type: ignore[attr-defined]
_TEXT_BEGINS = '"content":'
# Random text, so that a listener on the network cannot tell the lengths of the pieces; nobody stores it.
_NOISE_BEGINS = re.compile(r'"obfuscation": ?"')
_CHOICE_FIELDS = frozenset({"index", "delta", "finish_reason", "logprobs"})


class ChunkTemplate:
    """What a chunk of the stream was like.

    >>> template = ChunkTemplate()
    >>> first = '{"id": "c", "choices": [{"index": 0, "delta": {"content": "Hel"}}]}'
    >>> template.learn(first, json.loads(first))
    >>> template.read(first.replace("Hel", "lo"))
    'lo'
    """

    def __init__(self) -> None:
        self._before: str | None = None
        self._after = ""
        self._ends_with_noise = False

    def read(self, data: str) -> str | None:
        """Return the text of a chunk that is like the one learned; None: it is not."""
        before = self._before
        if before is None or not data.startswith(before):
            return None
        try:
            text, end = _scan_string(data, len(before))
        except ValueError:
            return None
        if not self._is_rest(data[end:]) or not is_storable(text):
            return None  # half of a character may belong to the half in another chunk
        found: str = text
        return found

    def learn(self, data: str, chunk: Any) -> None:
        """Learn a chunk, if all that it says besides its text could be said any number of times.

        Args:
            data: its JSON.
            chunk: the value of the JSON.
        """
        self._before = None  # what another chunk changed, this one would not change back
        at = data.find(_TEXT_BEGINS)
        if not _is_plain(chunk) or at < 0 or data.count('"content"') != 1:
            return
        begin = data.find('"', at + len(_TEXT_BEGINS)) + 1
        if data[at + len(_TEXT_BEGINS) : begin].strip() != '"':
            return
        text, end = _scan_string(data, begin)
        if text != chunk["choices"][0]["delta"]["content"]:
            return
        rest = data[end:]
        noise = _NOISE_BEGINS.search(rest)
        self._ends_with_noise = noise is not None and _is_noise(rest[noise.end() :])
        self._after = rest[: noise.end()] if noise is not None and self._ends_with_noise else rest
        self._before = data[:begin]

    def _is_rest(self, rest: str) -> bool:
        if not self._ends_with_noise:
            return rest == self._after
        return rest.startswith(self._after) and _is_noise(rest[len(self._after) :])


def _is_noise(rest: str) -> bool:
    return rest.endswith('"}') and (len(rest) == 2 or (rest[:-2].isascii() and rest[:-2].isalnum()))


def _is_plain(chunk: Any) -> bool:
    """Return True if a chunk is one piece of text of the first choice, and nothing else that grows."""
    if not isinstance(chunk, Mapping):
        return False
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        return False
    choice = choices[0]
    delta = choice.get("delta")
    return (
        isinstance(delta, Mapping)
        and delta.keys() == {"content"}
        and isinstance(delta["content"], str)
        and choice.keys() <= _CHOICE_FIELDS
        and choice.get("index") == 0
        and choice.get("finish_reason") is None
        and choice.get("logprobs") is None
        and "content" not in chunk
        and not any(isinstance(value, (dict, list)) for name, value in chunk.items() if name != "choices")
    )
