"""The lossless codec: a message as its writer made it ⇄ as a row holds it → as an API accepts it.

Pure functions, and the only place that knows how a message maps to columns. A message is a JSON object with a
`role`. Three forms:

- *exact*: a plain dict, equal to what went in;
- *stored*: `StoredMessage`, four columns. 95 % of messages are a role and a string, and need no JSON at all; of the
  others, large base64 is kept as bytes, in rows of its own (`attachments`);
- *request*: what `chat.completions.create(messages=…)` takes.

Two things are not kept, for JSON does not have them: the order of a message's own keys (RFC 8259; of everything inside
it is kept), and the difference between a character and its two surrogate halves in a row, which become the character.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypeAlias

from convstore.errors import InvalidMessage
from convstore.messages.inline_data import attach, detach, from_list, to_list

Message: TypeAlias = dict[str, Any]
"""A Chat Completions message in its exact form: a JSON object with a `role`."""

DIGEST_SIZE = 16
"""Bytes of a digest: names a history uniquely for all practical purposes, at a quarter of SHA-512's room."""

DEEPEST = 100
"""How deep a message may be nested. How deep Python's parser goes depends on the stack it is called from: without a
limit of our own, what one caller wrote another could not read."""

_MOST_BITS = 14_284  # of a whole number: 4,300 digits, the most that Python reads (sys.set_int_max_str_digits)

