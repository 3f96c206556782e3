"""Find the conversation that keeps a message or a turn of a fork.

A fork stores only what is new. Its numbers continue after the last message that it shares. Every smaller number belongs
to the origin, or to an origin of the origin.

The depth of a conversation is its number of origins. A row of a great depth names its nearest origins, and of the
farther ones only a few: those at depths that 16, 256 … divide. So a fork of a thousand forks names about sixty.
`locate_message` and `locate_turn` read the rows of the others that are needed: one row for each factor of 16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, bindparam, case, select

from convstore.db.connection import Connection
from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.db.tables import conversations
from convstore.errors import DamagedRow
from convstore.messages.storable_text import to_json
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq, TurnNumber

_BASE = 16
"""From the row of a fork, the origins between two depths that it divides are one row away."""
_MAX_PLAIN_ORIGINS = 2 * _BASE - 1
"""A row with so many origins names all of them."""

_LINEAGE_OF = select(conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)


@dataclass(frozen=True, slots=True)
class Origin:
    """A conversation that keeps a part of a fork's past, up to a message and a turn."""

    conversation_id: str
    up_to_seq: Seq
    up_to_turn: TurnNumber
    depth: int = 0
    """Its depth; 0 also if it is not needed, because a row names all origins."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A conversation and the origins that keep its past, nearest first."""

    key: ConversationKey
    origins: tuple[Origin, ...] = ()
    """The nearest origins, without a gap."""
    far: tuple[Origin, ...] = ()
    """Some of the farther origins. The rows of the first ones name those between them."""
    start: str | None = None
    """The conversation that keeps what is new after the first origin; None: the conversation itself."""
    depth: int | None = None
    """The depth of the row; None: it names all origins."""

    @property
    def is_fork(self) -> bool:
        """Whether another conversation keeps a part of the past."""
        return bool(self.origins or self.far or self.start)

    @property
    def home(self) -> ConversationKey:
        """The conversation that keeps what is new after the first origin."""
        return self.key if self.start is None else ConversationKey(self.key.owner, self.start)

    def knows_message(self, seq: Seq) -> bool:
        """Return True if this part of the lineage tells where message `seq` is kept."""
        return not self.far or seq == NO_SEQ or seq > self.far[0].up_to_seq

    def knows_turn(self, turn: TurnNumber) -> bool:
        """Return True if this part of the lineage tells where turn `turn` is kept."""
        return not self.far or turn > self.far[0].up_to_turn

    def fork(self, key: ConversationKey, seq: Seq, last_turn: TurnNumber) -> Lineage:
        """Return the lineage of a fork of this conversation.

        Args:
            key: the fork.
            seq: the last message that the fork shares.
            last_turn: the latest turn of this conversation.
        """
        known = (*self.origins, *self.far)
        clipped = [replace(older, up_to_seq=min(older.up_to_seq, seq)) for older in known]
        origin = Origin(self.key.id, seq, last_turn)
        if self.depth is None:
            # An origin that keeps nothing is left out. The forked conversation itself always stays, because the fork
            # must name its origin.
            clipped = [
                near
                for near, far in pairwise([*clipped, Origin("", NO_SEQ, TurnNumber(0))])
                if near.up_to_seq > far.up_to_seq or near.up_to_turn > far.up_to_turn
            ]
            if len(clipped) < _MAX_PLAIN_ORIGINS:
                return Lineage(key, (origin, *clipped))
            clipped = [replace(older, depth=depth) for depth, older in enumerate(reversed(clipped))][::-1]
        origin = replace(origin, depth=clipped[0].depth + 1)
        depth = origin.depth + 1
        named = set(_list_named_depths(depth))
        return _split(key, [older for older in (origin, *clipped) if older.depth in named], depth)

    def bind_message_limits(self) -> dict[str, Any]:
        """Return the parameters of `is_kept` for a table of messages."""
        return self._bind_limits(tuple(origin.up_to_seq for origin in self.origins))

    def bind_turn_limits(self) -> dict[str, Any]:
        """Return the parameters of `is_kept` for a table of turns."""
        return self._bind_limits(tuple(origin.up_to_turn for origin in self.origins))

    @property
    def width(self) -> int:
        """The number of origins that `is_kept` compares: few values, because each is a statement of its own."""
        count = len(self.origins)
        return count if count > 2 * _BASE else next(size for size in (0, 1, 2, 4, 8, 16, 32) if size >= count)

    def _bind_limits(self, limits: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {"owner": self.key.owner, "conversation_id": self.home.id}
        for number in range(self.width):
            place = min(number, len(limits) - 1)  # the last one is repeated
            values[f"origin_{number}"] = self.origins[place].conversation_id
            values[f"up_to_{number}"] = limits[place]
        return values


def _list_named_depths(depth: int) -> list[int]:
    """Return the depths of the origins that a row at `depth` names, nearest first."""
    named: set[int] = set()
    stride = 1
    while True:
        first = max(0, ((depth - 1) // (stride * _BASE) - 1) * stride * _BASE)
        named.update(range(first, depth, stride))
        if first == 0:
            return sorted(named, reverse=True)
        stride *= _BASE


def _split(key: ConversationKey, origins: Sequence[Origin], depth: int) -> Lineage:
    """Return the lineage of a row at `depth` that names these origins, nearest first."""
    first_far = max(0, ((depth - 1) // _BASE - 1) * _BASE)
    near = tuple(origin for origin in origins if origin.depth > first_far)
    return Lineage(key, near, tuple(origins[len(near) :]), depth=depth)


def is_kept(table: FromClause, width: int, number: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition for the owner and the conversation that keep a row.

    It holds for no row if the lineage does not know where a row is kept.

    Args:
        width: the width of the lineage.
        number: the `seq` of a message, or the number of a turn.
    """
    home: ColumnElement[str] = bindparam("conversation_id")
    if width:
        # Origins are nearest first. Numbers after the last number of the nearest one belong to the conversation itself.
        homes: list[ColumnElement[str]] = [home, *(bindparam(f"origin_{place}") for place in range(width))]
        limits = [number > bindparam(f"up_to_{place}", type_=BigInteger) for place in range(width)]
        home = case(*zip(limits, homes, strict=False), else_=homes[-1])
    return table.c.owner == bindparam("owner"), table.c.conversation_id == home


def locate_message(connection: Connection, lineage: Lineage, seq: Seq) -> Lineage:
    """Return the part of a lineage that tells where message `seq` is kept.

    Usually it is the lineage, and nothing is read.
    """
    while not lineage.knows_message(seq):
        lineage = _read_part(connection, lineage, [origin for origin in lineage.far if seq <= origin.up_to_seq][-1])
    return lineage


def locate_turn(connection: Connection, lineage: Lineage, turn: TurnNumber) -> Lineage:
    """Return the part of a lineage that tells where turn `turn` is kept."""
    while not lineage.knows_turn(turn):
        lineage = _read_part(connection, lineage, [origin for origin in lineage.far if turn <= origin.up_to_turn][-1])
    return lineage


def find_message_home(connection: Connection, lineage: Lineage, seq: Seq) -> ConversationKey:
    """Return the conversation that keeps message `seq`."""
    part = locate_message(connection, lineage, seq)
    return _find_home(part, (origin.conversation_id for origin in reversed(part.origins) if seq <= origin.up_to_seq))


def find_turn_home(connection: Connection, lineage: Lineage, turn: TurnNumber) -> ConversationKey:
    """Return the conversation that keeps turn `turn`."""
    part = locate_turn(connection, lineage, turn)
    return _find_home(part, (origin.conversation_id for origin in reversed(part.origins) if turn <= origin.up_to_turn))


def _find_home(part: Lineage, keepers: Iterator[str]) -> ConversationKey:
    return ConversationKey(part.key.owner, next(keepers, part.home.id))


def list_origins(connection: Connection, lineage: Lineage) -> Iterator[Origin]:
    """Yield every origin of a conversation, nearest first."""
    limit = None
    while True:
        for origin in lineage.origins:
            limit = origin.up_to_seq if limit is None else min(limit, origin.up_to_seq)
            yield replace(origin, up_to_seq=limit)
        if not lineage.far:
            return
        limit = lineage.far[0].up_to_seq if limit is None else min(limit, lineage.far[0].up_to_seq)
        yield replace(lineage.far[0], up_to_seq=limit)
        lineage = _read_part(connection, lineage, lineage.far[0])


def _read_part(connection: Connection, lineage: Lineage, origin: Origin) -> Lineage:
    """Return the part of a lineage that begins at one of its origins, from the row of that one."""
    values = {"owner": lineage.key.owner, "id": origin.conversation_id}
    row = connection.execute(_LINEAGE_OF, values).one_or_none()
    if row is None:
        raise damaged_row(lineage.key.id, f"conversation {origin.conversation_id!r}, which keeps its past, is missing")
    part = read_lineage(lineage.key, row.lineage)
    if part.depth is not None and part.depth != origin.depth:
        raise damaged_row(lineage.key.id, f"conversation {origin.conversation_id!r} is not the origin that it names")
    return replace(part, start=origin.conversation_id)


def write_lineage(lineage: Lineage) -> str:
    """Return the column of a fork's lineage."""
    return to_json(
        [
            [
                origin.conversation_id,
                origin.up_to_seq,
                origin.up_to_turn,
                *(() if lineage.depth is None else (origin.depth,)),
            ]
            for origin in (*lineage.origins, *lineage.far)
        ]
    )


def read_lineage(key: ConversationKey, column: str | None) -> Lineage:
    """Return the lineage of a conversation from its column.

    Raises:
        DamagedRow: the column is not a lineage.
    """
    if column is None:
        return Lineage(key)
    try:
        items = _list_items(column)
        origins = [_read_origin(*item) for item in items]
        if any(near.up_to_seq < far.up_to_seq for near, far in pairwise(origins)):
            raise ValueError("not nearest first")
        if all(len(item) == 3 for item in items):
            return Lineage(key, tuple(origins))
        depth = origins[0].depth + 1
        if [origin.depth for origin in origins] != _list_named_depths(depth):
            raise ValueError("not the origins that its depth needs")
        return _split(key, origins, depth)
    except DECODING_ERRORS as error:
        raise _make_damaged(key, error) from error


def read_nearest_origin(key: ConversationKey, column: str | None) -> Origin | None:
    """Return the conversation that a fork was made from, from its column; None if it is not a fork.

    Raises:
        DamagedRow: the column is not a lineage.
    """
    if column is None:
        return None
    try:
        return _read_origin(*_list_items(column)[0])
    except DECODING_ERRORS as error:
        raise _make_damaged(key, error) from error


def _list_items(column: str) -> list[Any]:
    items = json.loads(column)
    if not isinstance(items, list) or not items:
        raise ValueError("not a list of origins")
    return items


def _read_origin(conversation_id: object, seq: Any, turn: Any, depth: Any = 0) -> Origin:
    return Origin(str(conversation_id), Seq(int(seq)), TurnNumber(int(turn)), int(depth))


def _make_damaged(key: ConversationKey, error: Exception) -> DamagedRow:
    return damaged_row(key.id, f"its lineage cannot be decoded ({error})")
