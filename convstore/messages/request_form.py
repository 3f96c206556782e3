"""Convert a message to the form that a Chat Completions API accepts in a request."""

from __future__ import annotations

from typing import Any

from convstore.messages.message import Message
from convstore.messages.storable_text import join_surrogates

IMPORTED_FIELD = "convstore_imported"
"""The field of an imported message that keeps what Chat Completions has no form for. It is never sent."""
ITEM_FIELD = "convstore_item"
"""The field of a message that came in as an item of a conversation: what a chat message has no form for. It is never
sent."""
_OWN_FIELDS = frozenset({IMPORTED_FIELD, ITEM_FIELD})

# Fields of replies that an API refuses, ignores or bills again if a request holds them. Some providers need the
# reasoning of earlier tool calls (DeepSeek, MiniMax, Moonshot), so reasoning is sent if the caller asks for it.
REASONING_FIELDS = frozenset({"reasoning", "reasoning_content", "reasoning_details"})
_REPLY_ONLY_FIELDS = frozenset({"annotations", "parsed"})
# The content is "required unless tool_calls or function_call is specified" (API reference, "Assistant message"). An
# audio is the content too.
_FIELDS_IN_PLACE_OF_CONTENT = ("tool_calls", "function_call", "audio")


def to_request(message: Message, *, reasoning: bool = False) -> Message:
    """Return the request form of a message.

    - Nulls are left out. An assistant's empty list of tool calls is left out too, because OpenAI refuses it ("expected
      an array with minimum length 1").
    - A null content becomes "", and so does an assistant's missing content. If an assistant's message has tool calls, a
      function call or an audio, a null content is left out instead (API reference, "Assistant message").
    - An assistant's audio is reduced to its id. Annotations, reasoning, and objects that the openai package parsed are
      left out.
    - Lone surrogates become U+FFFD, because UTF-8 cannot hold them.
    - What an import kept (`IMPORTED_FIELD`), and what is left of an item (`ITEM_FIELD`), is left out.
    - Other fields, such as those of vendors, are sent unchanged.

    Args:
        message: the exact form, or the request form. The object itself is not changed.
        reasoning: send an assistant's reasoning too.
    """
    content = message.get("content")
    if len(message) == 2 and type(content) is str and content.isascii() and message["role"].isascii():
        return dict(message)  # most messages: the rest would return the same
    by_assistant = message["role"] == "assistant"
    left_out = _REPLY_ONLY_FIELDS if reasoning else _REPLY_ONLY_FIELDS | REASONING_FIELDS
    request: Message = {}
    for key, value in message.items():
        if value is None or key in _OWN_FIELDS:
            continue
        if by_assistant and (key in left_out or (key == "tool_calls" and value == [])):
            continue
        request[_replace_lone_surrogates(key)] = _replace_lone_surrogates(value)
    if not by_assistant:
        if "content" in message:
            request.setdefault("content", "")
        return request
    audio = request.get("audio")
    if isinstance(audio, dict) and "id" in audio:
        request["audio"] = {"id": audio["id"]}
    if not any(key in request for key in _FIELDS_IN_PLACE_OF_CONTENT):
        request.setdefault("content", "")
    return request


def _replace_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return join_surrogates(value).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value
    if isinstance(value, list):
        return [_replace_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_replace_lone_surrogates(key): _replace_lone_surrogates(item) for key, item in value.items()}
    return value
