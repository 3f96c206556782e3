"""Adding items to a conversation, and deleting one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from convstore.conversations.item_lookup import PlacedItem, find_item, place_items
from convstore.db.head_rows import ConversationState, Head, append_at_head, move_head
from convstore.db.history_rows import read_path
from convstore.db.item_rows import find_by_item_ids
from convstore.db.message_rows import find_message, read_head
from convstore.db.message_writes import Place, insert_messages, insert_records, make_child
from convstore.db.transactions import Transactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases.claims import lock_conversation
from convstore.leases.takeover import is_held
from convstore.leases.waiting import repeat_while_busy
from convstore.messages.conversation_items import Item, make_item_id, to_item_message
from convstore.messages.first_title import MOST_POSITION, find_title
from convstore.messages.message import Message, to_message
from convstore.messages.plain_json import to_plain
from convstore.values.identifiers import NO_SEQ, ConversationKey, Position, Seq
from convstore.values.results import MessageRecord
from convstore.values.steps import DatabaseWork, Steps
from convstore.values.validation import is_key


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
    transactions: Transactions, key: ConversationKey, items: Sequence[Item], seconds: float
) -> Steps[list[PlacedItem]]:
    """Add items; wait first if a turn is running."""
    attempt = DatabaseWork(partial(transactions.write, add_items, key, items))
    added: list[PlacedItem] = yield from repeat_while_busy(
        attempt, _holds(transactions, key), seconds, _line(transactions, key)
    )
    return added


def delete_when_free(transactions: Transactions, key: ConversationKey, id: str, seconds: float) -> Steps[bool]:
    """Delete an item; wait first if a turn is running."""
    attempt = DatabaseWork(partial(transactions.write, delete_item, key, id))
    deleted: bool = yield from repeat_while_busy(attempt, _holds(transactions, key), seconds, _line(transactions, key))
    return deleted


def add_items(work: UnitOfWork, key: ConversationKey, items: Sequence[Item]) -> list[PlacedItem]:
    """Add items at the head, and return them.

    Raises:
        ConversationNotFound: the owner has no such conversation.
        ConversationBusy: a turn is running.
        InvalidMessage: an item cannot be stored.
    """
    state = lock_conversation(work, key)
    ids = {item["id"] for item in items if isinstance(item.get("id"), str) and is_key(item["id"])}
    taken = {id for id, _, _ in find_by_item_ids(work.connection, state.lineage, ids)} if ids else set()
    messages = make_item_messages(items, taken)
    head = read_head(work.connection, state.lineage, state.head.seq)
    added = insert_messages(work, key, messages, Place(state.next_seq, head, None))
    title = find_title(messages) if state.head.position < MOST_POSITION else None
    last = Head(added[-1].seq, added[-1].position)
    append_at_head(work.connection, key, last, state.next_turn, work.now, made_title=title)
    return [item for record in added for item in place_items(key, record)]


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
