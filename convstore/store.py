"""The library's front door: `Store`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from sqlalchemy import Connection, Engine

from convstore import provider
from convstore.completions import Completion, NotACompletion, read_completion
from convstore.errors import AmbiguousReference, ConversationNotFound, InvalidInput, InvalidMessage
from convstore.keys import check_id, check_limit, check_metadata, check_name, check_owner, is_key, random_id
from convstore.ledger import conversations
from convstore.ledger import messages as ledger_messages
from convstore.ledger import turns as ledger_turns
from convstore.ledger.database import Database, open_database
from convstore.location import database_url
from convstore.messages import Message, to_input, to_message, to_request
from convstore.params import check_sticky
from convstore.records import UNCHANGED, Conversation, Given, MessageRecord, Turn, TurnStatus
from convstore.replies import ReplyStream
from convstore.runtime import Runtime
from convstore.turns import Answer, Question, ask, preview, preview_new, settle

if TYPE_CHECKING:
    from openai import OpenAI

# Inside the class, `list` is a method.
Conversations: TypeAlias = list[Conversation]
Messages: TypeAlias = list[Message]
Records: TypeAlias = list[MessageRecord]
Turns: TypeAlias = list[Turn]


class Store:
    """Conversations in a database. Safe to share between threads.

    >>> store = Store("sqlite:///chat.db")
    >>> conversation = store.new("Olympics", system="You are a sports expert.", model="gpt-4o-mini")
    >>> store.say(conversation.id, "Where were the 2008 games held?").text
    'In Beijing, China.'

    Args:
        url: a SQLAlchemy URL of SQLite or PostgreSQL, or the path of a SQLite file. None: `CONVSTORE_DB`, else a file
            in the user's data directory. A SQLite file is created, and its schema upgraded, at the first use.
        client: the caller's own `openai.OpenAI`; else one is made from the environment at the first call. Its own
            retries are switched off: a retry that nobody sees could double a reply.
        engine: the caller's own SQLAlchemy engine, instead of a URL. It is not closed with the store.
        owner: whose conversations these are; see `for_owner`.
        base_url: of a server that speaks Chat Completions, for the client that the store makes.
        model: the model to ask where neither the call nor the conversation names one; else `CONVSTORE_MODEL`.

    Raises:
        InvalidInput: not such a URL, or not such an owner.
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
    ) -> None:
        self._owner = check_owner(owner)
        if engine is not None:
            if url is not None:
                raise InvalidInput("give a url or an engine, not both")
            database = Database(engine, owned=False)
        else:
            database = open_database(database_url(os.fspath(url) if url is not None else None))
        self._runtime = Runtime(database, client, base_url)
        self._model = model

    @property
    def owner(self) -> str:
        """Whose conversations this store sees."""
        return self._owner

    def for_owner(self, owner: str) -> Store:
        """Return this store as one owner sees it: everything belongs to that owner, and nothing else is visible.

        The two share their connections; closing one closes both.

        Raises:
            InvalidInput: not such an owner.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _owner=check_owner(owner))
        return view

    @property
    def client(self) -> OpenAI:
        """The client that calls the model: the caller's, else one made from the environment when it is first needed.

        Raises:
            NotConfigured: there is neither a key nor a server.
        """
        client: OpenAI = self._runtime.client()
        return client

    def close(self) -> None:
        """Close the connections of the database. A store that is used again opens them again."""
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- conversations ---

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

        Args:
            title: what it is about.
            system: the text of a system message to begin with.
            messages: messages to begin with (after `system`): dicts or openai objects, stored exactly.
            id: the caller's own id; else 12 random characters.
            name: a short handle, unique for this owner.
            metadata: any JSON object.
            parameters: completion parameters to keep with the conversation: `model`, `temperature` …

        Raises:
            InvalidInput: a value breaks a rule, which the message states. Nothing is stored.
            ConversationExists: the id or the name is taken.
        """
        first = to_input(system, role="system") if system is not None else []
        first.extend(to_message(message) for message in messages)
        return self._runtime.write(
            conversations.create,
            owner=self._owner,
            id=check_id(id) if id is not None else random_id(),
            name=check_name(name),
            title=title,
            settings={key: value for key, value in check_sticky(parameters).items() if value is not None},
            metadata=check_metadata(metadata or {}),
            first=first,
            now=datetime.now(UTC),
        )

    def get(self, reference: str) -> Conversation:
        """Return the conversation that `reference` names: its id, its name, or the beginning of its id.

        Raises:
            ConversationNotFound: there is none.
            AmbiguousReference: several ids begin so.
        """
        found = self._runtime.read(conversations.find, self._owner, reference) if is_key(reference) else ()
        if not found:
            raise ConversationNotFound(f"no conversation {reference!r}; see `convstore list`")
        if len(found) > 1:
            ids = ", ".join(conversation.id for conversation in found)
            raise AmbiguousReference(f"{reference!r} could be any of {ids}; type more of it", found)
        return found[0]

    def list(self, *, limit: int | None = 20, before: Conversation | None = None) -> Conversations:
        """Return conversations, latest activity first.

        Args:
            limit: how many at most; None: all.
            before: the last conversation of the page before, for the next page.
        """
        return self._runtime.read(conversations.latest, self._owner, check_limit(limit), before)

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
            name: a new one; None takes it away.
            title: a new one; None takes it away.
            metadata: replaces all of it.
            parameters: completion parameters to keep; None takes one away.

        Raises:
            InvalidInput: a value breaks a rule. Nothing is changed.
            ConversationNotFound: there is none with this id.
            ConversationExists: the name is taken.
        """
        return self._runtime.write(
            conversations.change,
            self._owner,
            conversation_id,
            name=check_name(name) if isinstance(name, str) else name,
            title=title,
            metadata=check_metadata(metadata) if isinstance(metadata, Mapping) else metadata,
            parameters=check_sticky(parameters),
            now=datetime.now(UTC),
        )

    # --- history ---

    def history(self, conversation_id: str, *, limit: int | None = None, exact: bool = False) -> Messages:
        """Return the conversation as a list of messages, oldest first.

        Args:
            conversation_id: its id.
            limit: only the last so many; None: all.
            exact: as they were stored; else in request form, which is what `create(messages=…)` takes.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        found = self._runtime.read(_path, self._owner, conversation_id, check_limit(limit))
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
        return self._runtime.read(_path, self._owner, conversation_id, check_limit(limit), before)

    def turns(self, conversation_id: str, *, before: int | None = None, limit: int | None = 100) -> Turns:
        """Return the turns of the conversation, oldest first, failed ones too; a page at a time, from the end.

        Args:
            conversation_id: its id.
            before: the `seq` of the first turn of the page that was read last. None: from the end.
            limit: how many at most; None: all.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._runtime.read(_turns, self._owner, conversation_id, check_limit(limit), before)

    def unanswered(self, conversation_id: str) -> Turns:
        """Return the turns that asked since the last answer and have none, oldest first (of many, the last 20).

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._runtime.read(_unanswered, self._owner, conversation_id)

    def input_of(self, turn: Turn) -> Records:
        """Return the messages that a turn asked with: also of a failed one, whose messages are on no path."""
        return self._runtime.read(ledger_messages.input_of, self._owner, turn)

    def append(self, conversation_id: str, message: object, *more: object, wait: float = 30.0) -> Records:
        """Add messages at the end, without asking a model, and return them where they now stand.

        Args:
            conversation_id: its id.
            message: a dict, an openai message, text (a user's message), or a whole openai completion, whose message is
                taken and whose facts (usage, model, finish reason …) are kept as a turn.
            more: further messages.
            wait: seconds to wait while a turn is running.

        Raises:
            InvalidMessage: one of them is no message. Nothing is stored.
            ConversationNotFound: there is none with this id.
            ConversationBusy: a turn is still running.
        """
        new: Messages = []
        completion = _given_completion(message)
        if completion is not None and not more:
            new.append(completion.messages[0])
        else:
            for item in (message, *more):
                if _given_completion(item) is not None:
                    raise InvalidMessage("append a completion by itself: its facts belong to its own message")
                new.extend(to_input(item))
        return self._runtime.write_when_free(
            wait, ledger_turns.append, self._owner, conversation_id, new, datetime.now(UTC), completion
        )

    # --- turns ---

    def say(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool = True,
        wait: float = 30.0,
        **parameters: Any,
    ) -> Turn:
        """Say something, and return the turn with the model's reply.

        The message is committed before the model is called; the reply, together with the turn's end.

        Args:
            conversation_id: its id (not a name or the beginning of an id: `get` finds those).
            message: text, a list of content parts, a message, or a list of messages.
            system: the text of a system message to put before it.
            name: the sender's name.
            history: False sends this message alone.
            wait: seconds to wait while another turn of the conversation runs.
            parameters: completion parameters for this call; they go before the sticky ones, and None takes one away.

        Raises:
            InvalidInput: refused, for the reason given; nothing was stored or sent.
            ConversationNotFound: there is none with this id.
            ConversationBusy: another turn is still running; nothing was stored or sent.
            TurnFailed: no reply came. The message is kept, and will not be replayed.
            ReplyInterrupted: the reply broke off; `.partial` has what came.
            LeaseLost: the reply came too late; `.turn` has it.
            ReplyNotStored: the database failed after the model had answered; `.completion` has the answer.
        """
        question = self._question(message, parameters, system=system, name=name, history=history)
        client = self._runtime.client()
        begun = self._runtime.begin(self._owner, conversation_id, question, wait)
        answer = Answer()
        try:
            arguments = provider.call_arguments(client, begun.request, begun.options)
            completion = read_completion(client.chat.completions.create(**arguments))
        except Exception as error:
            ending = answer.failed(provider.describe(error, client))
            turn, held = self._runtime.end(begun.turn, ending)
            return settle(turn, held=held)
        except BaseException:
            self._runtime.end(begun.turn, answer.stopped())
            raise
        turn, held = self._runtime.end(begun.turn, answer.whole(completion))
        return settle(turn, held=held)

    def stream(
        self,
        conversation_id: str,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool = True,
        wait: float = 30.0,
        **parameters: Any,
    ) -> ReplyStream:
        """Say something, and return the reply as it comes: a context manager that yields pieces of text.

        Takes and raises what `say` does; see `ReplyStream`.
        """
        question = self._question(message, parameters, system=system, name=name, history=history, stream=True)
        return ReplyStream(self._runtime, self._owner, conversation_id, question, wait)

    def preview(
        self,
        conversation_id: str | None,
        message: object,
        *,
        system: str | None = None,
        name: str | None = None,
        history: bool = True,
        stream: bool = False,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Return exactly the request that `say` (or `stream`) would make. Stores nothing, sends nothing.

        Takes and raises what `say` does. For `conversation_id` None: what a new conversation would begin with.
        """
        question = self._question(message, parameters, system=system, name=name, history=history, stream=stream)
        if conversation_id is None:
            return preview_new({}, question)
        return self._runtime.read(preview, self._owner, conversation_id, question)

    def _question(self, message: object, parameters: Mapping[str, Any], **how: Any) -> Question:
        default_model = self._model or os.environ.get("CONVSTORE_MODEL") or None
        return ask(message, parameters, default_model=default_model, **how)


def _path(
    connection: Connection, owner: str, conversation_id: str, limit: int | None, before: int | None = None
) -> Records:
    head = conversations.head(connection, owner, conversation_id)
    if before is not None:
        record = ledger_messages.get(connection, owner, conversation_id, before)
        if record is None:
            raise InvalidInput(f"conversation {conversation_id} has no message with seq {before}")
        head = record.parent_seq
    return ledger_messages.path(connection, owner, conversation_id, head, limit)


def _turns(
    connection: Connection, owner: str, conversation_id: str, limit: int | None, before: int | None = None
) -> Turns:
    conversations.head(connection, owner, conversation_id)  # raises where there is none
    return ledger_turns.latest(connection, owner, conversation_id, limit, before)


def _unanswered(connection: Connection, owner: str, conversation_id: str) -> Turns:
    head = conversations.head(connection, owner, conversation_id)
    recent = ledger_turns.latest(connection, owner, conversation_id, limit=20)
    return [
        turn
        for turn in recent
        if turn.base_seq == head and turn.status is not TurnStatus.COMPLETED and turn.first_input_seq is not None
    ]


def _given_completion(value: object) -> Completion | None:
    if isinstance(value, Mapping):
        if "role" in value or "choices" not in value:
            return None
    elif not hasattr(value, "choices"):
        return None
    try:
        return read_completion(value)
    except NotACompletion as error:
        raise InvalidMessage(str(error)) from None
