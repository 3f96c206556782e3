"""Test random operations against a small model of a conversation: a list of messages, and the used keys."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from convstore import IdempotencyMismatch, InvalidInput, ReplyInterrupted, Store, TurnFailed, TurnStatus
from convstore.db.delta_rows import insert_delta
from convstore.db.lease_rows import Lease
from convstore.db.unit_of_work import UnitOfWork
from convstore.leases import lock_folders
from convstore.testing import ChatServer, Drop, Failure, Reply
from convstore.turns.turn_request import make_say_request, make_terms
from convstore.turns.turn_start import StartedTurn, start_turn
from convstore.values.identifiers import ConversationKey
from tests.contract.invariants import check_conversation
from tests.faults.driven import engine_of, opened

Messages = list[dict[str, Any]]
EXAMPLES, STEPS = 15, 20


@dataclass
class Model:
    """The expected state of a conversation."""

    id: str
    path: Messages
    spent: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By key: the input and the reply."""
    asked: Messages = field(default_factory=list)
    """Input of the latest turn, failed or not, and the messages before it."""
    before: Messages = field(default_factory=list)
    here: list[Messages] = field(default_factory=list)
    """Heads at which a retry replaces the reply: the ones that the turn found and left."""
    title: str | None = None
    crashed: bool = False
    """True if a process died in a turn, and no call came after it."""

    def ask(self, *messages: dict[str, Any], before: Messages | None = None) -> None:
        found = list(self.path)
        self.before = found if before is None else before
        self.asked, self.crashed = list(messages), False
        self.here = [found, self.before]

    def answer(self, text: str) -> None:
        self.path = [*self.before, *self.asked, {"role": "assistant", "content": text}]
        self.here.append(self.path)


