"""Puts together what a store runs on: database, services, model clients, engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from convstore.config.settings import find_database_url, find_default_model
from convstore.db.engine import Database, open_database
from convstore.db.transactions import OwnTransactions
from convstore.db.unit_of_work import Services
from convstore.errors import InvalidInput
from convstore.leases.process_locks import is_alive

if TYPE_CHECKING:
    from convstore.messages.message import Message
    from convstore.messages.token_counters import TokenCounter
    from convstore.provider.model_clients import ModelClients
    from convstore.turns.turn_engine import TurnEngine
    from convstore.usage.prices import Prices

# Without a handler of the application's own, Python would print warnings on stderr
# (https://docs.python.org/3/howto/logging.html#configuring-logging-for-a-library).
logging.getLogger("convstore").addHandler(logging.NullHandler())


def make_services(
    database: Database,
    lease: float,
    count_tokens: TokenCounter | None,
    prices: Mapping[str, Any] | str | os.PathLike[str] | None,
) -> Services:
    """Return the services of a store; a file of prices is read once, when it is first needed."""
    from convstore.messages.token_counters import make_checked_counter
    from convstore.messages.token_estimate import estimate_message
    from convstore.usage.price_file import make_price_loader

    return Services(
        is_alive=partial(is_alive, database=database.path),
        lease_seconds=lease,
        count_tokens=make_checked_counter(count_tokens or estimate_message),
        get_prices=cache(make_price_loader(prices)),
    )


def make_finding_services(database: Database, lease: float) -> Services:
    """Return the services of what only finds conversations: it imports no counter of tokens and no prices."""
    return Services(
        is_alive=partial(is_alive, database=database.path),
        lease_seconds=lease,
        count_tokens=_estimate_tokens,
        get_prices=cache(_load_prices),
    )


def _estimate_tokens(message: Message) -> int:
    from convstore.messages.token_estimate import estimate_message

    return estimate_message(message)


def _load_prices() -> Prices:
    from convstore.usage.price_file import make_price_loader

    return make_price_loader(None)()


def make_engine(
    database: Database,
    services: Services,
    clients: ModelClients,
    *,
    retries: int,
    model: str | None,
    profile: str | None,
    max_reply_bytes: int,
) -> TurnEngine:
    """Return the engine of a store."""
    from convstore.turns.turn_engine import TurnEngine  # a `Reader` needs none

    return TurnEngine(
        OwnTransactions(database, services),
        clients,
        lease_span=timedelta(seconds=services.lease_seconds),
        retries=retries,
        find_model=partial(find_default_model, model, profile),
        max_reply_bytes=max_reply_bytes,
    )


def open_given(url: str | os.PathLike[str] | None, engine: Engine | None, schema: str | None) -> Database:
    """Return the database that a store is given: by URL, by the caller's engine, or by the environment."""
    if engine is None:
        return open_database(find_database_url(os.fspath(url) if url is not None else None), schema)
    if url is not None:
        raise InvalidInput("give a url or an engine, not both")
    return Database(engine, owned=False, schema=schema)
