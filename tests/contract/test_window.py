"""Test which messages of a path a window holds, and what the window options do."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import select, text

from convstore import (
    ContextTooLong,
    DamagedRow,
    InvalidInput,
    Store,
    TurnFailed,
    TurnStatus,
    UnansweredToolCalls,
    tool_result,
)
from convstore.context import history_reader
from convstore.context.window import NewInput, Past, TokenScale, choose_window
from convstore.db import head_rows, history_rows, summary_rows
from convstore.db.ancestors import find_ancestors
from convstore.db.connection import Connection
from convstore.db.fork_sharing import find_turn_home
from convstore.db.head_rows import ConversationState, Head
from convstore.db.history_rows import Reach
from convstore.db.tables import turns
from convstore.testing import ChatServer, Failure, Raw, Reply
from convstore.values.identifiers import ConversationKey, Position, Seq
from convstore.values.results import MessageRecord, Summary
from convstore.values.window_options import WindowOptions
from tests.contract.conftest import ON_ALL_BACKENDS, Backend

ON_BOTH_DATABASES = pytest.mark.parametrize("backend", ["sqlite-file", "postgresql"], indirect=True)

# --- reading with limits, compared with the whole path in memory ---


def count_message_tokens(message: dict[str, Any]) -> int:
    """Return at least the tokens that the database assumes for a row without a count."""
    return 5 + len(message.get("content") or "") // 8


def make_random_messages(rng: random.Random, count: int) -> list[dict[str, Any]]:
    """Return random messages of all roles, some with tool calls and their results."""
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
    """Conversations with branches and forks."""

    store: Store
    rng: random.Random
    ids: list[str]

    @classmethod
    def make_random(cls, store: Store, chat_server: ChatServer, seed: int) -> Grove:
        chat_server.otherwise = lambda _: Reply("A summary of it. " * 3)
        rng = random.Random(seed)
        grove = cls(store, rng, [store.new(system="s" if rng.random() < 0.5 else None, model="m").id])
        store.append(grove.ids[0], *make_random_messages(rng, rng.choice([30, 300, 1500])))
        for _ in range(14):
            grove.change(rng.choice(grove.ids))
        return grove

    def change(self, id: str) -> None:
        rng, store = self.rng, self.store
        length = store.get(id).length
        what = rng.choice(["append", "append", "fork", "fork", "move", "pin", "pin", "compact"])
        if what == "append":
            store.append(id, *make_random_messages(rng, rng.randint(1, 40)))
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


def list_states(connection: Connection, grove: Grove) -> Iterator[tuple[ConversationState, list[MessageRecord]]]:
    """Yield the state and the path of each conversation, with various heads."""
    for id in grove.ids:
        state = head_rows.read_state(connection, ConversationKey("", id))
        tree = {record.seq: record for record in history_rows.read_tree(connection, state.lineage)}
        others = grove.rng.sample(sorted(tree), min(4, len(tree)))
        for head in (state.head.seq, *others):
            path = []
            seq = head
            while seq:
                path.append(tree[seq])
                seq = tree[seq].parent_seq
            yield replace(state, head=Head(head, Position(len(path)))), path[::-1]


def select_past(
    connection: Connection, state: ConversationState, path: list[MessageRecord], chosen: WindowOptions
) -> Past:
    """Return the past that a window may hold, chosen from the whole path in memory."""
    if not chosen.history:
        return Past(path[-1] if path else None)
    on_path = {record.seq for record in path}
    chain = summary_rows.read_summaries(connection, state.lineage, state.summary_turn)
    summary: Summary | None = next((one for one in chain if one.up_to_seq in on_path), None)
    up_to = summary.up_to_position if summary is not None else 0
    pins = {seq for seq, _ in state.pins}
    return Past(
        path[-1] if path else None,
        path[up_to:],
        [record for record in path[:up_to] if record.message["role"] in ("system", "developer")],
        [record for record in path if record.seq in pins],
        summary,
        find_begun(connection, state, path, chosen),
    )


def find_begun(
    connection: Connection, state: ConversationState, path: list[MessageRecord], chosen: WindowOptions
) -> Seq | None:
    """Return where the window of the path's last reply began, if the budget was the same."""
    replies = [record.turn for record in path if record.turn is not None and record.message["role"] == "assistant"]
    if not chosen.cache_stable or chosen.last is not None or chosen.max_context is None or not replies:
        return None
    home = find_turn_home(connection, state.lineage, replies[-1])
    where = (turns.c.conversation_id == home.id, turns.c.seq == replies[-1])
    window = json.loads(connection.plain.scalar(select(turns.c.window).where(*where)) or "{}")
    begun: Seq | None = window.get("from_seq")
    return begun if window.get("options", {}).get("max_context") == chosen.max_context else None


