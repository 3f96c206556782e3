"""`POST /v1/chat/completions`: forwarded to the model's server, and recorded as a turn."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from convstore.errors import NotConfigured
from convstore.messages.completion_form import list_events, make_completion
from convstore.messages.message import Message
from convstore.provider.byte_call import COMPLETIONS, ByteAnswer, send_body
from convstore.server.completion_requests import (
    PATH,
    SentRequest,
    check_parameters,
    is_stateful,
    make_recorded_request,
    make_stateful_request,
)
from convstore.server.json_answers import JsonAnswer
from convstore.server.recorded_response import RecordedResponse, wait_until_left
from convstore.server.service_errors import ServiceError
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.server.stored_completion_form import list_facts, to_stored_completion_form
from convstore.server.turn_limits import check_may_pass, choose_allowance
from convstore.server.upstream_answers import choose_headers
from convstore.store.completion_archive import CompletionArchive
from convstore.store.request_recorder import ClientCall
from convstore.turns.recorded_call import AnswerHead, CallFailed, RecordedCall
from convstore.values.api_key import Right
from convstore.values.results import Turn

_logger = logging.getLogger(__name__)

CONVERSATION_HEADER, TURN_HEADER = "x-convstore-conversation-id", "x-convstore-turn"
_LARGE_BODY = 256 * 1024
"""The messages of larger bodies are compared in a thread, so that others do not wait."""
_NEVER_AGAIN = {"x-should-retry": "false"}


async def create_completion(call: ServiceCall) -> Response:
    """Forward a request with its messages, and give back what the model's server answers, as it comes."""
    check_parameters(call.body)
    client = await find_client(call)
    if call.body.get("store") is False:
        return await pass_unrecorded(call, client, COMPLETIONS)
    try:
        return await _record(call, client)
    except NotConfigured:
        raise ServiceError(400, "no model is named", "missing_required_parameter", param="model") from None


async def find_client(call: ServiceCall) -> Any:
    """Return the client of the server that is asked for the model of a request.

    Raises:
        ServiceError: 503: the service has none.
    """
    try:
        return await call.recorder.get_client(call.body.get("model"))
    except NotConfigured as error:  # its text is for the operator: it names files
        _logger.warning("no model server can be asked (%s)", type(error).__name__)
        raise ServiceError(
            503, "the service has no model server to ask", "upstream_not_configured", headers=_NEVER_AGAIN
        ) from None


async def _record(call: ServiceCall, client: Any) -> Response:
    sent = SentRequest(call.body, call.raw_body, call.request.headers, call.request.query_params.get("mode"))
    make = partial(_make_request, call, sent)
    request = await asyncio.to_thread(make) if len(call.raw_body) > _LARGE_BODY else make()
    begun = await call.recorder.record(
        client,
        request,
        call.raw_body,
        allowance=choose_allowance(call.caller, call.settings),
        wait=call.settings.wait_seconds,
        stops_when_left=call.settings.stops_when_left,
    )
    if isinstance(begun, Turn):
        return await _answer_again(call, begun)
    return await _answer(begun, call.request.receive)


def _make_request(call: ServiceCall, sent: SentRequest) -> ClientCall:
    owner, key_id = call.caller.owner, call.caller.key_id
    if is_stateful(sent):
        return make_stateful_request(owner, key_id, sent)
    return make_recorded_request(
        owner,
        key_id,
        sent,
        matches_cut=call.settings.matches_cut,
        keeps_side_requests_apart=call.settings.keeps_side_requests_apart,
    )


async def _answer(call: RecordedCall, receive: Receive) -> Response:
    place = call.live.started.turn
    names = {CONVERSATION_HEADER: place.key.id.encode().decode("latin-1"), TURN_HEADER: str(place.seq)}
    try:
        head = await _get_head(call, receive)
    except CallFailed as error:
        call.leave()
        raise _tell_failure(error, names) from None
    headers = {**choose_headers(head.headers), **names}
    try:
        return RecordedResponse(call, head.status, headers)
    except BaseException:
        call.leave()
        raise


async def _get_head(call: RecordedCall, receive: Receive) -> AnswerHead:
    """Return the beginning of an answer; tell the call if its client leaves before it has come."""
    leaving = asyncio.ensure_future(wait_until_left(receive))
    leaving.add_done_callback(lambda task: None if task.cancelled() else call.leave())
    try:
        return await call.get_head()
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


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
    if kind in ("ReplyTooLarge", "DecodingError"):
        text = "the model server's answer is too large, or cannot be read"
        return ServiceError(502, text, "upstream_answer_unreadable", headers={**names, **_NEVER_AGAIN})
    if kind == "Stopped":
        return ServiceError(500, "the turn was stopped", "stopped", headers={**names, **_NEVER_AGAIN})
    return ServiceError(502, "the model server cannot be reached", "upstream_unreachable", headers=names)


async def _answer_again(call: ServiceCall, turn: Turn) -> Response:
    """Give the reply of the request that this one repeats, with all its choices."""
    stored = await CompletionArchive(call.store).get(turn.response_id) if turn.response_id else None
    if stored is not None and (stored.turn.conversation_id, stored.turn.seq) == (turn.conversation_id, turn.seq):
        completion = to_stored_completion_form(stored)
        del completion["metadata"]
    else:  # the model's server gave several the same id
        replies: list[Message] = [turn.message or {"role": "assistant", "content": None}]
        completion = make_completion(list_facts(turn), replies, [turn.finish_reason])
    body = call.body
    names = {CONVERSATION_HEADER: turn.conversation_id.encode().decode("latin-1"), TURN_HEADER: str(turn.seq)}
    if body.get("stream") is not True:
        return JsonAnswer(completion, headers=names)
    options = body.get("stream_options")
    events = list_events(completion, includes_usage=isinstance(options, dict) and bool(options.get("include_usage")))
    return Response(b"".join(events), headers={"content-type": "text/event-stream", **names})


async def pass_unrecorded(call: ServiceCall, client: Any, path: str) -> Response:
    """Forward a request, and store nothing of it.

    Raises:
        ServiceError: 403: the tokens of the owner are limited, and these would not be counted.
    """
    check_may_pass(call)
    try:
        answer = await send_body(client, path, call.raw_body)
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
