"""`POST /v1/chat/completions`: forwarded to the model's server, and recorded as a turn."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.responses import Response, StreamingResponse

from convstore.errors import NotConfigured
from convstore.messages.completion_form import list_events, make_completion
from convstore.provider.byte_call import COMPLETIONS, ByteAnswer, send_body
from convstore.server.completion_requests import PATH, SentRequest, make_recorded_request
from convstore.server.json_answers import JsonAnswer
from convstore.server.recorded_response import RecordedResponse
from convstore.server.service_errors import ServiceError
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.server.turn_limits import check_may_pass, choose_allowance
from convstore.server.upstream_answers import choose_headers
from convstore.turns.recorded_call import CallFailed, RecordedCall
from convstore.values.api_key import Right
from convstore.values.results import Turn

_logger = logging.getLogger(__name__)

CONVERSATION_HEADER, TURN_HEADER = "x-convstore-conversation-id", "x-convstore-turn"
_LARGE_BODY = 256 * 1024
"""The messages of larger bodies are compared in a thread, so that others do not wait."""
_NEVER_AGAIN = {"x-should-retry": "false"}


async def create_completion(call: ServiceCall) -> Response:
    """Forward a request with its messages, and give back what the model's server answers, as it comes."""
    try:
        if call.body.get("store") is False:
            check_may_pass(call)
            return await _pass_unrecorded(call)
        return await _record(call)
    except NotConfigured as error:  # its text is for the operator: it names files
        _logger.warning("no model server can be asked (%s)", type(error).__name__)
        raise ServiceError(
            503, "the service has no model server to ask", "upstream_not_configured", headers=_NEVER_AGAIN
        ) from None


async def _record(call: ServiceCall) -> Response:
    sent = SentRequest(call.body, call.raw_body, call.request.headers)
    make = partial(
        make_recorded_request, call.caller.owner, call.caller.key_id, sent, matches_cut=call.settings.matches_cut
    )
    request = await asyncio.to_thread(make) if len(call.raw_body) > _LARGE_BODY else make()
    begun = await call.recorder.record(
        request,
        call.raw_body,
        allowance=choose_allowance(call.caller, call.settings),
        wait=call.settings.wait_seconds,
        stops_when_left=call.settings.stops_when_left,
    )
    if isinstance(begun, Turn):
        return _answer_again(begun, call.body)
    return await _answer(begun)


async def _answer(call: RecordedCall) -> Response:
    place = call.live.started.turn
    names = {CONVERSATION_HEADER: place.key.id.encode().decode("latin-1"), TURN_HEADER: str(place.seq)}
    try:
        head = await call.get_head()
    except CallFailed as error:
        call.leave()
        raise _tell_failure(error, names) from None
    headers = {**choose_headers(head.headers), **names}
    return RecordedResponse(call, head.status, headers)


def _tell_failure(failure: CallFailed, names: dict[str, str]) -> ServiceError:
    kind = failure.facts.get("type", "")
    if failure.body:
        headers = {**names, **_NEVER_AGAIN}
        try:
            completion = json.loads(failure.body)
        except ValueError:
            completion = failure.body.decode("utf-8", "replace")
        return ServiceError(500, str(failure), "reply_not_stored", headers=headers, completion=completion)
    if "Timeout" in kind and "Connect" not in kind:
        return ServiceError(
            504, "the model server did not answer in time", "upstream_timeout", headers={**names, **_NEVER_AGAIN}
        )
    if kind == "Stopped":
        return ServiceError(500, "the turn was stopped", "stopped", headers={**names, **_NEVER_AGAIN})
    return ServiceError(502, "the model server cannot be reached", "upstream_unreachable", headers=names)


def _answer_again(turn: Turn, body: dict[str, Any]) -> Response:
    """Give the reply of the request that this one repeats."""
    facts = {
        "id": turn.response_id,
        "created": int(turn.started_at.timestamp()),
        "model": turn.model,
        **({"system_fingerprint": turn.system_fingerprint} if turn.system_fingerprint else {}),
        **turn.response_fields,
        **({"usage": dict(turn.usage)} if turn.usage else {}),
    }
    completion = make_completion(facts, [turn.message or {"role": "assistant"}], [turn.finish_reason])
    names = {CONVERSATION_HEADER: turn.conversation_id.encode().decode("latin-1"), TURN_HEADER: str(turn.seq)}
    if body.get("stream") is not True:
        return JsonAnswer(completion, headers=names)
    options = body.get("stream_options")
    events = list_events(completion, includes_usage=isinstance(options, dict) and bool(options.get("include_usage")))
    return Response(b"".join(events), headers={"content-type": "text/event-stream", **names})


async def _pass_unrecorded(call: ServiceCall) -> Response:
    """Forward a request with `store: false`: nothing of it is stored."""
    client = await call.recorder.get_client()
    try:
        answer = await send_body(client, COMPLETIONS, call.raw_body)
    except Exception as error:  # of the HTTP library, whichever the openai package uses
        raise _tell_failure(CallFailed({"type": type(error).__name__}), {}) from None
    return StreamingResponse(_iterate(answer), answer.status, choose_headers(answer.headers))


async def _iterate(answer: ByteAnswer) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.iterate():
            yield piece
    finally:
        await answer.close()


COMPLETION_ROUTES = (ServiceRoute("POST", PATH, create_completion, Right.WRITE, has_body=True),)
