"""Find the conversation that keeps a message or a turn of a fork.

A fork stores only what is new. Its numbers continue after the last message that it shares. Every smaller number belongs
to the origin, or to an origin of the origin.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, bindparam, case

from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.messages.storable_text import to_json
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber


@dataclass(frozen=True, slots=True)
class Origin:
    """A conversation that keeps a part of a fork's past, up to a message and a turn."""

    conversation_id: str
    up_to_seq: Seq
    up_to_turn: TurnNumber


@dataclass(frozen=True, slots=True)
class Lineage:
    """A conversation and the origins that keep its past, nearest first."""

    key: ConversationKey
    origins: tuple[Origin, ...] = ()

    def find_message_home(self, seq: Seq) -> ConversationKey:
        """Return the conversation that keeps message `seq`."""
        for origin in reversed(self.origins):
            if seq <= origin.up_to_seq:
                return ConversationKey(self.key.owner, origin.conversation_id)
        return self.key

    def find_turn_home(self, turn: TurnNumber) -> ConversationKey:
        """Return the conversation that keeps turn `turn`."""
        for origin in reversed(self.origins):
            if turn <= origin.up_to_turn:
                return ConversationKey(self.key.owner, origin.conversation_id)
        return self.key

    def list_fork_origins(self, seq: Seq, last_turn: TurnNumber) -> tuple[Origin, ...]:
        """Return the origins of a fork of this conversation.

        Args:
            seq: the last message that the fork shares.
            last_turn: the latest turn of this conversation.
        """
        origin = Origin(self.key.id, seq, last_turn)
        clipped = [replace(older, up_to_seq=min(older.up_to_seq, seq)) for older in self.origins]
        # An origin that keeps nothing is left out. The forked conversation itself always stays, because the fork must
        # name its origin.
        kept = [
            near
            for near, far in pairwise([*clipped, Origin("", Seq(0), TurnNumber(0))])
            if near.up_to_seq > far.up_to_seq or near.up_to_turn > far.up_to_turn
        ]
        return (origin, *kept)

    def bind_message_limits(self) -> dict[str, Any]:
        """Return the parameters of `is_kept` for a table of messages."""
        return self._bind_limits(tuple(origin.up_to_seq for origin in self.origins))

    def bind_turn_limits(self) -> dict[str, Any]:
        """Return the parameters of `is_kept` for a table of turns."""
        return self._bind_limits(tuple(origin.up_to_turn for origin in self.origins))

    def _bind_limits(self, limits: tuple[int, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {"owner": self.key.owner, "conversation_id": self.key.id}
        for number, (origin, limit) in enumerate(zip(self.origins, limits, strict=True)):
            values[f"origin_{number}"] = origin.conversation_id
            values[f"up_to_{number}"] = limit
        return values


def is_kept(table: FromClause, depth: int, number: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition for the owner and the conversation that keep a row.

    Args:
        depth: the number of origins of the lineage.
        number: the `seq` of a message, or the number of a turn.
    """
    home: ColumnElement[str] = bindparam("conversation_id")
    if depth:
        # Origins are nearest first. Numbers after the last number of the nearest one belong to the conversation itself.
        homes: list[ColumnElement[str]] = [home, *(bindparam(f"origin_{place}") for place in range(depth))]
        limits = [number > bindparam(f"up_to_{place}", type_=BigInteger) for place in range(depth)]
        home = case(*zip(limits, homes, strict=False), else_=homes[-1])
    return table.c.owner == bindparam("owner"), table.c.conversation_id == home


def write_lineage(origins: tuple[Origin, ...]) -> str | None:
    """Return the column of a lineage; None if the conversation is not a fork."""
    if not origins:
        return None
    return to_json([[origin.conversation_id, origin.up_to_seq, origin.up_to_turn] for origin in origins])


def read_lineage(key: ConversationKey, column: str | None) -> Lineage:
    """Return the lineage of a conversation from its column.

    Raises:
        DamagedRow: the column is not a lineage.
    """
    if column is None:
        return Lineage(key)
    try:
        origins = tuple(
            Origin(str(origin), Seq(int(seq)), TurnNumber(int(turn))) for origin, seq, turn in json.loads(column)
        )
        if any(near.up_to_seq < far.up_to_seq for near, far in pairwise(origins)):
            raise ValueError("not nearest first")
    except DECODING_ERRORS as error:
        raise damaged_row(key.id, f"its lineage cannot be decoded ({error})") from error
    return Lineage(key, origins)
