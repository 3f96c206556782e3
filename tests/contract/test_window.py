"""Which messages the model sees: what is read of a long past, and what the options of the window do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, text

from convstore import ContextTooLong, InvalidInput, Store, UnansweredToolCalls, past, tool_result
from convstore.ledger import heads, paths, summaries
from convstore.ledger.heads import State
from convstore.ledger.paths import Reach
from convstore.records import MessageRecord, Summary
from convstore.testing import ChatServer, Reply
from convstore.window import Past, Policy, Scale, Sending, choose
from tests.contract.conftest import Backend

ON_BOTH = pytest.mark.parametrize("backend", ["sqlite-file", "postgresql"], indirect=True)

# --- reading with limits, against the whole path in memory ---


def counted(message: dict[str, Any]) -> int:
    """Tokens: never fewer than a database takes a row for that was stored uncounted."""
    return 5 + len(message.get("content") or "") // 8


def some_messages(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Some of every kind: questions in a row, replies, system messages in the middle, groups of tool calls."""
    made: list[dict[str, Any]] = []
    while len(made) < count:
        words = "word " * rng.randrange(40)
        kind = rng.choice(["user", "user", "assistant", "assistant", "assistant", "tools", "system", "developer"])
        if kind == "tools":
            ids = [f"call_{len(made)}_{number}" for number in range(rng.randint(1, 3))]
            calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
            made.append({"role": "assistant", "content": None, "tool_calls": calls})
            made.extend(tool_result(id, words) for id in (ids if rng.random() < 0.9 else ids[1:]))
        else:
            made.append({"role": kind, "content": f"{kind} {len(made)} {words}"})
    return made


@dataclass
class Grove:
    """Conversations with branches, forked from one another."""

    store: Store
    rng: random.Random
    ids: list[str]

    @classmethod
    def grown(cls, store: Store, chat_server: ChatServer, seed: int) -> Grove:
        chat_server.otherwise = lambda _: Reply("A summary of it. " * 3)
        rng = random.Random(seed)
        grove = cls(store, rng, [store.new(system="s" if rng.random() < 0.5 else None, model="m").id])
        store.append(grove.ids[0], *some_messages(rng, rng.choice([30, 300, 1500])))
        for _ in range(14):
            grove.change(rng.choice(grove.ids))
        return grove

    def change(self, id: str) -> None:
        rng, store = self.rng, self.store
        length = store.get(id).length
        what = rng.choice(["append", "append", "fork", "fork", "move", "pin", "pin", "compact"])
        if what == "append":
            store.append(id, *some_messages(rng, rng.randint(1, 40)))
        elif what == "fork":
            self.ids.append(store.fork(id, at=rng.choice([None, rng.randint(0, length)])).id)
        elif what == "move":
            store.checkout(id, rng.choice(store.tree(id)).seq)
        elif what == "compact":
            store.compact(id, keep_last=rng.randrange(4))
        elif length:
            for _ in range(3):
                try:
                    store.pin(id, rng.randint(1, length))
                except InvalidInput:
                    assert any(one.message["role"] == "tool" or one.message.get("tool_calls") for one in store.tree(id))


def states(connection: Connection, grove: Grove) -> Iterator[tuple[State, list[MessageRecord]]]:
    """Where each conversation stands, and its path; then the same for other messages that its head might be at."""
    for id in grove.ids:
        state = heads.state(connection, "", id)
        tree = {record.seq: record for record in paths.tree(connection, state.lineage)}
        others = grove.rng.sample(sorted(tree), min(4, len(tree)))
        for head in (state.head, *others):
            path = []
            seq = head
            while seq:
                path.append(tree[seq])
                seq = tree[seq].parent_seq
            yield State(**{**{key: getattr(state, key) for key in State.__slots__}, "head": head}), path[::-1]


