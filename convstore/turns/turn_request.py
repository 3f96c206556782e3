"""What a caller asks of a conversation, checked before anything is stored or sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from convstore.context.window import OPTIONS, check_options
from convstore.errors import InvalidInput
from convstore.messages.codec import Message, digest, to_input
from convstore.messages.token_estimate import Counter, estimate
from convstore.values.completion_parameters import CALL_OPTIONS, check_names, check_parameters
from convstore.values.results import MessageRecord
from convstore.values.validation import check_head, check_idempotency_key, check_position


class Kind(Enum):
    """Where a question stands."""

    SAY = "say"
    """New messages, at the head."""
    COMPLETE = "complete"
    """No new message: the model goes on from the head."""
    AGAIN = "again"
    """What was asked before, once more."""
    EDIT = "edit"
    """A message that takes the place of one on the path."""


@dataclass(slots=True)
class Place:
    """A message on the path, as its caller saw it."""

    position: int
    seq: int | None = None
    """Looked up once: after waiting for another turn, the same message must still stand there."""
    content_only: bool = False
    """Whether only the content is given, and all else stays."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asks of a conversation: checked, and not yet on record."""

    kind: Kind
    messages: list[Message]
    """None where it is asked again, or the model only goes on."""
    parameters: dict[str, Any]
    """The explicit completion parameters."""
    options: dict[str, Any]
    """Options of the HTTP call: handed on, never stored."""
    window: dict[str, Any]
    """The explicit options of the window."""
    stream: bool
    default_model: str | None
    count: Counter = estimate
    """Counts a message's tokens."""
    expected_head: int | None = None
    instead_of: Place | None = None
    """Of an edit: the message whose place the new one takes."""
    key: str | None = None
    digest: bytes | None = None
    """Of what an idempotency key stands for: the messages and the explicit parameters."""


def ask(
    message: object,
    given: Mapping[str, Any],
    *,
    kind: Kind = Kind.SAY,
    system: str | None = None,
    name: str | None = None,
    history: bool | None = None,
    stream: bool = False,
    default_model: str | None = None,
    count: Counter = estimate,
    expected_head: int | None = None,
    position: int | None = None,
    idempotency_key: str | None = None,
) -> Question:
    """Check what a caller asks.

    Args:
        message: what to say; None unless something is said.
        given: completion parameters, options of the HTTP call, and options of the window, by name.
        position: of an edit, where the message stands whose place the new one takes.

    Raises:
        InvalidMessage: the message is none, or empty.
        InvalidParameter: a parameter, an option, a sender's name or an idempotency key breaks a rule.
        InvalidInput: it makes no sense together.
    """
    new = to_input(message, name=name) if kind in (Kind.SAY, Kind.EDIT) else []
    check_names(new)
    if system is not None:
        new = [*to_input(system, role="system"), *new]
    window, given = split(given)
    if history is not None:
        window["history"] = history
    place = Place(check_position(position), content_only=_is_content(message)) if position is not None else None
    if place is not None and len(new) > 1:
        raise InvalidInput("one message takes the place of one")
    if kind is Kind.COMPLETE and window.get("history") is False:
        raise InvalidInput("without the history there is nothing to go on from")
    checked = check_parameters(given)
    body = {key: value for key, value in checked.items() if key not in CALL_OPTIONS}
    return Question(
        kind=kind,
        messages=new,
        parameters=body,
        options={key: value for key, value in checked.items() if key in CALL_OPTIONS and value is not None},
        window=window,
        stream=stream,
        default_model=default_model,
        count=count,
        expected_head=check_head(expected_head),
        instead_of=place,
        key=check_idempotency_key(idempotency_key),
        digest=_digest(kind, new, body, window) if idempotency_key is not None else None,
    )


def check_editable(conversation_id: str, record: MessageRecord) -> None:
    """Check that another message can take the place of one on the path.

    Raises:
        InvalidInput: it is the model's own.
    """
    if record.message["role"] == "assistant":
        raise InvalidInput(
            f"conversation {conversation_id}: message {record.position} is the model's own; ask again for another "
            f"(`retry`), or go back before it (`checkout`) and append one"
        )


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the window among what a caller gave by name, checked; and the rest.

    Raises:
        InvalidParameter: an option breaks a rule.
    """
    options = {key: value for key, value in given.items() if key in OPTIONS}
    return check_options(options), {key: value for key, value in given.items() if key not in OPTIONS}


def _is_content(message: object) -> bool:
    if isinstance(message, str):
        return True
    return isinstance(message, (list, tuple)) and not any(
        isinstance(part, Mapping) and "role" in part for part in message
    )


def _digest(kind: Kind, new: list[Message], body: dict[str, Any], window: dict[str, Any]) -> bytes:
    others = {key: value for key, value in window.items() if key != "history"}
    content: dict[str, Any] = {
        "messages": new,
        "parameters": body,
        "history": window.get("history") is not False,
        "again": kind is Kind.AGAIN,
    }
    # What earlier releases did not know is only in it where it is used, so that their keys stay good.
    content |= {"window": others} if others else {}
    content |= {"kind": kind.value} if kind is Kind.COMPLETE else {}
    return digest(b"", content)