def choose_outcome(found: Past, sending: NewInput, chosen: WindowOptions, scale: TokenScale) -> Any:
    try:
        window = choose_window(found, sending, chosen, scale)
    except ContextTooLong:
        return "too long"
    except UnansweredToolCalls as error:
        return error.calls
    return window.messages, window.tokens, window.report


def make_random_options(rng: random.Random) -> WindowOptions:
    return WindowOptions(
        history=rng.random() < 0.95,
        last=rng.choice([None, None, 0, 1, 2, 5, 50]),
        max_context=rng.choice([None, None, 30, 100, 300, 1000, 5000]),
        cache_stable=rng.random() < 0.5,
        fill_missing_tools=rng.random() < 0.8,
    )


@ON_BOTH_DATABASES
@pytest.mark.parametrize("seed", [*range(6), 123])
def test_a_window_read_with_limits_equals_the_window_of_the_complete_path(
    backend: Backend, chat_server: ChatServer, seed: int
) -> None:
    store = backend.open(count_tokens=count_message_tokens)
    grove = Grove.make_random(store, chat_server, seed)
    rng = grove.rng
    seen = set()
    with backend.connect() as plain:
        connection = Connection(plain)
        if seed % 2:
            clear_later_columns(backend, plain, rng)
        for state, path in list_states(connection, grove):
            check_paths(connection, state, path, rng)
            standing = history_reader.PathEnd(state.lineage, state.head.seq, state.pins, state.summary_turn)
            for _ in range(12):
                chosen = make_random_options(rng)
                continues = rng.random() < 0.3
                new = [] if continues and rng.random() < 0.5 else [{"role": "user", "content": "x" * rng.randrange(99)}]
                if not new and not (path and chosen.history):
                    continue  # nothing to send
                sending = NewInput(new, {"tools": [{"x": "y"}]} if rng.random() < 0.1 else {}, continues)
                scale = TokenScale(count_message_tokens, rng.choice([1.0, 0.5, 2.17]))
                found = history_reader.read_past(connection, standing, chosen, scale, continues=continues)
                expected = choose_outcome(select_past(connection, state, path, chosen), sending, chosen, scale)
                assert choose_outcome(found, sending, chosen, scale) == expected, (state, chosen, sending)
                seen.add(expected if isinstance(expected, str) else type(expected))
    assert seen >= {"too long", tuple}


def clear_later_columns(backend: Backend, connection: sqlalchemy.Connection, rng: random.Random) -> None:
    """Clear the columns of some messages that an earlier release did not have."""
    statement = "UPDATE convstore_messages SET tokens = NULL, back_32 = NULL, back_1024 = NULL, back_32768 = NULL "
    remainder = rng.randrange(5)
    with connection.begin():
        assert connection.execute(text(f"{statement} WHERE seq % 5 = {remainder}")).rowcount > 0
    backend.is_intact = False


def check_paths(
    connection: Connection, state: ConversationState, path: list[MessageRecord], rng: random.Random
) -> None:
    """Assert that the functions that read a part of a path return the right messages."""
    by_position = {record.position: record for record in path}
    assert list(by_position) == list(range(1, len(path) + 1))
    wanted = [rng.randint(-2, len(path) + 3) for _ in range(rng.randint(1, 30))]
    found = find_ancestors(connection, state.lineage, state.head.seq, wanted)
    assert found == {place: by_position[Position(place)].seq for place in wanted if place in by_position}
    limit = rng.randrange(1, 60)
    assert history_rows.read_path(connection, state.lineage, state.head.seq, limit) == path[-limit:]
    assert history_rows.read_path(connection, state.lineage, state.head.seq) == path
    if path:
        most = rng.randrange(1, 60)
        assert (
            history_rows.read_path_end(connection, state.lineage, state.head.seq, Reach(messages=most)) == path[-most:]
        )
        first = rng.choice(path)
        expected = [one for one in path[: first.position - 1] if one.message["role"] in ("system", "developer")]
        assert history_rows.read_context_messages(connection, state.lineage, first) == expected


