"""How much the caller of the service may ask of models: what its key says, else what the service says."""

from __future__ import annotations

from convstore.server.callers import Caller
from convstore.server.service_errors import ServiceError
from convstore.server.service_routes import ServiceCall
from convstore.server.service_settings import ServiceSettings
from convstore.values.api_key import TurnAllowance


def choose_allowance(caller: Caller, settings: ServiceSettings) -> TurnAllowance:
    """Return what the owner that a caller works for may ask."""
    own = caller.allowance
    return TurnAllowance(
        max_turns=_choose(own.max_turns, settings.max_turns),
        max_tokens_a_day=_choose(own.max_tokens_a_day, settings.max_tokens_a_day),
    )


def check_may_pass(call: ServiceCall) -> None:
    """Check that a request may pass without being recorded: what is not stored is not counted.

    Raises:
        ServiceError: 403: the owner has limits.
    """
    if choose_allowance(call.caller, call.settings) != TurnAllowance():
        raise ServiceError(
            403,
            "this key has limits, and what is not stored cannot be counted: leave out `store: false`",
            "insufficient_permissions",
            param="store",
        )


def _choose(of_key: int | None, of_service: int) -> int | None:
    """Return a limit; None: any number, for which people write 0."""
    return (of_service if of_key is None else of_key) or None
