"""Reads a request for a completion: its messages, who sends it, which conversation it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from convstore.errors import ConversationNotFound, InvalidInput, InvalidMessage
from convstore.messages.matching_form import list_path
from convstore.messages.message import Message, extract_text, to_message
from convstore.server.service_errors import ServiceError
from convstore.turns.recorded_start import RecordedRequest
from convstore.turns.stateful_start import StatefulRequest
from convstore.turns.turn_request import make_say_request, make_terms
from convstore.values.client_request import SentBody
from convstore.values.identifiers import make_conversation_id
from convstore.values.validation import check_existing_id, check_id, check_idempotency_key

PATH = "/v1/chat/completions"
CONVERSATION_HEADERS = ("x-conversation-id", "x-openwebui-chat-id", "x-librechat-conversation-id")
"""Headers that name a conversation. One that does not exist is made."""
_USER_PARAMETERS = ("safety_identifier", "user")
_RETRY_COUNT = "x-stainless-retry-count"
_DIGEST_BYTES = 16
STATEFUL = "stateful"
_MODE_HEADER = "x-convstore-mode"
_NOT_ASKED = frozenset({"messages", "conversation", "stream", "store"})
_SIDE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A request for a completion, as it came."""

    body: Mapping[str, Any]
    raw: bytes
    """The bytes of the body."""
    headers: Headers
    mode: str | None = None
    """The parameter `mode` of the URL."""


@dataclass(frozen=True, slots=True)
class NamedConversation:
    """The conversation that a client names."""

    id: str
    may_be_new: bool
    """Whether it is made if it does not exist."""


def check_parameters(body: Mapping[str, Any]) -> None:
    """Check the parameters of a request that are stored in columns, or that convstore reads.

    Raises:
        ServiceError: 400.
    """
    if not isinstance(body.get("model", ""), str):
        raise ServiceError(400, "'model' must be the name of a model", "invalid_value", param="model")
    if not isinstance(body.get("stream_options") or {}, dict):
        raise ServiceError(400, "'stream_options' must be an object", "invalid_value", param="stream_options")


def is_stateful(sent: SentRequest) -> bool:
    """Return True if convstore adds the history: the client says so, or names a conversation with one new message.

    Raises:
        ServiceError: 400: the mode is another word.
    """
    mode = sent.mode if sent.mode is not None else sent.headers.get(_MODE_HEADER)
    if mode not in (None, "", STATEFUL):
        raise ServiceError(400, f"the mode is {STATEFUL!r}, or none is given", "invalid_value", param="mode")
    messages = sent.body.get("messages")
    is_one = isinstance(messages, list) and len(messages) == 1
    return mode == STATEFUL or (is_one and sent.body.get("conversation") is not None)


def make_stateful_request(owner: str, key_id: str, sent: SentRequest) -> StatefulRequest:
    """Return the request with new messages alone.

    Raises:
        ServiceError: as `make_recorded_request`.
        InvalidMessage, InvalidParameter: a message or a parameter breaks a rule.
    """
    named = find_named_conversation(sent.body, sent.headers)
    given = {name: value for name, value in sent.body.items() if name not in _NOT_ASKED}
    streams = sent.body.get("stream") is True
    if streams:  # no chunk that the client did not ask for
        given["stream_options"] = {"include_usage": False, **(sent.body.get("stream_options") or {})}
    return StatefulRequest(
        owner=owner,
        conversation=named.id if named is not None else make_conversation_id(),
        creates=named is None or named.may_be_new,
        is_named=named is not None,
        asks=make_say_request(read_messages(sent.body), given, make_terms(None, stream=streams)),
        body=read_sent_body(key_id, sent),
        is_repetition=is_repetition(sent.headers),
    )


def is_side_request(messages: list[Message]) -> bool:
    """Return True if a program asks on the side: for a title, tags, what to ask next.

    Such a request has one message, which begins as those of Open WebUI do, or asks for a title as LibreChat does.
    """
    if len(messages) != 1 or messages[0]["role"] != "user":
        return False
    text = extract_text(messages[0])
    return text.lstrip().startswith("### Task:") or "5-word-or-less title" in text[:_SIDE_CHARACTERS]


