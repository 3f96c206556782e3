"""A regular expression of a caller, which must not run for ever.

Python's own `re` cannot be interrupted: a pattern such as `(a+)+$` may keep the whole process busy for years. The
package `regex` understands the same patterns, and stops when its time is over.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

import regex

from convstore.errors import InvalidInput
from convstore.messages.redacted_message import REDACTED_TEXT

MAX_PATTERN_CHARACTERS = 1_000
MAX_PATTERN_SECONDS = 5.0
"""How long a pattern may look through one message."""
MAX_DIFFERENT_MATCHES = 100

_MAX_REPETITIONS = 100_000
_REPETITIONS = re.compile(r"\{(?:\d*,)?(\d+),?\}")
_BRACES = re.compile(r"\\N\{[^}]*\}|\\.|\{(\d*,\d*|\d+)\}|(\{)", re.DOTALL)

R = TypeVar("R")


def _has_other_brace(pattern: str) -> bool:
    r"""Return True if a pattern has a `{` that neither begins a repetition, such as `{2,3}`, nor is written `\{`."""
    return any(found.group(2) or found.group(1) == "," for found in _BRACES.finditer(pattern))


class TextPattern:
    """A compiled regular expression, and the time that is left for it.

    Raises:
        InvalidInput: it is not a regular expression, or is too long.
    """

    def __init__(self, pattern: str) -> None:
        if not pattern or len(pattern) > MAX_PATTERN_CHARACTERS:
            raise InvalidInput(f"a pattern has 1 to {MAX_PATTERN_CHARACTERS} characters; this one has {len(pattern)}")
        self._pattern = pattern
        # Python's `re` takes such a brace as a character, but `regex` as leave to match other texts (`{e}`).
        if _has_other_brace(pattern):
            raise InvalidInput(f"the pattern {pattern!r:.80} has a brace that is no number of repetitions: write \\{{")
        # `regex` writes a repetition out, so that three of them inside one another fill the memory.
        repeated = math.prod(max(1, int(number)) for number in _REPETITIONS.findall(pattern))
        if repeated > _MAX_REPETITIONS:
            raise InvalidInput(f"the pattern {pattern!r:.80} repeats too much: use smaller numbers in braces")
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                re.compile(pattern)  # first, because `regex` knows more than Python's own patterns
                self._compiled = regex.compile(pattern)
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            raise InvalidInput(f"the pattern {pattern!r:.80} is not a regular expression: {error}") from None
        self._give_up_at = time.monotonic() + MAX_PATTERN_SECONDS

    def find(self, text: str) -> list[str]:
        """Return the parts of a text that it matches, without empty ones.

        Raises:
            InvalidInput: it takes too long, or matches too many different texts.
        """
        found = self._limit(
            lambda seconds: {match.group() for match in self._compiled.finditer(text, timeout=seconds) if match.group()}
        )
        if len(found) > MAX_DIFFERENT_MATCHES:
            raise InvalidInput(
                f"the pattern {self._pattern!r:.80} matches {len(found)} different texts, and at most "
                f"{MAX_DIFFERENT_MATCHES} can be looked for; redact the whole message, or match less"
            )
        return sorted(found)

    def substitute(self, text: str) -> str:
        """Return a text with "[redacted]" instead of what it matches.

        Raises:
            InvalidInput: it takes too long.
        """

        def replace(match: regex.Match[str]) -> str:
            return REDACTED_TEXT if match.group() else ""

        return self._limit(lambda seconds: self._compiled.sub(replace, text, timeout=seconds))

    def _limit(self, work: Callable[[float], R]) -> R:
        try:
            return work(max(0.001, self._give_up_at - time.monotonic()))
        except TimeoutError:
            raise InvalidInput(
                f"the pattern {self._pattern!r:.80} takes more than {MAX_PATTERN_SECONDS:.0f} seconds; write a simpler "
                f"one, without repetitions inside repetitions"
            ) from None
