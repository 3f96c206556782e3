"""Make the bytes of an answer from a response and its request: pure functions.

The shapes are those of the Chat Completions reference, streamed and not:
https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import zip_longest
from typing import Any

from convstore.testing.responses import Failure, JSONObject, Raw, Reply, text_of

CREATED = 1_700_000_000  # fixed, so that the same script gives the same bytes
DEFAULT_MODEL = "test-model"

_KEEP_ALIVE = b": ping\n\n"

# status: (type, code, message)
_FAILURES: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request is invalid."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    404: (
        "invalid_request_error",
        "model_not_found",
        "The model does not exist or is not yours to use.",
    ),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    503: ("server_error", None, "The server is overloaded or not ready yet."),
}


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, ready to be sent."""

    status: int
    headers: Mapping[str, str]
    parts: Sequence[bytes]
    """The body in parts. In a stream, part N comes after N pieces; a part may be empty."""
    length: int | None
    """The Content-Length; None: chunked."""
    whole: bool = True
    """False: the connection closes after the last part, without a proper end."""
    hold: threading.Event | None = None
    hold_after: int = 0
    """Where the answer is held: 0 before the headers, N after part N."""
    started: threading.Event | None = None
    delay: float = 0


def answer_to(body: JSONObject, response: Reply | Failure | Raw, number: int) -> Answer:
    """Return the answer to the request ``body``, the server's ``number``th request."""
    if isinstance(response, Raw):
        raw = response.body
        data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
        headers = {"Content-Type": response.content_type, **response.headers}
        return Answer(response.status, headers, [data], len(data))
    if isinstance(response, Failure):
        return _failure(response)
    return _streamed(response, body, number) if body.get("stream") else _whole(response, body, number)


def _failure(failure: Failure) -> Answer:
    known = {status.value: status.phrase for status in HTTPStatus}
    fallback = ("invalid_request_error" if failure.status < 500 else "server_error", None)
    phrase = known.get(failure.status, f"Error {failure.status}")
    kind, code, message = _FAILURES.get(failure.status, (*fallback, phrase))
    headers = {"Content-Type": "application/json"}
    if failure.retry_after is not None:
        headers["Retry-After"] = f"{failure.retry_after:g}"
    error = {
        "message": message if failure.message is None else failure.message,
        "type": failure.type or kind,
        "param": None,
        "code": failure.code or code,
    }
    data = _json({"error": error})
    return Answer(failure.status, {**headers, **failure.headers}, [data], len(data))


def _whole(reply: Reply, body: JSONObject, number: int) -> Answer:
    usage = _usage(reply, body)
    data = _json(
        {
            **_envelope(reply, body, number, "chat.completion"),
            "choices": _choices(reply, body),
            **({} if usage is None else {"usage": usage}),
        }
    )
    parts, whole = _cut([data], reply)
    length = len(parts[0]) if whole else len(data)
    headers = {"Content-Type": "application/json"}
    return Answer(200, headers, parts, length, whole, hold=reply.hold, started=reply.started)