def make_recorded_request(
    owner: str, key_id: str, sent: SentRequest, *, matches_cut: bool, keeps_side_requests_apart: bool = True
) -> RecordedRequest:
    """Return what is recorded of a request with all messages.

    Args:
        owner: the owner of the conversation.
        key_id: the API key that the client sent; empty: none.
        matches_cut: whether a list without its beginning goes on in the conversation that ends with it.
        keeps_side_requests_apart: whether requests for titles and tags have conversations of their own.

    Raises:
        ServiceError: 400: the messages, or an id, are not valid; 404: no conversation can have the id that is named.
    """
    body, headers = sent.body, sent.headers
    named = find_named_conversation(body, headers)
    messages = read_messages(body)
    return RecordedRequest(
        owner=owner,
        listed=list_path(messages),
        parameters={name: value for name, value in body.items() if name != "messages"},
        body=read_sent_body(key_id, sent),
        new_id=make_conversation_id(),
        conversation=named.id if named is not None else None,
        creates=named is not None and named.may_be_new,
        matches_cut=matches_cut,
        is_repetition=is_repetition(headers),
        is_side_request=keeps_side_requests_apart and is_side_request(messages),
    )


def read_messages(body: Mapping[str, Any]) -> list[Message]:
    """Return the messages of a request.

    Raises:
        ServiceError: 400.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ServiceError(400, "'messages' must be a list of messages", "invalid_value", param="messages")
    found = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            raise ServiceError(400, f"messages[{place}] has no role", "invalid_value", param=f"messages[{place}].role")
        try:
            found.append(to_message(message))
        except InvalidMessage as error:
            param = f"messages[{place}]"
            raise ServiceError(400, f"{param}: {error}", "invalid_value", param=param) from None
    return found


def read_sent_body(key_id: str, sent: SentRequest) -> SentBody:
    """Return by what a request, and one that goes on from it, is recognised.

    Raises:
        ServiceError: 400: the `Idempotency-Key` cannot be one.
    """
    user = next((sent.body[name] for name in _USER_PARAMETERS if sent.body.get(name) is not None), None)
    given = sent.headers.get("idempotency-key")
    try:
        check_idempotency_key(given)
    except InvalidInput as error:
        raise ServiceError(400, str(error), "invalid_value", param="Idempotency-Key") from None
    return SentBody(
        sender=_digest([key_id, user]),
        digest=_digest([key_id, PATH, hashlib.sha256(sent.raw).hexdigest()]),
        idempotency=_digest([key_id, PATH, given]) if given is not None else None,
        metadata=sent.body["metadata"] if isinstance(sent.body.get("metadata"), dict) else None,
    )


def is_repetition(headers: Headers) -> bool:
    """Return True if the client's library says that it sends a request once more."""
    count = headers.get(_RETRY_COUNT, "")
    return count.isascii() and count.isdecimal() and int(count[:9]) >= 1


def find_named_conversation(body: Mapping[str, Any], headers: Headers) -> NamedConversation | None:
    """Return the conversation that a request names, in its body or in a header.

    Raises:
        ServiceError: 400: the id cannot be one; 404: the body names one that cannot exist.
    """
    named = body.get("conversation")
    if isinstance(named, dict):
        named = named.get("id")
    metadata = body.get("metadata")
    if named is None and isinstance(metadata, dict):
        named = metadata.get("conversation_id")
    if named is not None:
        if not isinstance(named, str):
            raise ServiceError(400, "a conversation is named by its id", "invalid_value", param="conversation")
        try:
            return NamedConversation(check_existing_id(named), may_be_new=False)
        except ConversationNotFound:
            raise ServiceError(404, "no such conversation", "not_found", param="conversation") from None
    for name in CONVERSATION_HEADERS:
        if headers.get(name):
            try:
                return NamedConversation(check_id(headers[name].encode("latin-1").decode()), may_be_new=True)
            except (InvalidInput, UnicodeError):
                text = f"the header {name} is not an id: 1 to 255 bytes of printable text"
                raise ServiceError(400, text, "invalid_value", param=name) from None
    return None


def _digest(values: list[Any]) -> bytes:
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=_DIGEST_BYTES).digest()
