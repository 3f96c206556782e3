"""Compare random operations of a store with the same operations on a plain tree."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from convstore import ConversationNotFound, HeadMoved, InvalidInput, Store, TurnFailed, UnansweredToolCalls, tool_result
from convstore.db import fork_sharing
from convstore.messages.request_form import to_request
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import OWN_ENGINE_KINDS, Backend
from tests.contract.invariants import check_conversation, engine_of

MAX_EXAMPLES, MAX_STEPS = 12, 30
ROLES = ["system", "user", "user", "assistant"]

Message = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """A message in the plain tree."""

    seq: int
    parent: int
    message: Message
    turn: int | None


@dataclass(frozen=True)
class AskedTurn:
    """A turn with a model call."""

    seq: int
    base: int
    inputs: tuple[int, ...]
    output: int | None
    parameters: dict[str, Any]


@dataclass
class Tree:
    """The expected state of a conversation."""

    id: str
    nodes: dict[int, Node] = field(default_factory=dict)
    head: int = 0
    redo: list[int] = field(default_factory=list)
    pins: dict[int, None] = field(default_factory=dict)
    turns: list[AskedTurn] = field(default_factory=list)
    """The turns of this conversation, oldest first, without the turns of its origins."""
    shared_turns: list[AskedTurn] = field(default_factory=list)
    """The turns of its origins."""
    is_deleted: bool = False

    def list_path(self, head: int | None = None) -> list[Node]:
        found = []
        seq = self.head if head is None else head
        while seq:
            found.append(self.nodes[seq])
            seq = self.nodes[seq].parent
        return found[::-1]

    def list_messages(self, head: int | None = None) -> list[Message]:
        return [node.message for node in self.list_path(head)]

    def find_turn(self, node: Node) -> AskedTurn | None:
        return next((turn for turn in (*self.turns, *self.shared_turns) if turn.seq == node.turn), None)


def has_unanswered_call(messages: list[Message]) -> bool:
    """Return True if another message follows a tool call before its result."""
    waiting: set[str] = set()
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            waiting.discard(message["tool_call_id"])
        elif waiting:
            return True
        else:
            waiting = {call["id"] for call in message.get("tool_calls", ())}
    return False


class TreeMachine(RuleBasedStateMachine):
    """The conversations of one store, and the plain tree that each must equal."""

    def __init__(self, store: Store, server: ChatServer, backend: Backend) -> None:
        super().__init__()
        self.store = store
        self.server = server
        self.backend = backend
        self.engine = engine_of(store)
        self.trees: list[Tree] = []
        self.digests: dict[str, bytes] = {}
        self.count = 0

    # --- drawing values ---

    def make_text(self) -> str:
        """Return a text that was not used before."""
        self.count += 1
        return f"text {self.count}"

    def pick_tree(self, which: int) -> Tree:
        alive = [tree for tree in self.trees if not tree.is_deleted]
        return alive[which % len(alive)]

    # --- updating the plain trees ---

    def read_new_nodes(self, tree: Tree) -> list[Node]:
        """Return the new messages, and assert that the old ones are unchanged."""
        found: dict[int, Node] = {
            record.seq: Node(record.seq, record.parent_seq, record.message, record.turn)
            for record in self.store.tree(tree.id)
        }
        assert {seq: node for seq, node in found.items() if seq in tree.nodes} == tree.nodes
        added = [node for seq, node in found.items() if seq not in tree.nodes]
        assert [node.seq for node in added] == sorted(node.seq for node in added)
        assert all(node.seq > max(tree.nodes, default=0) for node in added)
        tree.nodes = found
        return added

    def check_chain(self, tree: Tree, after: int, messages: list[Message]) -> list[Node]:
        """Assert that exactly these messages were added, each as a child of the last."""
        added = self.read_new_nodes(tree)
        assert [node.message for node in added] == messages
        for node in added:
            assert node.parent == after
            after = node.seq
        return added

    def ask(
        self,
        tree: Tree,
        call: Callable[..., Any],
        after: int,
        inputs: list[Message],
        *,
        known: tuple[int, ...] = (),
        streamed: bool = False,
        fails: bool = False,
        parameters: dict[str, Any] | None = None,
        replies: list[Message] | None = None,
    ) -> None:
        """Run `call`, which sends a request, and update the plain tree.

        Args:
            after: the message before the input.
            inputs: the input of the turn.
            known: the `seq` of each input message, if the input is already stored.
        """
        parameters = parameters or {}
        path = tree.list_messages(after) + inputs
        calls = len(self.server.requests)
        if has_unanswered_call(path):
            with pytest.raises(UnansweredToolCalls):
                self.run_call(call, streamed)
            assert len(self.server.requests) == calls
            assert not self.read_new_nodes(tree)
            return
        base = tree.head if inputs else after
        count = parameters.get("n", 1)
        replies = replies or [{"role": "assistant", "content": self.make_text()} for _ in range(count)]
        if fails:
            self.server.script(Failure(500))
            with pytest.raises(TurnFailed):
                self.run_call(call, streamed)
        else:
            reason = "tool_calls" if "tool_calls" in replies[0] else "stop"
            choices = [{"index": n, "message": one, "finish_reason": reason} for n, one in enumerate(replies)]
            self.server.script(Reply(choices=choices))
            self.run_call(call, streamed)
        body = self.server.requests[-1].body
        assert len(self.server.requests) == calls + 1
        assert body["messages"] == [to_request(message) for message in path]
        assert {key: body[key] for key in ("n", "temperature") if key in body} == parameters
        added = self.read_new_nodes(tree)
        stored = added[: len(inputs)] if not known else []
        assert [node.message for node in stored] == (inputs if not known else [])
        end = after if known == () else known[-1]
        for node in stored:
            assert node.parent == end
            end = node.seq
        answers = added[len(stored) :]
        assert [(node.parent, node.message) for node in answers] == ([] if fails else [(end, one) for one in replies])
        (turn,) = self.store.turns(tree.id, limit=1)
        assert {node.turn for node in added} <= {turn.seq}
        output = answers[0].seq if answers else None
        assert (turn.base_seq, turn.output_seq) == (base, output)
        tree.turns.append(AskedTurn(turn.seq, base, known or tuple(node.seq for node in stored), output, parameters))
        if output is not None:
            tree.head = output

    def run_call(self, call: Callable[..., Any], streamed: bool) -> None:
        if streamed:
            with call() as reply:
                list(reply)
        else:
            call()

    def check_refused(self, tree: Tree, call: Callable[..., Any], error: type[Exception] = InvalidInput) -> None:
        """Assert that the call is refused, stores nothing and sends nothing."""
        calls = len(self.server.requests)
        with pytest.raises(error):
            call()
        assert len(self.server.requests) == calls
        assert not self.read_new_nodes(tree)

    # --- operations ---

    @initialize(system=st.booleans())
    def begin(self, system: bool) -> None:
        self.new(["user", "assistant"], system)

    @precondition(lambda self: len(self.trees) < 6)
    @rule(roles=st.lists(st.sampled_from(ROLES), max_size=5), system=st.booleans())
    def new(self, roles: list[str], system: bool) -> None:
        messages = [{"role": role, "content": self.make_text()} for role in (["system"] * system + roles)]
        tree = Tree(self.store.new(messages=messages).id)
        added = self.check_chain(tree, 0, messages)
        tree.head = added[-1].seq if added else 0
        self.trees.append(tree)

    @rule(
        which=st.integers(0, 9),
        roles=st.lists(st.sampled_from(["user", "assistant", "system"]), min_size=1, max_size=3),
    )
    def append(self, which: int, roles: list[str]) -> None:
        tree = self.pick_tree(which)
        messages = [{"role": role, "content": self.make_text()} for role in roles]
        records = self.store.append(tree.id, *messages, expected_head=tree.head)
        added = self.check_chain(tree, tree.head, messages)
        assert [record.seq for record in records] == [node.seq for node in added]
        tree.head = added[-1].seq

    @rule(
        which=st.integers(0, 9),
        system=st.booleans(),
        streamed=st.booleans(),
        n=st.sampled_from([1, 1, 3]),
        calls=st.sampled_from([0, 0, 0, 1, 2]),
        outcome=st.integers(0, 5),
    )
    def say(self, which: int, system: bool, streamed: bool, n: int, calls: int, outcome: int) -> None:
        tree = self.pick_tree(which)
        said = self.make_text()
        inputs = [{"role": "user", "content": said}]
        options: dict[str, Any] = {"expected_head": tree.head}
        if system:
            options["system"] = self.make_text()
            inputs.insert(0, {"role": "system", "content": options["system"]})
        parameters: dict[str, Any] = {"n": n} if n > 1 else {"temperature": 0.5} if outcome == 1 else {}
        replies = None
        if calls and n == 1:
            made = [
                {"id": f"{said} {number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                for number in range(calls)
            ]
            replies = [{"role": "assistant", "content": None, "tool_calls": made}]
        self.ask(
            tree,
            lambda: (self.store.stream if streamed else self.store.say)(tree.id, said, **options, **parameters),
            tree.head,
            inputs,
            streamed=streamed,
            fails=outcome == 0,
            parameters=parameters,
            replies=replies,
        )

    @rule(which=st.integers(0, 9), all_of_them=st.booleans())
    def answer_tools(self, which: int, all_of_them: bool) -> None:
        tree = self.pick_tree(which)
        pending = self.store.pending_calls(tree.id)
        results = [tool_result(call["id"], self.make_text()) for call in (pending if all_of_them else pending[:1])]
        last = tree.nodes[tree.head].message if tree.head else {"role": "none"}
        if results and last["role"] in ("assistant", "tool"):
            self.store.append(tree.id, *results)
            tree.head = self.check_chain(tree, tree.head, results)[-1].seq

    @rule(which=st.integers(0, 9), streamed=st.booleans())
    def complete(self, which: int, streamed: bool) -> None:
        tree = self.pick_tree(which)
        last = tree.nodes[tree.head].message if tree.head else None
        if last is None or (last["role"] == "assistant" and not last.get("tool_calls")):
            self.check_refused(tree, lambda: self.store.complete(tree.id))
            return
        call = self.store.complete_stream if streamed else self.store.complete
        self.ask(tree, lambda: call(tree.id, expected_head=tree.head), tree.head, [], streamed=streamed)

    @rule(which=st.integers(0, 9), streamed=st.booleans(), fails=st.booleans())
    def retry(self, which: int, streamed: bool, fails: bool) -> None:
        tree = self.pick_tree(which)
        turn, in_place = self.find_turn_to_retry(tree)
        call = self.store.retry_stream if streamed else self.store.retry
        if turn is None:
            self.check_refused(tree, lambda: self.store.retry(tree.id))
            return
        inputs = [tree.nodes[seq].message for seq in turn.inputs]
        known = turn.inputs if in_place else ()
        if not inputs:
            if not in_place:
                self.check_refused(tree, lambda: self.store.retry(tree.id))
                return
            after = turn.base
        else:
            after = tree.nodes[turn.inputs[0]].parent if in_place else tree.head
        self.ask(
            tree,
            lambda: call(tree.id),
            after,
            inputs,
            known=known,
            streamed=streamed,
            fails=fails,
            parameters=turn.parameters,
        )

    def find_turn_to_retry(self, tree: Tree) -> tuple[AskedTurn | None, bool]:
        """Return the turn to retry, and True if the new reply becomes a sibling.

        1. Choose the latest turn if the head is at its base, at its reply or before its input.
        2. Otherwise choose the turn of the message at the head, if that message is the end of the input or the reply.
        3. Otherwise choose the latest turn. Its input is then added again after the head.
        """
        latest = tree.turns[-1] if tree.turns else None
        if latest is not None:
            before = tree.nodes[latest.inputs[0]].parent if latest.inputs else tree.head
            if tree.head in (latest.base, latest.output, before):
                return latest, True
        node = tree.nodes.get(tree.head)
        turn = tree.find_turn(node) if node is not None else None
        if node is not None and turn is not None:
            follows = turn.inputs[-1] if turn.inputs else turn.base
            if follows in (node.seq, node.parent):
                return turn, True
        return latest, False

    @rule(which=st.integers(0, 9), place=st.integers(0, 40), streamed=st.booleans())
    def edit(self, which: int, place: int, streamed: bool) -> None:
        tree = self.pick_tree(which)
        path = tree.list_path()
        position = 1 + place % (len(path) + 1)
        said = self.make_text()
        if position > len(path) or path[position - 1].message["role"] == "assistant":
            self.check_refused(tree, lambda: self.store.edit(tree.id, position, said))
            return
        old = path[position - 1]
        inputs = [{**old.message, "content": said}]
        if old.message["role"] == "system":
            for node in path[position:]:
                if node.message["role"] not in ("user", "system"):
                    break
                inputs.append(node.message)
            inputs = inputs[:16]
        call = self.store.edit_stream if streamed else self.store.edit
        self.ask(tree, lambda: call(tree.id, position, said), old.parent, inputs, streamed=streamed)

    @rule(which=st.integers(0, 9), n=st.sampled_from([1, 1, 1, 2, 3]))
    def undo(self, which: int, n: int) -> None:
        tree = self.pick_tree(which)
        path = tree.list_path()
        begins = [
            place
            for place, node in enumerate(path)
            if node.message["role"] == "user" and (not place or path[place - 1].message["role"] != "user")
        ]
        if len(begins) < n:
            self.check_refused(tree, lambda: self.store.undo(tree.id, n))
            return
        first = begins[-n]
        while first and path[first].turn is not None and path[first - 1].turn is not None:
            if path[first - 1].turn != path[first].turn and path[first - 1].message["role"] != "system":
                break
            first -= 1
        tree.redo.append(tree.head)
        tree.head = path[first].parent
        found = self.store.undo(tree.id, n)
        assert (found.head_seq, found.length) == (tree.head, first)

    @rule(which=st.integers(0, 9))
    def redo(self, which: int) -> None:
        tree = self.pick_tree(which)
        target = tree.redo[-1] if tree.redo else 0
        way = [node.seq for node in tree.list_path(target)]
        if target in (0, tree.head) or tree.head not in (0, *way):
            self.check_refused(tree, lambda: self.store.redo(tree.id))
            return
        tree.head = tree.redo.pop()
        assert self.store.redo(tree.id, expected_head=self.store.get(tree.id).head_seq).head_seq == tree.head

    @rule(which=st.integers(0, 9), times=st.integers(2, 3))
    def undo_and_redo(self, which: int, times: int) -> None:
        """Undo and redo equally often, and assert that the head has not changed."""
        tree = self.pick_tree(which)
        head, before = tree.head, len(tree.redo)
        for _ in range(times):
            self.undo(which, 1)
        while len(tree.redo) > before:
            self.redo(which)
        assert tree.head == head

    @rule(which=st.integers(0, 9), where=st.integers(0, 99))
    def checkout(self, which: int, where: int) -> None:
        tree = self.pick_tree(which)
        seqs = [0, *sorted(tree.nodes)]
        seq = seqs[where % len(seqs)]
        self.backend.checked_out.add((tree.id, seq))
        tree.head = seq
        assert self.store.checkout(tree.id, seq).head_seq == seq
        self.check_refused(tree, lambda: self.store.checkout(tree.id, max(seqs) + 100))

    @precondition(lambda self: len(self.trees) < 10)
    @rule(which=st.integers(0, 9), where=st.integers(0, 99))
    def fork(self, which: int, where: int) -> None:
        tree = self.pick_tree(which)
        path = tree.list_path()
        position = where % (len(path) + 2)
        head, at = (tree.head, None) if position > len(path) else (path[position - 1].seq if position else 0, position)
        found = self.store.fork(tree.id, at=at, expected_head=tree.head)
        assert (found.head_seq, found.forked_from) == (head, tree.id)
        shared = {seq: node for seq, node in tree.nodes.items() if seq <= head}
        pins = {seq: None for seq in tree.pins if seq <= head}
        turns = [*tree.shared_turns, *tree.turns]
        self.trees.append(Tree(found.id, shared, head, pins=pins, shared_turns=turns))
        self.check_refused(tree, lambda: self.store.fork(tree.id, at=len(path) + 1))

    @precondition(lambda self: sum(not tree.is_deleted for tree in self.trees) > 2)
    @rule(which=st.integers(0, 9))
    def delete(self, which: int) -> None:
        tree = self.pick_tree(which)
        self.store.delete(tree.id)
        tree.is_deleted = True
        with pytest.raises(ConversationNotFound):
            self.store.history(tree.id)

    @rule()
    def restore(self) -> None:
        for tree in self.trees:
            if tree.is_deleted:
                assert self.store.restore(tree.id).head_seq == tree.head
                tree.is_deleted = False
                return

    @rule(which=st.integers(0, 9), place=st.integers(0, 40), pinned=st.booleans())
    def pin(self, which: int, place: int, pinned: bool) -> None:
        tree = self.pick_tree(which)
        path = tree.list_path()
        if not path:
            return
        position = 1 + place % len(path)
        node = path[position - 1]
        if node.message["role"] == "tool" or node.message.get("tool_calls"):
            return  # test_window.py pins tool calls and their results
        found = (self.store.pin if pinned else self.store.unpin)(tree.id, position)
        tree.pins.pop(node.seq, None)
        if pinned:
            tree.pins[node.seq] = None
        assert sorted(found.pins) == sorted(tree.pins)

    @rule(which=st.integers(0, 9), what=st.integers(0, 8))
    def expect_another_head(self, which: int, what: int) -> None:
        tree, store = self.pick_tree(which), self.store
        wrong: dict[str, Any] = {"expected_head": tree.head + 1000}
        calls: list[Callable[[], Any]] = [
            lambda: store.say(tree.id, "x", **wrong),
            lambda: store.append(tree.id, "x", **wrong),
            lambda: store.undo(tree.id, **wrong),
            lambda: store.redo(tree.id, **wrong),
            lambda: store.checkout(tree.id, 0, **wrong),
            lambda: store.fork(tree.id, **wrong),
            lambda: store.complete(tree.id, **wrong),
            lambda: store.retry(tree.id, **wrong),
            lambda: store.preview(tree.id, "x", **wrong),
        ]
        self.check_refused(tree, calls[what], HeadMoved)

    # --- invariants ---

    @invariant()
    def every_conversation_equals_its_tree(self) -> None:
        for tree in self.trees:
            if tree.is_deleted:
                continue
            found = self.store.get(tree.id)
            path = tree.list_path()
            assert (found.head_seq, found.length) == (tree.head, len(path))
            records = self.store.messages(tree.id, limit=None)
            assert [record.message for record in records] == [node.message for node in path]
            assert [record.position for record in records] == list(range(1, len(path) + 1))
            assert [record.seq for record in records] == [node.seq for node in path]
            for end in range(1, len(path) + 1):  # equal paths have equal digests in all conversations
                history = json.dumps([node.message for node in path[:end]], sort_keys=True)
                assert self.digests.setdefault(history, records[end - 1].digest) == records[end - 1].digest
            assert len(set(self.digests.values())) == len(self.digests)
            assert not self.read_new_nodes(tree)

    def teardown(self) -> None:
        """Assert that the rows of each conversation are consistent."""
        for tree in self.trees:
            if not tree.is_deleted:
                assert self.store.history(tree.id, exact=True) == tree.list_messages()
                for node in random.Random(0).sample(tree.list_path(), min(5, len(tree.list_path()))):
                    assert self.store.at(tree.id, len(tree.list_path(node.seq))).message == node.message
            check_conversation(self.engine, "", tree.id, checked_out=self.backend.checked_out)


@pytest.mark.parametrize("backend", OWN_ENGINE_KINDS, indirect=True)
def test_random_operations_keep_every_message_and_send_the_current_path(
    backend: Backend, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a row names only some of its origins after a few forks.
    monkeypatch.setattr(fork_sharing, "_BASE", 2)
    monkeypatch.setattr(fork_sharing, "_MAX_PLAIN_ORIGINS", 3)
    store = backend.open()

    class BoundTreeMachine(TreeMachine):
        def __init__(self) -> None:
            super().__init__(store, chat_server, backend)

    run_state_machine_as_test(
        BoundTreeMachine,
        settings=settings(
            max_examples=MAX_EXAMPLES,
            stateful_step_count=MAX_STEPS,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],  # no shrinking: it takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