# --- the options ---

NEW_MESSAGE = {"role": "user", "content": "now"}


def make_user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def make_assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def make_system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


TURNS = [
    make_system("s"),
    make_user("one"),
    make_assistant("1"),
    make_user("two"),
    make_system("later"),
    make_assistant("2"),
    make_user("three"),
    make_user("and more"),
    make_assistant("3"),
]
"""Three turns. The second has a system message, and the third has two user's messages."""


def read_sent_messages(chat_server: ChatServer) -> Any:
    return chat_server.requests[-1].body["messages"]


@pytest.mark.parametrize(
    ("last", "begins", "before"),
    [(0, 9, [0, 4]), (1, 6, [0, 4]), (2, 3, [0]), (3, 1, [0]), (4, 0, []), (99, 0, [])],
)
def test_last_sends_the_last_turns_and_all_system_messages(
    store: Store, chat_server: ChatServer, last: int, begins: int, before: list[int]
) -> None:
    id = store.new(messages=TURNS).id
    turn = store.say(id, "now", last=last)
    assert read_sent_messages(chat_server) == [*(TURNS[place] for place in before), *TURNS[begins:], NEW_MESSAGE]
    assert turn.window is not None
    assert turn.window.history == len(before) + len(TURNS) - begins
    assert turn.window.left_out == len(TURNS) - turn.window.history
    assert list(turn.window.context) == [place + 1 for place in before]
    assert turn.window.from_seq == (begins + 1 if begins < len(TURNS) else None)
    assert turn.window.options.changed() == {"last": last}
    assert store.history(id, exact=True)[:-1] == [*TURNS, NEW_MESSAGE]


def test_max_context_sends_as_many_turns_as_fit_and_reports_the_tokens(
    backend: Backend, chat_server: ChatServer
) -> None:
    store = backend.open(count_tokens=lambda message: 10)
    id = store.new(messages=TURNS).id
    chat_server.otherwise = lambda _: Reply("ok", usage=None)
    tokens = {}
    for most in range(33, 120, 5):
        request = store.preview(id, "now", max_context=most, cache_stable=False)
        assert request.window.tokens is not None
        assert len(request["messages"]) * 10 + 3 == request.window.tokens <= most
        tokens[most] = request.window.tokens
    # Without history, a window has the two system messages and the new one. The three turns have two or three more.
    assert sorted(set(tokens.values())) == [33, 63, 83, 103]
    for most, used in tokens.items():
        assert most - used < 30
    store.say(id, "now", max_context=63)
    assert read_sent_messages(chat_server) == [TURNS[0], TURNS[4], *TURNS[6:], NEW_MESSAGE]


@ON_BOTH_DATABASES
@pytest.mark.parametrize(("stable", "least", "most"), [(True, 0.8, 1.0), (False, 0.0, 0.2)])
def test_most_of_a_request_is_the_beginning_of_the_next_one(
    backend: Backend, chat_server: ChatServer, stable: bool, least: float, most: float
) -> None:
    """Providers cache the beginnings of requests. Here each turn has a fortieth of the budget."""
    store = backend.open(count_tokens=lambda message: 10)
    chat_server.otherwise = lambda _: Reply("ok", usage=None)
    id = store.new(system="Be brief", max_context=800, cache_stable=stable).id
    store.append(id, *[{"role": role, "content": "before"} for _ in range(60) for role in ("user", "assistant")])
    sent = []
    for number in range(100):
        turn = store.say(id, f"question {number}")
        sent.append(read_sent_messages(chat_server))
        assert turn.estimated_tokens is not None
        assert 580 <= turn.estimated_tokens <= 800
    shared = sum(
        next(
            (place for place, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before)
        )
        for before, after in pairwise(sent)
    )
    assert least <= shared / sum(map(len, sent[1:])) <= most


