"""The methods of a store that find conversations."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import date, datetime
from typing import TYPE_CHECKING, Literal, Self

from convstore.conversations import lookup
from convstore.db.transactions import Transactions
from convstore.errors import ConversationNotFound, DamagedRow, DatabaseError, InvalidInput
from convstore.values.identifiers import ConversationKey
from convstore.values.list_filter import Drawer, ListFilter, parse_list_cursor
from convstore.values.results import Conversation
from convstore.values.validation import (
    check_existing_id,
    check_limit,
    check_moment,
    check_owner,
    check_rating,
    check_search_limit,
    check_tags,
    is_key,
)

if TYPE_CHECKING:
    from convstore.values.search_results import SearchResults

_logger = logging.getLogger(__name__)


def _fold(text: str | None) -> str | None:
    """Return a text as texts are compared; None: no text, or only spaces."""
    if text is None:
        return None
    from convstore.search.folded_text import fold  # most lists need none

    return fold(text) or None


_FILL_SECONDS = 1.0
"""How long a search adds messages to an index that does not have all of them yet."""


class FindMethods:
    """Finding an owner's conversations.

    Args:
        transactions: run each unit of work in a transaction of its own, or in the caller's.
    """

    def __init__(self, transactions: Transactions, owner: str) -> None:
        self._transactions = transactions
        self._owner = owner

    @property
    def owner(self) -> str:
        """The owner of the conversations."""
        return self._owner

    def for_owner(self, owner: str) -> Self:
        """Return a view limited to one owner's conversations.

        It shares the connections with this object; closing one closes both.

        Raises:
            InvalidInput: not a valid owner.
        """
        view = copy(self)
        view._owner = check_owner(owner)
        return view

    def _key(self, conversation_id: str) -> ConversationKey:
        return ConversationKey(self._owner, check_existing_id(conversation_id))

    def get(self, reference: str, *, deleted: bool = False) -> Conversation:
        """Return the conversation with this id or name, or with an id that begins so.

        Args:
            deleted: find deleted conversations instead of the others. Several of them may have had one name.

        Raises:
            ConversationNotFound: no conversation matches, or it is deleted (`ConversationDeleted`).
            AmbiguousReference: several ids begin so, or several deleted conversations have the name.
        """
        if not is_key(reference):
            raise ConversationNotFound(f"no conversation {reference!r:.80}")
        find = lookup.find_deleted if deleted else lookup.find_conversation
        return self._transactions.read(find, self._owner, reference)

    def list(
        self,
        text: str | None = None,
        *,
        limit: int | None = 20,
        before: Conversation | str | None = None,
        tags: Sequence[str] = (),
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        source: str | None = None,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        archived: bool = False,
        deleted: bool = False,
        on_damaged: Callable[[DamagedRow], object] | None = None,
    ) -> builtins.list[Conversation]:
        """Return conversations, latest activity first; archived and deleted ones only if they are asked for.

        Args:
            text: return only those with this text in the title or the name. Case, accents and width do not matter.
            limit: the maximum number of conversations; None: all.
            before: the last conversation of the previous page, or its `cursor`, to get the next one.
            tags: return only those with all of these tags.
            model: return only those with this `model`.
            metadata: return only those with these values in their metadata, each as a text.
            source: return only those that were imported from this kind of file, such as `chatgpt`.
            since: return only those with activity at this time or later; a date begins at 00:00 UTC.
            until: return only those with no activity at this time or later.
            archived: return the archived conversations instead of the others.
            deleted: return the deleted conversations instead of the others.
            on_damaged: called with an error for each conversation with a damaged row, and the others are returned.
                None: the first of these errors is raised.

        Raises:
            InvalidInput: a tag, a time, a limit or `before` is not valid.
            DamagedRow: a row is damaged, and `on_damaged` is None.
        """
        chosen = ListFilter(
            drawer=Drawer.DELETED if deleted else Drawer.ARCHIVED if archived else Drawer.LISTED,
            text=_fold(text),
            since=check_moment(since, "since"),
            until=check_moment(until, "until"),
            model=model,
            metadata=dict(metadata or {}),
            source=source,
            tags=frozenset(check_tags(tags)) if tags else frozenset(),
        )
        found, damaged = self._transactions.read(
            lookup.list_conversations, self._owner, check_limit(limit), parse_list_cursor(before), chosen
        )
        for error in damaged:
            if on_damaged is None:
                raise error
            on_damaged(error)
        return found

    def search(
        self,
        query: str,
        *,
        limit: int = 20,
        before: str | None = None,
        conversation_id: str | None = None,
        role: str | None = None,
        model: str | None = None,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        tags: Sequence[str] = (),
        rating: Literal["good", "bad"] | None = None,
        best: bool = False,
        archived: bool = False,
        deleted: bool = False,
        on_damaged: Callable[[DamagedRow], object] | None = None,
    ) -> SearchResults:
        """Return messages and titles that contain all parts of a query, newest first.

        A part is what stands between spaces: `"a phrase"` is one part, `-word` must not be in the text, and `migrat*`
        finds words that begin so. Everything else is literal. Case, accents and width do not matter. A message's text,
        its refusal and its tool calls are searched, and the titles and names of conversations.

        Args:
            query: 1 to 1,000 characters.
            limit: the maximum number of hits, at least 1.
            before: the `next` of the page before, to get the next one.
            conversation_id: search only this conversation, and the past that it shares with others.
            role: find only messages with this role.
            model: find only messages of turns that asked for this model, or were answered by it.
            since: find only what was stored at this time or later; a date begins at 00:00 UTC.
            until: find only what was stored before this time.
            tags: search only conversations with all of these tags.
            rating: find only replies that were rated so.
            best: return the most relevant hits among the newest 1,000, best first: the query stands in them often, and
                they are short. They have no further pages.
            archived: search archived conversations too.
            deleted: search deleted conversations too.
            on_damaged: called with an error for each text that cannot be read, and the others are searched. None: the
                first of these errors is raised.

        Raises:
            InvalidInput: the query is empty, a limit or a time is wrong, or `before` is no page.
            ConversationNotFound: the owner has no such conversation.
            DamagedRow: a text cannot be read, and `on_damaged` is None.
        """
        from convstore.conversations import search_filling, text_search
        from convstore.search.query import parse_query
        from convstore.values.search_results import SearchRequest, parse_cursor

        if best and before is not None:
            raise InvalidInput("the best hits have no further pages: give `best` without `before`")
        request = SearchRequest(
            query=parse_query(query),
            limit=check_search_limit(limit),
            before=parse_cursor(before),
            conversation_id=check_existing_id(conversation_id) if conversation_id is not None else None,
            role=role,
            model=model,
            since=check_moment(since, "since"),
            until=check_moment(until, "until"),
            tags=tuple(check_tags(tags)) if tags else (),
            rating=check_rating(rating, None)[0],
            best=best,
            archived=archived,
            deleted=deleted,
        )
        found, damaged = self._transactions.read(text_search.search, self._owner, request)
        if not found.is_index_complete and self._transactions.may_wait:
            try:
                search_filling.fill_index(self._transactions, self._owner, seconds=_FILL_SECONDS)
            except DatabaseError as error:  # the database can only be read, another program writes for long …
                _logger.info("search: the index was not filled (%s)", type(error).__name__)
            found, damaged = self._transactions.read(text_search.search, self._owner, request)
        for problem in damaged:
            if on_damaged is None:
                raise problem
            on_damaged(problem)
        return found

    def reindex(
        self,
        *,
        whole: bool = False,
        seconds: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> int:
        """Add this owner's messages that the search index does not have yet, and return how many were added.

        These are messages from before the index existed, and very long ones. A search adds them too, for a second. The
        work may be stopped at any time, and the next call goes on. Damaged messages are left out; the log names them.

        Args:
            whole: compare the index with every conversation. This is needed once after an older release of convstore
                wrote to the upgraded database.
            seconds: end after about so many; None: go on to the end.
            on_progress: called with the number of messages added so far.
        """
        from convstore.conversations.search_filling import fill_index, put_off_all

        if whole:
            self._transactions.write_repeatable(put_off_all, self._owner)
        return fill_index(self._transactions, self._owner, seconds=seconds, on_progress=on_progress)
