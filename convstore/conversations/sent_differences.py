"""Note what a client sent of known messages besides what is compared: names, marks, fields of other programs."""

from __future__ import annotations

from typing import Any

from convstore.conversations.path_matching import Match
from convstore.db.history_rows import read_path
from convstore.db.stored_conversation import read_stored_lineage
from convstore.db.unit_of_work import UnitOfWork
from convstore.messages.matching_form import CONTEXT_ROLES, ListedPath, list_other_fields
from convstore.messages.message import Message
from convstore.messages.storable_text import to_json

_MOST_NOTES, _MOST_CHARACTERS = 20, 2_000


def list_differences(work: UnitOfWork, listed: ListedPath, match: Match) -> tuple[str, ...]:
    """Return a note for each stored message that the client sent with other fields.

    Nothing is read if the client sent no such fields: most do not.
    """
    count = len(listed.messages) - sum(1 for one in match.new if one["role"] not in CONTEXT_ROLES)
    sent = [one for one in listed.messages if one["role"] not in CONTEXT_ROLES][:count]
    if match.after is None or not any(list_other_fields(message) for message in sent):
        return ()
    lineage = read_stored_lineage(work.connection, match.key)
    if lineage is None:
        return ()
    path = read_path(work.connection, lineage, match.after.seq, len(sent) + _count_others(listed))
    stored = [record for record in path if record.message["role"] not in CONTEXT_ROLES]
    notes = []
    for record, message in zip(reversed(stored), reversed(sent), strict=False):
        fields = _find_different(record.message, message)
        if fields:
            notes.append(f"message {record.position} was sent with {to_json(fields)[:_MOST_CHARACTERS]}")
    more = (
        [f"{len(notes) - _MOST_NOTES:,} more messages were sent with other fields"] if len(notes) > _MOST_NOTES else []
    )
    return (*reversed(notes[:_MOST_NOTES]), *more)


def _count_others(listed: ListedPath) -> int:
    """Return how many system messages may stand between the others of a stored path."""
    return 16 + len(listed.context)


def _find_different(stored: Message, sent: Message) -> dict[str, Any]:
    known = list_other_fields(stored)
    return {name: value for name, value in list_other_fields(sent).items() if known.get(name) != value}
