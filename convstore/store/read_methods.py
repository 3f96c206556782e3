"""The methods of a store that only read conversations, and call no model."""

from __future__ import annotations

import builtins  # inside the class, `list` is a method
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import IO, TYPE_CHECKING, Any

from convstore.context.window import SendableBuffer, make_records_sendable
from convstore.conversations import drawer, history_queries, usage_queries
from convstore.conversations.history_queries import PathPage
from convstore.errors import DamagedRow, DatabaseError, InvalidInput
from convstore.messages.message import Message
from convstore.store.find_methods import FindMethods
from convstore.values.identifiers import NO_SEQ, Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, Rating, Summary, Turn
from convstore.values.validation import (
    check_before,
    check_existing_id,
    check_limit,
    check_moment,
    check_position,
)

if TYPE_CHECKING:
    from convstore.db.usage_plan import UsagePlan
    from convstore.usage.usage_report import UsageBy, UsageReport
    from convstore.values.export_report import ExportReport

_logger = logging.getLogger(__name__)

_HITS_AT_ONCE = 500


def _ignore(error: DamagedRow) -> None:
    """Leave out a text that cannot be read: the export names the damage of what it writes."""


class ReadMethods(FindMethods):
    """Reading an owner's conversations."""

    def history(
        self,
        conversation_id: str,
        *,
        limit: int | None = None,
        max_bytes: int | None = None,
        exact: bool = False,
    ) -> builtins.list[Message]:
        """Return the conversation as a list of messages, oldest first.

        Args:
            conversation_id: the conversation's id.
            limit: return only the last so many messages; None: all.
            max_bytes: return only as many of the last messages as have so many bytes together (UTF-8, attachments as
                base64), and at least one; None: all.
            exact: True: as they were stored; False: in request form, which `create(messages=…)` takes.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            InvalidInput: a limit is not a whole number of at least 0.
        """
        found = self._transactions.read(
            history_queries.read_messages, self._key(conversation_id), check_limit(limit), check_limit(max_bytes)
        )
        return [record.message for record in found] if exact else make_records_sendable(found)

    def iterate_history(self, conversation_id: str, *, exact: bool = False) -> Iterator[Message]:
        """Yield the messages of the conversation one by one, oldest first, as `history` returns them.

        They are read page by page, so the memory that is needed does not grow with the conversation. If the
        conversation changes meanwhile, the path is the one that the first page was read from.

        Args:
            conversation_id: the conversation's id.
            exact: as for `history`.

        Raises:
            ConversationNotFound: the owner has no such conversation, or it was deleted meanwhile.
        """
        buffer = SendableBuffer()
        for record in self.iterate_messages(conversation_id):
            yield from (record.message,) if exact else buffer.add(record)
        yield from buffer.take_rest()

    def iterate_messages(self, conversation_id: str) -> Iterator[MessageRecord]:
        """Yield the messages of the conversation with their places, oldest first, as `iterate_history` does.

        Raises:
            ConversationNotFound: the owner has no such conversation, or it was deleted meanwhile.
        """
        page = self._read_path_page(conversation_id)
        yield from page.records
        while not page.is_last:
            page = self._read_path_page(conversation_id, page)
            yield from page.records

    def _read_path_page(self, conversation_id: str, before: PathPage | None = None) -> PathPage:
        return self._transactions.read(history_queries.read_path_page, self._key(conversation_id), before)

    def messages(
        self,
        conversation_id: str,
        *,
        before: int | None = None,
        limit: int | None = 100,
        max_bytes: int | None = None,
    ) -> builtins.list[MessageRecord]:
        """Return the messages of the conversation with their places, oldest first: a page, from the end.

        Args:
            conversation_id: the conversation's id.
            before: the `seq` of the first message of the page read last; None: read from the end.
            limit: the maximum number of messages; None: all.
            max_bytes: the maximum number of bytes, as for `history`; None: any number.

        Raises:
            ConversationNotFound: the owner has no such conversation.
            InvalidInput: no message has this `seq`, or a limit is not a whole number of at least 0.
        """
        before = check_before(before)
        return self._transactions.read(
            history_queries.read_history,
            self._key(conversation_id),
            check_limit(limit),
            Seq(before) if before is not None else None,
            check_limit(max_bytes),
        )

    def turns(self, conversation_id: str, *, before: int | None = None, limit: int | None = 100) -> builtins.list[Turn]:
        """Return the turns of the conversation, oldest first, failed ones too: a page, from the end.

        Args:
            conversation_id: the conversation's id.
            before: the `seq` of the first turn of the page read last; None: read from the end.
            limit: the maximum number of turns; None: all.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        before = check_before(before)
        return self._transactions.read(
            history_queries.list_turns,
            self._key(conversation_id),
            check_limit(limit),
            TurnNumber(before) if before is not None else None,
        )

    def unanswered(self, conversation_id: str) -> builtins.list[Turn]:
        """Return the turns since the last reply that have no reply, oldest first; 20 at most.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return self._transactions.read(history_queries.list_unanswered_turns, self._key(conversation_id))

    def input_of(self, turn: Turn) -> builtins.list[MessageRecord]:
        """Return the input messages of a turn; a failed turn's are on no path."""
        return self._transactions.read(history_queries.read_turn_input, self._owner, turn)

    def tree(self, conversation_id: str) -> builtins.list[MessageRecord]:
        """Return every message of the conversation, on its current path or off it, by `seq`.

        `parent_seq` names the message before each; the conversation's `head_seq` names the last one of the path.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return self._transactions.read(history_queries.read_tree, self._key(conversation_id))

    def iterate_tree(self, conversation_id: str) -> Iterator[MessageRecord]:
        """Yield every message of the conversation one by one, as `tree` returns them.

        They are read page by page, so the memory that is needed does not grow with the conversation. Messages that are
        stored meanwhile come at the end.

        Raises:
            ConversationNotFound: the owner has no such conversation, or it was deleted meanwhile.
        """
        records = self._read_tree_page(conversation_id, NO_SEQ)
        while records:
            yield from records
            records = self._read_tree_page(conversation_id, records[-1].seq)

    def _read_tree_page(self, conversation_id: str, after: Seq) -> builtins.list[MessageRecord]:
        return self._transactions.read(history_queries.read_tree_page, self._key(conversation_id), after)

    def at(self, conversation_id: str, position: int) -> MessageRecord:
        """Return the message at a position (1, 2, 3 …) of the current path.

        Raises:
            InvalidInput: the path has no such position.
            ConversationNotFound: the owner has no such conversation.
        """
        return self._transactions.read(
            history_queries.read_message, self._key(conversation_id), Position(check_position(position))
        )

    def interrupted(self, conversation_id: str, records: Sequence[MessageRecord]) -> frozenset[Seq]:
        """Return the `seq` of each given message that is a partial reply."""
        return self._transactions.read(history_queries.find_interrupted_replies, self._key(conversation_id), records)

    def ratings(self, conversation_id: str) -> builtins.list[Rating]:
        """Return the ratings of the conversation's replies, on the current path or off it, by `seq`.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return self._transactions.read(drawer.list_ratings, self._key(conversation_id))

    def tags(self) -> dict[str, int]:
        """Return the owner's tags, each with the number of its conversations; deleted ones do not count."""
        return self._transactions.read(drawer.count_tags, self._owner)

    def export(
        self,
        target: str | os.PathLike[str] | IO[bytes],
        *conversation_ids: str,
        query: str | None = None,
        format: str = "jsonl",
        tree: bool | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> ExportReport:
        """Write conversations to a file, and return what was written.

        Only convstore's own format, `jsonl`, has everything, and `import_` makes an equal conversation of it. It also
        has archived and deleted conversations if all are exported. Each conversation is read in a transaction of its
        own.

        Args:
            target: a file; a folder, which gets a file for each conversation; or a binary stream. A file that exists is
                replaced when the new one is whole.
            conversation_ids: the conversations; none: all of the owner's.
            query: instead, the conversations with a message or a title that `search` finds, no archived ones.
            format: `jsonl`, `markdown`, `html`, `openai`, `sharegpt`, `preferences`, `csv`, `csv-turns`, `parquet` or
                `parquet-turns`.
            tree: write all branches (True), or only the current path (False); None: what is usual for the format.
                `jsonl` always has all.
            on_progress: called after each conversation with the number of messages written so far.

        Raises:
            InvalidInput: the format is not known, or the file cannot be written.
            ConversationNotFound: the owner has no such conversation.
        """
        from convstore.store.exports import Export, ExportRequest, check_format

        ids: Sequence[str] | None = conversation_ids or None
        if query is not None:
            if ids is not None:
                raise InvalidInput("give conversations or a query, not both")
            ids = self._find_conversations(query)
        elif ids is not None:
            ids = [self.get(id).id for id in ids]
        request = ExportRequest(ids, check_format(format), tree)
        return Export(self._transactions, self._owner, request, on_progress).run(target)

    def _find_conversations(self, query: str) -> builtins.list[str]:
        """Return the ids of the conversations that a query finds, those with the newest hits first."""
        found: dict[str, None] = {}
        before: str | None = None
        while True:
            page = self.search(query, limit=_HITS_AT_ONCE, before=before, on_damaged=_ignore)
            found |= dict.fromkeys(hit.conversation for hit in page.hits)
            before = page.next
            if before is None:
                return [*found]

    def summary(self, conversation_id: str) -> Summary | None:
        """Return the summary that is sent instead of the older part of the current path, or None.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return self._transactions.read(history_queries.read_summary, self._key(conversation_id))

    def pending_calls(self, conversation_id: str) -> builtins.list[dict[str, Any]]:
        """Return the tool calls of the latest reply that have no result yet, as they are sent.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """
        return self._transactions.read(history_queries.find_pending_calls, self._key(conversation_id))

    def usage(
        self,
        conversation_id: str | None = None,
        *,
        since: datetime | date | None = None,
        until: datetime | date | None = None,
        by: UsageBy | None = None,
    ) -> UsageReport:
        """Return what this owner's turns used: their number, tokens, cost and latency.

        Running turns are not counted. Turns of deleted conversations are, and turns that wrote summaries.

        Args:
            conversation_id: count only this conversation; a fork's shared past counts for its origin. None: all.
            since: count turns that began at this time or later; a date begins at 00:00 UTC.
            until: count turns that began before this time.
            by: return a row for each `"model"`, `"day"` (UTC) or `"conversation"`.

        Raises:
            InvalidInput: a time has no time zone; the grouping is unknown; the prices are wrong.
            ConversationNotFound: the owner has no such conversation.
        """
        from convstore.usage.usage_report import check_usage_by

        begin, end = check_moment(since, "since"), check_moment(until, "until")
        grouping = check_usage_by(by)
        plan = None
        if conversation_id is not None:
            check_existing_id(conversation_id)
        elif grouping != "conversation" and self._transactions.may_wait:  # not in a caller's transaction
            plan = self._plan_usage(begin, end)
        return self._transactions.read(
            usage_queries.read_usage, self._owner, conversation_id, since=begin, until=end, by=grouping, plan=plan
        )

    def _plan_usage(self, since: datetime | None, until: datetime | None) -> UsagePlan | None:
        """Return from where a report takes its numbers; first sum past days with many turns.

        Return None if all turns are to be read.
        """
        try:
            plan = self._transactions.read(usage_queries.plan_usage, self._owner, since=since, until=until)
            if not plan.to_sum:
                return plan
            for span in plan.to_sum:
                try:
                    self._transactions.write_repeatable(usage_queries.sum_days, self._owner, span)
                except DamagedRow as error:  # these turns are read, and the report names the damage
                    _logger.warning("usage: some past days cannot be summed (%s)", type(error).__name__)
            return self._transactions.read(usage_queries.plan_usage, self._owner, since=since, until=until)
        except DamagedRow:
            raise
        except DatabaseError as error:  # the database can only be read, another program writes for long, …
            _logger.info("usage: the turns are read instead of sums (%s)", type(error).__name__)
            return None

    def usage_by_owner(
        self, *, since: datetime | date | None = None, until: datetime | date | None = None
    ) -> UsageReport:
        """Return what the turns of all owners used, with a row for each: for administrators.

        Only a store without an owner (`owner=""`) may call this.

        Args:
            since: count turns that began at this time or later; a date begins at 00:00 UTC.
            until: count turns that began before this time.

        Raises:
            InvalidInput: the store has an owner; or as `usage`.
        """
        if self._owner:
            raise InvalidInput(
                f"owner {self._owner!r} may not see what all owners used; only a store without an owner may"
            )
        return self._transactions.read(
            usage_queries.read_usage_by_owner,
            since=check_moment(since, "since"),
            until=check_moment(until, "until"),
        )
