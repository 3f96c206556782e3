"""Check that the rows of a conversation are consistent."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

from sqlalchemy import Engine, FromClause, RowMapping, Select, select

from convstore import Store, Usage
from convstore.db.connection import Connection
from convstore.db.fork_sharing import Lineage, Origin, find_message_home, find_turn_home, list_origins, read_lineage
from convstore.db.message_rows import STRIDES
from convstore.db.tables import attachments, conversations, messages, summaries, turns
from convstore.messages.codec import StoredMessage, decode, digest
from convstore.messages.inline_data import encode_attachments
from convstore.messages.message import Message
from convstore.values.identifiers import ConversationKey
from convstore.values.window_options import check_window_options

Rows = dict[int, RowMapping]
CheckedOut = tuple[str, int]
TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


def engine_of(store: Store) -> Engine:
    """Return the engine of a store. A database in memory can be read only through it."""
    return store._engine.transactions.database.engine


def check_conversation(
    store_or_engine: Store | Engine,
    owner: str,
    id: str,
    *,
    running: bool = False,
    checked_out: Collection[CheckedOut] = (),
) -> None:
    """Assert that the rows of a conversation and of its origins agree.

    Args:
        store_or_engine: the database, as a store or an engine.
        owner: owner of the conversation.
        id: id of the conversation.
        running: True if a turn may be running, or may have died without an end.
        checked_out: the (conversation, `seq`) of each message to which a test moved a head by `checkout`. See
            `_check_replay`.
    """
    engine = engine_of(store_or_engine) if isinstance(store_or_engine, Store) else store_or_engine
    with engine.connect() as plain:
        connection = Connection(plain)
        conversation = (
            connection.execute(select(conversations).where(conversations.c.owner == owner, conversations.c.id == id))
            .mappings()
            .one()
        )
        lineage = read_lineage(ConversationKey(owner, id), conversation["lineage"])
        stored, recorded, summarised = _read_rows(connection, lineage)
        origins = list(list_origins(connection, lineage))
        _check_lineage(connection, conversation, lineage, origins)
        kept = connection.execute(select(attachments.c.digest, attachments.c.data).where(attachments.c.owner == owner))
        texts = encode_attachments({bytes(row.digest): bytes(row.data) for row in kept})
    exact = {
        seq: decode(StoredMessage(row["role"], row["name"], row["content"], row["extra"]), texts)
        for seq, row in stored.items()
    }
    _check_tree(conversation, stored, exact)
    path = _check_path(conversation, stored)
    for turn in recorded.values():
        if turn["conversation_id"] == id:
            _check_turn(conversation, stored, turn, running=running)
    outputs = [
        turn["output_seq"]
        for turn in recorded.values()
        if turn["status"] == "completed" and _is_output_here(turn, stored)
    ]
    assert len(outputs) == len(set(outputs)), f"two completed turns have the same output: {outputs}"
    _check_pointers(conversation, stored, recorded, summarised)
    homes = {id, *(origin.conversation_id for origin in origins)}
    chosen = {seq for home, seq in checked_out if home in homes} | {origin.up_to_seq for origin in origins}
    _check_replay(path, stored, recorded, chosen)
    if not running:
        lease = [conversation[f"lease_{name}"] for name in ("token", "expires_at", "ms")]
        lease.append(conversation["running_turn"])
        assert lease == [None] * 4, f"no turn runs, but a lease holds the conversation: {lease}"
        assert conversation["compacting_until"] is None, "nobody compacts the conversation, but its row says so"


def _read_rows(connection: Connection, lineage: Lineage) -> tuple[Rows, Rows, Rows]:
    """Return messages, turns and summaries by number, including those of the origins."""
    stored: Rows = {}
    recorded: Rows = {}
    summarised: Rows = {}
    origins = list(list_origins(connection, lineage))
    for home in (*(origin.conversation_id for origin in reversed(origins)), lineage.key.id):
        for row in connection.execute(_select_rows(messages, lineage.key.owner, home)).mappings():
            if find_message_home(connection, lineage, row["seq"]).id == home:
                stored[row["seq"]] = row
            else:
                # Later messages of the origin have the same numbers as those of the fork.
                assert home != lineage.key.id, (
                    f"message seq {row['seq']}: the fork stores it, but it belongs to the origin"
                )
        for row in connection.execute(_select_rows(turns, lineage.key.owner, home)).mappings():
            if find_turn_home(connection, lineage, row["seq"]).id == home:
                recorded[row["seq"]] = row
            else:
                assert home != lineage.key.id, f"turn {row['seq']}: the fork stores it, but it belongs to the origin"
        rows = select(summaries).where(summaries.c.owner == lineage.key.owner, summaries.c.conversation_id == home)
        for row in connection.execute(rows).mappings():
            if find_turn_home(connection, lineage, row["turn_seq"]).id == home:
                summarised[row["turn_seq"]] = row
    return stored, recorded, summarised


def _select_rows(table: FromClause, owner: str, id: str) -> Select[Any]:
    return select(table).where(table.c.owner == owner, table.c.conversation_id == id).order_by(table.c.seq)


def check_all(engine: Engine, *, running: bool = False, checked_out: Collection[CheckedOut] = ()) -> int:
    """Check every conversation of every owner, and return how many there are."""
    with engine.connect() as connection:
        keys = connection.execute(select(conversations.c.owner, conversations.c.id)).all()
    for owner, id in keys:
        check_conversation(engine, owner, id, running=running, checked_out=checked_out)
    return len(keys)


def _check_lineage(
    connection: Connection, conversation: RowMapping, lineage: Lineage, origins: Sequence[Origin]
) -> None:
    """Assert that all origins exist, nearest first, with lower numbers than the fork."""
    for near, far in pairwise(origins):
        assert (near.up_to_seq, near.up_to_turn) >= (far.up_to_seq, far.up_to_turn), (
            "lineage: the nearest origin is not first"
        )
    for origin in origins:
        row = connection.execute(
            select(conversations.c.next_seq, conversations.c.next_turn).where(
                conversations.c.owner == lineage.key.owner, conversations.c.id == origin.conversation_id
            )
        ).one()
        where = f"lineage: {origin}"
        assert 0 <= origin.up_to_seq < row.next_seq, where
        assert 0 <= origin.up_to_turn < row.next_turn, where
        assert origin.up_to_seq < conversation["next_seq"], where
        assert origin.up_to_turn < conversation["next_turn"], where


def _check_tree(conversation: RowMapping, stored: Rows, exact: dict[int, Message]) -> None:
    """Assert that each message has the right position, digest, ancestors and turn."""
    for seq, row in stored.items():  # in the order of `seq`: a parent comes before its children
        where = f"message seq {seq}"
        assert 1 <= seq < conversation["next_seq"], f"{where}: the next seq is {conversation['next_seq']}"
        message = exact[seq]
        turn = row["turn_seq"]
        assert turn is None or 1 <= turn < conversation["next_turn"], f"{where}: turn {turn} does not exist"
        assert row["tokens"] is None or row["tokens"] >= 1, f"{where}: wrong tokens"
        parent_seq = row["parent_seq"]
        back = tuple(row[f"back_{stride}"] for stride in STRIDES)
        if parent_seq == 0:
            assert (row["position"], row["context_seq"]) == (1, 0), where
            assert bytes(row["digest"]) == digest(b"", message), f"{where}: wrong digest"
            assert back == (None, None, None), f"{where}: the first message has ancestors {back}"
            continue
        assert parent_seq < seq, f"{where}: its parent {parent_seq} is later"
        assert parent_seq in stored, f"{where}: its parent {parent_seq} is missing"
        parent = stored[parent_seq]
        assert row["position"] == parent["position"] + 1, f"{where}: wrong position"
        assert bytes(row["digest"]) == digest(bytes(parent["digest"]), message), f"{where}: wrong digest"
        context = parent_seq if exact[parent_seq]["role"] in ("system", "developer") else parent["context_seq"]
        assert row["context_seq"] == context, f"{where}: wrong context_seq"
        # By induction, this is the ancestor at the last earlier position that the stride divides.
        expected = tuple(
            parent_seq if parent["position"] % stride == 0 else parent[f"back_{stride}"] for stride in STRIDES
        )
        # An earlier release stored NULL as tokens and as ancestors.
        assert back == expected or (row["tokens"] is None and back == (None, None, None)), (
            f"{where}: wrong ancestors {back}"
        )


def _check_path(conversation: RowMapping, stored: Rows) -> list[int]:
    """Assert that the path has no gap, and return the `seq` of each of its messages."""
    head = conversation["head_seq"]
    path = []
    seq = head
    while seq != 0:
        assert seq in stored, f"message seq {seq} is missing from the path of head {head}"
        path.append(seq)
        seq = stored[seq]["parent_seq"]
    path.reverse()
    assert [stored[seq]["position"] for seq in path] == list(range(1, len(path) + 1))
    assert conversation["length"] == len(path), (
        f"length is {conversation['length']}, but the path has {len(path)} messages"
    )
    return path


def _check_turn(conversation: RowMapping, stored: Rows, turn: RowMapping, *, running: bool) -> None:
    where = f"turn {turn['seq']}"
    status = turn["status"]
    assert 1 <= turn["seq"] < conversation["next_turn"], where
    assert status in ("running", "completed", "interrupted", "failed"), f"{where}: unknown status {status}"
    assert turn["base_seq"] == 0 or turn["base_seq"] in stored, f"{where}: its base_seq is missing"
    inputs = _list_inputs(turn)
    for seq in inputs:
        assert seq in stored, f"{where}: its input {seq} is missing"
    for before, after in pairwise(inputs):
        assert stored[after]["parent_seq"] == before, f"{where}: its input messages do not follow each other"
    output = turn["output_seq"]
    if output is not None:
        assert output in stored, f"{where}: its output {output} is missing"
        last = inputs[-1] if inputs else turn["base_seq"]
        assert stored[output]["parent_seq"] == last, f"{where}: its output does not follow its input"
        assert stored[output]["turn_seq"] == turn["seq"], f"{where}: its output names another turn"
    usage = Usage(json.loads(turn["usage"] or "{}"))
    for name in TOKEN_COUNTS:
        assert turn[name] == getattr(usage, name), f"{where}: {name} differs from the usage"
    if status == "running":
        assert running, f"{where} is still running"
        assert turn["ended_at"] is None, where
        return
    _check_end(turn, inputs)
    if turn["estimated_tokens"] is not None and turn["purpose"] is None:
        _check_window(stored, turn, inputs)


def _check_end(turn: RowMapping, inputs: list[int]) -> None:
    where, status, output = f"turn {turn['seq']}", turn["status"], turn["output_seq"]
    assert turn["ended_at"] is not None, f"{where}: {status}, but has no end"
    if turn["purpose"] is not None:
        assert turn["purpose"] in ("summary", "title"), f"{where}: unknown purpose {turn['purpose']}"
        assert not inputs, f"{where}: a summary with an input"
        assert output is None, f"{where}: a summary with an output"
        assert status != "completed" or turn["finish_reason"], f"{where}: completed without a finish_reason"
    elif status == "completed":
        if turn["window"] is None and inputs:  # `append` made this turn for an idempotency key, and no model was called
            assert output is None, f"{where}: an append with an output"
        else:
            assert output is not None, f"{where}: completed without an output"
            is_accepted = turn["finish_reason"] or '"accept_done":true' in (turn["window"] or "")
            assert is_accepted, f"{where}: completed without a finish_reason"
    if status == "completed":
        assert turn["error"] is None, f"{where}: completed, but has an error"
    else:
        assert turn["error"] is not None, f"{where}: {status}, but has no error"
    if status == "failed":
        assert output is None, f"{where}: failed, but has an output"


def _check_window(stored: Rows, turn: RowMapping, inputs: list[int]) -> None:
    """Assert that the window report accounts for each message of the path."""
    where = f"turn {turn['seq']}: window"
    facts = json.loads(turn["window"])
    before = stored[inputs[0]]["parent_seq"] if inputs else turn["base_seq"]
    path = set(_walk_ancestors(stored, before))
    assert facts["history"] + facts.get("left_out", 0) == len(path), (
        f"{where}: {facts} does not add up to {len(path)} messages"
    )
    assert facts["tokens"] >= 0, where
    named = [*facts.get("context", ()), *facts.get("pinned", ()), *([facts["from_seq"]] if facts["from_seq"] else ())]
    assert path.issuperset(named), f"{where}: not all of {named} are on the path"
    if facts["from_seq"]:
        positions = [stored[seq]["position"] for seq in named]
        assert max(positions) == stored[facts["from_seq"]]["position"], f"{where}: from_seq is not the last"
    check_window_options(facts.get("options", {}))
    assert turn["requested_model"] is not None, f"{where}: no requested_model"


def _check_pointers(conversation: RowMapping, stored: Rows, recorded: Rows, summarised: Rows) -> None:
    """Assert that the pins, redo heads, summary and window options are valid."""
    pins = json.loads(conversation["pins"] or "[]")
    assert len({seq for seq, _ in pins}) == len(pins), f"pinned twice: {pins}"
    for seq, position in pins:
        assert seq in stored, f"pinned: message seq {seq} is missing"
        assert stored[seq]["position"] == position, f"pinned: message seq {seq} is not at {position}"
    for seq in json.loads(conversation["redo"] or "[]"):
        assert seq in stored, f"redo: message seq {seq} is missing"
    turn = conversation["summary_turn"]
    while turn is not None:
        assert turn in summarised, f"summary of turn {turn} is missing"
        summary = summarised[turn]
        assert recorded[turn]["purpose"] == "summary", f"summary of turn {turn}: that turn wrote no summary"
        assert recorded[turn]["status"] == "completed", f"summary of turn {turn}: that turn is not completed"
        assert recorded[turn]["base_seq"] == summary["up_to_seq"], (
            f"summary of turn {turn}: up_to_seq is not the base of its turn"
        )
        assert summary["up_to_seq"] in stored, f"summary of turn {turn}: its last message is missing"
        position = stored[summary["up_to_seq"]]["position"]
        assert position == summary["up_to_position"], f"summary of turn {turn}: its last message is at {position}"
        previous = summary["previous_turn"]
        assert previous is None or previous < turn, (
            f"summary of turn {turn}: the previous turn {previous} is not earlier"
        )
        turn = previous
    check_window_options(json.loads(conversation["window"] or "{}"))


def _check_replay(path: list[int], stored: Rows, recorded: Rows, checked_out: Collection[int]) -> None:
    """Assert that each input on the path has a reply, and each reply may be there.

    - On the path, a reply follows the input of a turn. The reply belongs to that turn, or to a retry with the same
      input. It may be any of the choices that the turn received. Instead of the reply, the input of an edit may
      follow, if the edit replaced a later message of the same input. Messages that were appended with an idempotency
      key need no reply.
    - A reply on the path belongs to a completed turn, or to a turn that its user stopped. The partial reply of a turn
      that was cut off is not on the path.

    There are two exceptions. `checkout` may move the head to any message, and a fork may begin at any message. Then
    that message is on the path without a reply. The rows show where a fork began. For a checkout, the caller passes
    the message in `checked_out`.
    """
    following = dict(pairwise([*path, 0]))
    on_path = set(path)
    chosen: set[int] = set()
    for seq in on_path.intersection(checked_out):
        turn = recorded.get(stored[seq]["turn_seq"] or 0)
        chosen.update({seq, *(_list_inputs(turn) if turn is not None else ())})
    answered: set[int] = set()
    for turn in recorded.values():
        inputs = _list_inputs(turn)
        if inputs and stored.get(inputs[-1]) and following.get(inputs[-1]):
            answer = stored[following[inputs[-1]]]
            if answer["turn_seq"] == turn["seq"]:
                answered.update(inputs)
    for seq in path:
        turn_seq = stored[seq]["turn_seq"]
        if turn_seq is None or seq in chosen:
            continue
        assert turn_seq in recorded, f"message seq {seq}: its turn {turn_seq} is missing"
        turn = recorded[turn_seq]
        if seq in _list_inputs(turn):
            added = turn["status"] == "completed" and turn["window"] is None
            # A fork began here, and keeps what it shared of an origin that was purged.
            added = added or (turn["status"] == "interrupted" and json.loads(turn["error"])["type"] == "NotShared")
            assert added or seq in answered or _is_edited(seq, following, stored, recorded), (
                f"message seq {seq} is on the path without a reply, and its turn {turn_seq} is {turn['status']}"
            )
        else:
            was_stopped = turn["status"] == "interrupted" and json.loads(turn["error"])["type"] == "Stopped"
            assert turn["status"] in ("completed", "running") or was_stopped, (
                f"message seq {seq} is on the path, but its turn {turn_seq} is {turn['status']}"
            )


def _is_edited(seq: int, following: dict[int, int], stored: Rows, recorded: Rows) -> bool:
    """Return True if an edit follows the input that `seq` belongs to."""
    after = following[seq]
    while after and stored[after]["turn_seq"] == stored[seq]["turn_seq"]:
        after = following[after]
    if not after or stored[after]["turn_seq"] is None:
        return False
    turn = recorded[stored[after]["turn_seq"]]
    return bool(turn["first_input_seq"] == after and turn["base_seq"] != stored[after]["parent_seq"])


def _walk_ancestors(stored: Rows, seq: int) -> Iterable[int]:
    while seq != 0:
        yield seq
        seq = stored[seq]["parent_seq"]


def _is_output_here(turn: RowMapping, stored: Rows) -> bool:
    """Return True if the reply of a turn is stored here.

    A later message of an origin may have the number of that reply.
    """
    output = stored.get(turn["output_seq"])
    return output is not None and output["conversation_id"] == turn["conversation_id"]


def _list_inputs(turn: RowMapping) -> list[int]:
    first: Any = turn["first_input_seq"]
    last: Any = turn["last_input_seq"]
    assert (first is None) == (last is None), f"turn {turn['seq']}: only one end of its input is stored"
    return [] if first is None else list(range(first, last + 1))
