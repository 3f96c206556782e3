"""What must hold of a conversation's rows at any moment when nobody is at work on it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine, FromClause, RowMapping, Select, select

from convstore import Store, Usage
from convstore.attachments import written
from convstore.ledger.lineage import read_lineage
from convstore.ledger.models import attachments, conversations, messages, turns
from convstore.messages import StoredMessage, decode, digest

Rows = dict[int, RowMapping]
COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


def engine_of(store: Store) -> Engine:
    """The engine that a store runs on: of a database in memory, the only way to see it."""
    return store._runtime.database.engine


def check_conversation(store_or_engine: Store | Engine, owner: str, id: str, *, running: bool = False) -> None:
    """Assert that the rows of a conversation agree with each other.

    Args:
        store_or_engine: where to look.
        owner: whose it is.
        id: its id.
        running: whether a turn may be at work on it, or have died on it.
    """
    engine = engine_of(store_or_engine) if isinstance(store_or_engine, Store) else store_or_engine
    with engine.connect() as connection:
        conversation = (
            connection.execute(select(conversations).where(conversations.c.owner == owner, conversations.c.id == id))
            .mappings()
            .one()
        )
        lineage = read_lineage(owner, id, conversation["lineage"])
        last = {origin.conversation_id: origin for origin in lineage.origins}
        stored: Rows = {}
        recorded: Rows = {}
        for home in (*reversed(last), id):  # what a fork shares belongs to it too
            rows = connection.execute(_of(messages, owner, home)).mappings().all()
            stored |= {row["seq"]: row for row in rows if home == id or row["seq"] <= last[home].up_to_seq}
            rows = connection.execute(_of(turns, owner, home)).mappings().all()
            recorded |= {row["seq"]: row for row in rows if home == id or row["seq"] <= last[home].up_to_turn}
        kept = connection.execute(select(attachments.c.digest, attachments.c.data).where(attachments.c.owner == owner))
        texts = written({bytes(row.digest): bytes(row.data) for row in kept})
    _check_tree(conversation, stored, texts)
    path = _check_path(conversation, stored)
    for turn in recorded.values():
        if turn["conversation_id"] == id:
            _check_turn(conversation, stored, turn, running=running)
    outputs = [
        turn["output_seq"]
        for turn in recorded.values()
        if turn["status"] == "completed" and turn["output_seq"] is not None
    ]
    assert len(outputs) == len(set(outputs)), f"two completed turns have one output: {outputs}"
    _check_replay(path, stored, recorded)
    if not running:
        lease = (conversation["running_turn"], conversation["lease_token"], conversation["lease_expires_at"])
        assert lease == (None, None, None), f"nobody is at work, and the conversation is held: {lease}"


def _of(table: FromClause, owner: str, id: str) -> Select[Any]:
    return select(table).where(table.c.owner == owner, table.c.conversation_id == id).order_by(table.c.seq)


def check_all(engine: Engine, *, running: bool = False) -> int:
    """Check every conversation of every owner, and return how many there are."""
    with engine.connect() as connection:
        keys = connection.execute(select(conversations.c.owner, conversations.c.id)).all()
    for owner, id in keys:
        check_conversation(engine, owner, id, running=running)
    return len(keys)


def _check_tree(conversation: RowMapping, stored: Rows, texts: dict[bytes, str]) -> None:
    """Every message, on the path or off it: its place, its digest, its context, the turn that it names."""
    roles: dict[int, str] = {}
    for seq, row in stored.items():  # in order: a parent comes before its children
        where = f"message seq {seq}"
        assert 1 <= seq < conversation["next_seq"], f"{where}: the next is {conversation['next_seq']}"
        message = decode(StoredMessage(row["role"], row["name"], row["content"], row["extra"]), texts)
        roles[seq] = message["role"]
        turn = row["turn_seq"]
        assert turn is None or 1 <= turn < conversation["next_turn"], f"{where}: of turn {turn}"
        parent_seq = row["parent_seq"]
        if parent_seq == 0:
            assert (row["position"], row["context_seq"]) == (1, 0), where
            assert bytes(row["digest"]) == digest(b"", message), f"{where}: digest"
            continue
        assert parent_seq < seq, f"{where}: follows a later one, {parent_seq}"
        assert parent_seq in stored, f"{where}: its parent {parent_seq} is missing"
        parent = stored[parent_seq]
        assert row["position"] == parent["position"] + 1, f"{where}: position"
        assert bytes(row["digest"]) == digest(bytes(parent["digest"]), message), f"{where}: digest"
        context = parent_seq if roles[parent_seq] in ("system", "developer") else parent["context_seq"]
        assert row["context_seq"] == context, f"{where}: context_seq"


def _check_path(conversation: RowMapping, stored: Rows) -> list[int]:
    """From the head to the root, without a gap; returns it from the root on."""
    head = conversation["head_seq"]
    path = []
    seq = head
    while seq != 0:
        assert seq in stored, f"message seq {seq} is missing from the path of head {head}"
        path.append(seq)
        seq = stored[seq]["parent_seq"]
    path.reverse()
    assert [stored[seq]["position"] for seq in path] == list(range(1, len(path) + 1))
    assert conversation["length"] == len(path), f"length {conversation['length']}, path of {len(path)}"
    return path


def _check_turn(conversation: RowMapping, stored: Rows, turn: RowMapping, *, running: bool) -> None:
    where = f"turn {turn['seq']}"
    status = turn["status"]
    assert 1 <= turn["seq"] < conversation["next_turn"], where
    assert status in ("running", "completed", "interrupted", "failed"), f"{where}: {status}"
    assert turn["base_seq"] == 0 or turn["base_seq"] in stored, f"{where}: base_seq"
    inputs = _inputs(turn)
    for seq in inputs:
        assert seq in stored, f"{where}: its input {seq} is missing"
    for before, after in pairwise(inputs):
        assert stored[after]["parent_seq"] == before, f"{where}: its input is not one after the other"
    output = turn["output_seq"]
    if output is not None:
        assert output in stored, f"{where}: its output {output} is missing"
        last = inputs[-1] if inputs else turn["base_seq"]
        assert stored[output]["parent_seq"] == last, f"{where}: its output does not follow its input"
        assert stored[output]["turn_seq"] == turn["seq"], f"{where}: its output names another turn"
    usage = Usage(json.loads(turn["usage"] or "{}"))
    for name in COUNTS:
        assert turn[name] == getattr(usage, name), f"{where}: {name}"
    if status == "running":
        assert running, f"{where} is still running"
        assert turn["ended_at"] is None, where
        return
    assert turn["ended_at"] is not None, f"{where}: {status}, and has no end"
    if status == "completed":
        if turn["window"] is None and inputs:  # an addition under a key: no model was asked
            assert output is None, f"{where}: an addition with an output"
        else:
            assert output is not None, f"{where}: completed without an output"
            assert turn["finish_reason"], f"{where}: completed without a finish_reason"
        assert turn["error"] is None, f"{where}: completed, and has an error"
    else:
        assert turn["error"] is not None, f"{where}: {status}, and does not say why"
    if status == "failed":
        assert output is None, f"{where}: failed, and has an output"


def _check_replay(path: list[int], stored: Rows, recorded: Rows) -> None:
    """What a turn asked is replayed only with its answer: that of this turn, or of another that asked again."""
    on_path = set(path)
    answered: set[int] = set()
    for turn in recorded.values():
        if turn["output_seq"] in on_path:
            answered.update((*_inputs(turn), turn["output_seq"]))
    for seq in path:
        turn_seq = stored[seq]["turn_seq"]
        if turn_seq is None or seq in answered:
            continue
        assert turn_seq in recorded, f"message seq {seq}: its turn {turn_seq} is missing"
        status = recorded[turn_seq]["status"]
        assert status == "completed", f"message seq {seq} is replayed, and its turn {turn_seq} is {status}"


def _inputs(turn: RowMapping) -> list[int]:
    first: Any = turn["first_input_seq"]
    last: Any = turn["last_input_seq"]
    assert (first is None) == (last is None), f"turn {turn['seq']}: half an input"
    return [] if first is None else list(range(first, last + 1))
