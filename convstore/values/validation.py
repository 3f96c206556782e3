"""Ids, names, owners: what is allowed. Pure."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from convstore.errors import ConversationNotFound, InvalidInput, InvalidParameter
from convstore.messages.codec import is_storable, to_plain

# Without vowels there are no words; without 0, 1 and l no confusion. 12 of 28 characters are 57 bits.
_ALPHABET = "23456789bcdfghjkmnpqrstvwxyz"
_ID_LENGTH = 12
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_LARGEST = 2**63 - 1  # that a database's integers hold
_LONGEST = 255  # bytes; three of these still fit the largest row of a PostgreSQL index (2,704)


def random_id() -> str:
    """Return a new conversation's id: random from its first character, so that a few typed ones find it."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def is_key(text: str) -> bool:
    """Whether `text` can be an id: 1 to 255 bytes of UTF-8 without control characters."""
    return bool(text) and text.isprintable() and is_storable(text) and len(text.encode()) <= _LONGEST


def check_id(given: str) -> str:
    """Return an id that the caller chose.

    Raises:
        InvalidInput: it cannot be one.
    """
    if not isinstance(given, str) or not is_key(given):
        raise InvalidInput(f"an id is 1 to {_LONGEST} bytes of printable text, not {given!r:.80}")
    return given


def known_id(given: str) -> str:
    """Return the id of a conversation that should exist.

    Raises:
        ConversationNotFound: it can be none's.
    """
    if not isinstance(given, str) or not is_key(given):
        raise ConversationNotFound(f"no conversation {given!r:.80}; see `convstore list`")
    return given


def check_owner(given: str) -> str:
    """Return an owner; `""` is the owner of an application without users.

    Raises:
        InvalidInput: it cannot be one.
    """
    if not isinstance(given, str) or (given and not is_key(given)):
        raise InvalidInput(f"an owner is up to {_LONGEST} bytes of printable text, not {given!r:.80}")
    return given


def check_name(given: str | None) -> str | None:
    """Return a conversation's short handle; None is none.

    Raises:
        InvalidInput: it is not 1 to 64 letters, digits, `.`, `_` or `-` beginning with a letter or a digit.
    """
    if given is not None and (not isinstance(given, str) or not _NAME.fullmatch(given)):
        raise InvalidInput(
            f"a name is 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit, not {given!r:.80}"
        )
    return given


def check_title(given: str | None) -> str | None:
    """Return a title; None is none.

    Raises:
        InvalidInput: it is not text.
    """
    if given is not None and not isinstance(given, str):
        raise InvalidInput(f"a title is text, not {type(given).__name__}")
    return given


def check_idempotency_key(given: str | None) -> str | None:
    """Return an idempotency key; None is none.

    Raises:
        InvalidParameter: it cannot be one.
    """
    if given is not None and (not isinstance(given, str) or not is_key(given)):
        raise InvalidParameter(f"an idempotency key is 1 to {_LONGEST} bytes of printable text, not {given!r:.80}")
    return given


def check_metadata(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as plain JSON.

    Raises:
        InvalidInput: it is not a JSON object.
    """
    plain = to_plain(given)
    if not isinstance(plain, dict):
        raise InvalidInput(f"metadata is a JSON object, not {type(given).__name__}")
    return plain


def check_limit(given: int | None) -> int | None:
    """Return a limit; None is none.

    Raises:
        InvalidInput: it is negative, or no number.
    """
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 0):
        raise InvalidInput(f"a limit is a whole number of at least 0, not {given!r}")
    return min(given, _LARGEST) if given is not None else None


OnBusy: TypeAlias = Literal["wait", "reject"]
"""What to do while another turn holds the conversation."""


def patience(on_busy: OnBusy, wait: float) -> float:
    """Return how many seconds to wait for a conversation that is busy.

    Raises:
        InvalidInput: `on_busy` is neither "wait" nor "reject", or `wait` is no number of seconds.
    """
    if on_busy not in ("wait", "reject"):
        raise InvalidInput(f'on_busy is "wait" or "reject", not {on_busy!r:.80}')
    return check_wait(wait) if on_busy == "wait" else 0.0


def check_wait(given: float) -> float:
    """Return how many seconds to wait.

    Raises:
        InvalidInput: it is negative, or no number.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not given >= 0:
        raise InvalidInput(f"wait is a number of seconds, at least 0, not {given!r}")
    return given


def check_before(given: int | None) -> int | None:
    """Return the number that a page ends before; None is none.

    Raises:
        InvalidInput: it is no such number.
    """
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or not 0 < given <= _LARGEST):
        raise InvalidInput(f"`before` is the seq of the first record of another page, not {given!r}")
    return given


def check_count(given: int) -> int:
    """Return how many turns a caller means.

    Raises:
        InvalidInput: it is no whole number of at least 1.
    """
    return _whole(given, 1, "how many turns is a whole number of at least 1")


def check_position(given: int) -> int:
    """Return a position as a caller gave it; 0 is before the first message.

    Raises:
        InvalidInput: it is no whole number of at least 0.
    """
    return _whole(given, 0, "a position is 1, 2, 3 … along the conversation")


def check_seq(given: int) -> int:
    """Return the `seq` of a message as a caller gave it; 0 is before the first.

    Raises:
        InvalidInput: it is no whole number of at least 0.
    """
    return _whole(given, 0, "a message's seq is a whole number")


def check_head(given: int | None) -> int | None:
    """Return the head that a caller expects; None is any.

    Raises:
        InvalidInput: it is no such number.
    """
    return None if given is None else _whole(given, 0, "expected_head is the head_seq of a conversation")


def _whole(given: int, least: int, rule: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= _LARGEST:
        raise InvalidInput(f"{rule}, not {given!r:.80}")
    return given
