"""The library's front door: `Store`. Its twin for asyncio is in `async_store`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection, Engine

from convstore.config import database_url
from convstore.conversations import queries
from convstore.db import lease_rows
from convstore.db.engine import Database, open_database
from convstore.errors import InvalidInput
from convstore.leases import process_locks
from convstore.messages.token_estimate import Counter, estimate
from convstore.provider import openai_client
from convstore.store.conversation_methods import BorrowedConversations
from convstore.store.model_methods import Asking
from convstore.turns.runtime import Runtime, pauses
from convstore.usage.prices import price_source
from convstore.values.validation import check_owner, check_wait, known_id

if TYPE_CHECKING:
    from openai import OpenAI

LEASE_SECONDS = 30.0
RETRIES = 2
FOLLOW_SECONDS = 0.25


class Store(Asking):
    """Conversations in a database. Safe to share between threads.

    >>> store = Store("sqlite:///chat.db")
    >>> conversation = store.new("Olympics", system="You are a sports expert.", model="gpt-4o-mini")
    >>> store.say(conversation.id, "Where were the 2008 games held?").text
    'In Beijing, China.'

    Args:
        url: a SQLAlchemy URL of SQLite or PostgreSQL, or the path of a SQLite file. None: `CONVSTORE_DB`, else a file
            in the user's data directory. A SQLite file is created, and its schema upgraded, at the first use.
        client: the caller's own `openai.OpenAI`; else one is made from the environment at the first call. Its own
            retries are switched off: a retry that nobody sees could double a reply. A client that was used before a
            fork must not be used after it (its connections are the parent's): give each process its own.
        engine: the caller's own SQLAlchemy engine, instead of a URL. It is not closed with the store.
        owner: whose conversations these are; see `for_owner`.
        base_url: of a server that speaks Chat Completions, for the client that the store makes.
        model: the model to ask where neither the call nor the conversation names one; else `CONVSTORE_MODEL`.
        retries: how often a call is repeated that cannot have generated anything: it never connected, or the provider
            answered 429 or 503. Each is on the turn's record.
        lease: seconds after which a turn whose process was last heard of from another host is taken for dead. On the
            same host, that is known at once.
        count_tokens: counts the tokens of a message, for windows; else they are estimated. Each message is counted
            once, when it is stored. Where it fails, what was to be said is refused (InvalidInput), before anything is
            stored; a reply is estimated instead.
        prices: what tokens cost, by model: a mapping, or the path of a TOML file as docs/usage.md has it. None:
            the file that `CONVSTORE_PRICES` names, else `prices.toml` in the user's configuration directory. It is read
            once, before the first turn begins.

    Raises:
        InvalidInput: not such a URL, not such an owner, or wrong prices.
        DatabaseUnavailable: the database's driver is not installed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        client: OpenAI | None = None,
        engine: Engine | None = None,
        owner: str = "",
        base_url: str | None = None,
        model: str | None = None,
        retries: int = RETRIES,
        lease: float = LEASE_SECONDS,
        count_tokens: Counter | None = None,
        prices: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> None:
        self._owner = check_owner(owner)
        self._model = model
        self._runtime = Runtime(
            open_given(url, engine),
            client,
            partial(openai_client.make_client, base_url),
            lease=timedelta(seconds=lease),
            retries=retries,
            count=count_tokens or estimate,
            prices=price_source(prices),
        )
        self._transactions = self._runtime

    @property
    def client(self) -> OpenAI:
        """The client that calls the model: the caller's, else one made from the environment when it is first needed.

        Raises:
            NotConfigured: there is neither a key nor a server.
        """
        client: OpenAI = self._runtime.client()
        return client

    def using(self, connection: Connection) -> BorrowedConversations:
        """Return the conversations of this owner inside the caller's own transaction.

        What is done there (`new`, `append`, `set`, `history` …) is committed, or rolled back, with it. Nothing there
        waits: a conversation in which a turn runs is busy at once.

        Args:
            connection: of the caller's SQLAlchemy engine, to a database that has convstore's tables.
        """
        return BorrowedConversations(connection, self._owner, self._runtime.count, self._runtime.prices)

    def close(self) -> None:
        """Stop what runs in the background and close the database's connections.

        A store that is used again opens them again.
        """
        client = self._runtime.forget_client()
        if client is not None:
            client.close()
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self, conversation_id: str, *, wait: float = 5.0) -> bool:
        """End the running turn of a conversation, whichever process runs it; what came of its reply is kept.

        Args:
            conversation_id: its id.
            wait: seconds that the process that runs the turn has to end it; then the conversation is taken from it.

        Returns:
            Whether a turn was running.

        Raises:
            InvalidInput: `wait` is no number of seconds.
            ConversationNotFound: there is none with this id.
        """
        conversation_id, deadline = known_id(conversation_id), time.monotonic() + check_wait(wait)
        holder = self._runtime.write(request_stop, self._owner, conversation_id)
        if holder is None:
            return False
        for pause in pauses(deadline):
            if not self._runtime.read(still_holds, self._owner, conversation_id, holder):
                return True
            time.sleep(pause)
        self._runtime.write(lease_rows.stop, self._owner, conversation_id, holder, datetime.now(UTC))
        return True

    def follow(self, conversation_id: str) -> Iterator[str]:
        """Yield the text of the reply that any process is streaming into the conversation, until it ends.

        It begins with what has come already, and is about half a second behind. Where no turn runs, nothing comes.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        conversation_id = known_id(conversation_id)
        at: queries.Following | None = None
        while True:
            at, text = self._runtime.read(queries.follow, self._owner, conversation_id, at, process_locks.is_alive)
            if text:
                yield text
            if at is None or at.over:
                return
            time.sleep(FOLLOW_SECONDS)


def open_given(url: str | os.PathLike[str] | None, engine: Engine | None) -> Database:
    """Return the database that a store is given: by URL, by the caller's engine, or by the environment."""
    if engine is None:
        return open_database(database_url(os.fspath(url) if url is not None else None))
    if url is not None:
        raise InvalidInput("give a url or an engine, not both")
    return Database(engine, owned=False)


def request_stop(connection: Connection, owner: str, conversation_id: str) -> lease_rows.Holder | None:
    """Ask for the running turn's end, and return it; one whose process has died is ended at once."""
    now = datetime.now(UTC)
    holder = lease_rows.holder(connection, owner, conversation_id, now)
    if holder is not None:
        lease_rows.request_stop(connection, owner, conversation_id, holder.turn, now)
        if holder.is_dead(process_locks.is_alive):
            lease_rows.stop(connection, owner, conversation_id, holder, now)
    return holder


def still_holds(connection: Connection, owner: str, conversation_id: str, holder: lease_rows.Holder) -> bool:
    """Whether the turn that was asked to end has not yet."""
    now = lease_rows.holder(connection, owner, conversation_id, datetime.now(UTC))
    return now is not None and now.token == holder.token
