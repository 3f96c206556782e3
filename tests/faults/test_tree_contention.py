"""Test many callers that move along one tree: one at a time, named conflicts, windows without gaps."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import create_engine, event

from convstore import (
    ConversationBusy,
    ConversationExists,
    ConversationNotFound,
    ConvstoreError,
    HeadMoved,
    Store,
    Turn,
    TurnStatus,
)
from convstore.testing import ChatServer
from tests.contract.invariants import check_all, check_conversation, engine_of
from tests.faults.clients import open_store
from tests.faults.conftest import Opener
from tests.faults.gates import Held, wait_for_waiters
from tests.faults.windows import check_requests
from tests.processes import PATIENCE, Channel, Zygote

PROCESSES, CALLS = 4, 14
RACERS = 6
NAMED = {"ConversationBusy", "HeadMoved", "InvalidInput"}
Elsewhere = Callable[..., Future[Any]]


@pytest.fixture
def store(opening: Opener) -> Store:
    return opening()


def spoken(store: Store, number: int = 3, **options: Any) -> str:
    """Return the id of a conversation with a system message and some turns."""
    id = store.new(system="Be brief.", **options).id
    for said in range(number):
        store.say(id, f"Question {said}")
    return id


def texts(store: Store, id: str) -> list[str]:
    return [message["content"] for message in store.history(id)]


# --- many callers ---


def crowd(channel: Channel, *, url: str, base_url: str, id: str, seed: int) -> None:
    """Run operations on a conversation, and report the outcome of each."""
    store = open_store(url, base_url)
    chance = random.Random(seed)
    store.get(id)
    channel.send(["ready", None])
    channel.receive()
    ways: dict[str, Callable[[str], Turn | object]] = {
        "say": lambda text: store.say(id, text, wait=60),
        "edit": lambda text: store.edit(id, 2, text, wait=60),
        "retry": lambda text: store.retry(id, wait=60),
        "append": lambda text: store.append(id, {"role": "user", "content": text}, wait=60),
        "undo": lambda text: store.undo(id, expected_head=store.get(id).head_seq),
        "redo": lambda text: store.redo(id),
        "pin": lambda text: store.unpin(id, 2),
        "compact": lambda text: store.compact(id, keep_last=1),
        "fork": lambda text: store.fork(id, new_id=f"fork-{text}"),
        "drop": lambda text: store.drop_summary(id),
    }
    often = ["say"] * 4 + ["undo"] * 3 + ["edit", "retry", "append"] + list(ways)
    for number in range(CALLS):
        way, text = chance.choice(often), f"{seed}-{number}"
        try:
            done = ways[way](text)
            if way == "fork" and chance.random() < 0.5:
                way, done = "say in a fork", store.say(f"fork-{text}", text)
        except ConvstoreError as error:
            channel.send(["outcome", [way, type(error).__name__, str(error)]])
        else:
            turn = [done.conversation_id, done.seq, done.text] if isinstance(done, Turn) else None
            channel.send(["outcome", [way, "ok", turn]])


def test_many_callers_on_one_tree_get_replies_or_named_conflicts(
    zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = spoken(store)
    children = [
        zygote.start(crowd, url=database_url, base_url=chat_server.url, id=id, seed=10 + number)
        for number in range(PROCESSES)
    ]
    for child in children:
        child.receive("ready")
    for child in children:
        child.send("go")
    outcomes = [child.receive("outcome") for child in children for _ in range(CALLS)]
    for child in children:
        assert child.wait() == 0
    assert {kind for _, kind, _ in outcomes} <= NAMED | {"ok"}, outcomes
    assert {kind for way, kind, _ in outcomes if way in ("say", "append", "fork", "say in a fork")} == {"ok"}
    check_all(engine_of(store))
    print(f"\na crowd: {sorted(Counter(kind for _, kind, _ in outcomes).items())}")

    ids = [conversation.id for conversation in store.list(limit=None)]
    turns = {(turn.conversation_id, turn.seq): turn for one in ids for turn in store.turns(one, limit=None)}
    assert {turn.status for turn in turns.values()} == {TurnStatus.COMPLETED}
    # Every reply was returned to one caller, is stored as it was returned, and was asked for once.
    given = [tuple(turn) for _, kind, turn in outcomes if kind == "ok" and turn is not None]
    asked = {key: turn for key, turn in turns.items() if turn.purpose is None}
    assert len(given) == len(set(given)) == len(asked) - 3
    assert all(asked[conversation, seq].text == text for conversation, seq, text in given)
    assert len(chat_server.requests) == len(turns)
    assert check_requests(store, chat_server, *ids) == len(asked)
    # And each reply follows its message.
    for one in ids:
        path = store.messages(one, limit=None)
        for before, after in pairwise(path):
            if after.message["role"] == "assistant":
                assert after.message["content"] == f"You said: {before.message['content']}"


# --- with an expected head, one wins ---


def race(channel: Channel, *, url: str, base_url: str, id: str, way: str, text: str, head: int) -> None:
    """Run an operation at the same time as others, with an expected head."""
    store = open_store(url, base_url)
    store.get(id)
    ways: dict[str, Callable[[], object]] = {
        "say": lambda: store.say(id, text, expected_head=head),
        "stream": lambda: list(store.stream(id, text, expected_head=head)),
        "edit": lambda: store.edit(id, 2, text, expected_head=head),
        "retry": lambda: store.retry(id, expected_head=head),
        "append": lambda: store.append(id, {"role": "user", "content": text}, expected_head=head),
        "undo": lambda: store.undo(id, expected_head=head),
        "checkout": lambda: store.checkout(id, 3, expected_head=head),
    }
    channel.send(["ready", None])
    channel.receive()
    try:
        ways[way]()
    except (HeadMoved, ConversationBusy) as error:
        channel.send(["outcome", type(error).__name__])
    else:
        channel.send(["outcome", "ok"])


@pytest.mark.parametrize(
    "ways", [["say"], ["undo"], ["append"], ["edit", "say"], ["undo", "retry", "append", "checkout", "stream", "edit"]]
)
def test_exactly_one_of_the_callers_with_the_same_expected_head_succeeds(
    ways: list[str], zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = spoken(store)
    head = store.get(id).head_seq
    before = len(chat_server.requests)
    racers = [ways[number % len(ways)] for number in range(RACERS)]
    children = [
        zygote.start(
            race, url=database_url, base_url=chat_server.url, id=id, way=way, text=f"racer {number}", head=head
        )
        for number, way in enumerate(racers)
    ]
    for child in children:
        child.receive("ready")
    for child in children:
        child.send("go")
    outcomes = [child.receive("outcome") for child in children]
    assert outcomes.count("ok") == 1, outcomes
    winner = racers[outcomes.index("ok")]
    assert store.get(id).head_seq != head
    assert len(chat_server.requests) - before == (winner in ("say", "stream", "edit", "retry"))
    for way, outcome in zip(racers, outcomes, strict=True):
        if way in ("say", "stream", "edit", "retry", "append"):  # these wait; the others do not
            assert outcome in ("ok", "HeadMoved")
    check_conversation(store, "", id)


# --- while a turn runs ---


def test_moving_the_head_while_a_turn_runs_is_refused_at_once(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store)
    store.undo(id)
    before = texts(store, id)
    turn = Held(chat_server)
    slow = elsewhere(store.say, id, "slow")
    turn.wait()
    other = opening()
    tree = other.tree(id)
    calls: dict[str, Callable[[], object]] = {
        "undo": lambda: other.undo(id),
        "undo many": lambda: other.undo(id, 99),
        "redo": lambda: other.redo(id),
        "checkout": lambda: other.checkout(id, 1),
        "pin": lambda: other.pin(id, 1),
        "unpin": lambda: other.unpin(id, 1),
        "delete": lambda: other.delete(id),
        "edit": lambda: other.edit(id, 2, "Otherwise", on_busy="reject"),
        "complete": lambda: other.complete(id, on_busy="reject"),
    }
    for name, call in calls.items():
        began = time.monotonic()
        with pytest.raises(ConversationBusy, match="turn"):
            call()
        assert time.monotonic() - began < 1.0, name
    assert other.tree(id) == tree
    turn.open()
    assert slow.result(PATIENCE).text == "Held"
    assert texts(store, id) == [*before, "slow", "Held"]
    check_conversation(store, "", id)


def test_an_edit_is_refused_if_another_message_has_its_position_after_the_wait(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store)
    first = Held(chat_server)
    quick = elsewhere(store.edit, id, 2, "First")
    first.wait()
    other = opening()
    late = elsewhere(other.edit, id, 2, "Second")
    wait_for_waiters(other, id)
    asked = len(chat_server.requests)
    first.open()
    assert quick.result(PATIENCE).text == "Held"
    with pytest.raises(HeadMoved, match="position 2"):
        late.result(PATIENCE)
    assert len(chat_server.requests) == asked
    assert texts(store, id) == ["Be brief.", "First", "Held"]
    check_conversation(store, "", id)


def test_an_edit_that_waited_for_a_later_turn_replaces_the_right_message(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store)
    turn = Held(chat_server)
    slow = elsewhere(store.say, id, "slow")
    turn.wait()
    other = opening()
    late = elsewhere(other.edit, id, 4, "Otherwise")
    wait_for_waiters(other, id)
    turn.open()
    assert slow.result(PATIENCE).text == "Held"
    assert late.result(PATIENCE).text == "You said: Otherwise"
    assert texts(store, id) == ["Be brief.", "Question 0", "You said: Question 0", "Otherwise", "You said: Otherwise"]
    assert store.get(id).length == 5
    assert check_requests(store, chat_server, id) == 5
    check_conversation(store, "", id)


# --- compaction beside others ---


def test_one_of_two_compactions_at_once_is_active_and_both_are_stored(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 4)
    shorter, longer = Held(chat_server, "The shorter"), Held(chat_server, "The longer")
    one = elsewhere(store.compact, id, keep_last=2)
    shorter.wait()
    other = elsewhere(opening().compact, id, keep_last=1)
    longer.wait()
    longer.open()
    assert [summary.text for summary in other.result(PATIENCE)] == ["The longer"]
    shorter.open()
    assert one.result(PATIENCE)[-1].text == "The longer"
    present = store.summary(id)
    assert present is not None
    assert (present.text, present.up_to_position) == ("The longer", 7)
    written = [turn for turn in store.turns(id) if turn.purpose == "summary"]
    assert [turn.status for turn in written] == [TurnStatus.COMPLETED] * 2
    store.say(id, "And now?")
    assert check_requests(store, chat_server, id) == 5
    assert store.drop_summary(id) == present
    assert store.summary(id) is None
    store.say(id, "And now?")
    assert check_requests(store, chat_server, id) == 6
    check_conversation(store, "", id)


def test_a_longer_compaction_that_ends_later_replaces_the_shorter_one(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 4)
    longer, shorter = Held(chat_server, "The longer"), Held(chat_server, "The shorter")
    one = elsewhere(store.compact, id, keep_last=1)
    longer.wait()
    other = elsewhere(opening().compact, id, keep_last=2)
    shorter.wait()
    shorter.open()
    assert [summary.text for summary in other.result(PATIENCE)] == ["The shorter"]
    store.say(id, "Between")
    longer.open()
    assert [summary.text for summary in one.result(PATIENCE)] == ["The longer"]
    store.say(id, "After")
    for text in ("The longer", "The shorter"):
        dropped = store.drop_summary(id)
        assert dropped is not None
        assert dropped.text == text
        store.say(id, f"Without {text}")
    assert store.summary(id) is None
    assert check_requests(store, chat_server, id) == 8
    check_conversation(store, "", id)


def test_a_compaction_beside_turns_loses_none_of_their_messages(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store)
    summary, other = Held(chat_server, "The summary"), opening()
    compacting = elsewhere(store.compact, id, keep_last=1)
    summary.wait()
    other.say(id, "Meanwhile")
    turn = Held(chat_server)
    running = elsewhere(other.say, id, "Still running")
    turn.wait()
    summary.open()
    (written,) = compacting.result(PATIENCE)  # during the turn
    assert written.up_to_position == 5
    turn.open()
    assert running.result(PATIENCE).window.history == 9  # as it was at the begin
    after = store.say(id, "After")
    assert after.window is not None
    assert after.window.summary == written.turn
    assert check_requests(store, chat_server, id) == 6
    check_conversation(store, "", id)


def test_a_compaction_of_undone_messages_is_active_after_a_redo(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 4)
    summary, other = Held(chat_server, "The summary"), opening()
    compacting = elsewhere(store.compact, id, keep_last=1)
    summary.wait()
    other.undo(id, 3)
    head = store.get(id).head_seq
    summary.open()
    compacting.result(PATIENCE)
    assert store.summary(id) is None
    store.say(id, "Another way")
    other.undo(id)
    assert store.get(id).head_seq == head
    other.redo(id)
    assert store.summary(id) is None
    other.checkout(id, 9)
    found = store.summary(id)
    assert found is not None
    assert found.text == "The summary"
    store.say(id, "Back again")
    assert check_requests(store, chat_server, id) == 6
    check_conversation(store, "", id)


def test_a_summary_of_one_path_does_not_replace_the_summary_of_another(
    store: Store, chat_server: ChatServer, opening: Opener, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 4)
    whole = store.get(id).head_seq
    slow, other = Held(chat_server, "Of the first way"), opening()
    compacting = elsewhere(store.compact, id, keep_last=1)
    slow.wait()
    other.undo(id, 3)
    for number in range(3):
        other.say(id, f"Another way {number}")
    aside = Held(chat_server, "Of the other way")
    aside.open()
    other.compact(id, keep_last=1)
    elsewhere_head = store.get(id).head_seq
    slow.open()
    compacting.result(PATIENCE)
    for head, text in [(elsewhere_head, "Of the other way"), (whole, "Of the first way")] * 2:
        store.checkout(id, head)
        found = store.summary(id)
        assert found is not None
        assert found.text == text
        store.say(id, "And now?")
    assert check_requests(store, chat_server, id) == 4 + 3 + 4
    check_conversation(store, "", id)


def test_a_fork_made_while_its_origin_is_compacted_has_its_whole_past(
    store: Store, chat_server: ChatServer, opening: Opener, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 4)
    slow, other = Held(chat_server, "The summary"), opening()
    compacting = elsewhere(store.compact, id, keep_last=1)
    slow.wait()
    early = other.fork(id).id
    slow.open()
    (written,) = compacting.result(PATIENCE)
    late, before = other.fork(id).id, other.fork(id, at=5).id
    assert [other.summary(one) for one in (early, late, before)] == [None, written, None]
    for one in (id, early, late, before):
        store.say(one, "And now?")  # in the first fork, with the turn number of the origin's summary
    assert check_requests(store, chat_server, id, early, late, before) == 4 + 4
    store.compact(early, keep_last=1)
    assert store.summary(id) == written
    check_all(engine_of(store))


# --- forks beside others ---


@pytest.mark.parametrize("streamed", [False, True])
def test_a_fork_made_while_a_turn_runs_has_the_messages_before_it(
    streamed: bool, store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 2)
    before = texts(store, id)
    turn, other = Held(chat_server, hold_after=1), opening()
    running = elsewhere(lambda: list(store.stream(id, "slow")) if streamed else store.say(id, "slow"))
    turn.wait()
    early = other.fork(id).id
    assert texts(other, early) == before
    assert other.say(early, "In the fork", wait=0).text == "You said: In the fork"  # no turn holds it
    turn.open()
    running.result(PATIENCE)
    late = other.fork(id).id
    assert texts(store, id) == texts(store, late) == [*before, "slow", "Held"]
    assert texts(store, early) == [*before, "In the fork", "You said: In the fork"]
    store.say(late, "After")
    assert check_requests(store, chat_server, id, early, late) == 3 + 1 + 1
    check_all(engine_of(store))


def test_deleting_an_origin_during_a_turn_of_its_fork_changes_nothing_in_the_fork(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store)
    fork = store.fork(id, at=5).id
    turn, other = Held(chat_server), opening()
    running = elsewhere(store.say, fork, "In the fork")
    turn.wait()
    other.delete(id)
    turn.open()
    assert running.result(PATIENCE).text == "Held"
    assert len(texts(store, fork)) == 7
    of_fork = other.fork(fork).id
    assert other.edit(of_fork, 2, "Otherwise").text == "You said: Otherwise"
    assert other.compact(fork, keep_last=1)
    other.say(fork, "And now?")
    assert check_requests(store, chat_server, fork, of_fork) == 3
    with pytest.raises(ConversationNotFound):
        other.say(id, "Hi")
    other.restore(id)
    assert len(texts(store, id)) == 7
    check_all(engine_of(store))


def test_a_caller_that_waits_for_a_conversation_gets_an_error_if_it_is_deleted(
    store: Store, opening: Opener, chat_server: ChatServer, elsewhere: Elsewhere
) -> None:
    id = spoken(store, 1)
    turn, other = Held(chat_server), opening()
    running = elsewhere(store.say, id, "slow")
    turn.wait()
    summary = Held(chat_server)
    compacting = elsewhere(opening().compact, id, keep_last=0)
    summary.wait()
    patient = elsewhere(other.append, id, "Hi")
    wait_for_waiters(other, id)
    running_head = Held(chat_server)  # not requested: nothing more is said
    turn.open()
    running.result(PATIENCE)
    patient.result(PATIENCE)
    store.delete(id)
    summary.open()
    with pytest.raises(ConversationNotFound):
        compacting.result(PATIENCE)
    running_head.open()
    check_all(engine_of(store))


def fork_at_once(channel: Channel, *, url: str, base_url: str, id: str, name: str | None, new_id: str | None) -> None:
    """Fork at the same time as others that use the same name, or the same id."""
    store = open_store(url, base_url)
    store.get(id)
    channel.send(["ready", None])
    channel.receive()
    try:
        channel.send(["outcome", store.fork(id, name=name, new_id=new_id).id])
    except ConversationExists:
        channel.send(["outcome", None])


@pytest.mark.parametrize(("name", "new_id"), [("wanted", None), (None, "wanted"), ("wanted", "wanted-too")])
def test_exactly_one_of_several_forks_gets_the_same_name_or_id(
    name: str | None, new_id: str | None, zygote: Zygote, store: Store, database_url: str, chat_server: ChatServer
) -> None:
    id = spoken(store, 1)
    children = [
        zygote.start(fork_at_once, url=database_url, base_url=chat_server.url, id=id, name=name, new_id=new_id)
        for _ in range(RACERS)
    ]
    for child in children:
        child.receive("ready")
    for child in children:
        child.send("go")
    (made,) = [outcome for child in children if (outcome := child.receive("outcome")) is not None]
    assert {conversation.id for conversation in store.list()} == {id, made}
    assert store.get("wanted").id == made
    check_all(engine_of(store))


@pytest.mark.parametrize("rival", ["new", "restore", "fork"])
def test_a_name_that_is_taken_during_a_restore_is_a_named_conflict(
    rival: str, store: Store, opening: Opener, elsewhere: Elsewhere
) -> None:
    id = store.new(name="wanted").id
    store.delete(id)
    twin = store.new(name="wanted").id
    store.delete(twin)
    plain = store.new().id
    late = opening()
    late.list()  # a store's first-use work is done
    looked, go = threading.Event(), threading.Event()

    @event.listens_for(engine_of(late), "after_cursor_execute")
    def hold_after_the_look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and not looked.is_set():
            looked.set()
            assert go.wait(PATIENCE)

    rivals: dict[str, Callable[[], object]] = {
        "new": lambda: store.new(name="wanted"),
        "restore": lambda: store.restore(twin),
        "fork": lambda: store.fork(plain, name="wanted"),
    }
    coming_back = elsewhere(late.restore, id)
    assert looked.wait(PATIENCE)
    taking = elsewhere(rivals[rival])
    if engine_of(store).dialect.name == "postgresql":
        taking.result(PATIENCE)  # on SQLite it cannot begin
    go.set()
    outcomes = [future.exception(PATIENCE) for future in (coming_back, taking)]
    (refused,) = [error for error in outcomes if error is not None]
    assert isinstance(refused, ConversationExists)
    assert store.get("wanted").name == "wanted"


def test_a_fork_in_a_transaction_that_is_rolled_back_leaves_nothing(store: Store, chat_server: ChatServer) -> None:
    id = spoken(store, 2)
    before = store.get(id)
    engine = create_engine(engine_of(store).url)
    with engine.connect() as connection:
        inside = store.using(connection)
        fork = inside.fork(id, name="wanted", at=3)
        inside.append(fork.id, "In the fork")
        inside.undo(id)
        inside.pin(id, 1)
        assert [message["content"] for message in inside.history(fork.id)][-1] == "In the fork"
        with pytest.raises(ConversationExists):
            inside.fork(id, name="wanted")
        assert inside.fork(id).length == 3  # the transaction can still be used
        connection.rollback()
    assert store.get(id) == before
    assert [conversation.id for conversation in store.list()] == [id]
    with engine.connect() as connection:
        kept = store.using(connection).fork(id, name="wanted")
        connection.commit()
    assert store.say(kept.id, "On we go").text == "You said: On we go"
    assert check_requests(store, chat_server, id, kept.id) == 3
    check_all(engine)
    engine.dispose()