def _streamed(reply: Reply, body: JSONObject, number: int) -> Answer:
    before, pieces, after = _chunks(reply, body, number)
    ping = _KEEP_ALIVE if reply.keep_alives else b""
    opening = b"".join(ping + _event(chunk) for chunk in before)
    parts = [b""] + [ping + _event(chunk) for chunk in pieces]
    tail = [ping + _event(chunk) for chunk in after]
    if len(parts) > 1:
        parts[1] = opening + parts[1]
    else:
        tail.insert(0, opening)
    if reply.done:
        tail.append(ping + b"data: [DONE]\n\n")
    last = len(parts) - 1
    if reply.garbage is not None:
        data = b"data: " + reply.garbage.encode("utf-8", "surrogatepass") + b"\n\n"
        parts[min(reply.garbage_after, last)] += ping + data
    if reply.error_event is not None:
        parts = parts[: reply.error_after + 1]
        parts[-1] += ping + _event({"error": reply.error_event})
        tail = []
    # The end of the body goes with the last part, and a hold never comes after it.
    parts, whole = _cut([*parts, *(tail or [b""])], reply)
    return Answer(
        200,
        {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"},
        parts,
        None,
        whole,
        hold=reply.hold,
        hold_after=min(reply.hold_after, last),
        started=reply.started,
        delay=reply.delay,
    )


def _cut(parts: list[bytes], reply: Reply) -> tuple[list[bytes], bool]:
    """Return the parts up to ``cut_after`` bytes, and whether they end properly."""
    if reply.cut_after is None or reply.cut_after > sum(map(len, parts)):
        return parts, True
    kept: list[bytes] = []
    left = reply.cut_after
    for part in parts:
        kept.append(part[:left])
        left -= len(part)
        if left <= 0:
            break
    return kept, reply.clean_cut


def _chunks(reply: Reply, body: JSONObject, number: int) -> tuple[list[JSONObject], list[JSONObject], list[JSONObject]]:
    """Return the chunks of a stream: the opening ones, its pieces, and the finishing ones."""
    if reply.chunks is not None:
        return [], [dict(chunk) for chunk in reply.chunks], []
    envelope = _envelope(reply, body, number, "chat.completion.chunk")
    asked = bool((body.get("stream_options") or {}).get("include_usage"))
    if asked:
        envelope["usage"] = None  # as OpenAI does in every chunk except the one with the usage

    def chunk(index: int, delta: JSONObject, finish: str | None = None, **more: Any) -> JSONObject:
        choice = {"index": index, "delta": delta, **more, "finish_reason": finish}
        return {**envelope, "choices": [choice]}

    opening, columns, finishing = [], [], []
    for place, choice in enumerate(_choices(reply, body)):
        index = choice.get("index", place)
        first, deltas = _deltas(choice.get("message") or {}, reply.pieces)
        opening.append(chunk(index, first))
        columns.append([chunk(index, delta) for delta in deltas])
        more = {key: choice[key] for key in choice if key not in ("index", "message", "finish_reason")}
        if choice.get("finish_reason") is not None or more:
            finishing.append(chunk(index, {}, choice.get("finish_reason"), **more))
    pieces = [piece for row in zip_longest(*columns) for piece in row if piece is not None]

    usage = _usage(reply, body)
    wanted = reply.usage_chunk == "always" or (asked and reply.usage_chunk != "never")
    if wanted and usage is not None:
        place = 0 if reply.usage_chunk == "before" else len(finishing)
        finishing.insert(place, {**envelope, "choices": [], "usage": usage})
    return opening, pieces, finishing


def _deltas(message: Mapping[str, Any], pieces: Sequence[str] | None) -> tuple[JSONObject, list[JSONObject]]:
    """Return the delta that opens a message, and the deltas of its fields, in the message's order."""
    first: JSONObject = {"role": message.get("role", "assistant")}
    deltas: list[JSONObject] = []
    for key, value in message.items():
        if key == "role":
            continue
        if value is None:
            first[key] = None
        elif key == "content" and isinstance(value, str):
            first[key] = ""
            deltas += [{key: piece} for piece in (_split(value) if pieces is None else pieces)]
        elif key == "tool_calls":
            for index, call in enumerate(value):
                deltas += [{key: [{"index": index, **part}]} for part in _call_deltas(call)]
        elif key == "function_call":
            deltas += [{key: part} for part in _argument_deltas(value, "arguments")]
        elif isinstance(value, str):
            deltas += [{key: piece} for piece in _split(value)]
        else:
            deltas.append({key: value})
    return first, deltas


def _call_deltas(call: Mapping[str, Any]) -> list[JSONObject]:
    """Return the deltas of one tool call: first all except its arguments, then the arguments in fragments."""
    for kind, field in (("function", "arguments"), ("custom", "input")):
        if isinstance(call.get(kind), Mapping):
            first, *rest = _argument_deltas(call[kind], field)
            return [{**call, kind: first}, *({kind: part} for part in rest)]
    return [dict(call)]


def _argument_deltas(function: Mapping[str, Any], field: str) -> list[JSONObject]:
    arguments = function.get(field)
    if not isinstance(arguments, str):
        return [dict(function)]
    return [{**function, field: ""}, *({field: piece} for piece in _split(arguments))]


def _split(text: str) -> list[str]:
    # A long text has longer pieces, so that a megabyte is not a quarter of a million events.
    size = max(4, len(text) // 256)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _choices(reply: Reply, body: JSONObject) -> list[JSONObject]:
    if reply.choices is not None:
        return [dict(choice) for choice in reply.choices]
    return [
        {"index": index, "message": _message(reply), "finish_reason": reply.finish_reason}
        for index in range(body.get("n") or 1)
    ]


def _message(reply: Reply) -> JSONObject:
    message = {"role": "assistant", "content": reply.text} if reply.message is None else dict(reply.message)
    if reply.pieces is not None and message.get("content") == "":
        message["content"] = "".join(reply.pieces)
    return message


def _usage(reply: Reply, body: JSONObject) -> JSONObject | None:
    if reply.usage != "computed":
        return None if reply.usage is None else dict(reply.usage)
    prompt = sum(_tokens(message) for message in body.get("messages") or [])
    completion = sum(_tokens(choice.get("message") or {}) for choice in _choices(reply, body))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _tokens(message: Mapping[str, Any]) -> int:
    return -(-len(text_of(message)) // 4)


def _envelope(reply: Reply, body: JSONObject, number: int, kind: str) -> JSONObject:
    return {
        "id": reply.id or f"chatcmpl-test-{number}",
        "object": kind,
        "created": CREATED,
        "model": reply.model or body.get("model") or DEFAULT_MODEL,
        "system_fingerprint": reply.system_fingerprint,
    }


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(data) + b"\n\n"


def _json(data: Mapping[str, Any]) -> bytes:
    # ASCII: a lone surrogate is sent as its escape.
    return json.dumps(data, separators=(",", ":"), ensure_ascii=True).encode("ascii")
