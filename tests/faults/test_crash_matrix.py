"""Test `kill -9` at every statement and commit: nothing committed is lost or doubled, and the next call works.

A child holds a dialogue and kills itself at point k, before or after the k-th statement or commit. A child that lives
reports the points, and what was durable at each.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from convstore import ConversationNotFound, Store, TurnStatus
from convstore.db.tables import deltas, messages, turns
from convstore.leases import heartbeat
from convstore.testing import ChatServer, Reply
from convstore.testing.responses import JSONObject, text_of
from tests.contract.invariants import check_conversation, engine_of
from tests.faults.clients import open_store
from tests.faults.crashing import Databases, Points, run_child
from tests.processes import PATIENCE, Channel, Child, Zygote

STEPS = ("new", "say", "stream", "append", "keyed")
KEY = "the-only-one"
SYSTEM = {"role": "system", "content": "Answer in three words."}
NOTE = {"role": "user", "content": "A note."}
PIECES = 3
WHOLE: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "Question 1"},
    {"role": "assistant", "content": "Answer to Question 1"},
    {"role": "user", "content": "Question 2"},
    {"role": "assistant", "content": "Answer to Question 2"},
    NOTE,
    {"role": "user", "content": "Question 3"},
    {"role": "assistant", "content": "Answer to Question 3"},
]
LENGTHS = (1, 3, 5, 6, 8)
"""Number of messages of the dialogue after each step."""
AT_ONCE = 1.0  # seconds: the longest wait of the next caller


def answer(body: JSONObject) -> Reply:
    """Return a reply in three pieces that depends only on the user's message."""
    text = f"Answer to {text_of(body['messages'][-1])}"
    return Reply(text, pieces=[text[:6], text[6:10], text[10:]])


# --- run in the child ---


def hold_dialogue(channel: Channel, *, url: str, base_url: str, id: str, kill_at: int) -> None:
    """Hold the dialogue, and acknowledge each step when its call has returned."""
    heartbeat.FLUSH_SECONDS = 0.005
    points = Points(channel, kill_at)
    store = open_store(url, base_url, mark=id)

    def begin(step: str) -> None:
        points.step = step

    def acknowledge() -> None:
        channel.send(["done", points.step])

    begin("new")
    store.new(id=id, messages=[SYSTEM])
    acknowledge()
    begin("say")
    store.say(id, "Question 1")
    acknowledge()
    begin("stream")
    with store.stream(id, "Question 2") as reply:
        for _ in reply:
            assert points.flushed.acquire(timeout=PATIENCE)
    acknowledge()
    begin("append")
    store.append(id, NOTE)
    acknowledge()
    begin("keyed")
    store.say(id, "Question 3", idempotency_key=KEY)
    acknowledge()


def only_open(channel: Channel, *, url: str, kill_at: int) -> None:
    """Use a SQLite file for the first time, which makes its schema."""
    Points(channel, kill_at)
    Store(url).list()


# --- run in the test ---


@dataclass(frozen=True)
class Durable:
    """What the database holds at a point of the dialogue."""

    label: str
    done: int
    """Number of steps with all commits done."""
    begun: bool
    """True if the turn of the next step is stored."""
    flushed: int
    """Number of stored pieces of its reply."""

    @property
    def length(self) -> int:
        return LENGTHS[self.done - 1] if self.done else 0


def durable_at_points(points: list[list[Any]]) -> list[Durable]:
    """Return what is durable at each point, from the points of a child that lived."""
    writes = dict.fromkeys(STEPS, 0)
    found = []
    for step, by, when, what, writing in points:
        if (when, what, writing) == ("after", "COMMIT", True):
            writes[step] += 1
        label = f"{step}: {when} {what} ({by})"
        commits = {"new": 1, "say": 2, "stream": 2 + PIECES, "append": 1, "keyed": 2}
        done = sum(writes[one] == commits[one] for one in STEPS)
        of_next = writes[STEPS[done]] if done < len(STEPS) else 0
        found.append(Durable(label, done, begun=of_next > 0, flushed=max(0, of_next - 1)))
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    postgres = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return Databases(tmp_path, postgres)


