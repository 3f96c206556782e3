"""Check the arguments of callers: keys, contents, numbers, and how long to wait.

Each function returns the value, and raises an error that states the rule if the value breaks it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, Literal, TypeAlias

from convstore.errors import ConversationNotFound, InvalidInput, InvalidParameter
from convstore.messages.plain_json import to_plain
from convstore.messages.storable_text import is_storable
from convstore.values.identifiers import Position, Seq, compose_letters
from convstore.values.results import RatingValue

MAX_KEY_BYTES = 255  # three of these still fit the largest row of a PostgreSQL index (2,704)
_CONVERSATION_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_MAX_DATABASE_INTEGER = 2**63 - 1
_MOST_HITS = 1_000

OnBusy: TypeAlias = Literal["wait", "reject"]
"""What to do while another turn holds the conversation."""


# --- keys: the texts that name a conversation, an owner, a request ---


def is_key(text: str) -> bool:
    """Return True if a text can be a key: 1 to 255 bytes of printable UTF-8."""
    return bool(text) and text.isprintable() and is_storable(text) and len(text.encode()) <= MAX_KEY_BYTES


def check_id(value: str) -> str:
    """Return the id that a caller chose for a new conversation, checked.

    Raises:
        InvalidInput: the value cannot be an id.
    """
    if not isinstance(value, str) or not is_key(value):
        raise InvalidInput(f"an id is 1 to {MAX_KEY_BYTES} bytes of printable text, not {value!r:.80}")
    return value


def check_existing_id(value: str) -> str:
    """Return the id of a conversation that should exist, checked.

    Raises:
        ConversationNotFound: the value cannot be an id, so no conversation has it.
    """
    if not isinstance(value, str) or not is_key(value):
        raise ConversationNotFound(f"no conversation {value!r:.80}")
    return value


def check_owner(value: str) -> str:
    """Return an owner, checked; "" is for an application without users.

    Raises:
        InvalidInput: the value cannot be an owner.
    """
    if not isinstance(value, str) or (value and not is_key(value)):
        raise InvalidInput(f"an owner is up to {MAX_KEY_BYTES} bytes of printable text, not {value!r:.80}")
    return value


def check_conversation_name(value: str | None) -> str | None:
    """Return a conversation's name, checked and with its letters composed (NFC); None: no name.

    Raises:
        InvalidInput: the name is not 1 to 64 letters, digits, `.`, `_` or `-`, or does not begin with a letter or
            digit.
    """
    if isinstance(value, str):
        value = compose_letters(value)
    if value is not None and (not isinstance(value, str) or not _CONVERSATION_NAME.fullmatch(value)):
        raise InvalidInput(
            f"a name is 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit, not {value!r:.80}"
        )
    return value


def check_idempotency_key(value: str | None) -> str | None:
    """Return an idempotency key, checked; None: no key.

    Raises:
        InvalidParameter: the value cannot be a key.
    """
    if value is not None and (not isinstance(value, str) or not is_key(value)):
        raise InvalidParameter(f"an idempotency key is 1 to {MAX_KEY_BYTES} bytes of printable text, not {value!r:.80}")
    return value


# --- contents of a conversation ---


def check_title(value: str | None) -> str | None:
    """Return a title, checked; None: no title.

    Raises:
        InvalidInput: the title is not a text.
    """
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"a title must be a text, not {type(value).__name__}")
    return value


def check_tags(values: Sequence[str]) -> list[str]:
    """Return tags, checked and with their letters composed (NFC), each once.

    Raises:
        InvalidInput: one of them is not 1 to 64 letters, digits, `.`, `_` or `-`, or there are none.
    """
    if not values:
        raise InvalidInput("name at least one tag")
    for value in values:
        if not isinstance(value, str) or not _CONVERSATION_NAME.fullmatch(compose_letters(value)):
            raise InvalidInput(
                f"a tag is 1 to 64 letters, digits, '.', '_' or '-', and begins with a letter or digit, "
                f"not {value!r:.80}"
            )
    return list(dict.fromkeys(map(compose_letters, values)))


def check_rating(value: str | None, note: str | None) -> tuple[RatingValue | None, str | None]:
    """Return a rating and its note, checked.

    Raises:
        InvalidInput: the rating is not `good`, `bad` or None, or the note is not a text.
    """
    if value is not None and value not in tuple(RatingValue):
        raise InvalidInput(f"a rating is 'good' or 'bad', not {value!r:.80}")
    if note is not None and not isinstance(note, str):
        raise InvalidInput(f"a note must be a text, not {type(note).__name__}")
    return RatingValue(value) if value is not None else None, note or None


def check_metadata(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as a plain JSON object, checked.

    Raises:
        InvalidInput: the value is not a JSON object.
    """
    plain = to_plain(value)
    if not isinstance(plain, dict):
        raise InvalidInput(f"metadata must be a JSON object, not {type(value).__name__}")
    return plain


