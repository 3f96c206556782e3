"""The methods of a store that write, and call no model."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from convstore.conversations import creation, deletion, description, forks, head_moves, pins
from convstore.conversations.append import append_when_free, make_addition
from convstore.conversations.forks import ForkRequest
from convstore.db.conversation_writes import ConversationChange, NewConversation
from convstore.errors import ConversationBusy
from convstore.messages.caller_input import parse_input
from convstore.messages.codec import digest
from convstore.messages.first_title import find_title
from convstore.messages.message import to_message
from convstore.store.redaction_methods import RedactionMethods
from convstore.turns.sync_runner import SyncRunner
from convstore.values.completion_parameters import check_sticky_parameters
from convstore.values.identifiers import ConversationKey, Position, Seq, make_conversation_id
from convstore.values.results import UNCHANGED, Conversation, Given, MessageRecord, Summary
from convstore.values.validation import (
    OnBusy,
    check_conversation_name,
    check_existing_id,
    check_head_seq,
    check_id,
    check_idempotency_key,
    check_metadata,
    check_metadata_texts,
    check_position,
    check_seq,
    check_title,
    check_turn_count,
    get_wait_seconds,
)
from convstore.values.window_options import merge_window_options, split_window_options

if TYPE_CHECKING:
    from convstore.transfer.imported import ImportedConversation, Problem
    from convstore.transfer.own_export import OwnConversation
    from convstore.values.import_report import ImportReport

T = TypeVar("T")
P = ParamSpec("P")


class ConversationMethods(RedactionMethods):
    """Everything about an owner's conversations that needs no model.

    `Store` adds what asks a model; `Store.using(connection)` returns these methods inside the caller's transaction.
    """

    def new(
        self,
        /,
        title: str | None = None,
        *,
        system: str | None = None,
        messages: Sequence[object] = (),
        id: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Conversation:
        """Create a conversation, and return it.

        With an id of your own, repeating the call is safe: the same content returns the same conversation, whatever
        has been said in it since.

        Args:
            title: a title for people.
            system: text of a system message to begin with.
            messages: messages to begin with, after `system`: dicts or openai objects, stored exactly.
            id: an id of your own; None: 12 random characters.
            name: a short handle, unique for the owner.
            metadata: any JSON object.
            parameters: completion parameters to keep with the conversation (`model`, `temperature` …), and options of
                the window (`last`, `max_context` …).

        Raises:
            InvalidInput: a value breaks a rule; the message states the rule. Nothing is stored.
            ConversationExists: the id is taken by a conversation with other content, or the name is taken.
        """
        first = parse_input(system, role="system") if system is not None else []
        first.extend(to_message(message) for message in messages)
        window, parameters = split_window_options(parameters)
        options = merge_window_options({}, window)
        settings = {name: value for name, value in check_sticky_parameters(parameters).items() if value is not None}
        content: dict[str, Any] = {
            "name": check_conversation_name(name),
            "title": check_title(title),
            "settings": settings,
            "metadata": check_metadata(metadata or {}),
            "first": first,
        }
        new = NewConversation(
            key=ConversationKey(self._owner, check_id(id) if id is not None else make_conversation_id()),
            window=options,
            made_title=find_title(first),
            digest=digest(b"", content | ({"window": options} if options else {})),
            **content,
        )
        limits_wait = self._transactions.may_wait  # a limit would stay in the caller's own transaction
        return self._transactions.write_repeatable(creation.create_conversation, new, limits_wait=limits_wait)

    def set(
        self,
        /,
        conversation_id: str,
        *,
        name: Given[str] = UNCHANGED,
        title: Given[str] = UNCHANGED,
        metadata: Given[Mapping[str, Any]] = UNCHANGED,
        metadata_texts: Given[Mapping[str, str]] = UNCHANGED,
        **parameters: Any,
    ) -> Conversation:
        """Change a conversation's name, title, metadata or sticky parameters, and return it.

        Args:
            conversation_id: the conversation's id.
            name: a new name; None removes it.
            title: a new title; None removes it.
            metadata: replaces all of it.
            metadata_texts: replaces the values in it that are texts, and leaves the others, which imports store.
            parameters: completion parameters to keep, and options of the window; None removes one.

        Raises:
            InvalidInput: a value breaks a rule. Nothing is changed.
            ConversationNotFound: the owner has no such conversation.
            ConversationExists: the name is taken.
            ConversationBusy: another transaction held the conversation's row for 30 seconds; in the caller's own
                transaction, at once.
        """
        window, parameters = split_window_options(parameters)
        change = ConversationChange(
            name=name if name is UNCHANGED else check_conversation_name(name),
            title=title if title is UNCHANGED else check_title(title),
            metadata=metadata if metadata is None or metadata is UNCHANGED else check_metadata(metadata),
            metadata_texts=(
                metadata_texts
                if metadata_texts is None or metadata_texts is UNCHANGED
                else check_metadata_texts(metadata_texts)
            ),
            parameters=check_sticky_parameters(parameters),
            window=window,
        )
        key = self._key(conversation_id)
        return self._run_unlocked(
            partial(self._transactions.write_repeatable, description.change_conversation, key, change)
        )

    def import_(
        self,
        source: str | os.PathLike[str] | IO[bytes] | Iterable[ImportedConversation | Problem],
        *,
        kind: str | None = None,
        dry_run: bool = False,
        new_ids: bool = False,
        again: bool = False,
        on_progress: Callable[[int, float | None], object] | None = None,
    ) -> ImportReport:
        """Bring in the conversations of a file of another program, and return what was done.

        A file may be brought in again: only what is new is added, as a branch where it differs. Each conversation is
        stored whole or not at all. Of a large import, the search index gets the first messages only, and searches or
        `reindex` add the others.

        The conversations of an `export` in convstore's own format keep their ids, and become what they were.

        Args:
            source: a file, a folder, a binary stream; or conversations that the application has read itself.
            kind: the kind of the file, such as `chatgpt`; None: it is recognised. For conversations, a name of the
                application's own, `custom` by default.
            dry_run: store nothing, and return what would be done.
            new_ids: if the id of an exported conversation is taken by other contents, give it a new one.
            again: bring in conversations that were purged or redacted here, too; else they are left out.
            on_progress: called with the number of messages read so far, and the share of the file that they are, from
                0 to 1; None: unknown.

        Raises:
            InvalidInput: the file does not exist, or its kind is not known.
        """
        from convstore.conversations.foreign_imports import ForeignImport
        from convstore.conversations.import_run import ImportTerms

        terms = ImportTerms(self._owner, dry_run, again, new_ids)
        begin = partial(ForeignImport, self._transactions, terms, on_progress=on_progress)
        if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
            return begin(kind or "custom", None).run(source)
        from convstore.transfer.reading import OWN_KIND, open_conversations

        file = cast(str | os.PathLike[str] | IO[bytes], source)
        name = Path(file).name if isinstance(file, str | os.PathLike) else None
        with open_conversations(file, kind) as opened:
            if opened.kind == OWN_KIND:
                from convstore.conversations.own_imports import OwnImport

                own = OwnImport(self._transactions, terms, on_progress=on_progress, get_share=opened.progress.get_share)
                return own.run(cast("Iterable[OwnConversation | Problem]", opened.conversations))
            return begin(opened.kind, name, get_share=opened.progress.get_share).run(opened.conversations)

    def append(
        self,
        conversation_id: str,
        message: object,
        *more: object,
        idempotency_key: str | None = None,
        expected_head: int | None = None,
        on_busy: OnBusy = "wait",
        wait: float = 30.0,
    ) -> builtins.list[MessageRecord]:
        """Append messages without asking a model, and return them with their places.

        Args:
            conversation_id: the conversation's id.
            message: a dict, an openai message, text (a user's message), or a whole openai completion: its message is
                appended, and the facts about it (usage, model, finish reason …) are kept as a turn.
            more: further messages.
            idempotency_key: names this addition: repeated with the same key, it returns what the first one stored.
            expected_head: the `head_seq` that you saw; None: any.
            on_busy: while a turn is running: `"wait"`, or `"reject"` at once.
            wait: how many seconds to wait at most.

        Raises:
            InvalidMessage: one of them is not a message. Nothing is stored.
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn is still running.
            HeadMoved: the head is not the expected one.
            IdempotencyMismatch: the key was used with other input.
        """
        key, seconds = self._key(conversation_id), get_wait_seconds(on_busy, wait)
        addition = make_addition((message, *more), check_idempotency_key(idempotency_key), to_seq(expected_head))
        return SyncRunner().run(append_when_free(self._transactions, key, addition, seconds))

    def undo(self, conversation_id: str, n: int = 1, *, expected_head: int | None = None) -> Conversation:
        """Move the head back by `n` turns, and return the conversation. Nothing is lost: see `redo`.

        A turn begins with a user's message; a system message that came together with it belongs to the turn.

        Args:
            conversation_id: the conversation's id.
            n: number of turns.
            expected_head: the `head_seq` that you saw; None: any.

        Raises:
            InvalidInput: the path has fewer turns.
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn is running. Undo does not wait for it: it would undo another turn.
            HeadMoved: the head is not the expected one.
        """
        return self._transactions.write(
            head_moves.undo, self._key(conversation_id), check_turn_count(n), to_seq(expected_head)
        )

    def redo(self, conversation_id: str, *, expected_head: int | None = None) -> Conversation:
        """Move the head to where it was before the latest `undo`, and return the conversation.

        Raises:
            InvalidInput: nothing was undone, or the head is on another branch since.
            ConversationNotFound, ConversationBusy, HeadMoved: as `undo`.
        """
        return self._transactions.write(head_moves.redo, self._key(conversation_id), to_seq(expected_head))

    def checkout(self, conversation_id: str, seq: int, *, expected_head: int | None = None) -> Conversation:
        """Move the head to any message, by its `seq` (see `tree`); 0: before the first.

        Raises:
            InvalidInput: no message has this `seq`, or it is an interrupted tool call.
            ConversationNotFound, ConversationBusy, HeadMoved: as `undo`.
        """
        return self._transactions.write(
            head_moves.checkout, self._key(conversation_id), Seq(check_seq(seq)), to_seq(expected_head)
        )

    def fork(
        self,
        conversation_id: str,
        *,
        at: int | None = None,
        new_id: str | None = None,
        name: str | None = None,
        title: Given[str] = UNCHANGED,
        expected_head: int | None = None,
    ) -> Conversation:
        """Create a conversation that shares the past of this one, and return it. Nothing is copied, at any length.

        The two then go on independently. The fork begins with the parameters, metadata, options of the window, pins
        and summary of this one; deleting either does not touch the other.

        Args:
            conversation_id: the conversation's id.
            at: the last position to share; None: the whole path.
            new_id: the new conversation's id; None: 12 random characters.
            name: the new conversation's name.
            title: the new conversation's title; by default the same.
            expected_head: the `head_seq` that you saw; None: any.

        Raises:
            InvalidInput: the path has no such position, or the id or the name breaks a rule.
            ConversationNotFound: the owner has no such conversation.
            ConversationExists: the new id or the name is taken.
            ConversationBusy: another transaction has been purging it for 30 seconds; in the caller's own transaction,
                at once.
            HeadMoved: the head is not the expected one.
        """
        request = ForkRequest(
            new_id=check_id(new_id) if new_id is not None else make_conversation_id(),
            name=check_conversation_name(name),
            title=title if title is UNCHANGED else check_title(title),
            at=Position(check_position(at)) if at is not None else None,
            expected_head=to_seq(expected_head),
        )
        key = self._key(conversation_id)
        try:
            return self._transactions.write(forks.fork, key, request)
        except ConversationBusy:  # somebody purges it
            return self._run_unlocked(partial(self._transactions.write, forks.fork, key, request))

    def pin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        """Pin the message at a position of the current path: it is always sent. Return the conversation.

        A tool call is pinned together with its results.

        Args:
            conversation_id: the conversation's id.
            position: 1, 2, 3 …
            expected_head: the `head_seq` that you saw; None: any.

        Raises:
            InvalidInput: the path has no such position, its tool calls have no results yet, or more than 100 messages
                would be pinned.
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn is running.
            HeadMoved: the head is not the expected one.
        """
        return self._transactions.write_repeatable(
            pins.pin, self._key(conversation_id), Position(check_position(position)), to_seq(expected_head)
        )

    def unpin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        """Unpin the message at a position, and return the conversation; takes and raises what `pin` does."""
        return self._transactions.write_repeatable(
            pins.unpin, self._key(conversation_id), Position(check_position(position)), to_seq(expected_head)
        )

    def drop_summary(self, conversation_id: str) -> Summary | None:
        """Stop sending the current summary, and return it; the one before it, or the messages, are sent again.

        Returns:
            None if the path has no summary.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return self._run_unlocked(partial(self._transactions.write, pins.drop_summary, self._key(conversation_id)))

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation; `restore` brings it back.

        Its rows are kept: its forks stay complete.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: a turn is running.
        """
        self._transactions.write(deletion.delete, self._key(conversation_id))

    def restore(self, conversation_id: str) -> Conversation:
        """Restore a deleted conversation by its whole id, and return it.

        Raises:
            ConversationNotFound: the owner has no deleted conversation with this id.
            ConversationExists: another conversation has its name now.
        """
        return self._transactions.write(
            deletion.restore, ConversationKey(self._owner, check_existing_id(conversation_id))
        )


def to_seq(head: int | None) -> Seq | None:
    """Return the head that a caller expects, checked; None: any."""
    checked = check_head_seq(head)
    return Seq(checked) if checked is not None else None
