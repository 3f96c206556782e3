"""`/v1/chat/completions`: list, read, change and delete the completions that were recorded."""

from __future__ import annotations

import re

from starlette.responses import Response

from convstore.errors import InvalidInput
from convstore.server.conversation_form import read_metadata
from convstore.server.json_answers import JsonAnswer
from convstore.server.page_parameters import PageParameters, read_page_parameters
from convstore.server.service_errors import ServiceError, make_not_found
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.server.stored_completion_form import to_list_form, to_stored_completion_form, to_stored_message_form
from convstore.store.completion_archive import CompletionArchive
from convstore.values.api_key import Right
from convstore.values.stored_completion import CompletionFilter

_MAX_LIMIT = 1000
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


async def list_completions(call: ServiceCall) -> Response:
    """List completions in the order of their requests, a page at a time."""
    query = call.request.query_params
    page = _read_page(call)
    wanted = CompletionFilter(
        limit=page.limit,
        after=page.after,
        is_descending=page.is_descending,
        model=query.get("model"),
        metadata={found[1]: value for name, value in query.items() if (found := _METADATA.fullmatch(name))},
    )
    try:
        completions, has_more = await CompletionArchive(call.store).list(wanted)
    except InvalidInput as error:
        raise ServiceError(400, str(error), "invalid_value", param="after") from None
    return JsonAnswer(to_list_form([to_stored_completion_form(one) for one in completions], has_more=has_more))


async def get_completion(call: ServiceCall) -> Response:
    """Return a completion."""
    found = await CompletionArchive(call.store).get(call.id)
    if found is None:
        raise make_not_found("completion")
    return JsonAnswer(to_stored_completion_form(found))


async def update_completion(call: ServiceCall) -> Response:
    """Replace the metadata of a completion."""
    if "metadata" not in call.body:
        raise ServiceError(400, "the parameter 'metadata' is missing", "missing_required_parameter", param="metadata")
    changed = await CompletionArchive(call.store).set_metadata(call.id, dict(read_metadata(call.body)))
    if changed is None:
        raise make_not_found("completion")
    return JsonAnswer(to_stored_completion_form(changed))


async def delete_completion(call: ServiceCall) -> Response:
    """Hide a completion from these routes; its conversation keeps the turn."""
    if not await CompletionArchive(call.store).hide(call.id):
        raise make_not_found("completion")
    return JsonAnswer({"id": call.id, "object": "chat.completion.deleted", "deleted": True})


async def list_asked_messages(call: ServiceCall) -> Response:
    """List the messages that a completion answers, a page at a time."""
    page = _read_page(call)
    after = _read_position(call.id, page.after) if page.after is not None else None
    archive = CompletionArchive(call.store)
    found = await archive.read_asked(call.id, after, page.limit, is_descending=page.is_descending)
    if found is None:
        raise make_not_found("completion")
    records, has_more = found
    return JsonAnswer(to_list_form([to_stored_message_form(call.id, one) for one in records], has_more=has_more))


def _read_page(call: ServiceCall) -> PageParameters:
    return read_page_parameters(call.request.query_params, default_order="asc", max_limit=_MAX_LIMIT)


def _read_position(id: str, after: str) -> int:
    """Return the position of the message that an id names.

    Raises:
        ServiceError: 400.
    """
    place = after.removeprefix(f"{id}-")
    if not after.startswith(f"{id}-") or not (place.isascii() and place.isdecimal() and len(place) < 10):
        raise ServiceError(400, "'after' is no message of this completion", "invalid_value", param="after")
    return int(place) + 1


_PATH = "/v1/chat/completions"
STORED_COMPLETION_ROUTES = (
    ServiceRoute("GET", _PATH, list_completions, Right.READ),
    ServiceRoute("GET", f"{_PATH}/{{id}}", get_completion, Right.READ),
    ServiceRoute("POST", f"{_PATH}/{{id}}", update_completion, Right.WRITE, has_body=True),
    ServiceRoute("DELETE", f"{_PATH}/{{id}}", delete_completion, Right.WRITE),
    ServiceRoute("GET", f"{_PATH}/{{id}}/messages", list_asked_messages, Right.READ),
)
