"""A conversation's tree as its owner moves along it, and what its window holds: all that needs no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from convstore.conversations import head_moves, queries
from convstore.db.unit_of_work import Transactions
from convstore.leases import process_locks
from convstore.values.results import UNCHANGED, Conversation, Given, MessageRecord, Summary
from convstore.values.validation import (
    check_count,
    check_head,
    check_id,
    check_name,
    check_position,
    check_seq,
    check_title,
    known_id,
    random_id,
)

Records: TypeAlias = list[MessageRecord]
Calls: TypeAlias = list[dict[str, Any]]


class Branches:
    """Moving along the tree, forks, pins, summaries, deletion: a part of `Conversations`."""

    _owner: str
    _transactions: Transactions

    # --- along the tree ---

    def undo(self, conversation_id: str, n: int = 1, *, expected_head: int | None = None) -> Conversation:
        """Move the head back by `n` turns, and return the conversation as it is then. Nothing is lost: see `redo`.

        A turn begins with a user's message; a system message that was given together with it goes with it.

        Args:
            conversation_id: its id.
            n: how many turns.
            expected_head: the `head_seq` that the caller saw; None: any.

        Raises:
            InvalidInput: there are not so many turns.
            ConversationNotFound: there is none with this id.
            ConversationBusy: a turn is running. This is not waited for: what is to be undone would be another turn.
            HeadMoved: the head is not the expected one.
        """
        return self._move(head_moves.undo, conversation_id, check_count(n), expected_head=expected_head)

    def redo(self, conversation_id: str, *, expected_head: int | None = None) -> Conversation:
        """Move the head to where the latest `undo` that was not taken back found it.

        Raises:
            InvalidInput: nothing was undone, or the conversation has gone on another way since.
            ConversationNotFound, ConversationBusy, HeadMoved: as `undo`.
        """
        return self._move(head_moves.redo, conversation_id, expected_head=expected_head)

    def checkout(self, conversation_id: str, seq: int, *, expected_head: int | None = None) -> Conversation:
        """Move the head to any message, by its `seq` (see `tree`); 0: before the first.

        Raises:
            InvalidInput: there is no such message, or it is a tool call that broke off.
            ConversationNotFound, ConversationBusy, HeadMoved: as `undo`.
        """
        return self._move(head_moves.checkout, conversation_id, check_seq(seq), expected_head=expected_head)

    def _move(
        self, change: Callable[..., Conversation], id: str, *args: Any, expected_head: int | None
    ) -> Conversation:
        return self._transactions.write(
            change,
            self._owner,
            known_id(id),
            *args,
            expected_head=check_head(expected_head),
            now=datetime.now(UTC),
            alive=process_locks.is_alive,
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
        """Begin a conversation that shares the past of this one, and return it. Nothing is copied, at any length.

        The two then go on independently. The parameters, metadata, options of the window, pins and summary are those
        of this one; deleting it does not touch the fork.

        Args:
            conversation_id: its id.
            at: the position up to which the past is shared; None: all of the current path.
            new_id: the new conversation's id; else 12 random characters.
            name: its name.
            title: its title, if it is not to have the same.
            expected_head: the `head_seq` that the caller saw; None: any.

        Raises:
            InvalidInput: there is no such position, or the id or the name breaks a rule.
            ConversationNotFound: there is none with this id.
            ConversationExists: the new id or the name is taken.
            HeadMoved: the head is not the expected one.
        """
        return self._transactions.write(
            head_moves.fork,
            self._owner,
            known_id(conversation_id),
            at=check_position(at) if at is not None else None,
            new_id=check_id(new_id) if new_id is not None else random_id(),
            name=check_name(name),
            title=title if title is UNCHANGED else check_title(title),
            expected_head=check_head(expected_head),
            now=datetime.now(UTC),
        )

    def tree(self, conversation_id: str) -> Records:
        """Return every message of the conversation, on its current path or off it, by `seq`.

        `parent_seq` says what each of them follows; the conversation's `head_seq` which is the last of the path.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.read(queries.tree, self._owner, known_id(conversation_id))

    def at(self, conversation_id: str, position: int) -> MessageRecord:
        """Return the message at a position (1, 2, 3 …) of the current path.

        Raises:
            InvalidInput: there is no such position.
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.read(queries.at, self._owner, known_id(conversation_id), check_position(position))

    def interrupted(self, conversation_id: str, records: Sequence[MessageRecord]) -> frozenset[int]:
        """Return the `seq` of those of the conversation's messages given that are replies which broke off."""
        return self._transactions.read(queries.interrupted, self._owner, known_id(conversation_id), records)

    # --- what the window holds ---

    def pin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        """Let the message at a position of the current path be sent always, however little else is.

        A tool call is pinned together with its results.

        Args:
            conversation_id: its id.
            position: 1, 2, 3 …
            expected_head: the `head_seq` that the caller saw; None: any.

        Raises:
            InvalidInput: there is no such position, its tool calls have no results yet, or 100 messages are pinned.
            ConversationNotFound: there is none with this id.
            ConversationBusy: a turn is running.
            HeadMoved: the head is not the expected one.
        """
        return self._pin(conversation_id, position, expected_head, pinned=True)

    def unpin(self, conversation_id: str, position: int, *, expected_head: int | None = None) -> Conversation:
        """Pin a message no more; as `pin`."""
        return self._pin(conversation_id, position, expected_head, pinned=False)

    def _pin(self, conversation_id: str, position: int, expected_head: int | None, *, pinned: bool) -> Conversation:
        return self._transactions.write_repeatable(
            head_moves.pin,
            self._owner,
            known_id(conversation_id),
            check_position(position),
            pinned,
            check_head(expected_head),
            datetime.now(UTC),
            process_locks.is_alive,
        )

    def summary(self, conversation_id: str) -> Summary | None:
        """Return the summary that stands in for the older part of the current path, or None.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.read(queries.summary, self._owner, known_id(conversation_id))

    def drop_summary(self, conversation_id: str) -> Summary | None:
        """Let the summary stand in no more, and return it: the one before it does, or the messages themselves.

        Returns:
            None where there is none.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.write(head_moves.drop_summary, self._owner, known_id(conversation_id))

    def pending_calls(self, conversation_id: str) -> Calls:
        """Return the tool calls that the latest turn waits for the results of, as the model made them.

        Raises:
            ConversationNotFound: there is none with this id.
        """
        return self._transactions.read(queries.pending_calls, self._owner, known_id(conversation_id))

    # --- out of sight ---

    def delete(self, conversation_id: str) -> None:
        """Take a conversation out of sight.

        Its rows stay: what was forked from it stays whole, and `restore` brings it back.

        Raises:
            ConversationNotFound: there is none with this id.
            ConversationBusy: a turn is running.
        """
        self._transactions.write(
            head_moves.delete, self._owner, known_id(conversation_id), datetime.now(UTC), process_locks.is_alive
        )

    def restore(self, conversation_id: str) -> Conversation:
        """Bring back a deleted conversation, by its whole id.

        Raises:
            ConversationNotFound: no deleted one has this id.
            ConversationExists: its name was taken meanwhile.
        """
        return self._transactions.write(head_moves.restore, self._owner, known_id(conversation_id))
