"""Read conversations for an export: as the lines of convstore's own format, or as values for the other formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from convstore.db import exported_lines
from convstore.db.conversation_rows import get_conversation
from convstore.db.drawer_rows import read_ratings
from convstore.db.fork_sharing import Lineage, list_origins
from convstore.db.head_rows import read_head
from convstore.db.history_rows import read_path, read_tree
from convstore.db.redaction_rows import read_marks
from convstore.db.turn_rows import list_turns
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.export_format import Line
from convstore.values.exported import ExportedConversation, ExportedMessage
from convstore.values.identifiers import ConversationKey, Seq
from convstore.values.results import MessageRecord, Turn


def write_lines(
    work: UnitOfWork,
    key: ConversationKey,
    written: Mapping[str, tuple[int, int]],
    begin: Callable[[], Callable[[Line], object]],
) -> None:
    """Hand the lines of a conversation to a function, in one transaction.

    Args:
        written: the conversations that the export has already, as `iterate_lines` takes them.
        begin: called once each time that the transaction begins; returns the function that takes the lines.
    """
    write = begin()
    for line in exported_lines.iterate_lines(work.connection, key, written):
        write(line)


def list_ids(work: UnitOfWork, owner: str, after: str) -> list[str]:
    """Return a page of the ids of an owner's conversations, archived and deleted ones too; [] at the end."""
    return exported_lines.list_ids(work.connection, owner, after)


def list_origin_ids(work: UnitOfWork, owner: str) -> set[str]:
    """Return the ids of the conversations of an owner that others were forked from."""
    return exported_lines.list_origin_ids(work.connection, owner)


def find_origin(work: UnitOfWork, key: ConversationKey) -> str | None:
    """Return the id of the conversation that this one was forked from, or None."""
    return exported_lines.find_origin(work.connection, key)


def read_exported(work: UnitOfWork, key: ConversationKey, *, is_tree: bool) -> ExportedConversation:
    """Return a conversation with its messages and turns.

    Args:
        is_tree: with all branches; False: only the current path.

    Raises:
        ConversationNotFound: the owner has no such conversation, or it is deleted (`ConversationDeleted`).
        DamagedRow: a row cannot be decoded.
    """
    connection = work.connection
    conversation = get_conversation(connection, key)
    head, lineage = read_head(connection, key)
    path = read_path(connection, lineage, head.seq)
    records = read_tree(connection, lineage) if is_tree else path
    if marks := read_marks(connection, lineage, [record.seq for record in records]):
        records = [
            replace(record, redacted_at=marks[record.seq].redacted_at) if record.seq in marks else record
            for record in records
        ]
    on_path = {record.seq for record in path}
    turns = _list_all_turns(work, lineage)
    replies: dict[Seq, Turn] = {turn.output_seq: turn for turn in turns if turn.output_seq is not None}
    ratings = {rating.seq: rating for rating in read_ratings(connection, lineage)}

    def describe(record: MessageRecord) -> ExportedMessage:
        turn = replies.get(record.seq)
        return ExportedMessage(
            record=record,
            on_path=record.seq in on_path,
            status=turn.status if turn is not None else None,
            model=(turn.model or turn.request.get("model")) if turn is not None else None,
            rating=ratings.get(record.seq),
        )

    return ExportedConversation(conversation, [describe(record) for record in records], turns)


def _list_all_turns(work: UnitOfWork, lineage: Lineage) -> list[Turn]:
    """Return the turns of a conversation and of the past that it shares, oldest first."""
    found = list_turns(work.connection, lineage.key, None)
    for origin in list_origins(work.connection, lineage):
        shared = list_turns(work.connection, ConversationKey(lineage.key.owner, origin.conversation_id), None)
        first = found[0].seq if found else origin.up_to_turn + 1
        found = [turn for turn in shared if turn.seq <= origin.up_to_turn and turn.seq < first] + found
    return found
