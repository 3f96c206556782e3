"""Test that the cost of a call does not grow with the shape of what is stored.

The shapes are a comb (a path with many messages off it between its own), a star (many replies to one message), a chain
of forks, and a graveyard of deleted conversations. Each is made small and large, such that a call returns equally much
from both.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import sqlalchemy
from sqlalchemy import create_engine, text

from convstore import Store
from convstore.db.connection import Connection
from convstore.db.fork_sharing import list_origins
from convstore.db.head_rows import read_head_seq
from convstore.db.verification import verify
from convstore.errors import AmbiguousReference, DamagedRow, InvalidInput
from convstore.testing import ChatServer, Reply
from convstore.values.identifiers import ConversationKey
from tests.contract.conftest import Backend
from tests.contract.growth import Cost, Meter, make_tree
from tests.contract.invariants import check_conversation

on_both = pytest.mark.parametrize("backend", ["sqlite-engine", "postgresql-engine"], indirect=True)


@pytest.fixture
def postgres_url(postgres_fresh_url: str) -> str:
    """Return the URL of a new database: the rows would change the query plans of other tests."""
    return postgres_fresh_url


@contextmanager
def open_metered(backend: Backend) -> Iterator[tuple[Store, Meter]]:
    engine = create_engine(backend.url, pool_size=1, max_overflow=0)  # one connection, so that everything is counted
    meter = Meter(engine)
    try:
        with Store(engine=engine, client=backend.client, model="test-model") as store:
            yield store, meter
    finally:
        engine.dispose()


def measure(meter: Meter, call: Callable[[], object]) -> Cost:
    """Return the cost of the second run of a call: the first one compiles the statements."""
    call()
    with meter.measure() as cost:
        call()
    return cost


def list_reads(store: Store, id: str, position: int) -> dict[str, Callable[[], object]]:
    return {
        "history": lambda: store.history(id, exact=True),
        "history, limit": lambda: store.history(id, limit=20),
        "messages": lambda: store.messages(id, limit=50),
        "iterate": lambda: list(store.iterate_messages(id)),
        "at": lambda: store.at(id, position),
        "pending_calls": lambda: store.pending_calls(id),
        "say": lambda: (store.say(id, "hi", last=20), store.undo(id)),
        "say, max_context": lambda: (store.say(id, "hi", max_context=300), store.undo(id)),
        "fork": lambda: store.fork(id),
        "fork in the past": lambda: store.fork(id, at=position),
    }


def make_comb(length: int, off_path: int) -> list[int]:
    """Return the parents of a path: after each message of it come messages that are not on it."""
    parents, last = [], 0
    for _ in range(length - 1):
        parents.append(last)
        last = len(parents)
        parents.extend([last] * off_path)
    return [*parents, last]


@on_both
@pytest.mark.parametrize("shape", ["comb", "star"])
def test_a_path_costs_what_it_returns_however_much_is_stored_beside_it(
    backend: Backend, chat_server: ChatServer, shape: str
) -> None:
    chat_server.otherwise = lambda _: Reply("ok", usage=None)
    sizes = (3, 400)
    with open_metered(backend) as (store, meter):
        engine = store._engine.transactions.database.engine
        trees = [make_comb(121, size) if shape == "comb" else [0, *[1] * 50 * size, 2] for size in sizes]
        small, large = (make_tree(store, engine, parents) for parents in trees)
        reads = [list_reads(store, id, 2) for id in (small, large)]
        expected = [len(store.history(id)) for id in (small, large)]
        assert expected == [121, 121] if shape == "comb" else [3, 3]
        for name in reads[0]:
            few, many = (measure(meter, calls[name]) for calls in reads)
            assert len(many.statements) <= len(few.statements) + 2, (name, many.statements)
            assert many.rows <= 1.2 * few.rows + 20, (name, few.rows, many.rows)
            assert many.steps <= 3 * few.steps + 400, (name, few.steps, many.steps)
        check_conversation(engine, "", small)


@on_both
def test_a_page_of_a_long_path_is_scanned_and_a_sparse_end_is_not_scanned_twice(backend: Backend) -> None:
    with open_metered(backend) as (store, meter):
        engine = store._engine.transactions.database.engine
        dense = make_tree(store, engine, list(range(2_000)))
        page = measure(meter, lambda: store.messages(dense, limit=50))
        assert not [statement for statement in page.statements if "RECURSIVE" in statement]
        assert page.rows <= 50 + 20
        sparse_end = [*range(3_000), *(2_999 + place for place in make_comb(40, 40))]
        id = make_tree(store, engine, sparse_end)
        page = measure(meter, lambda: store.messages(id, limit=30))
        assert len(page.statements) <= 4
        assert page.rows <= 2 * 30 + 40


@on_both
def test_a_path_that_is_dense_and_sparse_by_turns_is_read_in_order(backend: Backend) -> None:
    with open_metered(backend) as (store, meter):
        parents = list(range(1500))
        for off_path in (0, 900, 0, 3):
            last = len(parents)
            parents.extend(last + seq for seq in range(700))
            parents.extend([len(parents)] * off_path)
            parents.append(last + 700)
            parents.extend(make_comb(40, off_path)[1:] and [len(parents)])
        id = make_tree(store, store._engine.transactions.database.engine, parents)
        path, seq = [], len(parents)
        while seq:
            path.append(seq)
            seq = parents[seq - 1]
        with meter.measure() as cost:
            found = store.messages(id, limit=None)
        assert [record.seq for record in found] == path[::-1]
        assert cost.rows <= 2.2 * len(path) + 100
        for limit in (1, 17, 300, 1400, 2900):
            assert store.messages(id, limit=limit) == found[-limit:]
        assert list(store.iterate_messages(id)) == found


def make_chain(store: Store, count: int) -> list[str]:
    """Make a chain of forks, each with two messages of its own, and return their ids."""
    ids = [store.new(system="You are the first.").id]
    for number in range(count):
        if number:
            ids.append(store.fork(ids[-1]).id)
        store.append(ids[-1], f"question {number}", {"role": "assistant", "content": f"answer {number}"})
    return ids


@on_both
def test_a_fork_of_many_forks_costs_no_more_than_one_of_a_few(backend: Backend, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("ok", usage=None)
    backend.is_intact = False  # the check of each fork and its whole past would take minutes
    with open_metered(backend) as (store, meter):
        few_forks, many_forks = make_chain(store, 40), make_chain(store, 300)
        reads = [list_reads(store, ids[-1], 3) for ids in (few_forks, many_forks)]
        for name in reads[0].keys() - {"history", "iterate"}:
            few, many = (measure(meter, calls[name]) for calls in reads)
            # A position far back is found by strides of messages, and each may lead to another origin.
            more = 24 if name in ("at", "fork in the past") else 4
            assert len(many.statements) <= len(few.statements) + more, (name, len(few.statements), many.statements)
            assert many.rows <= 1.2 * few.rows + 100, (name, few.rows, many.rows)
            assert many.steps <= 2 * few.steps + 400, (name, few.steps, many.steps)
        path = store.history(many_forks[-1], exact=True)
        told = [message["content"] for message in path if message["role"] != "system"]
        assert told == [f"{what} {number}" for number in range(300) for what in ("question", "answer")]
        tree = measure(meter, lambda: store.tree(many_forks[-1]))
        assert len(tree.statements) <= 300 + 300 / 16 + 4
        whole = measure(meter, reads[1]["history"])
        assert len(whole.statements) <= 300 / 16 * 2 + 4
        assert whole.rows <= 2 * len(path)


@on_both
def test_a_chain_of_forks_whose_paths_left_their_origins_earlier_is_read_right(backend: Backend) -> None:
    """`undo` in a fork leaves messages of the origin off the path, also those just before the fork."""
    backend.is_intact = False  # the check of each fork and its whole past would take minutes
    with open_metered(backend) as (store, _):
        ids = [store.new(messages=[message(f"c0-{number}", number) for number in range(8)]).id]
        for number in range(1, 60):
            ids.append(store.fork(ids[-1]).id)
            if number in (1, 20, 41):
                store.undo(ids[-1], 3)
            store.append(ids[-1], *(message(f"c{number}-{place}", place) for place in range(8 if number == 1 else 2)))
        tip = ids[-1]
        path = store.messages(tip, limit=None)
        assert [store.at(tip, record.position) for record in path] == path
        with pytest.raises(InvalidInput):
            store.at(tip, len(path) + 1)
        assert list(store.iterate_messages(tip)) == path
        forked = store.fork(tip, at=4)
        assert store.messages(forked.id, limit=None) == path[:4]
        assert set(store.pin(tip, 4).pins) <= {record.seq for record in path[:8]}


def message(text: str, number: int) -> dict[str, str]:
    return {"role": "assistant" if number % 2 else "user", "content": text}


@on_both
def test_a_chain_of_forks_is_read_right_from_every_place(backend: Backend) -> None:
    backend.is_intact = False  # the check of each fork and its whole past would take minutes
    with open_metered(backend) as (store, _):
        ids = make_chain(store, 120)
        tip = ids[-1]
        path = store.messages(tip, limit=None)
        assert [record.position for record in path] == list(range(1, 242))
        assert list(store.iterate_messages(tip)) == path
        assert list(store.iterate_history(tip)) == store.history(tip)
        assert [record.seq for record in store.messages(tip, limit=None)] == [record.seq for record in path]
        replies = [record for record in path if record.message["role"] == "assistant"]
        assert store.interrupted(tip, path) == store.interrupted(tip, replies[::-1]) == frozenset()
        for limit in (1, 2, 31, 32, 33, 64, 65, 100, 240):
            assert store.messages(tip, limit=limit) == path[-limit:]
        for place in range(0, 241, 19):
            assert store.at(tip, place + 1) == path[place]
            assert store.messages(tip, before=path[place].seq, limit=3) == path[max(0, place - 3) : place]
        assert [record.seq for record in store.tree(tip)] == sorted(record.seq for record in path)
        assert list(store.iterate_tree(tip)) == store.tree(tip)
        engine = store._engine.transactions.database.engine
        early = store.fork(tip, at=77)
        assert store.messages(early.id, limit=None) == path[:77]
        store.append(early.id, "another way")
        earlier = store.fork(early.id, at=20)
        store.append(earlier.id, "and another")
        assert store.history(earlier.id, exact=True)[:20] == [record.message for record in path[:20]]
        for id in (ids[17], ids[50], tip, early.id, earlier.id):
            check_conversation(engine, "", id)
        for number, id in enumerate(ids[::13]):
            with engine.connect() as plain:
                connection = Connection(plain)
                _, lineage = read_head_seq(connection, ConversationKey("", id))
                origins = [origin.conversation_id for origin in list_origins(connection, lineage)]
            assert origins == ids[: 13 * number][::-1]
            assert len([*lineage.origins, *lineage.far]) <= 64


@on_both
def test_a_fork_of_which_an_origin_is_its_own_origin_is_a_damaged_row(backend: Backend) -> None:
    backend.is_intact = False
    with open_metered(backend) as (store, _):
        ids = make_chain(store, 60)
        far = _read_far_origin(store, ids[-1])
        with store._engine.transactions.database.write() as connection:
            copied = connection.scalar(
                text("SELECT lineage FROM convstore_conversations WHERE id = :id"), {"id": ids[-1]}
            )
            connection.execute(
                text("UPDATE convstore_conversations SET lineage = :lineage WHERE id = :id"),
                {"lineage": copied, "id": far},
            )
        with pytest.raises(DamagedRow, match="is not the origin that it names"):
            store.history(ids[-1])


@on_both
def test_a_lineage_that_names_other_origins_than_its_depth_needs_is_damage(backend: Backend) -> None:
    with open_metered(backend) as (store, _):
        id = make_chain(store, 60)[-1]
        with store._engine.transactions.database.read() as connection:
            named = json.loads(
                connection.scalar(text("SELECT lineage FROM convstore_conversations WHERE id = :id"), {"id": id}) or ""
            )
        assert verify(store._engine.transactions.database).damages == []
        damages = {
            "no origins": [],
            "no list": {},
            "one left out": named[:3] + named[4:],
            "one deeper": [[*named[0][:3], named[0][3] + 1], *named[1:]],
            "no depths": [origin[:3] for origin in named],
        }
        for damage, lineage in damages.items():
            backend.damage(
                "UPDATE convstore_conversations SET lineage = :lineage WHERE id = :id",
                id=id,
                lineage=json.dumps(lineage),
            )
            assert _is_refused(partial(store.history, id)), damage
            assert _is_refused(partial(store.at, id, 1)), damage
            # The other conversations are whole: so it would be found among all of them too.
            assert verify(store._engine.transactions.database, ConversationKey("", id)).damages, damage


def _is_refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except DamagedRow:
        return True
    return False


def _read_far_origin(store: Store, id: str) -> str:
    with store._engine.transactions.database.read() as connection:
        _, lineage = read_head_seq(connection, ConversationKey("", id))
    return lineage.far[0].conversation_id


@on_both
def test_deleted_conversations_cost_the_others_nothing(backend: Backend) -> None:
    with open_metered(backend) as (store, meter):
        found = []
        for count in (20, 20_000):
            with store._engine.transactions.database.write() as connection:
                bury(connection.plain, count)
                connection.execute(text("ANALYZE"))  # else PostgreSQL takes twenty thousand rows for twenty
            alive = [store.new(name=f"name-{count}-{number}", id=f"user-{count}-{number}").id for number in range(30)]
            page = store.list(limit=25)
            calls: dict[str, Callable[[], object]] = {
                "list": store.list,
                "next page": partial(store.list, before=page[-1]),
                "deleted": partial(store.list, deleted=True),
                "get": partial(store.get, alive[0]),
                "get by name": partial(store.get, f"name-{count}-3"),
                "get by prefix": partial(get_ambiguous, store, "user-"),
            }
            found.append({name: measure(meter, call) for name, call in calls.items()})
        for name, few in found[0].items():
            many = found[1][name]
            assert len(many.statements) == len(few.statements), name
            assert many.steps <= 2 * few.steps + 150, (name, few.steps, many.steps)
        backend.is_intact = False  # the buried rows have no turns, and there are many of them


def get_ambiguous(store: Store, prefix: str) -> str:
    with pytest.raises(AmbiguousReference) as raised:
        store.get(prefix)
    return str(raised.value)


def bury(connection: sqlalchemy.Connection, count: int) -> None:
    """Insert deleted conversations: later ones than all others, with ids that begin as theirs do."""
    rows = [{"id": f"user-{count}-0{number}", "at": f"2099-01-01 00:00:00.{number:06}"} for number in range(count)]
    connection.execute(
        text(
            "INSERT INTO convstore_conversations (owner, id, settings, metadata, head_seq, length, next_seq, next_turn,"
            " created_at, updated_at, deleted_at) VALUES ('', :id, '{}', '{}', 0, 0, 1, 1, :at, :at, :at)"
        ),
        rows,
    )


# --- in constant memory ---


@pytest.mark.parametrize("backend", ["sqlite-engine"], indirect=True)
@pytest.mark.parametrize("what", ["history", "messages", "tree"])
def test_iterating_takes_no_more_memory_for_a_long_conversation(backend: Backend, what: str) -> None:
    with open_metered(backend) as (store, _):
        engine = store._engine.transactions.database.engine
        ids = [make_tree(store, engine, range(count)) for count in (2_000, 6_000)]
        iterate: Callable[[str], Iterator[object]] = getattr(store, f"iterate_{what}")
        peaks = []
        for id in (ids[0], *ids):  # the first time, statements are compiled
            tracemalloc.start()
            counted = sum(1 for _ in iterate(id))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert counted == store.get(id).length
        assert peaks[2] <= 1.5 * peaks[1]  # three times, if all messages were held
