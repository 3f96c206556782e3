"""Moving the head along the tree without a model call: undo, redo, checkout."""

from __future__ import annotations

from convstore.context.window import find_turn_beginnings
from convstore.db.ancestors import find_ancestors
from convstore.db.conversation_rows import get_conversation
from convstore.db.fork_sharing import find_turn_home
from convstore.db.head_rows import ConversationState, Head, move_head
from convstore.db.history_rows import Reach, read_path_end
from convstore.db.message_rows import CONTEXT_ROLES, find_message, read_head
from convstore.db.turn_rows import find_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import InvalidInput
from convstore.leases.claims import lock_conversation
from convstore.values.identifiers import NO_POSITION, ConversationKey, Position, Seq
from convstore.values.results import Conversation, MessageRecord, TurnStatus


def undo(work: UnitOfWork, key: ConversationKey, count: int, expected_head: Seq | None) -> Conversation:
    """Move the head back by `count` turns.

    Raises:
        InvalidInput: the path has fewer turns.
    """
    state = lock_conversation(work, key, expected_head)
    records = read_path_end(work.connection, state.lineage, state.head.seq, Reach(turns=count))
    is_whole = bool(records) and records[0].parent_seq == 0
    beginnings = find_turn_beginnings(records, from_the_first=is_whole)
    if len(beginnings) < count:
        found = f"only {len(beginnings)} turn{'s' if len(beginnings) > 1 else ''}" if beginnings else "no turn"
        raise InvalidInput(f"conversation {key.id!r} has {found} to undo")
    head = _find_head_before_input(work, state, records, beginnings[-count])
    move_head(work.connection, key, head, (*state.redo, state.head.seq), work.now)
    return get_conversation(work.connection, key)


def _find_head_before_input(work: UnitOfWork, state: ConversationState, records: list[MessageRecord], at: int) -> Head:
    """Return the head before a turn's input, which has its user's message at index `at`.

    A system message that came together with the user's message belongs to the input.
    """
    first = records[at]
    while first.turn is not None and first.parent_seq != 0:
        at -= 1
        before = records[at] if at >= 0 else read_head(work.connection, state.lineage, first.parent_seq)
        if before is None or before.turn is None:
            break
        # It came with this input, or with the one that this one replaced (`edit`).
        if before.turn != first.turn and before.message["role"] not in CONTEXT_ROLES:
            break
        first = before
    return Head(first.parent_seq, Position(first.position - 1))


def redo(work: UnitOfWork, key: ConversationKey, expected_head: Seq | None) -> Conversation:
    """Move the head to where it was before the latest undo.

    Raises:
        InvalidInput: nothing was undone, or the head is on another branch since.
    """
    state = lock_conversation(work, key, expected_head)
    if not state.redo:
        raise InvalidInput(f"conversation {key.id!r} has nothing to redo")
    seq, head = state.redo[-1], state.head
    target = read_head(work.connection, state.lineage, seq)
    path = find_ancestors(work.connection, state.lineage, seq, [head.position])
    is_on_branch = not head.seq or path.get(head.position) == head.seq
    if target is None or target.position <= head.position or not is_on_branch:
        raise InvalidInput(
            f"conversation {key.id!r} is on another branch since its last undo; move the head to message seq {seq} "
            f"with `checkout`"
        )
    move_head(work.connection, key, Head(target.seq, target.position), state.redo[:-1], work.now)
    return get_conversation(work.connection, key)


def checkout(work: UnitOfWork, key: ConversationKey, seq: Seq, expected_head: Seq | None) -> Conversation:
    """Move the head to any message; 0: before the first.

    Raises:
        InvalidInput: no message has this number, or it is an interrupted tool call.
    """
    state = lock_conversation(work, key, expected_head)
    position = NO_POSITION
    if seq:
        record = find_message(work.connection, state.lineage, seq)
        if record is None:
            raise InvalidInput(f"conversation {key.id!r} has no message with seq {seq}")
        _check_complete(work, state, record)
        position = record.position
    move_head(work.connection, key, Head(seq, position), state.redo, work.now)
    return get_conversation(work.connection, key)


def _check_complete(work: UnitOfWork, state: ConversationState, record: MessageRecord) -> None:
    if record.turn is None or not (record.message.get("tool_calls") or record.message.get("function_call")):
        return
    turn = find_turn(work.connection, find_turn_home(work.connection, state.lineage, record.turn), record.turn)
    if turn is not None and turn.status is not TurnStatus.COMPLETED:
        raise InvalidInput(
            f"conversation {state.lineage.key.id!r}: message seq {record.seq} is an interrupted tool call, which must "
            f"not be sent as if it were complete; choose another message"
        )
