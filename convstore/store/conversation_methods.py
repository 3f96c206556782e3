"""Everything about conversations that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from sqlalchemy import Connection

from convstore.context.window import merge_options
from convstore.conversations import queries
from convstore.db import append_rows
from convstore.db import conversation_rows as ledger
from convstore.db.unit_of_work import Borrowed
from convstore.errors import AmbiguousReference, ConversationNotFound, InvalidInput
from convstore.leases import process_locks
from convstore.messages.codec import Message, digest, to_input, to_message, to_request
from convstore.messages.completion import to_append
from convstore.messages.token_estimate import Counter
from convstore.store.branch_methods import Branches, Records
from convstore.turns.turn_request import split
from convstore.values.completion_parameters import check_sticky
from convstore.values.results import UNCHANGED, Conversation, Given, Turn
from convstore.values.validation import (
    OnBusy,
    check_before,
    check_head,
    check_id,
    check_idempotency_key,
    check_limit,
    check_metadata,
    check_name,
    check_owner,
    check_title,
    is_key,
    known_id,
    patience,
    random_id,
)

if TYPE_CHECKING:
    from convstore.usage.prices import Prices
    from convstore.usage.usage_report import UsageBy, UsageReport

# Inside the class, `list` is a method.
ConversationList: TypeAlias = list[Conversation]
Messages: TypeAlias = list[Message]
Turns: TypeAlias = list[Turn]


class Conversations(Branches):
    """An owner's conversations, as `Store` and `Store.using(connection)` show them."""

    @property
    def owner(self) -> str:
        """Whose conversations these are."""
        return self._owner

    def for_owner(self, owner: str) -> Self:
        """Return the same as one owner sees it: everything belongs to that owner, and nothing else is visible.

        The two share their connections; closing one closes both.

        Raises:
            InvalidInput: not such an owner.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _owner=check_owner(owner))
        return view

    def new(
        self,
        title: str | None = None,
        *,
        system: str | None = None,
        messages: Sequence[object] = (),
        id: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Conversation:
        """Start a conversation.

        With an id of the caller's own, doing it again is harmless: the same content returns the same conversation,
        whatever has been said in it since.

        Args:
            title: what it is about.
            system: the text of a system message to begin with.
            messages: messages to begin with (after `system`): dicts or openai objects, stored exactly.
            id: the caller's own id; else 12 random characters.
            name: a short handle, unique for this owner.
            metadata: any JSON object.
            parameters: completion parameters to keep with the conversation: `model`, `temperature` …, and options of
                the window: `last`, `max_context` …

        Raises:
            InvalidInput: a value breaks a rule, which the message states. Nothing is stored.
            ConversationExists: the id is taken by a conversation of other content, or the name is taken.
        """
        first = to_input(system, role="system") if system is not None else []
        first.extend(to_message(message) for message in messages)
        window, parameters = split(parameters)
        options = merge_options({}, window)
        content: dict[str, Any] = {
            "name": check_name(name),
            "title": check_title(title),
            "settings": {key: value for key, value in check_sticky(parameters).items() if value is not None},
            "metadata": check_metadata(metadata or {}),
            "first": first,
        }
        return self._transactions.write_repeatable(
            ledger.create,
            owner=self._owner,
            id=check_id(id) if id is not None else random_id(),
            now=datetime.now(UTC),
            digest=digest(b"", content | ({"window": options} if options else {})),
            window=options,
            count=self._transactions.count,
            **content,
        )

    def get(self, reference: str) -> Conversation:
        """Return the conversation that `reference` names: its id, its name, or the beginning of its id.

        Raises:
            ConversationNotFound: there is none.
            AmbiguousReference: several ids begin so.
        """
        found = self._transactions.read(ledger.find, self._owner, reference) if is_key(reference) else ()
        if not found:
            raise ConversationNotFound(f"no conversation {reference!r}; see `convstore list`")
        if len(found) > 1:
            ids = ", ".join(conversation.id for conversation in found)
            raise AmbiguousReference(f"{reference!r} could be any of {ids}; type more of it", found)
        return found[0]

    def list(self, *, limit: int | None = 20, before: Conversation | None = None) -> ConversationList:
        """Return conversations, latest activity first.

        Args:
            limit: how many at most; None: all.
            before: the last conversation of the page before, for the next page.
        """
        return self._transactions.read(ledger.latest, self._owner, check_limit(limit), before)

    def set(
        self,
        conversation_id: str,
        *,
        name: Given[str] = UNCHANGED,
        title: Given[str] = UNCHANGED,
        metadata: Given[Mapping[str, Any]] = UNCHANGED,
        **parameters: Any,
    ) -> Conversation:
        """Change a conversation's name, title, metadata or sticky parameters, and return it.

        Args:
            conversation_id: its id.
            name: a new one; None takes it away.
            title: a new one; None takes it away.
            metadata: replaces all of it.
            parameters: completion parameters to keep, and options of the window; None takes one away.

        Raises:
            InvalidInput: a value breaks a rule. Nothing is changed.
            ConversationNotFound: there is none with this id.
            ConversationExists: the name is taken.
        """
        window, parameters = split(parameters)
        return self._transactions.write_repeatable(
            ledger.change,
            self._owner,
            known_id(conversation_id),
            name=name if name is UNCHANGED else check_name(name),
            title=title if title is UNCHANGED else check_title(title),
            metadata=metadata if metadata is None or metadata is UNCHANGED else check_metadata(metadata),
            parameters=check_sticky(parameters),
            window=window,
            now=datetime.now(UTC),
        )

    def history(self, conversation_id: str, *, limit: int | None = None, exact: bool = False) -> Messages:
        """Return the conversation as a list of messages, oldest first.

        Args:
            conversation_id: its id.
            limit: only the last so many; None: all.
            exact: as they were stored; else in request form, which is what `create(messages=…)` takes.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        found = self._transactions.read(queries.path, self._owner, known_id(conversation_id), check_limit(limit))
        return [record.message if exact else to_request(record.message) for record in found]

    def messages(self, conversation_id: str, *, before: int | None = None, limit: int | None = 100) -> Records:
        """Return the messages of the conversation with their places, oldest first; a page at a time, from the end.

        Args:
            conversation_id: its id.
            before: the `seq` of the first message of the page that was read last. None: from the end.
            limit: how many at most; None: all.

        Raises:
            ConversationNotFound: there is none with this id.
            InvalidInput: it has no message `before`.
        """
        return self._transactions.read(
            queries.path, self._owner, known_id(conversation_id), check_limit(limit), check_before(before)
        )

    def turns(self, conversation_id: str, *, before: int | None = None, limit: int | None = 100) -> Turns:
        """Return the turns of the conversation, oldest first, failed ones too; a page at a time, from the end.

        Args:
            conversation_id: its id.
            before: the `seq` of the first turn of the page that was read last. None: from the end.
            limit: how many at most; None: all.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.read(
            queries.latest_turns, self._owner, known_id(conversation_id), check_limit(limit), check_before(before)
        )

    def unanswered(self, conversation_id: str) -> Turns:
        """Return the turns that asked since the last answer and have none, oldest first (of many, the last 20).

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.read(queries.unanswered, self._owner, known_id(conversation_id))

    def input_of(self, turn: Turn) -> Records:
        """Return the messages that a turn asked with: also of a failed one, whose messages are on no path."""
        return self._transactions.read(queries.input_of, self._owner, turn)

    def usage(
        self,
        conversation_id: str | None = None,
        *,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        by: UsageBy | None = None,
    ) -> UsageReport:
        """Return what this owner's turns used: how many they are, their tokens, cost and latency.

        Turns that still run are not counted. Those of deleted conversations are, and those that wrote summaries.

        Args:
            conversation_id: of this conversation alone; of a fork, what was said before it is its origin's. None: of
                all of this owner's.
            since: of turns that began from then on; a date is its beginning (00:00 UTC).
            until: of turns that began before then.
            by: a row for each `"model"`, `"day"` (UTC) or `"conversation"`.

        Raises:
            InvalidInput: a moment says nothing of its time zone; there is no such grouping; the prices are wrong.
            ConversationNotFound: there is none with this id.
        """
        from convstore.usage.usage_report import check_by, check_moment

        return self._transactions.read(
            queries.usage,
            self._owner,
            known_id(conversation_id) if conversation_id is not None else None,
            self._transactions.prices(),
            since=check_moment(since, "since"),
            until=check_moment(until, "until"),
            by=check_by(by),
        )

    def usage_by_owner(
        self, *, since: datetime | date | None = None, until: datetime | date | None = None
    ) -> UsageReport:
        """Return what the turns of all owners used, with a row for each: for whoever runs the database.

        No owner sees another's: it is refused to a store that was made for one, and to what `for_owner` returns. Only
        the store of nobody in particular (`owner=""`), from which those are made, may ask.

        Args:
            since: of turns that began from then on; a date is its beginning (00:00 UTC).
            until: of turns that began before then.

        Raises:
            InvalidInput: this is the store of one owner; or as `usage`.
        """
        from convstore.usage.usage_report import check_moment

        if self._owner:
            raise InvalidInput(
                f"what all owners used is not for owner {self._owner!r} to see: ask the store of nobody in particular "
                f'(owner="")'
            )
        return self._transactions.read(
            queries.usage_by_owner,
            self._transactions.prices(),
            since=check_moment(since, "since"),
            until=check_moment(until, "until"),
        )

    def append(
        self,
        conversation_id: str,
        message: object,
        *more: object,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
    ) -> Records:
        """Add messages at the end, without asking a model, and return them where they now stand.

        Args:
            conversation_id: its id.
            message: a dict, an openai message, text (a user's message), or a whole openai completion, whose message is
                taken and whose facts (usage, model, finish reason …) are kept as a turn.
            more: further messages.
            idempotency_key: names this very addition: done again with the same key, it returns what the first stored.
            expected_head: the `head_seq` that the caller saw; None: any.
            on_busy: while a turn is running, `"wait"`, or `"reject"` at once.
            wait: seconds to wait at most.

        Raises:
            InvalidMessage: one of them is no message. Nothing is stored.
            ConversationNotFound: there is none with this id.
            ConversationBusy: a turn is still running.
            HeadMoved: the head is not the expected one.
            IdempotencyMismatch: the key was used for something else.
        """
        conversation_id = known_id(conversation_id)
        new, completion = to_append((message, *more))
        now = datetime.now(UTC)
        cost = (
            self._transactions.prices().cost(completion.usage, completion.model, None, now)
            if completion is not None
            else None
        )
        key = check_idempotency_key(idempotency_key)
        of_input = digest(b"", {"append": new}) if key is not None else None

        write = self._transactions.write if key is None else self._transactions.write_repeatable

        def attempt() -> Records:
            return write(
                append_rows.append,
                self._owner,
                conversation_id,
                new,
                datetime.now(UTC),
                process_locks.is_alive,
                completion=completion,
                cost=cost,
                key=key,
                digest=of_input,
                expected_head=check_head(expected_head),
                count=self._transactions.count,
            )

        return self._transactions.when_free(self._owner, conversation_id, patience(on_busy, wait), attempt)


class BorrowedConversations(Conversations):
    """An owner's conversations in the caller's own transaction; what `Store.using(connection)` returns."""

    def __init__(self, connection: Connection, owner: str, count: Counter, prices: Callable[[], Prices]) -> None:
        self._owner = owner
        self._transactions = Borrowed(connection, count, prices)
