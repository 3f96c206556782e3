"""The description of the service's routes as OpenAPI 3.1, made from the table of routes.

What the table does not say, the parameters in a query and the forms of bodies and answers, is here. A route without an
entry here is described all the same: its bodies may then be any JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from convstore.server.conversation_form import MAX_NAME_CHARACTERS, MAX_PAIRS, MAX_VALUE_CHARACTERS
from convstore.server.conversation_item_form import MAX_ITEMS
from convstore.server.service_routes import OpenRoute, ServiceRoute

_ID_IN_PATH = re.compile(r"{(\w+)}")
_JSON, _TEXT, _EVENTS = "application/json", "text/plain", "text/event-stream"
_ANYTHING: dict[str, Any] = {"type": "object"}


def _refer(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _make_page(name: str) -> dict[str, Any]:
    """Return the schema of a page of a list."""
    return {
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _refer(name)},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean"},
        },
    }


_METADATA = {
    "type": ["object", "null"],
    "maxProperties": MAX_PAIRS,
    "propertyNames": {"maxLength": MAX_NAME_CHARACTERS},
    "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARACTERS},
}
_ITEMS = {"type": "array", "maxItems": MAX_ITEMS, "items": _refer("Item")}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "Conversation": {
        "type": "object",
        "required": ["id", "object", "created_at", "metadata"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "conversation"},
            "created_at": {"type": "integer", "description": "Seconds since 1970."},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "DeletedConversation": {
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "conversation.deleted"},
            "deleted": {"const": True},
        },
    },
    "ConversationPage": _make_page("Conversation"),
    "NewConversation": {
        "type": "object",
        "properties": {"metadata": _METADATA, "items": {**_ITEMS, "type": ["array", "null"]}},
    },
    "Item": {
        "description": "A message, or an item of any other type.",
        "anyOf": [
            {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "type": {"const": "message"},
                    "role": {"type": "string"},
                    "content": {"type": ["string", "array"]},
                },
            },
            {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"type": "string", "minLength": 1, "not": {"const": "message"}}},
            },
        ],
    },
    "NewItems": {"type": "object", "required": ["items"], "properties": {"items": {**_ITEMS, "minItems": 1}}},
    "StoredItem": {
        "type": "object",
        "required": ["id", "type"],
        "properties": {"id": {"type": "string"}, "type": {"type": "string"}},
    },
    "ItemPage": _make_page("StoredItem"),
    "Completion": {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "metadata"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "choices": {"type": "array", "items": {"type": "object", "required": ["index", "message"]}},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    },
    "CompletionPage": _make_page("Completion"),
    "DeletedCompletion": {
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion.deleted"},
            "deleted": {"const": True},
        },
    },
    "AskedMessage": {
        "type": "object",
        "required": ["id", "role", "content", "content_parts"],
        "properties": {"id": {"type": "string"}, "role": {"type": "string"}},
    },
    "AskedMessagePage": _make_page("AskedMessage"),
    "ConversationChange": {"type": "object", "required": ["metadata"], "properties": {"metadata": _METADATA}},
    "Message": {"type": "object", "required": ["role"], "properties": {"role": {"type": "string"}}},
    "CompletionRequest": {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": {"type": "string"},
            "messages": {"type": "array", "minItems": 1, "items": _refer("Message")},
            "stream": {"type": ["boolean", "null"]},
            "store": {"type": ["boolean", "null"], "description": "false: the request is not recorded."},
        },
    },
}


def _make_page_parameters(order: Mapping[str, Any], most: int = 100) -> list[dict[str, Any]]:
    """Return the parameters of a list.

    Args:
        order: the schema of its order.
        most: the largest page.
    """
    limit = {"type": "integer", "minimum": 1, "maximum": most, "default": 20}
    return [
        {"name": "limit", "in": "query", "description": "How many at most.", "schema": limit},
        {
            "name": "after",
            "in": "query",
            "description": "The id of the last one of the page before.",
            "schema": {"type": "string"},
        },
        {"name": "order", "in": "query", "schema": order},
    ]


_ORDERS = {"type": "string", "enum": ["asc", "desc"]}
_CONVERSATION_PARAMETERS = _make_page_parameters({"type": "string", "enum": ["desc"], "default": "desc"})
_COMPLETION_PARAMETERS = _make_page_parameters({**_ORDERS, "default": "asc"}, 1000)
_ITEM_PARAMETERS = _make_page_parameters({**_ORDERS, "default": "desc"})
_ITEMS_PATH, _COMPLETIONS_PATH = "/v1/conversations/{id}/items", "/v1/chat/completions"
_DETAILS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/v1/conversations"): {"parameters": _CONVERSATION_PARAMETERS, "answer": _refer("ConversationPage")},
    ("POST", "/v1/conversations"): {"body": _refer("NewConversation"), "answer": _refer("Conversation")},
    ("GET", "/v1/conversations/{id}"): {"answer": _refer("Conversation")},
    ("POST", "/v1/conversations/{id}"): {"body": _refer("ConversationChange"), "answer": _refer("Conversation")},
    ("DELETE", "/v1/conversations/{id}"): {"answer": _refer("DeletedConversation")},
    ("POST", "/v1/chat/completions"): {"body": _refer("CompletionRequest"), "types": (_JSON, _EVENTS)},
    ("GET", _COMPLETIONS_PATH): {
        "parameters": [
            *_COMPLETION_PARAMETERS,
            {"name": "model", "in": "query", "schema": {"type": "string"}},
            {"name": "metadata", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
        ],
        "answer": _refer("CompletionPage"),
    },
    ("GET", f"{_COMPLETIONS_PATH}/{{id}}"): {"answer": _refer("Completion")},
    ("POST", f"{_COMPLETIONS_PATH}/{{id}}"): {"body": _refer("ConversationChange"), "answer": _refer("Completion")},
    ("DELETE", f"{_COMPLETIONS_PATH}/{{id}}"): {"answer": _refer("DeletedCompletion")},
    ("GET", f"{_COMPLETIONS_PATH}/{{id}}/messages"): {
        "parameters": _COMPLETION_PARAMETERS,
        "answer": _refer("AskedMessagePage"),
    },
    ("GET", _ITEMS_PATH): {"parameters": _ITEM_PARAMETERS, "answer": _refer("ItemPage")},
    ("POST", _ITEMS_PATH): {"body": _refer("NewItems"), "answer": _refer("ItemPage")},
    ("GET", f"{_ITEMS_PATH}/{{item}}"): {"answer": _refer("StoredItem")},
    ("DELETE", f"{_ITEMS_PATH}/{{item}}"): {"answer": _refer("Conversation")},
    ("GET", "/metrics"): {"types": (_TEXT,)},
}
"""By method and path: `parameters`, the schemas of `body` and `answer`, and the `types` of the answer."""


def describe_api(routes: Iterable[ServiceRoute], open_routes: Iterable[OpenRoute], version: str) -> dict[str, Any]:
    """Return the description of all routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _describe_route(route)
    for open_route in open_routes:
        ok = _describe_answers((_TEXT,), None)["200"]
        summary = _read_summary(open_route.endpoint)
        answers = {"200": ok, "503": {**ok, "description": "The service cannot work."}}
        paths[open_route.path] = {"get": {"summary": summary, "security": [], "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "convstore",
            "version": version,
            "description": "OpenAI's HTTP API on a database of conversations.",
        },
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`convstore keys create`"}},
        },
        "security": [{"key": []}],
    }


def _describe_route(route: ServiceRoute) -> dict[str, Any]:
    details = _DETAILS.get((route.method, route.path), {})
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _ID_IN_PATH.findall(route.path)
    ]
    described: dict[str, Any] = {
        "operationId": route.endpoint.__name__,
        "summary": _read_summary(route.endpoint),
        "parameters": [*parameters, *details.get("parameters", [])],
        "responses": _describe_answers(details.get("types", (_JSON,)), details.get("answer")),
        "x-convstore-right": route.needs.value,
    }
    if route.has_body:
        body = details.get("body", _ANYTHING)
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": body}}}
    return described


def _describe_answers(types: Iterable[str], answer: Mapping[str, Any] | None) -> dict[str, Any]:
    forms: dict[str, Any] = {_JSON: answer or _ANYTHING, _TEXT: {"type": "string"}, _EVENTS: {}}
    content = {one: {"schema": forms[one]} for one in types}
    error = {"description": "An error.", "content": {_JSON: {"schema": _refer("Error")}}}
    return {"200": {"description": "As asked.", "content": content}, "4XX": error, "5XX": error}


def _read_summary(endpoint: object) -> str:
    return (endpoint.__doc__ or "").partition("\n")[0].rstrip(".")
