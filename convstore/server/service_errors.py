"""Errors as OpenAI's API tells them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from convstore import errors
from convstore.server.json_answers import JsonAnswer

INVALID_REQUEST = "invalid_request_error"
_LONGEST_RETRY_SECONDS = 60


class ServiceError(Exception):
    """A request is refused or failed; the client gets this text.

    Args:
        status: the HTTP status.
        message: for the client: what is wrong, and what to do. It never quotes a secret.
        code: a word for programs.
        param: the parameter that it is about.
        completion: an answer of the model that could not be stored.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        completion: Any = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.completion = completion


def make_error_response(error: ServiceError) -> JsonAnswer:
    """Return the response that tells an error."""
    return JsonAnswer(make_error_form(error), error.status, headers=error.headers)


def make_error_form(error: ServiceError) -> dict[str, Any]:
    """Return the JSON form of an error."""
    form = {"message": error.message, "type": _name_type(error.status), "param": error.param, "code": error.code}
    return {"error": form} if error.completion is None else {"error": form, "completion": error.completion}


def _name_type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(status, INVALID_REQUEST)


def translate_error(error: errors.ConvstoreError) -> ServiceError:
    """Return what a client is told about an error of the library.

    Texts about the database are for its operator, so the client gets none of them.
    """
    if isinstance(error, errors.ConversationNotFound):
        return make_not_found("conversation")
    if isinstance(error, errors.AmbiguousReference):
        return make_not_found("conversation")
    if isinstance(error, errors.InvalidInput):
        return ServiceError(400, str(error), "invalid_value")
    if isinstance(error, errors.ConversationBusy):
        return ServiceError(400, "another turn is running in this conversation; try again", "conversation_locked")
    if isinstance(error, errors.IdempotencyMismatch):
        return ServiceError(409, str(error), "idempotency_mismatch", headers={"x-should-retry": "false"})
    if isinstance(error, errors.TurnLimitReached):
        return _tell_limit(error)
    if isinstance(error, errors.Conflict):
        return ServiceError(409, str(error), "conflict")
    if isinstance(error, errors.DatabaseUnavailable):
        return ServiceError(
            503, "the database cannot be reached; try again", "database_unavailable", headers={"retry-after": "1"}
        )
    if isinstance(error, errors.DamagedRow):
        return ServiceError(500, "a stored row is damaged; the operator can find it with `db verify`", "damaged_row")
    return ServiceError(500, "the service failed; its log says why", "internal_error")


def _tell_limit(error: errors.TurnLimitReached) -> ServiceError:
    seconds = max(1, math.ceil(error.retry_after))
    headers = {"retry-after": str(seconds)}
    if seconds > _LONGEST_RETRY_SECONDS:  # the official client would ask again within seconds
        headers["x-should-retry"] = "false"
    return ServiceError(429, str(error), "rate_limit_exceeded", headers=headers)


def make_not_found(what: str) -> ServiceError:
    """Return the error for a thing that the owner does not have: the same, whether another owner has it or nobody."""
    return ServiceError(404, f"no such {what}", "not_found")