def check_after_crash(store: Store, server: ChatServer, id: str, at: Durable, acknowledged: list[str]) -> float:
    """Check the database after a crash, and return how many seconds the next call took."""
    engine = engine_of(store)
    assert len(acknowledged) <= at.done, f"{acknowledged} acknowledged, {at.done} steps durable"
    assert list(STEPS[: len(acknowledged)]) == acknowledged
    if at.done == 0:
        with pytest.raises(ConversationNotFound):
            store.history(id)
    else:
        check_conversation(engine, "", id, running=True)
        assert store.history(id, exact=True) == WHOLE[: at.length]
        assert [record.position for record in store.messages(id)] == list(range(1, at.length + 1))
        before = store.turns(id)
        assert [turn.status for turn in before if turn.status is not TurnStatus.COMPLETED] == (
            [TurnStatus.RUNNING] if at.begun else []
        )

    began = time.monotonic()
    assert store.new(id=id, messages=[SYSTEM]).id == id  # a second time, without harm
    # SQLite has nothing to wait for; a server may need a moment to see that its client has died.
    turn = store.say(id, "And now?", wait=0 if engine.dialect.name == "sqlite" else AT_ONCE)
    took = time.monotonic() - began

    # A run without a fault would have sent this.
    replayed = WHOLE[: max(1, at.length)]
    asked = [{"role": "user", "content": "And now?"}]
    assert sent_by(server, id)[-1]["messages"] == replayed + asked
    assert turn.text == "Answer to And now?"
    whole = [*replayed, *asked, {"role": "assistant", "content": "Answer to And now?"}]
    assert store.history(id, exact=True) == whole
    check_conversation(engine, "", id)

    # The dead turn is stored as interrupted, with its partial reply; nothing else was stored.
    unfinished = [turn for turn in store.turns(id) if turn.status is not TurnStatus.COMPLETED]
    assert len(unfinished) == at.begun
    step = STEPS[at.done] if at.done < len(STEPS) else None
    for stale in unfinished:
        assert stale.status is TurnStatus.INTERRUPTED
        assert stale.error is not None
        assert stale.error["type"] == "Abandoned"
        assert stale.idempotency_key == (KEY if step == "keyed" else None)
        assert stale.text == "".join(answer({"messages": asked_in(step)}).pieces[: at.flushed])  # type: ignore[index]
    partials = 1 if at.flushed else 0
    with engine.connect() as connection:
        stored = connection.scalar(select(func.count()).select_from(messages).where(messages.c.conversation_id == id))
        left = connection.scalar(select(func.count()).select_from(deltas).where(deltas.c.conversation_id == id))
    assert stored == len(whole) + at.begun + partials
    assert left == 0

    # With the same key, the model is called once in all, if its first reply was stored.
    first = store.say(id, "Question 3", idempotency_key=KEY)
    again = store.say(id, "Question 3", idempotency_key=KEY)
    assert first == again
    assert first.text == "Answer to Question 3"
    replies = [turn for turn in store.turns(id) if turn.idempotency_key == KEY and turn.status is TurnStatus.COMPLETED]
    assert [turn.seq for turn in replies] == [first.seq]
    calls = [body for body in sent_by(server, id) if body["messages"][-1]["content"] == "Question 3"]
    died_in_it = step == "keyed" and at.begun
    assert len(calls) in ((1, 2) if died_in_it else (1,))
    with engine.connect() as connection:
        keyed = select(func.count()).select_from(turns).where(turns.c.conversation_id == id)
        spent = keyed.where(turns.c.idempotency_key == KEY, turns.c.status.in_(["running", "completed"]))
        assert connection.scalar(spent) == 1
    check_conversation(engine, "", id)
    return took


def asked_in(step: str | None) -> list[JSONObject]:
    question = {"say": "Question 1", "stream": "Question 2", "keyed": "Question 3"}
    return [{"role": "user", "content": question.get(step or "", "")}]


def sent_by(server: ChatServer, id: str) -> list[JSONObject]:
    return [request.body for request in server.requests if request.headers["x-mark"] == id]


FEWEST = {"sqlite": 124, "postgresql": 94}
"""The number of points today: with fewer, the matrix has lost some."""


def test_after_a_kill_at_any_point_the_conversation_is_whole_and_the_next_call_works(
    zygote: Zygote, databases: Databases, chat_server: ChatServer
) -> None:
    chat_server.otherwise = answer

    def dialogue(kill_at: int, id: str, url: str) -> Child:
        return zygote.start(hold_dialogue, url=url, base_url=chat_server.url, id=id, kill_at=kill_at)

    began = time.monotonic()
    url = databases.new()
    acknowledged, points = run_child(dialogue(-1, "unharmed", url), killed=False)
    assert acknowledged == list(STEPS)
    durable = durable_at_points(points)
    with closing(open_store(url, chat_server.url, mark="unharmed")) as store:
        assert store.history("unharmed", exact=True) == WHOLE
        check_after_crash(store, chat_server, "unharmed", replace(durable[-1], done=len(STEPS)), acknowledged)
    # The matrix covers every step, every moment of each turn, and each number of flushed pieces.
    assert {(at.done, at.begun, at.flushed) for at in durable} == {
        *((done, False, 0) for done in range(6)),
        *((done, True, 0) for done in (1, 2, 4)),
        *((2, True, flushed) for flushed in range(1, PIECES + 1)),
    }

    def at_point(kill_at: int) -> float:
        at = durable[kill_at]
        id = f"killed-at-{kill_at}"
        url = databases.new()
        acknowledged, _ = run_child(dialogue(kill_at, id, url), killed=True)
        with closing(open_store(url, chat_server.url, mark=id)) as store:
            try:
                return check_after_crash(store, chat_server, id, at, acknowledged)
            except Exception as error:
                error.add_note(f"killed at point {kill_at}, {at}")
                raise

    with ThreadPoolExecutor(3) as threads:
        took = list(threads.map(at_point, range(len(durable))))
    print(
        f"\ncrash matrix, {databases.kind}: killed at {len(took)} points, every one there is; the next call took "
        f"{max(took):.2f} s at most, {time.monotonic() - began:.0f} s in all"
    )
    assert len(took) >= FEWEST[databases.kind]


def test_after_a_kill_while_a_file_is_created_the_next_process_creates_it(
    zygote: Zygote, tmp_path: Path, chat_server: ChatServer
) -> None:
    chat_server.otherwise = answer

    def url(name: int) -> str:
        return f"sqlite:///{tmp_path}/{name}.db"

    _, points = run_child(zygote.start(only_open, url=url(-1), kill_at=-1), killed=False)

    def at_point(kill_at: int) -> None:
        run_child(zygote.start(only_open, url=url(kill_at), kill_at=kill_at), killed=True)
        with closing(open_store(url(kill_at), chat_server.url)) as store:
            id = store.new().id
            assert store.say(id, "Hello").text == "Answer to Hello"
            check_conversation(engine_of(store), "", id)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(at_point, range(len(points))))
    print(f"\ncrash matrix, a new SQLite file: killed at {len(points)} points, every one there is")
    assert len(points) >= 50