class Conversations(RuleBasedStateMachine):
    """The conversations of one store, and their expected states."""

    models: Bundle[Model] = Bundle("models")

    def __init__(self, store: Store, server: ChatServer) -> None:
        super().__init__()
        self.store = store
        self.server = server
        self.made: list[Model] = []
        self.count = 0
        self.dead: list[Path] = []

    def text(self) -> str:
        """Return a text that was not used before."""
        self.count += 1
        return f"text {self.count}"

    def reply(self, **trouble: Any) -> str:
        text = self.text()
        self.server.script(Reply(text, pieces=[text[:3], text[3:]], **trouble))
        return text

    def _was_sent(self, model: Model) -> None:
        """Assert that the model got exactly what the database holds."""
        assert self.server.requests[-1].body["messages"] == [*model.before, *model.asked]

    def _stream(self, model: Model, text: str, **options: Any) -> str:
        with self.store.stream(model.id, text, wait=0, **options) as reply:
            return "".join(reply)

    # --- operations ---

    @initialize(target=models)
    def begin(self) -> Model:
        return self._new(["system"])

    @rule(target=models, roles=st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=3))
    def new(self, roles: list[str]) -> Model:
        return self._new(roles)

    def _new(self, roles: list[str]) -> Model:
        messages = [{"role": role, "content": self.text()} for role in roles]
        id = secrets.token_hex(8)
        for _ in range(2):  # the second call changes nothing
            assert self.store.new(id=id, messages=messages).id == id
        model = Model(id, messages)
        self.made.append(model)
        return model

    @rule(model=models, streamed=st.booleans(), keyed=st.booleans())
    def say(self, model: Model, streamed: bool, keyed: bool) -> None:
        text, reply = self.text(), self.reply()
        key: dict[str, Any] = {"idempotency_key": f"key of {text}"} if keyed else {}
        model.ask({"role": "user", "content": text})
        if streamed:
            assert self._stream(model, text, **key) == reply
        else:
            assert self.store.say(model.id, text, wait=0, **key).text == reply
        self._was_sent(model)
        model.answer(reply)
        if keyed:
            model.spent[key["idempotency_key"]] = (text, reply)

    @rule(
        model=models,
        streamed=st.booleans(),
        keyed=st.booleans(),
        trouble=st.sampled_from(["500", "dropped", "cut", "unfinished", "error"]),
    )
    def say_in_vain(self, model: Model, streamed: bool, keyed: bool, trouble: str) -> None:
        text = self.text()
        key: dict[str, Any] = {"idempotency_key": f"key of {text}"} if keyed else {}
        if trouble == "500":
            self.server.script(Failure(500))
        elif trouble == "dropped":
            self.server.script(Drop())
        elif trouble == "cut":
            self.reply(cut_after=300 if streamed else 100)
        elif trouble == "unfinished":
            self.reply(finish_reason=None)
        else:
            self.reply(error_event={"message": "overloaded"}, error_after=1, **({} if streamed else {"cut_after": 10}))
        model.ask({"role": "user", "content": text})
        with pytest.raises(TurnFailed):
            _ = self._stream(model, text, **key) if streamed else self.store.say(model.id, text, wait=0, **key)
        if keyed:  # it is free for another try
            self.server.script(Reply(reply := self.text()))
            assert self.store.say(model.id, text, wait=0, **key).text == reply
            model.answer(reply)
            model.spent[key["idempotency_key"]] = (text, reply)

    @rule(model=models)
    def stop_a_stream(self, model: Model) -> None:
        text, reply = self.text(), self.reply()
        model.ask({"role": "user", "content": text})
        with self.store.stream(model.id, text, wait=0) as pieces:
            assert next(pieces) == reply[:3]
        assert pieces.turn.status is TurnStatus.INTERRUPTED
        model.answer(reply[:3])

    @rule(model=models, count=st.integers(1, 3), keyed=st.booleans())
    def append(self, model: Model, count: int, keyed: bool) -> None:
        messages = [{"role": "user", "content": self.text()} for _ in range(count)]
        key: dict[str, Any] = {"idempotency_key": f"key of {messages[0]['content']}"} if keyed else {}
        for _ in range(2 if keyed else 1):
            added = self.store.append(model.id, *messages, wait=0, **key)
            assert [record.message for record in added] == messages
        model.path = [*model.path, *messages]
        model.crashed = False

    @rule(model=models)
    def retry(self, model: Model) -> None:
        if not model.asked:
            with pytest.raises(InvalidInput):
                self.store.retry(model.id, wait=0)
            return
        reply = self.reply()
        in_place = model.path in model.here
        before = model.before if in_place else model.path
        model.ask(*model.asked, before=before)
        assert self.store.retry(model.id, wait=0).text == reply
        self._was_sent(model)
        model.answer(reply)

    @rule(model=models)
    def retry_in_vain(self, model: Model) -> None:
        if not model.asked:
            return
        self.reply(finish_reason=None)
        before = model.before if model.path in model.here else model.path
        model.ask(*model.asked, before=before)
        with pytest.raises(ReplyInterrupted):
            self.store.retry(model.id, wait=0)

    @rule(model=models, which=st.integers(0, 100), same=st.booleans(), streamed=st.booleans())
    def use_a_spent_key(self, model: Model, which: int, same: bool, streamed: bool) -> None:
        if not model.spent:
            return
        key = sorted(model.spent)[which % len(model.spent)]
        text, reply = model.spent[key]
        calls = len(self.server.requests)
        if not same:
            with pytest.raises(IdempotencyMismatch):
                self.store.say(model.id, self.text(), idempotency_key=key, wait=0)
        elif streamed:
            assert self._stream(model, text, idempotency_key=key) == reply
        else:
            assert self.store.say(model.id, text, idempotency_key=key, wait=0).text == reply
        assert len(self.server.requests) == calls

    @rule(model=models)
    def set(self, model: Model) -> None:
        model.title = self.text()
        assert self.store.set(model.id, title=model.title, temperature=0.5).title == model.title

    @rule(model=models, flushed=st.booleans())
    def crash(self, model: Model, flushed: bool) -> None:
        """Begin a turn in a process of this host that dies; a part of its reply may be stored."""
        folder = lock_folders.find_folders(self.store._engine.transactions.database.path)[0]
        folder.mkdir(mode=0o700, exist_ok=True)
        name = secrets.token_hex(16)
        self.dead.append(folder / name)
        self.dead[-1].touch()  # and no process holds its lock
        text = self.text()
        question = make_say_request(text, {}, make_terms("test-model", stream=True))
        lease = Lease(f"{name}.{secrets.token_hex(8)}", timedelta(seconds=30))
        transactions, key = self.store._engine.transactions, ConversationKey("", model.id)
        begun = transactions.write(start_turn, key, question, lease)
        assert isinstance(begun, StartedTurn)
        if flushed:
            delta = {"choices": [{"index": 0, "delta": {"content": "Some"}}]}

            def flush(work: UnitOfWork) -> None:
                insert_delta(work.connection, key, begun.turn.seq, 1, delta)

            transactions.write(flush)
        model.ask({"role": "user", "content": text})
        model.crashed = True

    # --- invariants ---

    @invariant()
    def every_conversation_is_what_it_should_be(self) -> None:
        engine = engine_of(self.store)
        now = datetime.now(UTC)
        for model in self.made:
            assert self.store.history(model.id, exact=True) == model.path
            check_conversation(engine, "", model.id, running=model.crashed)
            statuses = [turn.status for turn in self.store.turns(model.id, limit=None)]
            assert statuses.count(TurnStatus.RUNNING) == model.crashed
            found = self.store.get(model.id)
            assert (found.given_title, found.length) == (model.title, len(model.path))
            assert found.updated_at <= now

    def teardown(self) -> None:
        for path in self.dead:
            path.unlink()


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened(request.param, database_url, chat_server) as store:
        yield store


def test_after_random_operations_a_conversation_holds_what_was_said_in_it(
    store: Store, chat_server: ChatServer
) -> None:
    class Here(Conversations):
        def __init__(self) -> None:
            super().__init__(store, chat_server)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],  # no shrinking: it takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
