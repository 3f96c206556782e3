"""Remove a secret from summaries.

A summary of a message that is redacted as a whole is deleted: it may say the same in other words. The one before it, or
the messages, are sent again. From other summaries, only the text itself is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import bindparam, delete, select, update

from convstore.db.ancestors import find_ancestors
from convstore.db.connection import Connection
from convstore.db.fork_sharing import Lineage, find_message_home, find_turn_home, read_lineage
from convstore.db.message_blanking import BlankedMessage
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.tables import conversations, summaries
from convstore.db.text_occurrences import SUMMARIES, find_rows_of
from convstore.messages.redacted_message import Secret
from convstore.messages.storable_text import from_column, to_column
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber

_OF_CONVERSATION = (
    summaries.c.owner == bindparam("owner"),
    summaries.c.conversation_id == bindparam("conversation_id"),
)
_SUMMARIES = select(
    summaries.c.turn_seq, summaries.c.up_to_seq, summaries.c.up_to_position, summaries.c.previous_turn
).where(*_OF_CONVERSATION)
_DELETE = delete(summaries).where(*_OF_CONVERSATION, summaries.c.turn_seq == bindparam("turn_seq"))
_THIS = (
    summaries.c.owner == bindparam("key_owner"),
    summaries.c.conversation_id == bindparam("key_id"),
    summaries.c.turn_seq == bindparam("key_turn"),
)
_SET_TEXT = update(summaries).where(*_THIS).values(text=bindparam("new_text"), tokens=bindparam("new_tokens"))
_SET_PREVIOUS = update(summaries).where(*_THIS).values(previous_turn=bindparam("new_turn"))
_PLACE = select(conversations.c.lineage, conversations.c.summary_turn).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_SET_LATEST = (
    update(conversations)
    .where(conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
    .values(summary_turn=bindparam("new_turn"))
)


def remove_from_summaries(
    connection: Connection,
    owner: str,
    secret: Secret,
    spellings: Collection[str],
    ids: Collection[str],
    count_tokens: Callable[[str], int],
) -> set[tuple[str, int]]:
    """Remove a secret from the texts of summaries, and return which were changed.

    Args:
        ids: the conversations to look at.
        count_tokens: counts the tokens of a summary as it is sent.
    """
    changed = set()
    for row in find_rows_of(connection, SUMMARIES, owner, list(spellings), ids):
        try:
            text = from_column(row.text) or ""
        except DECODING_ERRORS:
            text = row.text  # it is damaged, and stays so
        new = secret.replace(text)
        if new != text:
            place = {"key_owner": owner, "key_id": row.conversation_id, "key_turn": row.number}
            values = {"new_text": to_column(new), "new_tokens": count_tokens(new)}
            connection.execute(_SET_TEXT, {**place, **values})
            changed.add((row.conversation_id, row.number))
    return changed


def delete_covering_summaries(
    connection: Connection, owner: str, blanked: Collection[BlankedMessage], ids: Collection[str]
) -> set[tuple[str, int]]:
    """Delete the summaries that cover one of some messages, and return which were.

    Args:
        ids: the conversations that may have one, or that may name one.
    """
    places = {id: place for id in ids if (place := _read_place(connection, ConversationKey(owner, id))) is not None}
    lineages = {id: lineage for id, (lineage, _) in places.items()}
    deleted: dict[tuple[str, int], TurnNumber | None] = {}
    kept: list[tuple[str, TurnNumber, TurnNumber | None]] = []
    for id, lineage in lineages.items():
        for row in connection.execute(_SUMMARIES, {"owner": owner, "conversation_id": id}).all():
            if has_one_of(connection, lineage, row.up_to_seq, row.up_to_position, blanked):
                deleted[id, row.turn_seq] = row.previous_turn
            else:
                kept.append((id, row.turn_seq, row.previous_turn))
    if not deleted:
        return set()

    def find_left(lineage: Lineage, turn: TurnNumber | None) -> TurnNumber | None:
        """Return the summary that a conversation has instead of a deleted one."""
        while turn is not None:
            place = find_turn_home(connection, lineage, turn).id, turn
            if place not in deleted:
                break
            turn = deleted[place]
        return turn

    for id, (lineage, latest) in places.items():
        if (left := find_left(lineage, latest)) != latest:
            connection.execute(_SET_LATEST, {"key_owner": owner, "key_id": id, "new_turn": left})
    for id, turn, previous in kept:
        if (left := find_left(lineages[id], previous)) != previous:
            values = {"key_owner": owner, "key_id": id, "key_turn": turn, "new_turn": left}
            connection.execute(_SET_PREVIOUS, values)
    for id, number in deleted:
        connection.execute(_DELETE, {"owner": owner, "conversation_id": id, "turn_seq": number})
    return set(deleted)


def _read_place(connection: Connection, key: ConversationKey) -> tuple[Lineage, TurnNumber | None] | None:
    row = connection.execute(_PLACE, {"owner": key.owner, "id": key.id}).one_or_none()
    return (read_lineage(key, row.lineage), row.summary_turn) if row is not None else None


def has_one_of(
    connection: Connection, lineage: Lineage, up_to: Seq, position: int, blanked: Collection[BlankedMessage]
) -> bool:
    """Return True if one of some messages is on the path to message `up_to`, at `position` or before."""
    before = {one.position for one in blanked if one.position <= position}
    on_path = find_ancestors(connection, lineage, up_to, before).values()
    places = {(find_message_home(connection, lineage, seq).id, seq) for seq in on_path}
    return any((one.key.id, one.seq) in places for one in blanked)
