"""Reading a conversation: its messages, its tree, its turns, what waits for a reply or for a tool's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from convstore.context.history_reader import find_summary
from convstore.context.window import make_records_sendable
from convstore.db import history_rows, message_rows, path_bytes, turn_rows
from convstore.db.ancestors import find_message_at, read_message_at
from convstore.db.fork_sharing import Lineage
from convstore.db.head_rows import Head, read_head, read_head_seq, read_state
from convstore.db.history_rows import Reach
from convstore.db.message_rows import PathMessage
from convstore.db.redaction_rows import read_marks
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationNotFound, InvalidInput
from convstore.messages.tool_calls import find_unanswered_calls
from convstore.values.identifiers import ConversationKey, Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, Summary, Turn, TurnStatus

_MAX_UNANSWERED_TURNS = 20
_PAGE_MESSAGES = 500


@dataclass(frozen=True, slots=True)
class PathPage:
    """A part of a path that is read page by page, from its beginning."""

    records: list[MessageRecord]
    head: Head
    """The end of the path, as it was when the first page was read."""

    @property
    def is_last(self) -> bool:
        """Whether no message of the path comes after this page."""
        return not self.records or self.records[-1].position >= self.head.position


def read_history(
    work: UnitOfWork,
    key: ConversationKey,
    limit: int | None,
    before: Seq | None = None,
    max_bytes: int | None = None,
) -> list[MessageRecord]:
    """Return the last messages of the current path, or the last before message `before`.

    Args:
        max_bytes: return no more messages than have so many bytes, but at least one.
    """
    lineage, records = _read_history(work, key, limit, before, max_bytes)
    return _add_marks(work, lineage, records)


def _read_history(
    work: UnitOfWork, key: ConversationKey, limit: int | None, before: Seq | None, max_bytes: int | None
) -> tuple[Lineage, list[MessageRecord]]:
    head, lineage = read_head(work.connection, key)
    if before is not None:
        found = message_rows.find_place(work.connection, lineage, before)
        if found is None:
            raise InvalidInput(f"conversation {key.id!r} has no message with seq {before}")
        parent, position = found
        head = Head(parent, Position(position - 1))
    if max_bytes is not None:
        return lineage, path_bytes.read_path_within(work.connection, lineage, head.seq, limit, max_bytes)
    return lineage, history_rows.read_path(work.connection, lineage, head.seq, limit, position=head.position)


def _add_marks(work: UnitOfWork, lineage: Lineage, records: list[MessageRecord]) -> list[MessageRecord]:
    """Return messages with the times at which some of them were redacted."""
    marks = read_marks(work.connection, lineage, [record.seq for record in records])
    if not marks:
        return records
    return [
        replace(record, redacted_at=marks[record.seq].redacted_at) if record.seq in marks else record
        for record in records
    ]


def read_messages(
    work: UnitOfWork, key: ConversationKey, limit: int | None, max_bytes: int | None = None
) -> Sequence[PathMessage | MessageRecord]:
    """Return the last messages of the current path, as far as a request needs them."""
    if limit is not None or max_bytes is not None:
        return _read_history(work, key, limit, None, max_bytes)[1]
    head, lineage = read_head(work.connection, key)
    return history_rows.read_path_messages(work.connection, lineage, head)


def read_path_page(work: UnitOfWork, key: ConversationKey, before: PathPage | None) -> PathPage:
    """Return the first page of the current path, or the next page of the same path.

    Messages change only if they are redacted, so all pages together are the path as it was when the first was read.

    Args:
        before: the page before; None: begin with the current path.
    """
    head, lineage = read_head(work.connection, key)
    after = 0
    if before is not None:
        head, after = before.head, before.records[-1].position
    last = min(after + _PAGE_MESSAGES, head.position)
    if last == after:
        return PathPage([], head)
    end = find_message_at(work.connection, lineage, head.seq, Position(last))
    records = history_rows.read_path(work.connection, lineage, end, last - after, position=Position(last))
    return PathPage(_add_marks(work, lineage, records), head)


def read_message(work: UnitOfWork, key: ConversationKey, position: Position) -> MessageRecord:
    """Return the message at a position of the current path."""
    head, lineage = read_head_seq(work.connection, key)
    return _add_marks(work, lineage, [read_message_at(work.connection, lineage, head, position)])[0]


def read_tree(work: UnitOfWork, key: ConversationKey) -> list[MessageRecord]:
    """Return every message, on the current path or off it, by `seq`."""
    _, lineage = read_head_seq(work.connection, key)
    return _add_marks(work, lineage, history_rows.read_tree(work.connection, lineage))


def read_tree_page(work: UnitOfWork, key: ConversationKey, after: Seq) -> list[MessageRecord]:
    """Return the next messages after message `after`, on the current path or off it, by `seq`; [] at the end."""
    _, lineage = read_head_seq(work.connection, key)
    return _add_marks(work, lineage, history_rows.read_tree(work.connection, lineage, after, _PAGE_MESSAGES))


def read_turn_input(work: UnitOfWork, owner: str, turn: Turn) -> list[MessageRecord]:
    """Return the input messages of a turn."""
    key = ConversationKey(owner, turn.conversation_id)
    found = message_rows.read_turn_input(work.connection, Lineage(key), turn)
    if found or turn.first_input_seq is None:
        return found
    try:
        _, lineage = read_head_seq(work.connection, key)
    except ConversationNotFound:
        return []
    return message_rows.read_turn_input(work.connection, lineage, turn)


def find_interrupted_replies(
    work: UnitOfWork, key: ConversationKey, records: Sequence[MessageRecord]
) -> frozenset[Seq]:
    """Return the `seq` of the messages that are partial replies."""
    _, lineage = read_head_seq(work.connection, key)
    return turn_rows.find_interrupted_replies(work.connection, lineage, records)


def find_pending_calls(work: UnitOfWork, key: ConversationKey) -> list[dict[str, Any]]:
    """Return the tool calls at the end of the path that have no result, as they are sent.

    For earlier calls it is too late: a result must follow its call, before anything else is said. A call that the model
    did not make whole cannot be answered; one without an id has the id that is sent.
    """
    head, lineage = read_head_seq(work.connection, key)
    records = history_rows.read_path_end(work.connection, lineage, head, Reach(turns=1))
    spoken = [place for place, record in enumerate(records) if record.message["role"] != "tool"]
    if not spoken:
        return []
    return find_unanswered_calls(make_records_sendable(records[spoken[-1] :]))


def read_summary(work: UnitOfWork, key: ConversationKey) -> Summary | None:
    """Return the summary that is sent instead of the older part of the current path, or None."""
    return find_summary(work.connection, read_state(work.connection, key))


def list_turns(
    work: UnitOfWork, key: ConversationKey, limit: int | None, before: TurnNumber | None = None
) -> list[Turn]:
    """Return the last turns, or the last before turn `before`."""
    read_head_seq(work.connection, key)  # raises if the conversation does not exist
    return turn_rows.list_turns(work.connection, key, limit, before)


def list_unanswered_turns(work: UnitOfWork, key: ConversationKey) -> list[Turn]:
    """Return the turns since the last reply that have no reply; of retries only the latest."""
    head, _ = read_head_seq(work.connection, key)
    latest = {
        turn.first_input_seq: turn
        for turn in turn_rows.list_turns(work.connection, key, limit=_MAX_UNANSWERED_TURNS)
        if turn.first_input_seq is not None and turn.first_input_seq > head and turn.base_seq == head
    }
    return [turn for turn in latest.values() if turn.status is not TurnStatus.COMPLETED]
