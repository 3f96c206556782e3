"""Check every row of one conversation: also those that no call reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, select

from convstore.db.ancestors import find_message_at
from convstore.db.connection import Connection
from convstore.db.conversation_rows import LATEST_REQUEST, TAGS, decode_conversation
from convstore.db.fork_sharing import Lineage, find_message_home, list_origins, read_lineage
from convstore.db.head_rows import ConversationState, decode_state
from convstore.db.message_rows import (
    COLUMNS,
    CONTEXT_ROLES,
    STRIDES,
    check_digest,
    check_rows,
    decode_message,
    find_existing,
    read_inline_data,
)
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import damaged_row, missing_message
from convstore.db.search_index import IndexedText, count_microseconds
from convstore.db.search_verification import has_terms
from convstore.db.summary_rows import decode_summary
from convstore.db.tables import conversations, messages, summaries, turns
from convstore.db.turn_rows import READ_TURNS, decode_turns
from convstore.db.verification_report import Damage, Verification
from convstore.errors import DamagedRow
from convstore.messages.codec import StoredMessage
from convstore.messages.message import Message
from convstore.search.folded_text import fold
from convstore.search.searched_text import extract_searched_text
from convstore.search.terms import find_terms
from convstore.values.identifiers import NO_SEQ, ConversationKey, Position, Seq, TurnNumber

_PAGE = 500
_MESSAGES_PER_SAMPLE = 1000

_CONVERSATION = select(conversations, LATEST_REQUEST, TAGS).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_NEXT_NUMBERS = select(conversations.c.next_seq, conversations.c.next_turn).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)

_parent = messages.alias("parent")
_PARENT_COLUMNS = ("position", "role", "digest", "context_seq", *(f"back_{stride}" for stride in STRIDES))
_MESSAGES: Select[Any] = (
    select(
        *COLUMNS,
        _parent.c.seq.label("found_parent"),
        *(_parent.c[name].label(f"parent_{name}") for name in _PARENT_COLUMNS),
    )
    .select_from(
        messages.outerjoin(
            _parent,
            and_(
                _parent.c.owner == bindparam("owner"),
                _parent.c.conversation_id == messages.c.conversation_id,
                _parent.c.seq == messages.c.parent_seq,
            ),
        )
    )
    .where(
        messages.c.owner == bindparam("owner"),
        messages.c.conversation_id == bindparam("conversation_id"),
        messages.c.seq > bindparam("after"),
    )
    .order_by(messages.c.seq)
    .limit(bindparam("most"))
)
_PARENT = select(*(messages.c[name].label(f"parent_{name}") for name in _PARENT_COLUMNS)).where(
    messages.c.owner == bindparam("owner"),
    messages.c.conversation_id == bindparam("conversation_id"),
    messages.c.seq == bindparam("seq"),
)
_TURNS = READ_TURNS.where(turns.c.seq < bindparam("before")).limit(bindparam("most"))
_SUMMARIES = (
    select(summaries)
    .where(summaries.c.owner == bindparam("owner"), summaries.c.conversation_id == bindparam("conversation_id"))
    .order_by(summaries.c.turn_seq)
)
_check_conversation_types = RowCheck(conversations.c)
_check_summary_types = RowCheck(summaries.c)


class ConversationCheck:
    """The check of one conversation; each method appends what it finds to the result."""

    def __init__(
        self,
        connection: Connection,
        key: ConversationKey,
        found: Verification,
        tell: Callable[[Verification], object],
        *,
        all_terms: bool,
    ) -> None:
        self._connection = connection
        self._key = key
        self._found = found
        self._tell = tell
        self._all_terms = all_terms
        self._lineage = Lineage(key)
        self._turns: set[int] = set()

    def run(self) -> None:
        state = None
        with self._noting():
            state = self._check_row()
        last_turn = self._check_turns()
        last_seq = self._check_messages()
        self._check_summaries()
        if state is not None:
            self._check_state(state, last_seq, last_turn)

    def _noting(self) -> _Noting:
        return _Noting(self)

    def note(self, problem: str) -> None:
        damage = Damage(self._key.owner, self._key.id, problem)
        if damage not in self._found.damages[-8:]:  # a row that is read twice is one damage
            self._found.damages.append(damage)

    def _bind(self) -> dict[str, Any]:
        return {"owner": self._key.owner, "conversation_id": self._key.id}

    def _check_row(self) -> ConversationState | None:
        row = self._connection.execute(_CONVERSATION, {"owner": self._key.owner, "id": self._key.id}).one_or_none()
        if row is None:
            return None  # purged since the keys were listed
        _check_conversation_types([row], self._key.id)
        self._lineage = read_lineage(self._key, row.lineage)
        decode_conversation(row)
        if (row.running_turn is None) != (row.lease_token is None):
            self.note("its running turn and its lease do not fit together")
        return decode_state(row, self._key)

    def _check_state(self, state: ConversationState, last_seq: int, last_turn: int) -> None:
        if state.next_seq <= last_seq:
            self.note(f"its next seq is {state.next_seq}, but message seq {last_seq} exists")
        if state.next_turn <= last_turn:
            self.note(f"its next turn is {state.next_turn}, but turn {last_turn} exists")
        for origin in (*self._lineage.origins, *self._lineage.far):
            values = {"owner": self._key.owner, "id": origin.conversation_id}
            numbers = self._connection.execute(_NEXT_NUMBERS, values).one_or_none()
            if numbers is None:
                self.note(f"conversation {origin.conversation_id!r}, which keeps a part of its past, is missing")
            elif type(numbers.next_seq) is int and origin.up_to_seq >= numbers.next_seq:
                self.note(f"it shares more messages of {origin.conversation_id!r} than that has")
        with self._noting():
            origins = list_origins(self._connection, self._lineage)
            shared = {(origin.conversation_id, origin.up_to_seq) for origin in origins}
            if any((origin.conversation_id, origin.up_to_seq) not in shared for origin in self._lineage.far):
                self.note("its lineage and those of its origins do not fit together")
        named = {state.head.seq: state.head.position, **dict(state.pins)} if state.head.seq else dict(state.pins)
        positions = find_existing(self._connection, self._lineage, {*named, *state.redo} - {NO_SEQ})
        with self._noting():
            if state.head.seq in positions:
                find_message_at(self._connection, self._lineage, state.head.seq, Position(1))
        for seq, position in named.items():
            if seq not in positions:
                self.note(f"message seq {seq}, its head or a pin, is missing")
            elif positions[seq] != position:
                self.note(f"message seq {seq}, its head or a pin, is at position {positions[seq]}, not {position}")
        for seq in state.redo:
            if seq not in positions and seq != NO_SEQ:
                self.note(f"message seq {seq}, which `redo` returns to, is missing")

    def _check_messages(self) -> int:
        """Check the messages, and return the last seq."""
        after = 0
        while True:
            rows = self._connection.execute(_MESSAGES, {**self._bind(), "after": after, "most": _PAGE}).all()
            stored = [StoredMessage(row.role, row.name, row.content, row.extra) for row in rows]
            texts: dict[bytes, str] = {}
            with suppress(TypeError):  # of a column that does not hold a text, which the row's own check reports
                texts = read_inline_data(self._connection, self._key.owner, stored)
            for row, one in zip(rows, stored, strict=True):
                try:
                    check_rows((row,), self._lineage)
                    message = decode_message(one, texts, self._key.id, row.seq)
                    parent = self._find_parent(row)
                    check_digest(row.digest, parent.parent_digest if parent else b"", message, self._key.id, row.seq)
                except DamagedRow as error:
                    self.note(error.problem)
                else:
                    if row.turn_seq is not None and row.turn_seq not in self._turns:
                        self.note(f"message seq {row.seq}: its turn {row.turn_seq} is missing")
                    for problem in _find_wrong_places(row, parent):
                        self.note(f"message seq {row.seq}: {problem}")
                    self._compare_terms(row, message)
            self._found.messages += len(rows)
            self._tell(self._found)
            if len(rows) < _PAGE:
                return int(rows[-1].seq) if rows and isinstance(rows[-1].seq, int) else after
            after = rows[-1].seq

    def _compare_terms(self, row: Row[Any], message: Message) -> None:
        """Compare the terms of a message with those of the search index, if it is its turn."""
        index = self._found.search_index
        if not self._all_terms and index.sampled * _MESSAGES_PER_SAMPLE > self._found.messages:
            return
        index.sampled += 1
        key = count_microseconds(row.created_at), self._key.id, row.seq
        terms = frozenset(find_terms(fold(extract_searched_text(message))))
        is_complete = has_terms(self._connection, self._key.owner, IndexedText(key, terms))
        if is_complete is not None:
            index.compared += 1
            index.incomplete += not is_complete

    def _find_parent(self, row: Row[Any]) -> Row[Any] | None:
        """Return the `parent_…` columns of a message; None: it is the first of its path."""
        if row.parent_seq == NO_SEQ:
            return None
        if row.found_parent is not None:
            return row
        home = find_message_home(self._connection, self._lineage, row.parent_seq)
        values = {"owner": home.owner, "conversation_id": home.id, "seq": row.parent_seq}
        parent: Row[Any] | None = self._connection.execute(_PARENT, values).one_or_none()
        if parent is None:
            raise missing_message(self._key.id, row.parent_seq)
        return parent

    def _check_turns(self) -> int:
        """Check the turns, and return the last number."""
        before, last = 2**62, 0
        while True:
            values = {"owner": self._key.owner, "id": self._key.id, "before": before, "most": _PAGE}
            rows = self._connection.execute(_TURNS, values).all()
            named: dict[int, list[TurnNumber]] = {}
            for row in rows:
                with self._noting():
                    (turn,) = decode_turns(self._connection, self._key.owner, [row])
                    for seq in (turn.base_seq, turn.first_input_seq, turn.last_input_seq, turn.output_seq):
                        if seq:
                            named.setdefault(seq, []).append(turn.seq)
            existing = find_existing(self._connection, self._lineage, map(Seq, named))
            for number in sorted(named.keys() - existing.keys()):
                self.note(f"message seq {number}, of turn {named[number][0]}, is missing")
            self._found.turns += len(rows)
            self._turns.update(row.seq for row in rows)
            last = last or (rows[0].seq if rows and isinstance(rows[0].seq, int) else 0)
            if len(rows) < _PAGE:
                return last
            before = rows[-1].seq

    def _check_summaries(self) -> None:
        for row in self._connection.execute(_SUMMARIES, self._bind()).all():
            with self._noting():
                _check_summary_types([row], self._key.id, "a summary")
                summary = decode_summary(row, self._key.id)
                positions = find_existing(self._connection, self._lineage, [summary.up_to_seq])
                if positions.get(summary.up_to_seq) != summary.up_to_position:
                    raise damaged_row(self._key.id, f"the summary of turn {summary.turn} ends at no message")
                if summary.previous_turn is not None and summary.previous_turn >= summary.turn:
                    raise damaged_row(self._key.id, f"the summary of turn {summary.turn} replaces a later one")


class _Noting:
    """Notes a damaged row, and lets the check go on."""

    def __init__(self, check: ConversationCheck) -> None:
        self._check = check

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> bool:
        if isinstance(error, DamagedRow):
            self._check.note(error.problem)
        return isinstance(error, DamagedRow)


def _find_wrong_places(row: Row[Any], parent: Row[Any] | None) -> Iterator[str]:
    """Yield what a message says wrong about its place in the tree."""
    position = 1 if parent is None else parent.parent_position + 1
    if row.position != position:
        yield f"its position is {row.position}, not {position}"
    context = NO_SEQ
    if parent is not None:
        context = row.parent_seq if parent.parent_role in CONTEXT_ROLES else parent.parent_context_seq
    if row.context_seq != context:
        yield f"the system message before it is seq {context}, not {row.context_seq}"
    if parent is None or row.back_32 is None:
        return  # there is no such ancestor, or an earlier release wrote the row
    known = (row.back_32, row.back_1024, row.back_32768)
    of_parent = (parent.parent_back_32, parent.parent_back_1024, parent.parent_back_32768)
    for stride, back, parent_back in zip(STRIDES, known, of_parent, strict=True):
        expected = row.parent_seq if parent.parent_position % stride == 0 else parent_back
        if back is not None and expected is not None and back != expected:
            yield f"its ancestor for a stride of {stride} is seq {expected}, not {back}"