def test_a_window_begins_where_the_one_of_the_paths_last_reply_began(store: Store, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("ok", usage=None)
    id = store.new(max_context=400, messages=TURNS[:4] * 2 + TURNS[5:] * 20).id
    first = store.say(id, "one").window
    assert first is not None
    assert store.preview(id, "two").window.from_seq == first.from_seq
    assert store.preview(id, "two", max_context=200).window.from_seq != first.from_seq  # another budget
    store.append(id, {"role": "user", "content": "told"}, {"role": "assistant", "content": "not by a model"})
    fork = store.fork(id).id
    assert store.preview(fork, "two").window.from_seq == first.from_seq
    assert store.say(fork, "two").window == store.say(id, "two").window
    store.undo(id, 2)
    store.checkout(id, first.from_seq or 0)  # a path that needs no cut
    assert store.preview(id, "three", max_context=100_000).window.left_out == 0


@pytest.mark.parametrize("odd", ["last", "tools"])
def test_a_small_window_is_not_kept_after_the_turn_that_needed_it(
    store: Store, chat_server: ChatServer, odd: str
) -> None:
    chat_server.otherwise = lambda _: Reply("word " * 40, usage=None)
    id = store.new(max_context=2000).id
    for _ in range(30):
        store.say(id, "word " * 40)
    usual = len(store.preview(id, "word " * 40)["messages"])
    many = [{"type": "function", "function": {"name": "f", "description": "word " * 1400, "parameters": {}}}]
    if odd == "last":
        store.say(id, "word " * 40, last=1)
    else:
        store.say(id, "word " * 40, tools=many)
    assert len(chat_server.requests[-1].body["messages"]) < usual / 2
    assert len(store.preview(id, "word " * 40)["messages"]) >= usual * 2 / 3


def test_a_damaged_report_of_a_window_does_not_block_the_conversation(backend: Backend) -> None:
    store = backend.open()
    id = store.new(max_context=2000).id
    store.say(id, "Hi")
    backend.damage("UPDATE convstore_turns SET \"window\" = '{not json' WHERE conversation_id = :id", id=id)
    assert store.say(id, "Still there?").status is TurnStatus.COMPLETED
    with pytest.raises(DamagedRow, match="turn 1"):
        store.turns(id)


def test_reported_usage_scales_the_token_estimate(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(count_tokens=lambda message: 100)
    id = store.new(messages=TURNS).id
    chat_server.script(Reply("ok", usage={"prompt_tokens": 2006, "completion_tokens": 1, "total_tokens": 2007}))
    assert store.say(id, "now").estimated_tokens == 1003
    request = store.preview(id, "again", max_context=1000)
    assert (len(request["messages"]), request.window.tokens) == (3, 606)  # twice the estimate


def test_window_options_are_stored_and_a_call_overrides_them(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=TURNS, last=1, max_context=100_000).id
    assert store.get(id).window == {"last": 1, "max_context": 100_000}
    assert len(store.preview(id, "now")["messages"]) == 6
    assert len(store.preview(id, "now", last=0)["messages"]) == 3
    assert len(store.preview(id, "now", last=None)["messages"]) == len(TURNS) + 1
    assert store.set(id, last=2, max_context=None).window == {"last": 2}
    store.say(id, "now")
    assert read_sent_messages(chat_server) == [TURNS[0], *TURNS[3:], NEW_MESSAGE]
    assert "last" not in chat_server.requests[-1].body
    assert store.set(id, last=None).window == {}
    assert len(store.preview(id, "now")["messages"]) == len(TURNS) + 3


@pytest.mark.parametrize(
    "wrong",
    [{"last": -1}, {"last": True}, {"max_context": 0}, {"on_overflow": "shrink"}, {"send_reasoning": 1}, {"last": "2"}],
)
def test_an_invalid_window_option_is_refused(store: Store, chat_server: ChatServer, wrong: Any) -> None:
    id = store.new(messages=TURNS).id
    for call in (store.say, store.preview):
        with pytest.raises(InvalidInput):
            call(id, "now", **wrong)
    with pytest.raises(InvalidInput):
        store.set(id, **wrong)
    with pytest.raises(InvalidInput):
        store.new(**wrong)
    assert (store.get(id).length, store.get(id).window, chat_server.requests) == (len(TURNS), {}, [])


def test_a_message_without_history_is_sent_alone(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=TURNS).id
    store.pin(id, 2)
    turn = store.say(id, "now", history=False)
    assert read_sent_messages(chat_server) == [NEW_MESSAGE]
    assert turn.window is not None
    assert (turn.window.history, turn.window.left_out) == (0, len(TURNS))


def test_a_tool_result_can_be_sent_alone_or_first(store: Store, chat_server: ChatServer) -> None:
    result = tool_result("call_1", "21")
    store.say(store.new(messages=TURNS).id, result, history=False)
    assert read_sent_messages(chat_server) == [result]
    store.say(store.new().id, result)
    assert read_sent_messages(chat_server) == [result]


def test_pinned_messages_are_sent_at_their_positions_if_they_are_on_the_path(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(messages=TURNS).id
    assert store.pin(id, 3).pins == (3,)
    assert store.pin(id, 2).pins == (2, 3)
    turn = store.say(id, "now", last=0)
    assert read_sent_messages(chat_server) == [TURNS[0], TURNS[1], TURNS[2], TURNS[4], NEW_MESSAGE]
    assert turn.window is not None
    assert turn.window.pinned == (2, 3)
    assert store.unpin(id, 3).pins == (2,)
    store.checkout(id, 1)
    store.append(id, make_user("another way"), make_assistant("ok"))
    assert store.get(id).pins == (2,)  # the pin stays stored, although its message is off the path
    store.say(id, "now", last=0)
    assert read_sent_messages(chat_server) == [TURNS[0], NEW_MESSAGE]


def test_a_tool_call_is_pinned_with_its_results(store: Store, chat_server: ChatServer) -> None:
    ids = ["call_1", "call_2"]
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    group = [{"role": "assistant", "content": None, "tool_calls": calls}, *(tool_result(id, "21") for id in ids)]
    id = store.new(messages=[make_user("u"), *group, make_assistant("a"), make_user("v"), make_assistant("b")]).id
    assert store.pin(id, 4).pins == (2, 3, 4)
    store.say(id, "now", last=0)
    assert [message["role"] for message in read_sent_messages(chat_server)] == ["assistant", "tool", "tool", "user"]
    assert store.unpin(id, 2).pins == ()


@ON_ALL_BACKENDS
def test_a_fork_has_only_the_pins_and_summaries_of_its_shared_messages(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=[make_user("u1"), make_assistant("a1")], model="m").id
    chat_server.script(Reply("of the first turn"))
    (first,) = store.compact(id, keep_last=0)
    store.append(id, make_user("u2"), make_assistant("a2"), make_user("u3"), make_assistant("a3"))
    chat_server.script(Reply("of three turns"))
    (second,) = store.compact(id, keep_last=0)
    store.pin(id, 2)
    store.pin(id, 5)
    fork = store.fork(id, at=4)
    assert fork.pins == (2,)
    store.append(
        fork.id, make_user("v3"), make_assistant("b3"), make_user("v4"), make_assistant("b4")
    )  # the same seqs as u3, a3, … in the origin
    assert store.summary(fork.id) == first
    store.say(fork.id, "now", last=0)
    assert [one["content"] for one in read_sent_messages(chat_server)][1:] == ["of the first turn", "a1", "now"]
    whole = store.fork(id)
    assert (whole.pins, store.summary(whole.id)) == ((2, 5), second)
    assert store.drop_summary(whole.id) == second
    assert (store.summary(whole.id), store.summary(id)) == (first, second)
    none = store.fork(id, at=1)
    store.append(none.id, *TURNS)
    assert (none.pins, store.summary(none.id)) == ((), None)


def test_a_summary_replaces_older_messages_only_in_the_window(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=TURNS, model="m").id
    chat_server.script(Reply("Two things were said."))
    (summary,) = store.compact(id, keep_last=1)
    assert (summary.up_to_position, summary.text) == (6, "Two things were said.")
    turn = store.say(id, "now")
    asked, told = read_sent_messages(chat_server)[2:4]
    assert read_sent_messages(chat_server) == [TURNS[0], TURNS[4], asked, told, *TURNS[6:], NEW_MESSAGE]
    assert (asked["role"], told) == ("user", make_assistant("Two things were said."))
    assert turn.window is not None
    assert (turn.window.summary, turn.window.left_out) == (summary.turn, 4)
    assert store.history(id, exact=True)[:-1] == [*TURNS, NEW_MESSAGE]
    store.undo(id)
    assert store.drop_summary(id) == summary
    store.say(id, "now")
    assert read_sent_messages(chat_server) == [*TURNS, NEW_MESSAGE]
    assert store.drop_summary(id) is None


def test_a_message_that_does_not_fit_is_neither_stored_nor_sent(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=TURNS).id
    before = store.tree(id)
    for call in (store.say, store.preview):
        with pytest.raises(ContextTooLong, match="max_context is 40"):
            call(id, "word " * 50, max_context=40)
    with pytest.raises(ContextTooLong), store.stream(id, "word " * 50, max_context=40) as reply:
        list(reply)
    with pytest.raises(ContextTooLong):
        store.edit(id, 2, "word " * 50, max_context=40)
    with pytest.raises(ContextTooLong):
        store.say(id, "now", max_context=100, tools=[{"type": "function", "function": {"name": "f" * 1000}}])
    store.append(id, make_user("word " * 50))
    with pytest.raises(ContextTooLong):
        store.complete(id, max_context=40)
    assert (store.tree(id)[:-1], store.turns(id), chat_server.requests) == (before, [], [])


# --- tools ---


def make_tool_calls(*ids: str) -> dict[str, Any]:
    calls = [
        {"id": id, "type": "function", "function": {"name": f"get_{id}", "arguments": json.dumps({"city": f"„{id}“"})}}
        for id in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


@pytest.mark.parametrize("streamed", [False, True])
@ON_ALL_BACKENDS
def test_complete_continues_after_all_tool_results_are_stored(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    tools = [{"type": "function", "function": {"name": "get_a", "parameters": {"type": "object"}}}]
    id = store.new(tools=tools, parallel_tool_calls=True).id
    asked = make_tool_calls("a", "b", "c")
    chat_server.script(Reply(message=asked, finish_reason="tool_calls"))
    if streamed:
        with store.stream(id, "weather?") as reply:
            assert list(reply) == []
        turn = reply.turn
    else:
        turn = store.say(id, "weather?")
    assert turn.message is not None
    assert turn.message["tool_calls"] == asked["tool_calls"]
    assert turn.finish_reason == "tool_calls"
    assert store.pending_calls(id) == asked["tool_calls"]
    assert chat_server.requests[-1].body["tools"] == tools

    store.append(id, tool_result("b", "2"), tool_result("a", "1"))
    calls = len(chat_server.requests)
    for refused in (partial(store.say, id, "well?"), partial(store.complete, id), partial(store.say, id, "?", last=1)):
        with pytest.raises(UnansweredToolCalls, match=r"c \(get_c\)") as error:
            refused()
        assert error.value.calls == (asked["tool_calls"][2],)
    assert (len(chat_server.requests), store.get(id).length) == (calls, 4)
    store.append(id, tool_result("c", "3"))
    assert store.pending_calls(id) == []
    if streamed:
        with store.complete_stream(id) as reply:
            list(reply)
        turn = reply.turn
    else:
        turn = store.complete(id)
    call = {key: value for key, value in asked.items() if value is not None}
    results = [tool_result("b", "2"), tool_result("a", "1"), tool_result("c", "3")]
    assert read_sent_messages(chat_server) == [make_user("weather?"), call, *results]
    assert (turn.first_input_seq, turn.base_seq, turn.output_seq) == (None, 5, 6)
    assert store.history(id, exact=True)[1]["tool_calls"] == asked["tool_calls"]
    with pytest.raises(InvalidInput, match="own message"):
        store.complete(id)


def test_tool_results_sent_with_a_message_keep_their_calls_in_the_window(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=[*TURNS, make_user("weather?"), make_tool_calls("a")]).id
    store.say(id, [tool_result("a", "1"), make_user("and?")], last=0)
    assert read_sent_messages(chat_server)[2:] == [
        make_user("weather?"),
        {key: value for key, value in make_tool_calls("a").items() if value is not None},
        tool_result("a", "1"),
        make_user("and?"),
    ]
    with pytest.raises(ContextTooLong):
        store.preview(
            store.new(messages=[make_user("word " * 99), make_tool_calls("a")]).id,
            tool_result("a", "1"),
            max_context=50,
        )


def test_placeholders_are_sent_for_missing_results_and_never_stored(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=[make_user("weather?"), make_tool_calls("a", "b"), tool_result("b", "2")]).id
    turn = store.say(id, "never mind", fill_missing_tools=True)
    placeholder = read_sent_messages(chat_server)[3]
    assert (placeholder["role"], placeholder["tool_call_id"]) == ("tool", "a")
    assert "no result" in placeholder["content"]
    assert turn.window is not None
    assert turn.window.filled == ("a",)
    stored = store.history(id, exact=True)
    assert [one["role"] for one in stored] == ["user", "assistant", "tool", "user", "assistant"]
    assert placeholder not in stored
    store.append(store.fork(id, at=3).id, tool_result("a", "1"))  # the real result may still come


def test_deprecated_function_calls_are_sent_back_unchanged(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    chat_server.script(Reply(message=call, finish_reason="function_call"))
    with store.stream(id, "weather?") as reply:
        list(reply)
    assert reply.turn.message == call
    result = {"role": "function", "name": "f", "content": "21"}
    store.append(id, result)
    store.complete(id)
    requested = {"role": "assistant", "function_call": {"name": "f", "arguments": '{"x": 1}'}}
    assert read_sent_messages(chat_server) == [make_user("weather?"), requested, result]


def test_reasoning_is_stored_and_sent_only_with_send_reasoning(store: Store, chat_server: ChatServer) -> None:
    thought = {"role": "assistant", "content": "42", "reasoning_content": "hm", "x_vendor": {"a": [1]}}
    id = store.new().id
    chat_server.script(Reply(message=thought))
    with store.stream(id, "?") as reply:
        list(reply)
    assert store.history(id, exact=True)[1] == thought
    store.say(id, "a")
    assert read_sent_messages(chat_server)[1] == {"role": "assistant", "content": "42"}
    store.say(id, "b", send_reasoning=True)
    assert read_sent_messages(chat_server)[1] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}


# --- requests that a provider refuses as too long ---

OVERFLOWS = {
    # https://github.com/crewAIInc/crewAI-examples/issues/121
    "OpenAI": {
        "error": {
            "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 10240 "
            "tokens. Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
    # https://github.com/oobabooga/textgen/issues/7257, https://github.com/ggml-org/llama.cpp/issues/17284
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size, try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 10240,
            "n_ctx": 8192,
        }
    },
    # https://github.com/ogx-ai/ogx/issues/4534
    "vLLM 0.6": {
        "object": "error",
        "message": "This model's maximum context length is 6048 tokens. However, you requested 7560 tokens (6560 in "
        "the messages, 1000 in the completion). Please reduce the length of the messages or completion.",
        "type": "BadRequestError",
        "param": None,
        "code": 400,
    },
    # https://github.com/vllm-project/vllm/issues/42474
    "vLLM 0.20": {
        "error": {
            "message": "This model's maximum context length is 128000 tokens. However, you requested 65535 output "
            "tokens and your prompt contains at least 62466 input tokens, for a total of at least 128001 tokens.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    },
}
LONG_PATH = [
    message for number in range(20) for message in (make_user(f"question {number}"), make_assistant("word " * 50))
]


def say(store: Store, streamed: bool, id: str, text: str, **options: Any) -> Any:
    if not streamed:
        return store.say(id, text, **options)
    with store.stream(id, text, **options) as reply:
        list(reply)
    return reply.turn


@pytest.mark.parametrize("provider", OVERFLOWS)
@pytest.mark.parametrize("streamed", [False, True])
def test_on_overflow_trim_repeats_a_too_long_request_once_with_fewer_messages(
    store: Store, chat_server: ChatServer, provider: str, streamed: bool
) -> None:
    id = store.new(messages=[make_system("s"), *LONG_PATH]).id
    answer = Raw(json.dumps(OVERFLOWS[provider]), status=400)
    chat_server.script(answer, Reply("Short."))
    turn = say(store, streamed, id, "now", on_overflow="trim")
    first, second = (request.body["messages"] for request in chat_server.requests)
    assert turn.text == "Short."
    assert first == [make_system("s"), *LONG_PATH, NEW_MESSAGE]
    assert second == [make_system("s"), *LONG_PATH[-len(second) + 2 :], NEW_MESSAGE]
    assert second[1]["role"] == "user"
    assert 8 <= len(second) < len(first) * 0.85
    assert turn.window.history == len(second) - 1
    assert turn.window.left_out == len(first) - len(second)
    assert turn.window.options.changed() == {"on_overflow": "trim"}
    (attempt,) = turn.attempts
    assert attempt["error"]["status"] == 400
    assert "context" in attempt["error"]["message"]
    assert attempt["waited"] == 0
    assert turn.estimated_tokens < store.preview(id, "now").window.tokens
    (stored,) = store.turns(id)
    assert (stored.window, stored.attempts) == (turn.window, turn.attempts)
    assert store.history(id, exact=True)[:-1] == [make_system("s"), *LONG_PATH, NEW_MESSAGE]

    chat_server.script(answer, answer, Reply("Never asked."))
    with pytest.raises(TurnFailed) as failed:
        say(store, streamed, id, "again", on_overflow="trim")
    assert len(failed.value.turn.attempts) == 1
    assert len(chat_server.requests) == 4
    chat_server.otherwise = lambda _: Reply("ok")


@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_is_trimmed_without_the_option_or_without_messages_to_leave_out(
    store: Store, chat_server: ChatServer, streamed: bool
) -> None:
    answer = Raw(json.dumps(OVERFLOWS["OpenAI"]), status=400)
    chat_server.otherwise = lambda _: answer
    id = store.new(messages=LONG_PATH).id
    tried: list[dict[str, Any]] = [{}, {"on_overflow": "trim", "last": 0}, {"on_overflow": "error"}]
    for options in tried:
        calls = len(chat_server.requests)
        with pytest.raises(TurnFailed) as failed:
            say(store, streamed, id, "now", **options)
        assert (len(chat_server.requests), failed.value.turn.attempts) == (calls + 1, ())
    chat_server.otherwise = lambda _: Failure(400, "temperature is too hot")
    with pytest.raises(TurnFailed):
        say(store, streamed, id, "now", on_overflow="trim")
    assert len(chat_server.requests) == calls + 2


# --- retry and preview ---


@ON_ALL_BACKENDS
def test_a_retry_uses_the_window_options_of_the_turn_that_it_retries(store: Store, chat_server: ChatServer) -> None:
    id = store.new(messages=TURNS).id
    first = store.say(id, "now", last=1)
    body = chat_server.requests[-1].body
    again = store.retry(id)
    assert chat_server.requests[-1].body == body
    assert again.window == first.window
    store.retry(id, last=0)
    assert len(read_sent_messages(chat_server)) == 3
    store.retry(id)
    assert len(read_sent_messages(chat_server)) == 3
    store.retry(id, last=None)
    assert read_sent_messages(chat_server) == [*TURNS, NEW_MESSAGE]


def test_preview_returns_the_request_that_is_sent(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open()
    id = store.new(messages=[*TURNS, *LONG_PATH], model="m").id
    store.pin(id, 3)
    chat_server.script(Reply("A summary."))
    store.compact(id, keep_last=15)
    chosen: list[dict[str, Any]] = [
        {},
        {"last": 2},
        {"last": 0, "temperature": 0.5},
        {"max_context": 900},
        {"history": False},
        {"send_reasoning": True, "fill_missing_tools": True},
        {"system": "be brief", "last": 1},
    ]
    for options in chosen:
        request = store.preview(id, "now", **options)
        turn = store.say(id, "now", **options)
        assert chat_server.requests[-1].body == dict(request), options
        assert turn.window == request.window
        streamed = store.preview(id, "now", stream=True, **options)
        with store.stream(id, "now", **options) as reply:
            list(reply)
        assert chat_server.requests[-1].body == dict(streamed), options
        assert reply.turn.window == streamed.window
    store.append(id, "and")
    request = store.preview_complete(id, last=1)
    assert store.complete(id, last=1).window == request.window
    assert chat_server.requests[-1].body == dict(request)


def test_each_message_is_counted_once_however_often_it_is_sent(backend: Backend, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("ok")
    counted: list[str] = []

    def count(message: dict[str, Any]) -> int:
        counted.append(str(message["content"]))
        return 10

    store = backend.open(count_tokens=count)
    id = store.new(system="s").id
    store.say(id, "one", max_context=1000)
    store.say(id, "two", max_context=1000)
    with store.stream(id, "three") as reply:
        list(reply)
    assert counted == ["s", "one", "ok", "two", "ok", "three", "ok"]
