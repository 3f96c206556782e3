"""Reads which page of a list a client asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convstore.server.service_errors import ServiceError

_DEFAULT_LIMIT = 20
_MAX_DIGITS = 9


@dataclass(frozen=True, slots=True)
class PageParameters:
    """Which page of a list a client asks for."""

    limit: int
    after: str | None
    """The id of what is before the page; None: the page is the first."""
    is_descending: bool


def read_page_parameters(query: Mapping[str, str], *, default_order: str, max_limit: int) -> PageParameters:
    """Return the page that the parameters `limit`, `after` and `order` name.

    Raises:
        ServiceError: 400.
    """
    order = query.get("order", default_order)
    if order not in ("asc", "desc"):
        raise ServiceError(400, "'order' is 'asc' or 'desc'", "invalid_value", param="order")
    limit = query.get("limit", str(_DEFAULT_LIMIT))
    is_number = limit.isascii() and limit.isdecimal() and len(limit) <= _MAX_DIGITS
    if not is_number or not 1 <= int(limit) <= max_limit:
        raise ServiceError(400, f"'limit' is a number of 1 to {max_limit}", "invalid_value", param="limit")
    return PageParameters(int(limit), query.get("after"), order == "desc")
