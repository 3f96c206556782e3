"""Check and merge completion parameters.

The rules come from the Chat Completions specification: `temperature` is between 0 and 2; a call has `temperature` or
`top_p`, "but not both"; a `name` has at most 64 letters, digits and underscores (the API now allows hyphens too). They
apply to the parameters that a caller gives for a call or stores with a conversation. They never apply to stored and
imported messages. Every other parameter of the API is sent unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from convstore.errors import InvalidInput, InvalidParameter
from convstore.messages.message import Message
from convstore.messages.plain_json import to_plain

CALL_OPTIONS = frozenset({"extra_headers", "extra_query", "timeout"})
"""Options of the HTTP call, not of the completion. They are never stored, because headers may hold keys."""

_RESERVED_PARAMETERS = {
    "messages": "convstore fills it from the history",
    "stream": "`stream` streams and `say` does not",
}
_EXCLUSIVE_PARAMETERS = ("temperature", "top_p")
_SENDER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of one call as plain JSON, checked.

    Call options stay as they are. A value of None removes a sticky parameter for this call.

    Raises:
        InvalidParameter: a parameter breaks a rule; the text states the rule.
    """
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key in _RESERVED_PARAMETERS:
            raise InvalidParameter(f"you cannot set {key}: {_RESERVED_PARAMETERS[key]}")
        if key in CALL_OPTIONS:
            checked[key] = value
            continue
        try:
            checked[key] = to_plain(value)
        except InvalidInput as error:
            raise InvalidParameter(f"parameter {key}: {error}") from None
    _check_extra_body(checked.get("extra_body"))
    _check_temperature(checked.get("temperature"))
    _check_max_tokens(checked.get("max_tokens"))
    model = checked.get("model")
    if model is not None and (not isinstance(model, str) or not model.strip()):
        raise InvalidParameter(f"model must be the name of a model, not {model!r:.80}")
    if all(checked.get(key) is not None for key in _EXCLUSIVE_PARAMETERS):
        raise InvalidParameter("give temperature or top_p, not both")
    return checked


def _check_extra_body(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidParameter(f"extra_body must be a JSON object, not {value!r:.80}")
    for key, reason in _RESERVED_PARAMETERS.items():
        if key in value:
            raise InvalidParameter(f"you cannot set {key}, not even in extra_body: {reason}")


def _check_temperature(value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 2:
        raise InvalidParameter(f"temperature must be a number from 0 to 2, not {value!r:.80}")


def _check_max_tokens(value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidParameter(f"max_tokens must be a whole number of at least 1, not {value!r:.80}")


def check_sticky_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a conversation keeps as plain JSON, checked.

    Raises:
        InvalidParameter: a parameter breaks a rule of `check_parameters`, or is an option of one call.
    """
    checked = check_parameters(given)
    for key in checked:
        if key in CALL_OPTIONS:
            raise InvalidParameter(f"{key} is an option of one call and cannot be kept with a conversation")
    return checked


def check_sender_names(messages: list[Message]) -> None:
    """Check the sender's name of each message that a caller wants to send.

    Raises:
        InvalidParameter: a name is not 1 to 64 letters (a-z, A-Z), digits, `_` or `-`.
    """
    for message in messages:
        name = message.get("name")
        if name is not None and (not isinstance(name, str) or not _SENDER_NAME.fullmatch(name)):
            raise InvalidParameter(f"name must be 1 to 64 letters (a-z, A-Z), digits, _ or -, not {name!r:.80}")


def merge_parameters(sticky: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sticky parameters, changed by those of a call.

    A new value replaces the old one, and None removes it. A given `temperature` also removes a sticky `top_p`, and a
    given `top_p` a sticky `temperature`.

    Args:
        given: parameters that `check_parameters` returned.
    """
    merged = dict(sticky)
    for key, other in (_EXCLUSIVE_PARAMETERS, _EXCLUSIVE_PARAMETERS[::-1]):
        if given.get(key) is not None:
            merged.pop(other, None)
    merged.update(given)
    return {key: value for key, value in merged.items() if value is not None}
