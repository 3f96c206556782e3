"""A span of OpenTelemetry for each call of a model, if the application uses OpenTelemetry.

The attributes are those of the semantic conventions for generative AI, in development:
https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-spans.md

convstore does not depend on OpenTelemetry and imports nothing of it: an application that uses it has imported it. So
without it, a turn costs one look into a dictionary.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from convstore.messages.completion import Completion
from convstore.values.turn_outcome import RunningTurn, TurnOutcome

_logger = logging.getLogger(__name__)

CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ASKS_FOR_CONTENT = frozenset({"true", "1", "span_only", "span_and_event"})
_DEFAULT_PORTS = {"https": 443, "http": 80}
_PLAIN_PARAMETERS: dict[str, tuple[str, tuple[type, ...]]] = {
    "model": ("gen_ai.request.model", (str,)),
    "temperature": ("gen_ai.request.temperature", (int, float)),
    "top_p": ("gen_ai.request.top_p", (int, float)),
    "top_k": ("gen_ai.request.top_k", (int, float)),
    "max_tokens": ("gen_ai.request.max_tokens", (int,)),
    "max_completion_tokens": ("gen_ai.request.max_tokens", (int,)),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", (int, float)),
    "presence_penalty": ("gen_ai.request.presence_penalty", (int, float)),
    "seed": ("gen_ai.request.seed", (int,)),
}


def begin_call_span(turn: RunningTurn, get_client: Callable[[], Any], messages: object = None) -> Any:
    """Return the span of a turn's call, which begins now; None: nobody would see it.

    It is a child of the span that is current, and does not become current.

    Args:
        get_client: returns the client that calls; its base URL names the server.
        messages: what is sent, if it is known.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    try:
        model = turn.request.get("model")
        span = trace.get_tracer("convstore").start_span(
            f"chat {model}" if isinstance(model, str) else "chat",
            kind=trace.SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",  # the API; which company answers is not known
                "gen_ai.conversation.id": turn.key.id,
                **_describe_request(turn.request),
                **_describe_server(str(getattr(get_client(), "base_url", ""))),
            },
        )
        if not span.is_recording():
            return None
        if _is_content_wanted() and isinstance(messages, Sequence):
            span.set_attribute("gen_ai.input.messages", _write_messages(messages))
    except Exception as error:  # a turn does not fail because nobody can watch it
        _logger.debug("a span was not begun (%s)", type(error).__name__)
        return None
    return span


def end_call_span(span: Any, outcome: TurnOutcome) -> None:
    """End a span with the outcome of the call.

    The text of an error is left out: a provider may quote messages in it.
    """
    if span is None:
        return
    trace: Any = sys.modules["opentelemetry.trace"]
    try:
        if outcome.time_to_first_token is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", outcome.time_to_first_token)
        if outcome.completion is not None:
            span.set_attributes(_describe_answer(outcome.completion))
        if outcome.error is not None:
            kind = outcome.error.get("type")
            span.set_attribute("error.type", str(outcome.error.get("status") or kind or "_OTHER"))
            if kind != "Stopped":  # by the user, as it should be
                span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.end()
    except Exception as error:
        _logger.debug("a span was not ended (%s)", type(error).__name__)


def _describe_request(request: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: request[parameter]
        for parameter, (name, types) in _PLAIN_PARAMETERS.items()
        if isinstance(request.get(parameter), types) and not isinstance(request[parameter], bool)
    }
    if request.get("stream") is True:
        found["gen_ai.request.stream"] = True
    choices = request.get("n")
    if isinstance(choices, int) and choices > 1:
        found["gen_ai.request.choice.count"] = choices
    stop = request.get("stop")
    ends = [stop] if isinstance(stop, str) else stop
    if isinstance(ends, list) and ends and all(isinstance(end, str) for end in ends):
        found["gen_ai.request.stop_sequences"] = ends
    form = request.get("response_format")
    if isinstance(form, Mapping) and form.get("type") in ("json_object", "json_schema"):
        found["gen_ai.output.type"] = "json"
    return found


def _describe_server(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return {}
    return {"server.address": host, "server.port": port} if host and port else {}


def _describe_answer(completion: Completion) -> dict[str, Any]:
    usage = completion.usage
    found = {
        "gen_ai.response.id": completion.response_id,
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": [completion.finish_reason] if completion.finish_reason is not None else None,
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage is not None else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage is not None else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage is not None else None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens if usage is not None else None,
    }
    if _is_content_wanted():
        found["gen_ai.output.messages"] = _write_messages(completion.messages, completion.finish_reason)
    return {name: value for name, value in found.items() if value is not None}


def _is_content_wanted() -> bool:
    return os.environ.get(CONTENT_VARIABLE, "").strip().lower() in _ASKS_FOR_CONTENT


def _write_messages(messages: Iterable[Any], finish_reason: str | None = None) -> str:
    """Return messages in the form of the conventions, as JSON: a span has no nested values."""
    written = []
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        one: dict[str, Any] = {"role": message.get("role"), "parts": _list_parts(message)}
        if finish_reason is not None:
            one["finish_reason"] = finish_reason
        written.append(one)
    return json.dumps(written)


def _list_parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        return [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": content}]
    parts: list[dict[str, Any]] = []
    if isinstance(content, str):
        parts.append({"type": "text", "content": content})
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping):
            kind = str(part.get("type"))
            # Of an image or a file only that it is there: its data may have megabytes.
            parts.append({"type": kind, "content": part.get("text")} if kind == "text" else {"type": kind})
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            name, arguments = function.get("name"), _parse_arguments(function.get("arguments"))
            parts.append({"type": "tool_call", "id": call.get("id"), "name": name, "arguments": arguments})
    return parts


def _parse_arguments(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text
