"""Adding items to a conversation, and deleting one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial

from convstore.conversations.item_lookup import PlacedItem, find_item, list_taken, place_items
from convstore.db.head_rows import ConversationState, Head, append_at_head, move_head
from convstore.db.history_rows import read_path
from convstore.db.message_rows import find_message, read_head
from convstore.db.message_writes import Place, insert_messages, insert_records, make_child
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.claims import lock_conversation
from convstore.leases.takeover import is_held
from convstore.leases.waiting import repeat_while_busy
from convstore.messages.conversation_items import Item, get_item_id, make_item_id, read_items, to_item_message
from convstore.messages.first_title import MOST_POSITION, find_title
from convstore.messages.json_patch import make_patch
from convstore.messages.message import Message, to_message
from convstore.messages.plain_json import to_plain
from convstore.values.identifiers import NO_SEQ, ConversationKey, Position, Seq
from convstore.values.results import MessageRecord
from convstore.values.steps import DatabaseWork, Steps
from convstore.values.validation import is_key

_REPEATED_WITHIN = timedelta(minutes=10)


def make_item_messages(items: Sequence[Item], taken: Collection[str] = ()) -> list[Message]:
    """Return the messages that items are stored as.

    An item keeps its id if no other one has it; else it is found by a new one.

    Args:
        taken: ids that others have.

    Raises:
        InvalidMessage: an item is nested too deeply, or has what JSON has no form for.
    """
    used, messages = set(taken), []
    for one in items:
        item = to_plain(one)
        id = item.get("id")
        if not isinstance(id, str) or not is_key(id) or "/" in id or id in used:
            id = make_item_id(item)
        used.add(id)
        messages.append(to_message(to_item_message(item, id)))
    return messages


def add_when_free(
    transactions: Transactions, key: ConversationKey, items: Sequence[Item], seconds: float, *, is_repetition: bool
) -> Steps[list[PlacedItem]]:
    """Add items; wait first if a turn is running.

    Args:
        is_repetition: as for `add_items`.
    """
    write = transactions.write if not is_repetition else transactions.write_repeatable
    add = partial(add_items, is_repetition=is_repetition)
    attempt = DatabaseWork(partial(write, add, key, items))
    added: list[PlacedItem] = yield from repeat_while_busy(
        attempt, _holds(transactions, key), seconds, _line(transactions, key)
    )
    return added


def delete_when_free(transactions: Transactions, key: ConversationKey, id: str, seconds: float) -> Steps[bool]:
    """Delete an item; wait first if a turn is running."""
    attempt = DatabaseWork(partial(transactions.write, delete_item, key, id))
    deleted: bool = yield from repeat_while_busy(attempt, _holds(transactions, key), seconds, _line(transactions, key))
    return deleted


def add_items(
    work: UnitOfWork, key: ConversationKey, items: Sequence[Item], *, is_repetition: bool = False
) -> list[PlacedItem]:
    """Add items at the head, and return them.

    Args:
        is_repetition: whether the client says that it sends a request once more. If the last items are exactly these,
            and were added at once within ten minutes, they are those of its first try.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: a turn is running.
        InvalidMessage: an item cannot be stored.
    """
    state = lock_conversation(work, key)
    if is_repetition and (earlier := _find_added(work, state, items)):
        return [item for record in earlier for item in place_items(key, record)]
    ids = {item["id"] for item in items if isinstance(item.get("id"), str) and is_key(item["id"])}
    messages = make_item_messages(items, list_taken(work, state.lineage, state.head, ids))
    head = read_head(work.connection, state.lineage, state.head.seq)
    added = insert_messages(work, key, messages, Place(state.next_seq, head, None))
    title = find_title(messages) if state.head.position < MOST_POSITION else None
    last = Head(added[-1].seq, added[-1].position)
    append_at_head(work.connection, key, last, state.next_turn, work.now, made_title=title)
    return [item for record in added for item in place_items(key, record)]


def _find_added(work: UnitOfWork, state: ConversationState, items: Sequence[Item]) -> list[MessageRecord]:
    """Return the last messages of the path if they are these items, added by one request a short time ago; else []."""
    path = read_path(work.connection, state.lineage, state.head.seq, len(items) + 1) if state.head.seq else []
    last, before = path[-len(items) :], path[: -len(items)]
    if len(last) < len(items) or work.now - last[0].created_at > _REPEATED_WITHIN:
        return []
    times = {record.created_at for record in last}
    if len(times) > 1 or (before and before[-1].created_at in times):
        return []  # they are a part of what another request added, or of several
    is_same = all(
        get_item_id(record.message) is not None and make_patch(read_items(record.message)[0], to_plain(item)) is None
        for record, item in zip(last, items, strict=True)
    )
    return last if is_same else []


def delete_item(work: UnitOfWork, key: ConversationKey, id: str) -> bool:
    """Leave an item out of the path; return False if the path has none with this id.

    Nothing is removed: the head moves before the last item; for one in the middle, a branch without it begins there,
    with copies of what follows.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: a turn is running.
    """
    state = lock_conversation(work, key)
    found = find_item(work, state.lineage, state.head, id)
    if found is None:
        return False
    record = found.record
    others = [one for one in place_items(key, record) if one.number != found.number]
    rest: list[tuple[Message, MessageRecord]] = [(to_item_message(one.item, one.id), record) for one in others]
    count = state.head.position - record.position
    after = read_path(work.connection, state.lineage, state.head.seq, count) if count else []
    rest += [(one.message, one) for one in after]
    if not rest:
        before = Head(record.parent_seq, Position(record.position - 1))
        move_head(work.connection, key, before, state.redo, work.now)
        return True
    _add_branch(work, state, record.parent_seq, rest)
    return True


def _add_branch(
    work: UnitOfWork, state: ConversationState, after: Seq, copies: Sequence[tuple[Message, MessageRecord]]
) -> None:
    """Add copies of messages after a message, each of the turn of its original, and move the head to the last one."""
    key = state.lineage.key
    parent = find_message(work.connection, state.lineage, after) if after != NO_SEQ else None
    added: list[MessageRecord] = []
    for seq, (message, original) in enumerate(copies, state.next_seq):
        parent = make_child(work.count_tokens, parent, Seq(seq), message, original.turn, work.now)
        added.append(parent)
    insert_records(work, key, added)
    last = Head(added[-1].seq, added[-1].position)
    append_at_head(work.connection, key, last, state.next_turn, work.now, made_title=None)


def _holds(transactions: Transactions, key: ConversationKey) -> DatabaseWork:
    return DatabaseWork(partial(transactions.read, is_held, key))


def _line(transactions: Transactions, key: ConversationKey) -> tuple[object, ConversationKey]:
    return transactions.identity, key
