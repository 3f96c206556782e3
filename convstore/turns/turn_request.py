"""What a caller asks of a conversation, checked before anything is stored or sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from convstore.errors import InvalidInput
from convstore.messages.caller_input import parse_input
from convstore.messages.codec import digest
from convstore.messages.message import Message
from convstore.values.completion_parameters import CALL_OPTIONS, check_parameters, check_sender_names
from convstore.values.identifiers import Position, Seq
from convstore.values.results import MessageRecord
from convstore.values.validation import check_head_seq, check_idempotency_key
from convstore.values.window_options import split_window_options


class RequestKind(StrEnum):
    """What a turn does to the conversation."""

    SAY = "say"
    """New messages at the head."""
    COMPLETE = "complete"
    """No new message: the model goes on from the head."""
    RETRY = "retry"
    """The request of an earlier turn, once more."""
    EDIT = "edit"
    """A message that replaces one of the path, on a new branch."""


@dataclass(frozen=True, slots=True)
class EditTarget:
    """The message that an edit replaces."""

    position: Position
    replaces_content_only: bool
    """True: the caller gave only the content, and everything else of the message stays."""
    seq: Seq | None = None
    """The message that was at this position when the caller asked: after waiting, the same one must be there."""


@dataclass(frozen=True, slots=True)
class CallTerms:
    """What every call that asks the model can have besides its message and parameters, checked."""

    stream: bool = False
    default_model: str | None = None
    """The model to ask if neither the call nor the conversation names one."""
    expected_head: Seq | None = None
    idempotency_key: str | None = None


def make_terms(
    default_model: str | None,
    *,
    idempotency_key: str | None = None,
    expected_head: int | None = None,
    stream: bool = False,
) -> CallTerms:
    """Return the terms of a call.

    Raises:
        InvalidParameter: not a valid idempotency key.
        InvalidInput: `expected_head` is not the number of a message.
    """
    head = check_head_seq(expected_head)
    return CallTerms(
        stream=stream,
        default_model=default_model,
        expected_head=Seq(head) if head is not None else None,
        idempotency_key=check_idempotency_key(idempotency_key),
    )


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a caller asks of a conversation: checked, and not stored yet."""

    kind: RequestKind
    messages: list[Message]
    """The new messages; empty for a retry and for a completion."""
    parameters: dict[str, Any]
    """The explicit completion parameters."""
    call_options: dict[str, Any]
    """Options of the HTTP call: handed to the client, never stored."""
    window: dict[str, Any]
    """The explicit options of the window."""
    terms: CallTerms = field(default_factory=CallTerms)
    target: EditTarget | None = None
    """The message that an edit replaces."""
    input_digest: bytes | None = None
    """Digest of the messages and the explicit parameters of a request with an idempotency key."""


def make_say_request(
    message: object,
    given: Mapping[str, Any],
    terms: CallTerms,
    *,
    system: str | None = None,
    name: str | None = None,
    history: bool | None = None,
) -> TurnRequest:
    """Return the request to say something.

    Args:
        given: completion parameters, options of the HTTP call, and options of the window, by name.

    Raises:
        InvalidMessage: the message is empty, or not a message.
        InvalidParameter: a parameter, an option or a sender's name breaks a rule.
    """
    new = parse_input(message, name=name)
    check_sender_names(new)
    if system is not None:
        new = [*parse_input(system, role="system"), *new]
    return _make_request(RequestKind.SAY, new, _with_history(given, history), terms)


def make_complete_request(given: Mapping[str, Any], terms: CallTerms) -> TurnRequest:
    """Return the request to go on from the head.

    Raises:
        InvalidInput: the history would not be sent, so that there is nothing to go on from.
        InvalidParameter: a parameter or an option breaks a rule.
    """
    if given.get("history") is False:
        raise InvalidInput("a reply without a new message needs the history; do not turn it off")
    return _make_request(RequestKind.COMPLETE, [], given, terms)


def make_retry_request(given: Mapping[str, Any], terms: CallTerms) -> TurnRequest:
    """Return the request to ask once more what an earlier turn asked.

    Raises:
        InvalidParameter: a parameter or an option breaks a rule.
    """
    return _make_request(RequestKind.RETRY, [], given, terms)


def make_edit_request(position: Position, message: object, given: Mapping[str, Any], terms: CallTerms) -> TurnRequest:
    """Return the request to replace a message and ask again from there.

    Raises:
        InvalidMessage: the message is empty, or not a message.
        InvalidInput: there are several messages.
        InvalidParameter: a parameter or an option breaks a rule.
    """
    new = parse_input(message)
    check_sender_names(new)
    if len(new) > 1:
        raise InvalidInput("an edit replaces one message by one message")
    target = EditTarget(position, replaces_content_only=_is_content(message))
    return _make_request(RequestKind.EDIT, new, given, terms, target)


def _with_history(given: Mapping[str, Any], history: bool | None) -> Mapping[str, Any]:
    return given if history is None else {**given, "history": history}


def _make_request(
    kind: RequestKind,
    new: list[Message],
    given: Mapping[str, Any],
    terms: CallTerms,
    target: EditTarget | None = None,
) -> TurnRequest:
    window, others = split_window_options(given)
    checked = check_parameters(others)
    body = {name: value for name, value in checked.items() if name not in CALL_OPTIONS}
    return TurnRequest(
        kind=kind,
        messages=new,
        parameters=body,
        call_options={name: value for name, value in checked.items() if name in CALL_OPTIONS and value is not None},
        window=window,
        terms=terms,
        target=target,
        input_digest=_digest_input(kind, new, body, window) if terms.idempotency_key is not None else None,
    )


def check_editable(conversation_id: str, record: MessageRecord) -> None:
    """Check that an edit can replace a message.

    Raises:
        InvalidInput: it is the model's own message.
    """
    if record.message["role"] == "assistant":
        raise InvalidInput(
            f"conversation {conversation_id!r}: message {record.position} is the model's own; `retry` asks for another "
            f"reply, or `checkout` goes back before it and `append` adds one of yours"
        )


def _is_content(message: object) -> bool:
    if isinstance(message, str):
        return True
    return isinstance(message, (list, tuple)) and not any(
        isinstance(part, Mapping) and "role" in part for part in message
    )


def _digest_input(kind: RequestKind, new: list[Message], body: dict[str, Any], window: dict[str, Any]) -> bytes:
    others = {name: value for name, value in window.items() if name != "history"}
    content: dict[str, Any] = {
        "messages": new,
        "parameters": body,
        "history": window.get("history") is not False,
        "again": kind is RequestKind.RETRY,
    }
    # What earlier releases did not know is part of it only if it is used, so that their keys stay valid.
    content |= {"window": others} if others else {}
    content |= {"kind": kind.value} if kind is RequestKind.COMPLETE else {}
    return digest(b"", content)
