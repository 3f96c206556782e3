"""Lineage: in which conversation each message and turn of a fork is kept.

A fork stores only what is new. Its numbers continue after the message that it was forked at; every smaller number
belongs to the conversation that it came from, or to that one's own origins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, FromClause, bindparam, case

from convstore.errors import DamagedRow
from convstore.messages.codec import to_json


@dataclass(frozen=True, slots=True)
class Origin:
    """A conversation that keeps a part of a fork's past: what is greater belongs to the fork, or to a nearer origin."""

    conversation_id: str
    up_to_seq: int
    up_to_turn: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """A conversation, and where its past is kept; origins nearest first."""

    owner: str
    conversation_id: str
    origins: tuple[Origin, ...] = ()

    def home(self, seq: int) -> str:
        """Return the conversation that keeps message `seq`."""
        return next((origin.conversation_id for origin in reversed(self.origins) if seq <= origin.up_to_seq), self.id)

    def home_of_turn(self, turn: int) -> str:
        """Return the conversation that keeps turn `turn`."""
        return next((origin.conversation_id for origin in reversed(self.origins) if turn <= origin.up_to_turn), self.id)

    @property
    def id(self) -> str:
        return self.conversation_id

    def forked(self, seq: int, last_turn: int) -> tuple[Origin, ...]:
        """Return the origins of a fork of this conversation at message `seq`, when its latest turn is `last_turn`."""
        origin = Origin(self.conversation_id, seq, last_turn)
        clipped = [replace(older, up_to_seq=min(older.up_to_seq, seq)) for older in self.origins]
        # Of those that keep nothing, only the one that was forked stays: to say what it was forked from.
        kept = [
            near
            for near, far in pairwise([*clipped, Origin("", 0, 0)])
            if near.up_to_seq > far.up_to_seq or near.up_to_turn > far.up_to_turn
        ]
        return (origin, *kept)

    def bound(self) -> dict[str, Any]:
        """Return the values of the parameters in `kept_in`."""
        values: dict[str, Any] = {"owner": self.owner, "conversation_id": self.conversation_id}
        for number, origin in enumerate(self.origins):
            values[f"origin_{number}"] = origin.conversation_id
            values[f"up_to_{number}"] = origin.up_to_seq
        return values


def kept_in(table: FromClause, depth: int, seq: ColumnElement[int]) -> tuple[ColumnElement[bool], ...]:
    """Return the condition for the row of message `seq`, but for its number, in a lineage of `depth` origins."""
    mine: ColumnElement[str] = bindparam("conversation_id")
    if depth:
        # The origins nearest first: what is greater than the first one's last message is the conversation's own.
        homes: list[ColumnElement[str]] = [mine, *(bindparam(f"origin_{number}") for number in range(depth))]
        limits = [seq > bindparam(f"up_to_{number}", type_=BigInteger) for number in range(depth)]
        mine = case(*zip(limits, homes, strict=False), else_=homes[-1])
    return table.c.owner == bindparam("owner"), table.c.conversation_id == mine


def write_lineage(origins: tuple[Origin, ...]) -> str | None:
    """Return the column of a lineage; None for a conversation that is no fork."""
    if not origins:
        return None
    return to_json([[origin.conversation_id, origin.up_to_seq, origin.up_to_turn] for origin in origins])


def read_lineage(owner: str, id: str, column: str | None) -> Lineage:
    """Return the lineage of a conversation from its column.

    Raises:
        DamagedRow: the column is no lineage.
    """
    if column is None:
        return Lineage(owner, id)
    try:
        origins = tuple(Origin(str(origin), int(seq), int(turn)) for origin, seq, turn in json.loads(column))
        if any(near.up_to_seq < far.up_to_seq for near, far in pairwise(origins)):
            raise ValueError("not nearest first")
    except (ValueError, TypeError) as error:
        raise DamagedRow(
            f"conversation {id}: its lineage cannot be decoded ({error}); restore this row from a backup"
        ) from error
    return Lineage(owner, id, origins)
