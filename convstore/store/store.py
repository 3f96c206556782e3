"""The library's front door: `Store`. Its twin for asyncio is in `async_store`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection, Engine

from convstore.db.callers_schema import CallersSchema
from convstore.leases.lease_watch import DEFAULT_LEASE_SECONDS
from convstore.provider.model_clients import ModelClients
from convstore.provider.openai_client import make_client
from convstore.provider.raw_answer import MAX_REPLY_BYTES
from convstore.provider.retry_policy import DEFAULT_RETRIES
from convstore.store.assembly import make_engine, make_services, open_given
from convstore.store.conversation_methods import ConversationMethods
from convstore.store.reply_stream import ReplyStream
from convstore.store.transaction_view import TransactionView
from convstore.turns import following, stopping, turn_flow
from convstore.turns.compaction import compact, make_summary_options
from convstore.turns.sync_runner import SyncRunner
from convstore.turns.title_writing import make_title_parameters, write_title
from convstore.turns.turn_request import (
    TurnRequest,
    make_complete_request,
    make_edit_request,
    make_retry_request,
    make_say_request,
    make_terms,
)
from convstore.turns.turn_start import preview_first_turn, preview_turn
from convstore.values.identifiers import Position
from convstore.values.results import Conversation, Request, Summary, Turn
from convstore.values.validation import OnBusy, check_owner, check_position, check_wait, get_wait_seconds

if TYPE_CHECKING:
    from openai import OpenAI

    from convstore.messages.token_counters import TokenCounter


class Store(ConversationMethods):
    """Conversations in a database. Safe to share between threads.

    >>> store = Store("sqlite:///chat.db")
    >>> conversation = store.new("Olympics", system="You are a sports expert.", model="gpt-4o-mini")
    >>> store.say(conversation.id, "Where were the 2008 games held?").text
    'In Beijing, China.'

    Args:
        url: a SQLAlchemy URL of SQLite or PostgreSQL, or the path of a SQLite file. None: `CONVSTORE_DB`, else what the
            user's `config.toml` says (docs/configuration.md), else a file in the user's data directory. A SQLite file
            is created, and its schema upgraded, at the first use.
        client: your own `openai.OpenAI`; None: one is made from the environment at the first call. Its own retries are
            switched off: a retry that nobody sees could double a reply. After a fork, use another client: the
            connections belong to the parent process.
        engine: your own SQLAlchemy engine, instead of a URL. It is not closed with the store.
        schema: the PostgreSQL schema that has convstore's tables (docs/postgresql.md). None: the one that the URL names
            as `?schema=`, else the current schema at the first use.
        owner: the owner of the conversations; see `for_owner`.
        base_url: URL of a server that speaks Chat Completions, for the client that the store makes. None: the
            profile's, `OPENAI_BASE_URL`, the user's `config.toml` (docs/configuration.md), else OpenAI.
        profile: a profile of the user's `config.toml`: a server with its key, and a model. None: `CONVSTORE_PROFILE`,
            else the one that the file says.
        model: the model to ask if neither the call nor the conversation names one; None: the profile's,
            `CONVSTORE_MODEL`, else the user's `config.toml`.
        retries: how often a call is repeated if the model surely generated nothing: the connection was never made, or
            the provider answered 429 or 503. Each repetition is recorded on the turn.
        lease: if a turn on another host gives no sign of life for this many seconds, it counts as dead. On the same
            host, a dead process is known at once.
        count_tokens: counts the tokens of a message, for windows; None: they are estimated. Each message is counted
            once, when it is stored. If it fails, the call is refused (InvalidInput) before anything is stored; a reply
            is estimated instead.
        prices: prices of tokens, by model: a mapping, or the path of a TOML file (docs/usage.md). None: the file that
            `CONVSTORE_PRICES` or the user's `config.toml` names, else `prices.toml` in the user's configuration
            directory. It is read once, before the first turn begins.
        max_reply_bytes: the largest answer that is read, after decompression; the rest of a larger one is cut off. It
            holds for the client that convstore makes, not for your own.

    Raises:
        InvalidInput: not a valid URL, schema or owner, or wrong prices.
        DatabaseUnavailable: the database's driver is not installed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        client: OpenAI | None = None,
        engine: Engine | None = None,
        schema: str | None = None,
        owner: str = "",
        base_url: str | None = None,
        profile: str | None = None,
        model: str | None = None,
        retries: int = DEFAULT_RETRIES,
        lease: float = DEFAULT_LEASE_SECONDS,
        count_tokens: TokenCounter | None = None,
        prices: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        owner = check_owner(owner)
        clients = ModelClients(client, partial(make_client, base_url, profile))
        database = open_given(url, engine, schema)
        services = make_services(database, lease, count_tokens, prices)
        self._engine = make_engine(
            database,
            services,
            clients,
            retries=retries,
            model=model,
            profile=profile,
            max_reply_bytes=max_reply_bytes,
        )
        self._runner = SyncRunner(clients)
        super().__init__(self._engine.transactions, owner)

    @property
    def client(self) -> OpenAI:
        """The client that calls the model: your own, or one made from the environment when it is first needed.

        Raises:
            NotConfigured: neither a key nor a server is named.
        """
        client: OpenAI = self._engine.clients.get()
        return client

    def using(self, connection: Connection) -> TransactionView:
        """Return this owner's conversations inside your own transaction.

        Everything done there (`new`, `append`, `set`, `history` …) is committed or rolled back with it. Nothing there
        waits: a conversation with a running turn is busy at once.

        Args:
            connection: a SQLAlchemy connection to a database that has convstore's tables. On PostgreSQL they are in the
                store's schema. To another database, if the store was given none, they are in the current schema of
                the connection, which is read once.
        """
        transactions = self._engine.transactions
        schema = CallersSchema(transactions.database)
        return TransactionView(connection, transactions.services, self._owner, schema)

    def close(self) -> None:
        """Stop background work, and close the connections to the database and the model.

        A store that is used again opens them again.
        """
        client = self._engine.clients.forget()
        if client is not None:
            client.close()
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Say something, and return the turn with the model's reply.

        The message is committed before the model is called; the reply is committed together with the turn's end.

        Args:
            conversation_id: the conversation's id (not a name or the beginning of an id: `get` finds those).
            message: text, a list of content parts, a message, or a list of messages.
            system: text of a system message to put before it.
            name: the sender's name.
            history: False: send only this message; None: as the conversation says, else True.
            idempotency_key: names this request. However often and from wherever it is repeated, the model is not asked
                again while the first try runs or once it has succeeded: its reply is returned.
            expected_head: the `head_seq` that you saw; None: any.
            on_busy: while another turn of the conversation runs: `"wait"`, or `"reject"` at once.
            wait: how many seconds to wait at most.
            parameters: completion parameters for this call. They override the sticky ones; None removes one. Among
                them, options of the window:

                `last`: the maximum number of turns of the history (0: only system messages and this message).
                `max_context`: the maximum number of tokens of the request.
                `on_overflow`: `"trim"` sends less, once, if the provider says that the request is too long.
                `fill_missing_tools`: send a placeholder for each tool call without a result.
                `send_reasoning`: send the model its own reasoning back.
                `compact_at`: compact the conversation after a turn with so many tokens in its request.
                `keep_last`: number of turns that compaction leaves alone.

        Raises:
            InvalidInput: refused, for the reason given; nothing was stored or sent.
            ContextTooLong: what must be sent does not fit into `max_context`; nothing was stored or sent.
            UnansweredToolCalls: tool calls have no results; nothing was stored or sent.
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: another turn is still running; nothing was stored or sent.
            HeadMoved: the head is not the expected one; nothing was stored or sent.
            IdempotencyMismatch: the key was used with other input; nothing was stored or sent.
            TurnFailed: no reply came. The message is kept, and not sent again with later turns.
            ReplyInterrupted: the reply was cut off; `.partial` is the part that came.
            LeaseLost: the reply came too late; `.turn` has it.
            ReplyNotStored: the database failed after the model had answered; `.completion` has the answer.
        """
        terms = make_terms(self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head)
        request = make_say_request(message, parameters, terms, system=system, name=name, history=history)
        return self._ask(conversation_id, request, get_wait_seconds(on_busy, wait))

    def complete(
        self,
        conversation_id: str,
        *,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Let the model go on from the head without a new message: after a tool's result.

        Takes and raises what `say` does; raises InvalidInput also if the conversation ends with the model's own
        message.
        """
        terms = make_terms(self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head)
        return self._ask(conversation_id, make_complete_request(parameters, terms), get_wait_seconds(on_busy, wait))

    def edit(
        self,
        conversation_id: str,
        position: int,
        message: object,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Replace a message of the path by another one on a new branch, and ask again from there.

        The old message and what followed it are kept on the old branch. Editing a system message sends the first user
        messages after it again.

        Args:
            conversation_id: the conversation's id.
            position: the message's position: 1, 2, 3 …
            message: text, which replaces the old text (images and other parts stay); or a list of content parts, or a
                message.
            expected_head: the `head_seq` that you saw; None: any.
            on_busy: while another turn of the conversation runs: `"wait"`, or `"reject"` at once.
            wait: how many seconds to wait at most.
            parameters: as in `say`.

        Raises:
            As `say`; InvalidInput also if the path has no such position or the message is the model's own; HeadMoved
            also if another message is at that position after waiting.
        """
        terms = make_terms(self._engine.default_model, expected_head=expected_head)
        request = make_edit_request(Position(check_position(position)), message, parameters, terms)
        return self._ask(conversation_id, request, get_wait_seconds(on_busy, wait))

    def retry(
        self,
        conversation_id: str,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Ask once more what the latest turn asked: after a failure, an interruption, or for another reply.

        The new reply becomes a sibling of the old one, which is kept. If the conversation has gone on since, a copy of
        the request is asked at the head.

        Args:
            conversation_id: the conversation's id.
            expected_head: the `head_seq` that you saw; None: any.
            on_busy: while another turn of the conversation runs: `"wait"`, or `"reject"` at once.
            wait: how many seconds to wait at most.
            parameters: completion parameters, and options of the window, that replace those of that turn.

        Raises:
            As `say`; InvalidInput also if there is no turn to retry.
        """
        terms = make_terms(self._engine.default_model, expected_head=expected_head)
        return self._ask(conversation_id, make_retry_request(parameters, terms), get_wait_seconds(on_busy, wait))

    def stream(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """Say something, and return the reply as it comes: a context manager that yields pieces of text.

        Takes and raises what `say` does; see `ReplyStream`.
        """
        terms = make_terms(
            self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head, stream=True
        )
        request = make_say_request(message, parameters, terms, system=system, name=name, history=history)
        return self._stream(conversation_id, request, get_wait_seconds(on_busy, wait))

    def complete_stream(
        self,
        conversation_id: str,
        *,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """As `complete`, and return the reply as it comes."""
        terms = make_terms(
            self._engine.default_model, idempotency_key=idempotency_key, expected_head=expected_head, stream=True
        )
        return self._stream(conversation_id, make_complete_request(parameters, terms), get_wait_seconds(on_busy, wait))

    def edit_stream(
        self,
        conversation_id: str,
        position: int,
        message: object,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """As `edit`, and return the reply as it comes."""
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=True)
        request = make_edit_request(Position(check_position(position)), message, parameters, terms)
        return self._stream(conversation_id, request, get_wait_seconds(on_busy, wait))

    def retry_stream(
        self,
        conversation_id: str,
        *,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """As `retry`, and return the reply as it comes."""
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=True)
        return self._stream(conversation_id, make_retry_request(parameters, terms), get_wait_seconds(on_busy, wait))

    def preview(
        self,
        conversation_id: str | None,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool | None = None,
        expected_head: int | None = None,
        stream: bool = False,
        **parameters: Any,
    ) -> Request:
        """Return exactly the request that `say` (or `stream`) would make. Stores nothing, sends nothing.

        Takes and raises what `say` does. With `conversation_id` None: the first request of a new conversation.

        Returns:
            The body of the request; its `.window` reports which messages it holds and which are left out.
        """
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=stream)
        request = make_say_request(message, parameters, terms, system=system, name=name, history=history)
        if conversation_id is None:
            return preview_first_turn(request, self._transactions.services.count_tokens)
        return self._transactions.read(preview_turn, self._key(conversation_id), request)

    def preview_complete(
        self, conversation_id: str, *, expected_head: int | None = None, stream: bool = False, **parameters: Any
    ) -> Request:
        """Return exactly the request that `complete` would make, as `preview` does for `say`."""
        terms = make_terms(self._engine.default_model, expected_head=expected_head, stream=stream)
        request = make_complete_request(parameters, terms)
        return self._transactions.read(preview_turn, self._key(conversation_id), request)

    def compact(
        self, conversation_id: str, *, keep_last: int | None = None, model: str | None = None, **parameters: Any
    ) -> list[Summary]:
        """Let the model summarise the older part of the conversation; the summary is sent instead of it.

        Every message is kept, and `drop_summary` sends the messages again. Others may go on with the conversation
        meanwhile. A long past takes several summaries, each on top of the one before.

        Args:
            conversation_id: the conversation's id.
            keep_last: number of turns to leave alone; None: as the conversation says, else 2.
            model: the model to ask; None: the conversation's.
            parameters: further completion parameters for the call.

        Returns:
            The summaries that were written, of which the last is sent; empty if there was nothing to summarise.

        Raises:
            InvalidInput: a parameter breaks a rule.
            ConversationNotFound: the owner has no such conversation.
            TurnFailed: the model or its provider failed; earlier summaries stay.
        """
        key, default_model = self._key(conversation_id), self._engine.default_model
        options = make_summary_options(parameters, keep_last=keep_last, model=model, default_model=default_model)
        return self._runner.run(compact(self._engine, key, options))

    def write_title(self, conversation_id: str, *, model: str | None = None, **parameters: Any) -> Conversation:
        """Let the model write the conversation's title from its first messages, and return the conversation.

        The call is a turn of its own, so its cost is counted.

        Args:
            conversation_id: the conversation's id.
            model: the model to ask; None: the conversation's.
            parameters: further completion parameters for the call.

        Raises:
            InvalidInput: a parameter breaks a rule, or the conversation has no messages.
            ConversationNotFound: the owner has no such conversation.
            TurnFailed: the model or its provider failed; the title stays as it is.
        """
        key = self._key(conversation_id)
        return self._runner.run(write_title(self._engine, key, make_title_parameters(parameters, model)))

    def stop(self, conversation_id: str, *, wait: float = 5.0) -> bool:
        """End the running turn of a conversation, whichever process runs it; a partial text is kept.

        Args:
            conversation_id: the conversation's id.
            wait: seconds that the turn's process has to end it; then the conversation is taken from it.

        Returns:
            Whether a turn was running.

        Raises:
            InvalidInput: `wait` is not a number of seconds.
            ConversationNotFound: the owner has no such conversation.
        """
        return self._runner.run(stopping.stop(self._transactions, self._key(conversation_id), check_wait(wait)))

    def follow(self, conversation_id: str) -> Iterator[str]:
        """Yield the text of the reply that any process is streaming into the conversation, until it ends.

        It begins with what has come already, and is about half a second behind. If no turn runs, it yields nothing.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        yield from self._runner.iterate(following.follow(self._transactions, self._key(conversation_id)))

    def _ask(self, conversation_id: str, request: TurnRequest, seconds: float) -> Turn:
        return self._runner.run(turn_flow.ask(self._engine, self._key(conversation_id), request, seconds))

    def _stream(self, conversation_id: str, request: TurnRequest, seconds: float) -> ReplyStream:
        key = self._key(conversation_id)
        return ReplyStream(self._engine, partial(turn_flow.stream, self._engine, key, request, seconds))