def check_metadata_texts(value: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of metadata, checked.

    Raises:
        InvalidInput: the value is not a JSON object, or a value in it is no text.
    """
    plain = check_metadata(value)
    if not all(isinstance(text, str) for text in plain.values()):
        raise InvalidInput("each value of metadata_texts must be a text")
    return plain


# --- numbers: limits of a page, and places in a conversation ---


def check_limit(value: int | None) -> int | None:
    """Return how many records a page may hold, checked; None: all.

    Raises:
        InvalidInput: the limit is not a whole number of at least 0.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InvalidInput(f"a limit must be a whole number of at least 0, not {value!r}")
    return min(value, _MAX_DATABASE_INTEGER) if value is not None else None


def check_search_limit(value: int) -> int:
    """Return how many hits a page may hold, checked.

    Raises:
        InvalidInput: the limit is not a whole number of 1 to 1,000.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_HITS:
        raise InvalidInput(f"the limit of a search must be a whole number of 1 to {_MOST_HITS:,}, not {value!r:.80}")
    return value


def check_before(value: int | None) -> int | None:
    """Return the `seq` before which a page ends, checked; None: the last page.

    Raises:
        InvalidInput: the value cannot be a `seq`.
    """
    is_seq = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_DATABASE_INTEGER
    if value is not None and not is_seq:
        raise InvalidInput(f"`before` must be the seq of the first record of the page before, not {value!r}")
    return value


def check_turn_count(value: int) -> int:
    """Return a number of turns, checked.

    Raises:
        InvalidInput: the value is not a whole number of at least 1.
    """
    return _check_whole_number(value, 1, "the number of turns must be a whole number of at least 1")


def check_position(value: int) -> Position:
    """Return a position, checked; 0 is before the first message.

    Raises:
        InvalidInput: the value is not a whole number of at least 0.
    """
    return Position(_check_whole_number(value, 0, "a position is 1, 2, 3 … along the conversation"))


def check_seq(value: int) -> Seq:
    """Return the `seq` of a message, checked; 0 is before the first message.

    Raises:
        InvalidInput: the value is not a whole number of at least 0.
    """
    return Seq(_check_whole_number(value, 0, "a message's seq must be a whole number"))


def check_head_seq(value: int | None) -> Seq | None:
    """Return the `seq` of the head that a caller expects, checked; None: any head.

    Raises:
        InvalidInput: the value cannot be the `seq` of a head.
    """
    if value is None:
        return None
    return Seq(_check_whole_number(value, 0, "expected_head is the head_seq of a conversation"))


def _check_whole_number(value: int, least: int, rule: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MAX_DATABASE_INTEGER:
        raise InvalidInput(f"{rule}, not {value!r:.80}")
    return value


# --- how long to wait ---


def check_wait(value: float) -> float:
    """Return how many seconds to wait, checked.

    Raises:
        InvalidInput: the value is not a number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise InvalidInput(f"wait must be a number of seconds, at least 0, not {value!r}")
    return value


def get_wait_seconds(on_busy: OnBusy, wait: float) -> float:
    """Return how many seconds to wait for a busy conversation; 0 for "reject".

    Raises:
        InvalidInput: `on_busy` is neither "wait" nor "reject", or `wait` is not a number of at least 0.
    """
    if on_busy not in ("wait", "reject"):
        raise InvalidInput(f'on_busy must be "wait" or "reject", not {on_busy!r:.80}')
    return check_wait(wait) if on_busy == "wait" else 0.0


# --- times ---


def check_moment(value: datetime | date | None, argument: str) -> datetime | None:
    """Return the beginning or the end of a period, in UTC, checked; None: no limit.

    Args:
        value: a moment, or a day, which means its beginning (00:00 UTC).
        argument: the name of the caller's argument, for the error text.

    Raises:
        InvalidInput: the value is not a time, has no time zone, or is out of range.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidInput(
                f"{argument} needs a time zone, and {value.isoformat()} has none; give it one, such as UTC"
            )
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise InvalidInput(f"{argument} is out of range: {value.isoformat()}") from None
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise InvalidInput(f"{argument} must be a datetime or a date, not {type(value).__name__}")
