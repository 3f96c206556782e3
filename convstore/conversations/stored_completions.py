"""Completions that were recorded for clients of the service: one, a page of them, what was asked, their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convstore.db.ancestors import find_ancestors
from convstore.db.history_rows import read_path
from convstore.db.message_rows import find_place
from convstore.db.stored_completion_rows import (
    find_completion,
    hide_completions,
    list_completions,
    read_replies,
    set_metadata,
)
from convstore.db.stored_conversation import read_stored_lineage
from convstore.db.turn_rows import find_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import ConversationNotFound, InvalidInput
from convstore.values.identifiers import ConversationKey, Position
from convstore.values.results import MessageRecord
from convstore.values.stored_completion import CompletionFilter, CompletionPlace, StoredCompletion

_READ_AT_ONCE = 200
"""Completions whose metadata are compared at once."""
_MAX_CHOICES = 128


def get_completion(work: UnitOfWork, owner: str, id: str) -> StoredCompletion | None:
    """Return the newest completion with an id; None: the owner has none."""
    place = find_completion(work.connection, owner, id)
    return _read(work, owner, place) if place is not None else None


def list_page(work: UnitOfWork, owner: str, wanted: CompletionFilter) -> tuple[list[StoredCompletion], bool]:
    """Return a page of completions, and whether more follow.

    Raises:
        InvalidInput: the completion before the first one does not exist.
    """
    after = None
    if wanted.after is not None:
        after = find_completion(work.connection, owner, wanted.after)
        if after is None:
            raise InvalidInput("'after' is no completion")
    found: list[CompletionPlace] = []
    most = wanted.limit + 1 if not wanted.metadata else _READ_AT_ONCE
    while len(found) <= wanted.limit:
        places = list_completions(
            work.connection, owner, most, after=after, is_descending=wanted.is_descending, model=wanted.model
        )
        found += [place for place in places if _has(place.metadata, wanted.metadata)]
        if len(places) < most:
            break
        after = places[-1]
    return [_read(work, owner, place) for place in found[: wanted.limit]], len(found) > wanted.limit


def change_metadata(work: UnitOfWork, owner: str, id: str, metadata: dict[str, Any]) -> StoredCompletion | None:
    """Replace the metadata of a completion, and return it; None: the owner has none with this id."""
    place = find_completion(work.connection, owner, id)
    if place is None:
        return None
    set_metadata(work.connection, owner, place, metadata)
    return get_completion(work, owner, id)


def hide_completion(work: UnitOfWork, owner: str, id: str) -> bool:
    """Hide all completions with an id; return False if the owner has none."""
    if find_completion(work.connection, owner, id) is None:
        return False
    hide_completions(work.connection, owner, id, work.now)
    return True


def read_asked(
    work: UnitOfWork, owner: str, id: str, after: int | None, limit: int, *, is_descending: bool
) -> tuple[list[MessageRecord], bool] | None:
    """Return some of the messages that a completion answers, and whether more follow; None: there is no completion.

    Args:
        after: the position of the message before the first one; None: from the beginning.
        is_descending: whether the last message comes first.
    """
    place = find_completion(work.connection, owner, id)
    if place is None:
        return None
    lineage = read_stored_lineage(work.connection, ConversationKey(owner, place.conversation_id))
    asked = find_place(work.connection, lineage, place.asked_seq) if lineage is not None else None
    if lineage is None or asked is None:
        return [], False
    length = asked[1]
    if is_descending:
        last = min(after - 1 if after is not None else length, length)
        count = min(limit, last)
    else:
        last = min((after or 0) + limit, length)
        count = last - (after or 0)
    if count <= 0:
        return [], False
    end = place.asked_seq
    if last < length:
        end = find_ancestors(work.connection, lineage, place.asked_seq, [last])[Position(last)]
    records = read_path(work.connection, lineage, end, count)
    if is_descending:
        return records[::-1], last > count
    return records, last < length


def _read(work: UnitOfWork, owner: str, place: CompletionPlace) -> StoredCompletion:
    key = ConversationKey(owner, place.conversation_id)
    turn = find_turn(work.connection, key, place.turn)
    lineage = read_stored_lineage(work.connection, key)
    if turn is None or lineage is None:  # it was there a moment ago, and was purged
        raise ConversationNotFound(f"no conversation {key.id!r}")
    count = turn.request.get("n")
    most = min(count, _MAX_CHOICES) if isinstance(count, int) else 1
    return StoredCompletion(place, turn, tuple(read_replies(work.connection, lineage, turn, most)))


def _has(metadata: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    return all(metadata.get(name) == value for name, value in wanted.items())
