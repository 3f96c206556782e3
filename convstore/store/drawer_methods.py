"""The methods of a store that put conversations in order: the archive, tags, ratings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Concatenate, Literal, ParamSpec, TypeVar

from convstore.conversations import drawer
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.waiting import repeat_while_locked
from convstore.store.read_methods import ReadMethods
from convstore.turns.sync_runner import SyncRunner
from convstore.values.identifiers import ConversationKey, Position
from convstore.values.results import Conversation, Rating
from convstore.values.steps import DatabaseWork
from convstore.values.validation import check_position, check_rating, check_tags

P = ParamSpec("P")
T = TypeVar("T")


class DrawerMethods(ReadMethods):
    """Putting an owner's conversations in order."""

    def archive(self, conversation_id: str) -> Conversation:
        """Put a conversation into the archive, and return it: it leaves the usual list and the usual search.

        It can be read and continued as before. `unarchive` takes it out again.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            ConversationBusy: another transaction held the conversation's row for 30 seconds.
        """
        return self._arrange(drawer.archive, conversation_id)

    def unarchive(self, conversation_id: str) -> Conversation:
        """Take a conversation out of the archive, and return it; raises what `archive` does."""
        return self._arrange(drawer.unarchive, conversation_id)

    def tag(self, conversation_id: str, *tags: str) -> Conversation:
        """Add tags to a conversation, and return it; `list(tags=…)` and `search(tags=…)` find it by them.

        Args:
            conversation_id: the conversation's id.
            tags: 1 to 64 letters, digits, `.`, `_` or `-` each.

        Raises:
            InvalidInput: a tag breaks the rule, or none is given.
            ConversationNotFound, ConversationBusy: as `archive`.
        """
        return self._arrange(drawer.tag, conversation_id, check_tags(tags))

    def untag(self, conversation_id: str, *tags: str) -> Conversation:
        """Remove tags from a conversation, and return it; takes and raises what `tag` does."""
        return self._arrange(drawer.untag, conversation_id, check_tags(tags))

    def rate(
        self,
        conversation_id: str,
        position: int,
        rating: Literal["good", "bad"] | None,
        *,
        note: str | None = None,
    ) -> Rating | None:
        """Rate the reply at a position of the current path, and return the rating.

        Args:
            conversation_id: the conversation's id.
            position: 1, 2, 3 …
            rating: replaces the one before; None: removes it.
            note: the reason, in your own words.

        Raises:
            InvalidInput: the path has no such position, the message is not a reply, or the rating is not valid.
            ConversationNotFound, ConversationBusy: as `archive`.
        """
        value, text = check_rating(rating, note)
        return self._arrange(drawer.rate, conversation_id, Position(check_position(position)), value, text)

    def _arrange(
        self,
        unit: Callable[Concatenate[UnitOfWork, ConversationKey, P], T],
        conversation_id: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a unit of work that changes no message and may run twice."""
        key = self._key(conversation_id)
        return self._run_unlocked(partial(self._transactions.write_repeatable, unit, key, *args, **kwargs))

    def _run_unlocked(self, work: Callable[[], T]) -> T:
        """Run a transaction; in our own one, wait for another transaction that holds the conversation's row."""
        if not self._transactions.may_wait:
            return work()
        result: T = SyncRunner().run(repeat_while_locked(DatabaseWork(work)))
        return result
