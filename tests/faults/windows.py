"""Compare what the model received with what the database holds afterwards."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from convstore import Store
from convstore.context.window import make_summary_messages
from convstore.db.connection import Connection
from convstore.db.fork_sharing import find_turn_home
from convstore.db.head_rows import read_head_seq
from convstore.db.tables import summaries
from convstore.messages.request_form import to_request
from convstore.messages.storable_text import from_column
from convstore.testing import ChatServer
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber
from convstore.values.results import MessageRecord, Turn
from tests.contract.invariants import engine_of


def check_requests(store: Store, server: ChatServer, *ids: str) -> int:
    """Compare the request of every turn with the tree of its conversation, and return the number of turns.

    A summary in a request must be one of this path, and every message that it does not cover must be in the request.
    It works for turns without a limit and without pins.
    """
    checked = 0
    for id in ids:
        tree = {record.seq: record for record in store.tree(id)}
        for turn in store.turns(id, limit=None):
            if turn.purpose is None and turn.response_id is not None:
                number = int(turn.response_id.rpartition("-")[2])
                sent = server.requests[number - 1].body["messages"]
                assert sent == _expected(store, id, tree, turn), f"conversation {id}, turn {turn.seq}"
                checked += 1
    return checked


def _expected(store: Store, id: str, tree: dict[Seq, MessageRecord], turn: Turn) -> list[dict[str, Any]]:
    inputs: list[Seq] = []
    if turn.first_input_seq is not None and turn.last_input_seq is not None:
        inputs = [Seq(seq) for seq in range(turn.first_input_seq, turn.last_input_seq + 1)]
    at = tree[inputs[0]].parent_seq if inputs else turn.base_seq
    path: list[MessageRecord] = []
    while at:
        path.insert(0, tree[at])
        at = tree[at].parent_seq
    messages = [*(record.message for record in path), *(tree[seq].message for seq in inputs)]
    written_by = turn.window.summary if turn.window is not None else None
    if written_by is not None:
        up_to, text = _summary(store, id, written_by)
        done = next(
            place for place, record in enumerate(path, 1) if record.seq == up_to
        )  # the summary belongs to this path
        system = [message for message in messages[:done] if message["role"] == "system"]
        messages = [*system, *make_summary_messages(text), *messages[done:]]
    return [to_request(message) for message in messages]


def _summary(store: Store, id: str, turn: TurnNumber) -> tuple[int, str]:
    with engine_of(store).connect() as plain:
        connection = Connection(plain)
        _, lineage = read_head_seq(connection, ConversationKey("", id))
        row = connection.execute(
            select(summaries.c.up_to_seq, summaries.c.text).where(
                summaries.c.conversation_id == find_turn_home(connection, lineage, turn).id,
                summaries.c.turn_seq == turn,
            )
        ).one()
    return row.up_to_seq, from_column(row.text) or ""