def whole(connection: Connection, state: State, path: list[MessageRecord], chosen: Policy) -> Past:
    """All of the past, chosen from the whole path in memory."""
    if not chosen.history:
        return Past(path[-1] if path else None)
    on_path = {record.seq for record in path}
    chain = summaries.latest(connection, state.lineage, state.summary_turn)
    summary: Summary | None = next((one for one in chain if one.up_to_seq in on_path), None)
    up_to = summary.up_to_position if summary is not None else 0
    pins = {seq for seq, _ in state.pins}
    return Past(
        path[-1] if path else None,
        path[up_to:],
        [record for record in path[:up_to] if record.message["role"] in ("system", "developer")],
        [record for record in path if record.seq in pins],
        summary,
    )


def outcome(found: Past, sending: Sending, chosen: Policy, scale: Scale) -> Any:
    try:
        window = choose(found, sending, chosen, scale)
    except ContextTooLong:
        return "too long"
    except UnansweredToolCalls as error:
        return error.calls
    return window.messages, window.tokens, window.facts


def some_policy(rng: random.Random) -> Policy:
    return Policy(
        history=rng.random() < 0.95,
        last=rng.choice([None, None, 0, 1, 2, 5, 50]),
        max_context=rng.choice([None, None, 30, 100, 300, 1000, 5000]),
        fill_missing_tools=rng.random() < 0.8,
    )


@ON_BOTH
@pytest.mark.parametrize("seed", range(6))
def test_a_window_read_with_limits_is_that_of_the_whole_path(
    backend: Backend, chat_server: ChatServer, seed: int
) -> None:
    store = backend.open(count_tokens=counted)
    grove = Grove.grown(store, chat_server, seed)
    rng = grove.rng
    seen = set()
    with backend.connect() as connection:
        if seed % 2:
            forget_what_earlier_releases_did_not_know(backend, connection, rng)
        for state, path in states(connection, grove):
            check_paths(connection, state, path, rng)
            standing = past.Standing(state.lineage, state.head, state.pins, state.summary_turn)
            for _ in range(12):
                chosen = some_policy(rng)
                continues = rng.random() < 0.3
                new = [] if continues and rng.random() < 0.5 else [{"role": "user", "content": "x" * rng.randrange(99)}]
                if not new and not path:
                    continue
                sending = Sending(new, {"tools": [{"x": "y"}]} if rng.random() < 0.1 else {}, continues)
                scale = Scale(counted, rng.choice([1.0, 0.5, 2.17]))
                found = past.read(connection, standing, chosen, scale, continues=continues)
                expected = outcome(whole(connection, state, path, chosen), sending, chosen, scale)
                assert outcome(found, sending, chosen, scale) == expected, (state, chosen, sending)
                seen.add(expected if isinstance(expected, str) else type(expected))
    assert seen >= {"too long", tuple}


def forget_what_earlier_releases_did_not_know(backend: Backend, connection: Connection, rng: random.Random) -> None:
    """As if some of the messages had been stored by one: without a count, and without ancestors."""
    statement = "UPDATE convstore_messages SET tokens = NULL, back_32 = NULL, back_1024 = NULL, back_32768 = NULL "
    remainder = rng.randrange(5)
    with connection.begin():
        assert connection.execute(text(f"{statement} WHERE seq % 5 = {remainder}")).rowcount > 0
    backend.whole = False


def check_paths(connection: Connection, state: State, path: list[MessageRecord], rng: random.Random) -> None:
    """What else reads a part of a path reads what is there."""
    by_position = {record.position: record for record in path}
    assert list(by_position) == list(range(1, len(path) + 1))
    wanted = [rng.randint(-2, len(path) + 3) for _ in range(rng.randint(1, 30))]
    found = paths.ancestors(connection, state.lineage, state.head, wanted)
    assert found == {place: by_position[place].seq for place in wanted if place in by_position}
    limit = rng.randrange(1, 60)
    assert paths.path(connection, state.lineage, state.head, limit) == path[-limit:]
    assert paths.path(connection, state.lineage, state.head) == path
    if path:
        most = rng.randrange(1, 60)
        assert paths.suffix(connection, state.lineage, state.head, Reach(messages=most)) == path[-most:]
        first = rng.choice(path)
        expected = [one for one in path[: first.position - 1] if one.message["role"] in ("system", "developer")]
        assert paths.context(connection, state.lineage, first) == expected