# Fields of replies that an API refuses, ignores or bills again when they come back in a request. Some providers want
# the reasoning of a tool loop back (DeepSeek, MiniMax, Moonshot), so that is sent where the caller asks for it.
_REASONING = frozenset({"reasoning", "reasoning_content", "reasoning_details"})
_NOT_ECHOED = frozenset({"annotations", "parsed"})
# "Required unless tool_calls or function_call is specified" (API reference, "Assistant message", of content); what an
# audio's id stands for is the content.
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "audio")


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as its row holds it. `extra` is JSON that overrides and completes the other three.

    It is an object, or what `attachments.to_list` makes of one.
    """

    role: str
    name: str | None
    content: str | None
    extra: str | None
    blobs: Mapping[bytes, bytes] = field(default_factory=dict)
    """Of a message to be written, what the row refers to and does not hold, by digest."""


def to_message(value: object) -> Message:
    """Return the exact form of a message: a mapping, or an object of the openai package.

    Of an openai object, only what the server (or the caller) set is taken: fields that the class merely knows of are
    not invented.

    Raises:
        InvalidMessage: not a JSON object with a string `role`.
    """
    plain = to_plain(value)
    if not isinstance(plain, dict):
        raise InvalidMessage(f"a message is a JSON object with a role, not {type(value).__name__}")
    role = plain.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidMessage(f"a message has a role (system, user, assistant …); this one has {role!r}")
    return plain


def to_plain(value: object) -> Any:
    """Return `value` as what `json.loads` would give: dict, list, str, int, float, bool, None, and nothing else.

    Raises:
        InvalidMessage: it holds something that JSON has no form for (a key that is not a string, a NaN, an object).
    """
    try:
        return _plain(value, DEEPEST)
    except RecursionError:
        raise InvalidMessage("nested too deeply for the stack it is read on") from None


def _plain(value: object, room: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        if value.bit_length() > _MOST_BITS:
            raise InvalidMessage("a whole number of more than 4,300 digits is not read by every parser of JSON")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidMessage(f"{value} is a number that JSON does not have")
        return float(value)
    if room == 0:
        raise InvalidMessage(f"nested more than {DEEPEST} deep")
    if isinstance(value, Mapping):
        return _object(value, room - 1)
    dump = getattr(value, "model_dump", None)  # a pydantic model, such as all of openai's are
    if dump is not None and not isinstance(value, type):
        try:
            fields = dump(mode="python", by_alias=True, exclude_unset=True, warnings=False)
        except ValueError as error:  # pydantic's own errors are ValueErrors
            raise InvalidMessage(f"{type(value).__name__} cannot be written as JSON: {error}") from None
        return _plain(fields, room)
    # openai's types have Iterable for a list. A set has no order to keep, and bytes are no list of numbers.
    if isinstance(value, Iterable) and not isinstance(value, (AbstractSet, bytes, bytearray, memoryview, type)):
        return [_plain(item, room - 1) for item in value]
    raise InvalidMessage(f"JSON has no form for {type(value).__name__}")


def _object(value: Mapping[Any, object], room: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidMessage(f"a key of a JSON object is a string, not {key!r:.80}")
        text = _text(key)
        if text in plain:
            raise InvalidMessage(f"two keys of a JSON object are the same text: {text!r:.80}")
        plain[text] = _plain(item, room)
    return plain


def _text(value: str) -> str:
    return rejoin(str.__str__(value))  # of a str that is an enum's member, its value and not its name


def is_storable(text: str) -> bool:
    """Whether both databases hold `text` as it is: PostgreSQL refuses NUL, both refuse lone surrogates."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_json(value: object) -> str:
    """Write plain JSON that any database column and any UTF-8 stream holds: readable, or all ASCII if it must be.

    Raises:
        InvalidMessage: it cannot be written (a number of too many digits, too deep a nesting).
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if not is_storable(text):
            text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"cannot be written as JSON: {error}") from None
    return text


def to_column(text: str | None) -> str | None:
    """Return a form of a label (a title, a model's name) that a database holds: the text itself, or JSON if it must be.

    A text that begins with a quotation mark is written as JSON too, so that `from_column` can tell the two apart.
    """
    if text is None or (is_storable(text) and not text.startswith('"')):
        return text
    return to_json(text)


def from_column(column: str | None) -> str | None:
    """Return the text that `to_column` wrote."""
    if column is not None and column.startswith('"'):
        return str(json.loads(column))
    return column


def rejoin(text: str) -> str:
    """Join the halves of characters that were split in two: a stream may cut an emoji between two deltas.

    A half that stays alone is left as it is.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def encode(message: Message) -> StoredMessage:
    """Return the row of a message in its exact form.

    Raises:
        InvalidMessage: it cannot be written as JSON.
    """
    role: str = message["role"]
    columns: dict[str, str] = {}
    extra: Message = {}
    for key, value in message.items():
        if key in ("role", "name", "content") and isinstance(value, str) and is_storable(value):
            columns[key] = value
        else:
            extra[key] = value
    detached = detach(extra)
    return StoredMessage(
        role=role if "role" in columns else "",
        name=columns.get("name"),
        content=columns.get("content"),
        extra=to_json(to_list(detached) if detached.references else extra) if extra else None,
        blobs=detached.blobs,
    )


def decode(stored: StoredMessage, texts: Mapping[bytes, str] | None = None) -> Message:
    """Return the exact message of a row.

    Args:
        texts: of what the row refers to, the base64 by digest (`attachments.written`); it may hold more.

    Raises:
        ValueError: `extra` is not what `encode` writes, or what it refers to is not in `texts`: something is damaged.
    """
    message: Message = {"role": stored.role}
    if stored.name is not None:
        message["name"] = stored.name
    if stored.content is not None:
        message["content"] = stored.content
    if stored.extra is not None:
        extra = json.loads(stored.extra)
        if isinstance(extra, list):
            fields, references = from_list(extra)
            extra = attach(fields, references, texts or {})
        if not isinstance(extra, dict):
            raise ValueError("a message's extra fields are not a JSON object")
        message.update(extra)
    return message


def digests_in(stored: StoredMessage) -> set[bytes]:
    """Return the digests of what a row refers to and does not hold; of most, none.

    Raises:
        ValueError: it is damaged.
    """
    if stored.extra is None or not stored.extra.startswith("["):
        return set()
    return {reference.digest for reference in from_list(json.loads(stored.extra))[1]}


def to_request(message: Message, *, reasoning: bool = False) -> Message:
    """Return the form of `message` that a Chat Completions API accepts in a request.

    - Nulls are dropped, and an empty list of tool calls, which OpenAI refuses ("expected an array with minimum length
      1"). A content of null that only an assistant may leave out becomes an empty one.
    - Of an assistant's audio only the id goes back, and its content is there unless something stands for it (API
      reference, "Assistant message"); annotations, reasoning, and what the openai package parsed, are not echoed.
    - Lone surrogates, which no UTF-8 body can carry, become U+FFFD.
    - Fields of vendors go as they are.

    Args:
        reasoning: whether reasoning is echoed after all.
    """
    by_assistant = message["role"] == "assistant"
    left_out = _NOT_ECHOED if reasoning else _NOT_ECHOED | _REASONING
    request: Message = {}
    for key, value in message.items():
        if value is None or (by_assistant and (key in left_out or (key == "tool_calls" and value == []))):
            continue
        request[_sendable(key)] = _sendable(value)
    if not by_assistant:
        if "content" in message:
            request.setdefault("content", "")
        return request
    audio = request.get("audio")
    if isinstance(audio, dict) and "id" in audio:
        request["audio"] = {"id": audio["id"]}
    if not any(key in request for key in _INSTEAD_OF_CONTENT):
        request.setdefault("content", "")
    return request


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return rejoin(value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, list):
        return [_sendable(item) for item in value]
    if isinstance(value, dict):
        return {_sendable(key): _sendable(item) for key, item in value.items()}
    return value


def digest(parent: bytes, message: Message) -> bytes:
    """Return the 16 raw bytes that name `message` together with all that stands before it.

    Args:
        parent: the digest of the message before it on its path; `b""` for the first.
        message: the exact form.
    """
    canonical = json.dumps(message, sort_keys=True, separators=(",", ":"))
    return blake2b(parent + canonical.encode(), digest_size=DIGEST_SIZE).digest()


def text_of(message: Message) -> str:
    """Return the readable text of a message: its content, or the text parts of it; else its refusal; else `""`."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text", part.get("refusal")) for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str) and content:
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def is_replayable(partial: Message) -> bool:
    """Whether what came of a reply may be replayed: its text may. A tool call cut in the middle must never be."""
    return bool(text_of(partial)) and not partial.get("tool_calls") and not partial.get("function_call")


def to_input(value: object, *, role: str = "user", name: str | None = None) -> list[Message]:
    """Return the messages that a caller means by what it hands to `say`: at least one.

    Args:
        value: text; a message; a list of content parts (one message); a list of messages.
        role: the role of text and of content parts.
        name: the sender's name, for text and content parts.

    Raises:
        InvalidMessage: it is none of these, or says nothing.
    """
    if isinstance(value, (list, tuple)):
        items = [to_plain(item) for item in value]
        if items and all(isinstance(item, dict) and "role" in item for item in items):
            return _with_name([to_message(item) for item in items], name)
        if not items or not all(isinstance(item, dict) and "type" in item for item in items):
            raise InvalidMessage("a list is either of messages (each has a role) or of content parts (each has a type)")
        content: Any = items
    elif isinstance(value, str):
        content = _text(value)
        if not content.strip():
            raise InvalidMessage("the message is empty")
    else:
        return _with_name([to_message(value)], name)
    message: Message = {"role": role, "content": content}
    if name is not None:
        message["name"] = name
    return [message]


def _with_name(messages: list[Message], name: str | None) -> list[Message]:
    if name is not None:
        raise InvalidMessage("a message that is an object carries its own name; a sender's name is for text")
    return messages
