"""Test `stop` and `follow` from another process, and `retry`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from convstore import (
    ConversationBusy,
    ConversationNotFound,
    InvalidInput,
    InvalidParameter,
    LeaseLost,
    Store,
    Turn,
    TurnFailed,
    TurnStatus,
)
from convstore.db.tables import deltas
from convstore.leases import heartbeat
from convstore.testing import ChatServer, Failure, Reply
from convstore.turns import following
from tests.contract.invariants import check_all
from tests.faults.clients import open_store
from tests.faults.driven import client, engine_of, opened
from tests.processes import Channel, Zygote


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    """Yield a `Store` and an `AsyncStore` on each database."""
    with opened(str(request.param), database_url, chat_server) as store:
        yield store
        check_all(engine_of(store))


@pytest.fixture
def elsewhere(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    """Yield a second store on the same database."""
    with client(chat_server) as caller, Store(database_url, client=caller, model="test-model") as elsewhere:
        yield elsewhere


@pytest.fixture
def submit() -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def contents(store: Store, id: str) -> list[Any]:
    return [message["content"] for message in store.history(id)]


def held(server: ChatServer, *pieces: str, after: int = 1) -> threading.Event:
    """Script a reply that pauses after some pieces until the event is set."""
    go = threading.Event()
    server.script(Reply(pieces=list(pieces), hold=go, hold_after=after))
    return go


def wait_for_text(store: Store, id: str, text: str) -> None:
    """Wait until a reader of the database sees this text of a running reply."""
    seen = ""
    for piece in store.follow(id):
        seen += piece
        if seen == text:
            return
    pytest.fail(f"the stream ended with {seen!r}")


# --- stop ---


def test_stopping_from_another_store_ends_a_stream_and_keeps_the_partial_reply(
    store: Store, elsewhere: Store, chat_server: ChatServer, submit: Callable[..., Future[Any]]
) -> None:
    id = store.new().id
    chat_server.script(Reply(pieces=["a"] * 2000, delay=0.02))
    with store.stream(id, "Go on") as reply:
        assert next(reply) == "a"
        stopped = submit(elsewhere.stop, id, wait=20)
        came = "a" + "".join(reply)  # it ends without an error
        assert stopped.result(60) is True
    assert 0 < len(came) < 2000
    assert (reply.turn.status, reply.turn.text) == (TurnStatus.INTERRUPTED, came)
    assert store.history(id) == [user("Go on"), assistant(came)]
    assert store.turns(id)[0].error == {"type": "Stopped", "message": "stopped by the user"}
    assert chat_server.wait_disconnect()
    assert store.say(id, "Next", wait=0).text == "You said: Next"
    assert chat_server.requests[-1].body["messages"] == [user("Go on"), assistant(came), user("Next")]


def streaming_child(channel: Channel, url: str, base_url: str, id: str) -> None:
    """Stream to the end, also if another process ends it."""
    with open_store(url, base_url) as store, store.stream(id, "Go on") as reply:
        next(reply)
        channel.send(["begun", None])
        for _ in reply:
            pass
        channel.send(["turn", [reply.turn.status.value, reply.turn.text]])


def test_stopping_a_stream_of_another_process_keeps_the_partial_reply(
    store: Store, chat_server: ChatServer, zygote: Zygote, database_url: str
) -> None:
    id = store.new().id
    chat_server.script(Reply(pieces=["a"] * 2000, delay=0.02))
    child = zygote.start(streaming_child, url=database_url, base_url=chat_server.url, id=id)
    child.receive("begun")
    assert store.stop(id, wait=20) is True
    status, text = child.receive("turn")
    assert status == "interrupted"
    assert 0 < len(text) < 2000
    assert store.history(id) == [user("Go on"), assistant(text)]
    assert child.wait() == 0


def test_stopping_a_silent_stream_takes_it_over_with_the_flushed_part(
    store: Store, elsewhere: Store, chat_server: ChatServer, submit: Callable[..., Future[Any]]
) -> None:
    id = store.new().id
    go = held(chat_server, "Hel", "lo")
    with store.stream(id, "Hi") as reply:
        assert next(reply) == "Hel"
        wait_for_text(elsewhere, id, "Hel")
        assert elsewhere.stop(id, wait=0) is True
        assert elsewhere.history(id) == [user("Hi"), assistant("Hel")]
        (turn,) = elsewhere.turns(id)
        assert (turn.status, turn.text) == (TurnStatus.INTERRUPTED, "Hel")
        assert turn.error == {"type": "Stopped", "message": "stopped from elsewhere"}
        assert elsewhere.say(id, "Next", wait=0).text == "You said: Next"
        go.set()
        with pytest.raises(LeaseLost, match="stored off the path"):
            list(reply)
    path = [user("Hi"), assistant("Hel"), user("Next"), assistant("You said: Next")]
    assert store.history(id) == path
    assert store.say(id, "And").text == "You said: And"
    assert chat_server.requests[-1].body["messages"] == [*path, user("And")]


def test_stopping_a_turn_that_does_not_react_takes_it_over_and_its_late_reply_is_off_the_path(
    store: Store,
    elsewhere: Store,
    chat_server: ChatServer,
    submit: Callable[..., Future[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "LOOK_SECONDS", 3600.0)
    id = elsewhere.new().id
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply("Too late.", hold=go, started=begun))
    late = submit(elsewhere.say, id, "Hi")
    assert begun.wait(60)
    with pytest.raises(ConversationBusy):
        store.say(id, "Mine", wait=0)
    assert store.stop(id, wait=0.05) is True
    assert store.history(id) == []
    assert store.say(id, "Mine", wait=0).text == "You said: Mine"
    go.set()
    with pytest.raises(LeaseLost) as caught:
        late.result(60)
    assert caught.value.turn.text == "Too late."
    assert contents(store, id) == ["Mine", "You said: Mine"]
    first = store.turns(id)[0]
    assert (first.status, first.text) == (TurnStatus.INTERRUPTED, "Too late.")
    assert first.error == {"type": "Stopped", "message": "stopped from elsewhere"}
    assert store.say(id, "Next").text == "You said: Next"


def test_stopping_without_a_running_turn_returns_none(store: Store) -> None:
    id = store.new().id
    assert store.stop(id) is False
    store.say(id, "Hi")
    assert store.stop(id) is False
    assert [turn.status for turn in store.turns(id)] == ["completed"]
    with pytest.raises(ConversationNotFound):
        store.stop("nowhere")
    with pytest.raises(ConversationNotFound):
        store.for_owner("ann").stop(id)


def test_stopping_the_turn_of_a_dead_process_frees_its_conversation_at_once(
    store: Store, chat_server: ChatServer, zygote: Zygote, database_url: str
) -> None:
    id = store.new().id
    held(chat_server, "a", "b")
    child = zygote.start(streaming_child, url=database_url, base_url=chat_server.url, id=id)
    child.receive("begun")
    wait_for_text(store, id, "a")
    child.kill()
    assert store.stop(id, wait=0) is True
    assert store.stop(id, wait=0) is False
    assert store.history(id) == [user("Go on"), assistant("a")]


# --- follow ---


def test_a_follower_reads_exactly_the_reply_while_another_streams(
    store: Store, elsewhere: Store, chat_server: ChatServer, submit: Callable[..., Future[Any]]
) -> None:
    id = elsewhere.new().id
    pieces = [f"{number} " for number in range(300)]
    # Somewhere in the middle, the two halves of an emoji come in two pieces.
    pieces[150:151] = ["\ud83d", "\ude00 "]
    chat_server.script(
        Reply("".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16"), pieces=pieces, delay=0.005)
    )
    with elsewhere.stream(id, "Count") as reply:
        begun = next(reply)
        reading = submit(lambda: begun + "".join(reply))
        seen = list(store.follow(id))
        assert reading.result(60) == "".join(seen) == reply.turn.text
    assert len(seen) > 1
    assert "😀" in reply.turn.text
    assert list(store.follow(id)) == []


def test_a_follower_may_come_in_the_middle_and_leave_before_the_end(
    store: Store, elsewhere: Store, chat_server: ChatServer, submit: Callable[..., Future[Any]]
) -> None:
    id = elsewhere.new().id
    go = held(chat_server, "one ", "two ", "three", after=2)
    with elsewhere.stream(id, "Count") as reply:
        assert [next(reply), next(reply)] == ["one ", "two "]
        wait_for_text(store, id, "one two ")  # and stops reading
        late = store.follow(id)
        assert next(late) == "one two "
        go.set()
        assert list(reply) == ["three"]
        assert "".join(late) == "three"


def test_a_follower_of_a_stream_that_is_cut_off_reads_its_part(
    store: Store, elsewhere: Store, chat_server: ChatServer
) -> None:
    id = elsewhere.new().id
    held(chat_server, "one ", "two ", after=1)
    with elsewhere.stream(id, "Count") as reply:
        next(reply)
        following = store.follow(id)
        assert next(following) == "one "
        reply.close()
        assert list(following) == []
    assert elsewhere.turns(id)[0].text == "one "


def test_a_follower_of_a_whole_reply_reads_it_at_its_end(
    store: Store,
    elsewhere: Store,
    chat_server: ChatServer,
    submit: Callable[..., Future[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id = elsewhere.new().id
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply("All of it.", hold=go, started=begun))
    running = submit(elsewhere.say, id, "Hi")
    assert begun.wait(60)
    read_added = following._read_added

    def read_then_let_go(*arguments: Any) -> Any:
        found = read_added(*arguments)
        go.set()  # the follower has seen the running turn
        return found

    monkeypatch.setattr(following, "_read_added", read_then_let_go)
    assert list(store.follow(id)) == ["All of it."]
    running.result(60)


def test_following_without_a_running_turn_is_an_error(store: Store) -> None:
    id = store.new().id
    assert list(store.follow(id)) == []
    store.say(id, "Hi")
    assert list(store.follow(id)) == []
    with pytest.raises(ConversationNotFound):
        list(store.follow("nowhere"))


# --- retry ---


def retry(store: Store, id: str, **options: Any) -> Turn:
    return store.retry(id, **options)


def retry_stream(store: Store, id: str, **options: Any) -> Turn:
    with store.retry_stream(id, **options) as reply:
        text = "".join(reply)
    assert text == reply.turn.text
    return reply.turn


BOTH = pytest.mark.parametrize("again", [retry, retry_stream])


@BOTH
def test_a_failed_turn_is_retried_with_the_same_message(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new(system="S").id
    chat_server.script(Failure(500), Failure(500), Reply("At last."))
    with pytest.raises(TurnFailed):
        store.say(id, "Hi", name="ann")
    with pytest.raises(TurnFailed):
        again(store, id)
    assert [turn.seq for turn in store.unanswered(id)] == [2]  # one message, with its last try
    turn = again(store, id)
    assert (turn.text, turn.seq) == ("At last.", 3)
    expected = [{"role": "system", "content": "S"}, {**user("Hi"), "name": "ann"}]
    assert [request.body["messages"] for request in chat_server.requests] == [expected] * 3
    assert contents(store, id) == ["S", "Hi", "At last."]
    assert store.unanswered(id) == []
    assert len({turn.first_input_seq for turn in store.turns(id)}) == 1  # stored once


@BOTH
def test_a_reply_that_was_stopped_is_replaced_by_a_sibling(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new().id
    held(chat_server, "Hel", "lo")
    with store.stream(id, "Hi") as reply:
        next(reply)
    assert contents(store, id) == ["Hi", "Hel"]
    chat_server.script(Reply("Hello"))
    turn = again(store, id)
    assert contents(store, id) == ["Hi", "Hello"]
    assert chat_server.requests[-1].body["messages"] == [user("Hi")]
    old, new = store.turns(id)
    assert (old.text, new) == ("Hel", turn)
    assert store.unanswered(id) == []


@BOTH
def test_a_reply_that_was_cut_off_is_retried(store: Store, chat_server: ChatServer, again: Callable[..., Turn]) -> None:
    id = store.new().id
    chat_server.script(Reply("Hel", finish_reason=None), Reply("Hello"))
    with pytest.raises(TurnFailed):
        store.say(id, "Hi")
    assert [turn.text for turn in store.unanswered(id)] == ["Hel"]
    again(store, id)
    assert contents(store, id) == ["Hi", "Hello"]
    assert store.unanswered(id) == []


@BOTH
def test_another_reply_becomes_a_sibling_and_the_old_one_stays(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new().id
    store.say(id, "First")
    chat_server.script(Reply("One."), Reply("Two."), Reply("Three."))
    one = store.say(id, "Second")
    two, three = again(store, id), again(store, id)
    assert contents(store, id) == ["First", "You said: First", "Second", "Three."]
    records = store.messages(id)
    assert [record.position for record in records] == [1, 2, 3, 4]
    assert records[-1].seq == three.output_seq
    assert [turn.text for turn in store.turns(id)] == ["You said: First", "One.", "Two.", "Three."]
    assert len({one.output_seq, two.output_seq, three.output_seq}) == 3
    assert one.first_input_seq == two.first_input_seq == three.first_input_seq
    assert chat_server.requests[-1].body["messages"][-1] == user("Second")
    assert len(chat_server.requests[-1].body["messages"]) == 3
    assert store.unanswered(id) == []
    store.say(id, "Next")
    assert [message["content"] for message in chat_server.requests[-1].body["messages"]] == [
        "First",
        "You said: First",
        "Second",
        "Three.",
        "Next",
    ]


@BOTH
def test_a_failed_retry_leaves_the_old_reply_on_the_path(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new().id
    chat_server.script(Reply("One."), Failure(500), Reply("Two."))
    store.say(id, "Hi")
    with pytest.raises(TurnFailed):
        again(store, id)
    assert contents(store, id) == ["Hi", "One."]
    assert store.unanswered(id) == []  # it has a reply
    again(store, id)
    assert contents(store, id) == ["Hi", "Two."]


@BOTH
def test_after_later_turns_a_retry_asks_again_at_the_head(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new().id
    chat_server.script(Failure(500), Reply("Answer."))
    with pytest.raises(TurnFailed):
        store.say(id, [{"role": "system", "content": "S"}, user("Question")])
    store.append(id, "Remark")
    turn = again(store, id)
    assert contents(store, id) == ["Remark", "S", "Question", "Answer."]
    assert turn.first_input_seq is not None
    failed = store.turns(id)[0]
    assert failed.first_input_seq is not None
    assert turn.first_input_seq > failed.first_input_seq
    assert store.input_of(failed) != store.input_of(turn)
    assert [record.message for record in store.input_of(failed)] == [record.message for record in store.input_of(turn)]
    assert store.unanswered(id) == []
    assert [record.position for record in store.messages(id)] == [1, 2, 3, 4]


@BOTH
def test_a_retry_uses_the_parameters_of_the_turn_and_the_given_ones(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new(model="sticky", seed=1).id
    store.say(id, "Hi", temperature=0.5, max_tokens=9, model="asked")
    store.set(id, model="changed")
    again(store, id, top_p=0.1, max_tokens=None)
    body = chat_server.requests[-1].body
    assert (body["model"], body["seed"], body["top_p"]) == ("asked", 1, 0.1)
    assert "temperature" not in body
    assert "max_tokens" not in body
    with pytest.raises(InvalidParameter):
        again(store, id, temperature=3)
    assert len(store.turns(id)) == 2


@BOTH
def test_a_turn_without_history_is_retried_without_it(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new(system="S").id
    store.say(id, "First")
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, "Alone", history=False)
    again(store, id)
    assert chat_server.requests[-1].body["messages"] == [user("Alone")]
    assert contents(store, id) == ["S", "First", "You said: First", "Alone", "You said: Alone"]


def test_a_streamed_turn_may_be_retried_whole_and_a_whole_one_streamed(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    with store.stream(id, "Hi") as reply:
        list(reply)
    retry(store, id)
    assert "stream" not in chat_server.requests[-1].body
    assert "stream_options" not in chat_server.requests[-1].body
    retry_stream(store, id)
    assert chat_server.requests[-1].body["stream"] is True
    assert chat_server.requests[-1].body["stream_options"] == {"include_usage": True}


@BOTH
def test_a_retry_without_an_earlier_request_is_an_error(
    store: Store, chat_server: ChatServer, again: Callable[..., Turn]
) -> None:
    id = store.new(messages=[user("Hi")]).id
    store.append(id, "Hi", idempotency_key="k")
    with pytest.raises(InvalidInput, match="no turn to retry"):
        again(store, id)
    with pytest.raises(ConversationNotFound):
        again(store, "nowhere")
    assert chat_server.requests == []
    assert [turn.status for turn in store.turns(id)] == ["completed"]
    assert store.say(id, "Now", wait=0).text == "You said: Now"


def test_a_retry_does_not_use_the_key_of_the_turn(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(500), Reply("By retry."))
    with pytest.raises(TurnFailed):
        store.say(id, "Hi", idempotency_key="k")
    retry(store, id)
    assert store.turns(id)[-1].idempotency_key is None
    assert contents(store, id) == ["Hi", "By retry."]


def test_after_a_stop_took_a_turn_over_a_retry_replaces_its_partial_reply(
    store: Store, elsewhere: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    go = held(chat_server, "Hel", "lo")
    with store.stream(id, "Hi") as reply:
        assert next(reply) == "Hel"
        wait_for_text(elsewhere, id, "Hel")
        assert elsewhere.stop(id, wait=0) is True
        go.set()
        with pytest.raises(LeaseLost):
            list(reply)
    assert contents(store, id) == ["Hi", "Hel"]
    chat_server.script(Reply("Hello again."))
    assert elsewhere.retry(id, wait=0).text == "Hello again."
    assert contents(store, id) == ["Hi", "Hello again."]
    with engine_of(store).connect() as connection:
        assert connection.execute(select(deltas)).all() == []
