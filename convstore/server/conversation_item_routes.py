"""`/v1/conversations/{id}/items`: add, list, read and delete the items of a conversation."""

from __future__ import annotations

from starlette.responses import Response

from convstore.errors import InvalidInput, InvalidMessage
from convstore.server.completion_requests import is_repetition
from convstore.server.conversation_form import to_conversation_form
from convstore.server.conversation_item_form import read_items_of_body, to_item_form
from convstore.server.json_answers import JsonAnswer
from convstore.server.page_parameters import read_page_parameters
from convstore.server.service_errors import ServiceError, make_not_found
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.server.stored_completion_form import to_list_form
from convstore.store.item_archive import ItemArchive
from convstore.values.api_key import Right

_MAX_LIMIT = 100


async def add_items(call: ServiceCall) -> Response:
    """Add items at the end of a conversation."""
    items = read_items_of_body(call.body)
    try:
        added = await ItemArchive(call.store).add(
            call.id, items, wait=call.settings.wait_seconds, is_repetition=is_repetition(call.request.headers)
        )
    except InvalidMessage as error:
        raise ServiceError(400, str(error), "invalid_value", param="items") from None
    return JsonAnswer(to_list_form([to_item_form(one) for one in added], has_more=False))


async def list_items(call: ServiceCall) -> Response:
    """List the items of a conversation, a page at a time."""
    page = read_page_parameters(call.request.query_params, default_order="desc", max_limit=_MAX_LIMIT)
    try:
        items, has_more = await ItemArchive(call.store).list(
            call.id, page.after, page.limit, is_descending=page.is_descending
        )
    except InvalidInput as error:
        raise ServiceError(400, str(error), "invalid_value", param="after") from None
    return JsonAnswer(to_list_form([to_item_form(one) for one in items], has_more=has_more))


async def get_item(call: ServiceCall) -> Response:
    """Return an item."""
    found = await ItemArchive(call.store).get(call.id, _get_item_id(call))
    if found is None:
        raise make_not_found("item")
    return JsonAnswer(to_item_form(found))


async def delete_item(call: ServiceCall) -> Response:
    """Leave an item out of a conversation, and return the conversation."""
    archive, item_id = ItemArchive(call.store), _get_item_id(call)
    if not await archive.delete(call.id, item_id, wait=call.settings.wait_seconds):
        raise make_not_found("item")
    return JsonAnswer(to_conversation_form(await call.store.get(call.id)))


def _get_item_id(call: ServiceCall) -> str:
    id: str = call.request.path_params["item"]
    return id


_PATH = "/v1/conversations/{id}/items"
CONVERSATION_ITEM_ROUTES = (
    ServiceRoute("GET", _PATH, list_items, Right.READ),
    ServiceRoute("POST", _PATH, add_items, Right.WRITE, has_body=True),
    ServiceRoute("GET", f"{_PATH}/{{item}}", get_item, Right.READ),
    ServiceRoute("DELETE", f"{_PATH}/{{item}}", delete_item, Right.WRITE),
)
