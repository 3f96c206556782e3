"""`/v1/conversations`: create, read, change, delete and list conversations."""

from __future__ import annotations

from starlette.responses import Response

from convstore.errors import ConversationNotFound, DamagedRow, InvalidMessage
from convstore.server.conversation_form import read_metadata, to_conversation_form, to_page_form
from convstore.server.conversation_item_form import read_items_of_body
from convstore.server.json_answers import JsonAnswer
from convstore.server.service_errors import ServiceError
from convstore.server.service_routes import ServiceCall, ServiceRoute
from convstore.store.item_archive import ItemArchive
from convstore.values.api_key import Right
from convstore.values.results import Conversation

_MAX_LIMIT = 100
_DEFAULT_LIMIT = 20


async def create_conversation(call: ServiceCall) -> Response:
    """Create a conversation with metadata and its first items."""
    items = read_items_of_body(call.body, may_lack=True)
    try:
        made = await ItemArchive(call.store).create(items, read_metadata(call.body))
    except InvalidMessage as error:
        raise ServiceError(400, str(error), "invalid_value", param="items") from None
    return JsonAnswer(to_conversation_form(made))


async def get_conversation(call: ServiceCall) -> Response:
    """Return a conversation."""
    return JsonAnswer(to_conversation_form(await _find(call, call.id)))


async def update_conversation(call: ServiceCall) -> Response:
    """Change the metadata of a conversation."""
    if "metadata" not in call.body:
        raise ServiceError(400, "the parameter 'metadata' is missing", "missing_required_parameter", param="metadata")
    changed = await call.store.set(call.id, metadata_texts=read_metadata(call.body))
    return JsonAnswer(to_conversation_form(changed))


async def delete_conversation(call: ServiceCall) -> Response:
    """Delete a conversation: it can be restored by the command line or the library."""
    await call.store.delete(call.id)
    return JsonAnswer({"id": call.id, "object": "conversation.deleted", "deleted": True})


async def list_conversations(call: ServiceCall) -> Response:
    """List conversations, latest activity first, a page at a time."""
    query = call.request.query_params
    limit = _read_number(query.get("limit"), _DEFAULT_LIMIT)
    if query.get("order", "desc") != "desc":
        raise ServiceError(400, "conversations are listed in the order 'desc' alone", "invalid_value", param="order")
    after: Conversation | None = None
    if "after" in query:
        try:
            after = await _find(call, query["after"])
        except ConversationNotFound:
            raise ServiceError(400, "'after' is no conversation", "invalid_value", param="after") from None
    found = await call.store.list(limit=limit + 1, before=after, on_damaged=_leave_out)
    return JsonAnswer(to_page_form(found[:limit], has_more=len(found) > limit))


def _leave_out(_: DamagedRow) -> None:
    """Leave out a damaged conversation; `db verify` names it."""


def _read_number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= _MAX_LIMIT):
        raise ServiceError(400, f"'limit' is a number of 1 to {_MAX_LIMIT}", "invalid_value", param="limit")
    return int(text)


async def _find(call: ServiceCall, id: str) -> Conversation:
    """Return the conversation with exactly this id; names and beginnings of ids are for people.

    Raises:
        ConversationNotFound: the owner has none.
    """
    found = await call.store.get(id)
    if found.id != id:
        raise ConversationNotFound("no such conversation")
    return found


_PATH = "/v1/conversations"
CONVERSATION_ROUTES = (
    ServiceRoute("GET", _PATH, list_conversations, Right.READ),
    ServiceRoute("POST", _PATH, create_conversation, Right.WRITE, has_body=True),
    ServiceRoute("GET", f"{_PATH}/{{id}}", get_conversation, Right.READ),
    ServiceRoute("POST", f"{_PATH}/{{id}}", update_conversation, Right.WRITE, has_body=True),
    ServiceRoute("DELETE", f"{_PATH}/{{id}}", delete_conversation, Right.WRITE),
)
