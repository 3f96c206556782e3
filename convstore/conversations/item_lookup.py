"""The items of a conversation's path: a page of them, and one by its id."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b

from convstore.db.ancestors import find_ancestors
from convstore.db.fork_sharing import Lineage
from convstore.db.head_rows import Head, read_head
from convstore.db.history_rows import read_path
from convstore.db.item_rows import find_by_item_ids
from convstore.db.message_rows import find_message
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput
from convstore.messages.conversation_items import Item, get_id_prefix, get_item_id, read_items
from convstore.values.identifiers import ConversationKey, Position, Seq
from convstore.values.results import MessageRecord

_MADE_ID = re.compile(r"[a-z]+_([0-9a-f]{16})_([1-9][0-9]{0,17})_([0-9]{1,9})")
_MARK_BYTES = 8


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """An item of a conversation, and where it is."""

    id: str
    item: Item
    """As it came in; one of a chat message has no id."""
    record: MessageRecord
    """The message that it is, or is a part of."""
    number: int
    """Its place among the items of the message: 0, 1, 2 …"""


def place_items(key: ConversationKey, record: MessageRecord) -> list[PlacedItem]:
    """Return the items of a message, each with the id by which it is found."""
    id, items = get_item_id(record.message), read_items(record.message)
    return [
        PlacedItem(
            id if id is not None and number == 0 else f"{get_id_prefix(item)}_{_mark(key)}_{record.seq}_{number}",
            item,
            record,
            number,
        )
        for number, item in enumerate(items)
    ]


def list_items(
    work: UnitOfWork, key: ConversationKey, after: str | None, limit: int, *, is_descending: bool
) -> tuple[list[PlacedItem], bool]:
    """Return a page of the items of the path, and whether more follow.

    Args:
        after: the id of the item before the first one; None: from the beginning.
        is_descending: whether the last item comes first.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        InvalidInput: the path has no item `after`.
    """
    head, lineage = read_head(work.connection, key)
    at = find_item(work, lineage, head, after) if after is not None else None
    if after is not None and at is None:
        raise InvalidInput("'after' is no item of this conversation")
    # Each message has at least one item. The one with the last item of the page before may have more of them.
    if is_descending:
        last = at.record.position if at is not None else head.position
        first = max(1, last - limit - 1)
    else:
        first = at.record.position if at is not None else Position(1)
        last = Position(min(head.position, first + limit + 1))
    records = _read_positions(work, lineage, head, first, last)
    items = [item for record in records for item in place_items(key, record)]
    if is_descending:
        items.reverse()
    if at is not None:
        place = (at.record.seq, at.number)
        items = items[[(one.record.seq, one.number) for one in items].index(place) + 1 :]
    return items[:limit], len(items) > limit


def find_item(work: UnitOfWork, lineage: Lineage, head: Head, id: str) -> PlacedItem | None:
    """Return the item of the path to a head that has an id; None if no item has it."""
    for _, seq, position in find_by_item_ids(work.connection, lineage, [id]):
        if _is_on_path(work, lineage, head, seq, position):
            return _choose(work, lineage, seq, id)
    made = _MADE_ID.fullmatch(id)
    if made is None or made[1] != _mark(lineage.key):
        return None
    seq = Seq(int(made[2]))
    record = find_message(work.connection, lineage, seq) if seq <= head.seq else None
    if record is None or not _is_on_path(work, lineage, head, seq, record.position):
        return None
    return _choose(work, lineage, seq, id)


def list_taken(work: UnitOfWork, lineage: Lineage, head: Head, ids: Collection[str]) -> set[str]:
    """Return those of some ids by which items of the path are found. A deleted item leaves its id to another one."""
    if not ids:
        return set()
    found = [one for one in find_by_item_ids(work.connection, lineage, ids) if one[2] <= head.position]
    if not found:
        return set()
    path = find_ancestors(work.connection, lineage, head.seq, [position for _, _, position in found])
    return {id for id, seq, position in found if path.get(position) == seq}


def _choose(work: UnitOfWork, lineage: Lineage, seq: Seq, id: str) -> PlacedItem | None:
    record = find_message(work.connection, lineage, seq)
    items = place_items(lineage.key, record) if record is not None else []
    return next((item for item in items if item.id == id), None)


def _is_on_path(work: UnitOfWork, lineage: Lineage, head: Head, seq: Seq, position: Position) -> bool:
    if not 0 < position <= head.position:
        return False
    return find_ancestors(work.connection, lineage, head.seq, [position]).get(position) == seq


def _read_positions(work: UnitOfWork, lineage: Lineage, head: Head, first: int, last: int) -> list[MessageRecord]:
    """Return the messages of the path from one position to another."""
    if last < first or not head.seq:
        return []
    end = head.seq
    if last < head.position:
        end = find_ancestors(work.connection, lineage, head.seq, [last])[Position(last)]
    return read_path(work.connection, lineage, end, last - first + 1)


def _mark(key: ConversationKey) -> str:
    """Return what ids have that are made for the items of a conversation, so that no other one has the same."""
    return blake2b(key.id.encode(), digest_size=_MARK_BYTES).hexdigest()
