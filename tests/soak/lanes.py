"""A lane: one caller that makes random calls, one after another, and keeps a journal of what it was told."""

from __future__ import annotations

import random
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from convstore import ConversationDeleted, ConversationExists, ConvstoreError, Store, Turn
from tests.soak.journal import Entry, Journal
from tests.soak.plan import CONVERSATIONS, OWNERS, SYSTEM, Plan

# How often each kind of call is made, beside the others.
WEIGHTS = {
    "say": 20,
    "say_with_key": 12,
    "stream": 16,
    "stop_stream": 8,
    "append": 9,
    "append_with_key": 6,
    "undo": 6,
    "redo": 4,
    "edit": 5,
    "retry": 6,
    "fork": 2,
    "delete": 2,
    "read": 4,
    "stop": 3,
    "cancel": 5,
    "checkout": 3,
    "pin": 3,
    "unpin": 2,
    "compact": 2,
    "attach": 3,
}
LONGEST_PAUSE_SECONDS = 0.05
KEPT_FORKS = 3
NO_POSITION = 1_000_000
"""A position that no path has: an edit of it is refused."""
IMAGE = b64encode(bytes(range(256)) * 16).decode()
"""Long enough to be kept as an attachment."""

AskBriefly = Callable[[str, str, str, float], Turn]
"""Says a text in an owner's conversation, and cancels it after some seconds with a TimeoutError."""


@dataclass(frozen=True, slots=True)
class Target:
    """A conversation of an owner."""

    owner: str
    id: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.id}"


class Lane:
    """Makes the random calls.

    Args:
        name: unique in the soak; the names of the calls begin with it.
    """

    def __init__(self, name: str, plan: Plan, journal: Journal) -> None:
        self.call = ""
        """The call that is being made; the client sends it as a header, so that the server's log has it."""
        self.ask_briefly: AskBriefly | None = None
        """For a lane with tasks, which can be cancelled."""
        self._name = name
        self._plan = plan
        self._journal = journal
        self._random: random.Random = plan.make_random("lane", name)
        self._count = 0
        self._forks: list[Target] = []
        self._created: set[Target] = set()

    def run(self, stores: dict[str, Store], stop: threading.Event) -> None:
        """Make calls until `stop` is set.

        Args:
            stores: a store for each owner.
        """
        while not stop.is_set():
            target = self._choose_target()
            store = stores[target.owner]
            if target not in self._created and target not in self._forks:
                self.create(store, target)
            does = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            ended = getattr(self, does)(store, target)
            if ended.get("error") == ConversationDeleted.__name__:
                self.restore(store, target)
            stop.wait(self._random.uniform(0, LONGEST_PAUSE_SECONDS))

    def _choose_target(self) -> Target:
        if self._forks and self._random.random() < 0.15:
            return self._random.choice(self._forks)
        owner, number = self._random.choice(OWNERS), self._random.randrange(CONVERSATIONS)
        # A log line names no owner: so no two owners use the same id.
        return Target(owner, f"c{OWNERS.index(owner)}-{self._plan.find_round()}-{number}")

    # --- the calls ---

    def create(self, store: Store, target: Target) -> Entry:
        """Create a conversation, as all others do that use it."""
        ended = self.do("create", target, lambda: {"made": store.new(id=target.id, system=SYSTEM).id})
        if "made" in ended:
            self._created.add(target)
        elif ended["error"] == ConversationExists.__name__:  # some caller has deleted it
            self.restore(store, target)
        return ended

    def say(self, store: Store, target: Target) -> Entry:
        """Say something that was never said before."""
        return self._ask("say", target, lambda text: store.say(target.id, text, wait=self._choose_wait()))

    def say_with_key(self, store: Store, target: Target) -> Entry:
        """Say what others may be saying at the same time with the same key."""
        key = f"key-{self._plan.find_key_slot()}"
        text = f"said {target} {key}"
        if self._random.random() < 0.3:
            return self._ask("say", target, lambda said: self._listen(store, target, said, key=key), text, key)
        wait = self._choose_wait()
        return self._ask(
            "say", target, lambda said: store.say(target.id, said, wait=wait, idempotency_key=key), text, key
        )

    def stream(self, store: Store, target: Target) -> Entry:
        """Stream a reply to its end."""
        return self._ask("stream", target, lambda text: self._listen(store, target, text))

    def stop_stream(self, store: Store, target: Target) -> Entry:
        """Stream a reply, and close it early."""
        pieces = self._random.randrange(6)
        return self._ask("stop a stream", target, lambda text: self._listen(store, target, text, pieces=pieces))

    def _listen(
        self, store: Store, target: Target, text: str, *, key: str | None = None, pieces: int | None = None
    ) -> Turn:
        """Stream a reply to its end, or close it after some pieces."""
        with store.stream(target.id, text, wait=self._choose_wait(), idempotency_key=key) as reply:
            for heard, _ in enumerate(reply, 1):
                if heard == pieces:
                    break
        return reply.turn

    def append(self, store: Store, target: Target) -> Entry:
        """Append messages that were never appended before."""
        return self._append_all(store, target, self._random.randrange(1, 4), None)

    def append_with_key(self, store: Store, target: Target) -> Entry:
        """Append what others may be appending with the same key."""
        return self._append_all(store, target, 1, f"append-{self._plan.find_key_slot()}")

    def _append_all(self, store: Store, target: Target, count: int, key: str | None) -> Entry:
        def append() -> Entry:
            name = f"{target} {key}" if key is not None else self.call
            texts = [f"appended {name}.{number}" for number in range(count)]
            messages = [{"role": "user", "content": text} for text in texts]
            wait = self._choose_wait()
            added = store.append(target.id, *messages, wait=wait, idempotency_key=key)
            return {"appended": [[record.seq, record.message["content"]] for record in added]}

        return self.do("append", target, append, key=key)

    def undo(self, store: Store, target: Target) -> Entry:
        """Undo one or two turns."""
        return self.do("undo", target, lambda: {"head": store.undo(target.id, self._random.randrange(1, 3)).head_seq})

    def redo(self, store: Store, target: Target) -> Entry:
        """Redo the latest undo."""
        return self.do("redo", target, lambda: {"head": store.redo(target.id).head_seq})

    def edit(self, store: Store, target: Target) -> Entry:
        """Edit one of the last messages of a user."""

        def edit(text: str) -> Turn:
            # A text as the new content keeps the images of a message, so those with images are left out.
            said = [
                record
                for record in store.messages(target.id, limit=8)
                if record.message["role"] == "user" and isinstance(record.message["content"], str)
            ]
            position = self._random.choice(said).position if said else NO_POSITION
            return store.edit(target.id, position, text, wait=self._choose_wait())

        return self._ask("edit", target, edit)

    def retry(self, store: Store, target: Target) -> Entry:
        """Ask once more what the latest turn asked."""
        return self.do("retry", target, lambda: describe_turn(store.retry(target.id, wait=self._choose_wait())))

    def fork(self, store: Store, target: Target) -> Entry:
        """Fork a conversation; this lane goes on with both."""
        ended = self.do("fork", target, lambda: {"made": store.fork(target.id, new_id=f"f-{self.call}").id})
        if "made" in ended:
            self._forks = [*self._forks, Target(target.owner, ended["made"])][-KEPT_FORKS:]
        return ended

    def delete(self, store: Store, target: Target) -> Entry:
        """Delete a conversation, and restore it at once."""

        def delete() -> Entry:
            store.delete(target.id)
            return {"deleted": True}

        self.do("delete", target, delete)
        return self.restore(store, target)

    def restore(self, store: Store, target: Target) -> Entry:
        """Restore a conversation that some caller deleted."""
        return self.do("restore", target, lambda: {"made": store.restore(target.id).id})

    def read(self, store: Store, target: Target) -> Entry:
        """Read the whole path."""
        return self.do("read", target, lambda: {"read": len(store.history(target.id))})

    def stop(self, store: Store, target: Target) -> Entry:
        """Stop the turn that some caller runs."""
        wait = self._random.choice([0.5, 5])
        return self.do("stop", target, lambda: {"stopped": store.stop(target.id, wait=wait)})

    def cancel(self, store: Store, target: Target) -> Entry:
        """Say something in a task that is cancelled; in a lane without tasks, say it."""
        ask = self.ask_briefly
        if ask is None:
            return self.say(store, target)
        seconds = self._random.uniform(0.01, 1)
        return self._ask("cancel", target, lambda text: ask(target.owner, target.id, text, seconds))

    def checkout(self, store: Store, target: Target) -> Entry:
        """Go to one of the last messages, on the path or off it."""
        try:
            seqs = [record.seq for record in store.tree(target.id)][-30:]
        except ConvstoreError:
            seqs = []
        seq = self._random.choice(seqs or [NO_POSITION])
        return self.do("checkout", target, lambda: {"head": store.checkout(target.id, seq).head_seq}, text=str(seq))

    def pin(self, store: Store, target: Target) -> Entry:
        """Pin one of the first messages."""
        position = self._random.randrange(1, 12)
        return self.do("pin", target, lambda: {"pins": list(store.pin(target.id, position).pins)})

    def unpin(self, store: Store, target: Target) -> Entry:
        """Unpin one of the first messages."""
        position = self._random.randrange(1, 12)
        return self.do("unpin", target, lambda: {"pins": list(store.unpin(target.id, position).pins)})

    def compact(self, store: Store, target: Target) -> Entry:
        """Let the model summarise the older part."""

        def compact() -> Entry:
            return {"summaries": [[summary.turn, summary.text] for summary in store.compact(target.id, keep_last=2)]}

        return self.do("compact", target, compact)

    def attach(self, store: Store, target: Target) -> Entry:
        """Append a message with an image."""

        def append() -> Entry:
            image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
            content = [{"type": "text", "text": self.call}, image]
            (record,) = store.append(target.id, {"role": "user", "content": content}, wait=self._choose_wait())
            return {"attached": record.seq}

        return self.do("attach", target, append)

    def settle(self, store: Store, target: Target, *, is_deleted: bool) -> list[Entry]:
        """Use a conversation after the chaos, so that the turn of a dead process is taken over."""

        def append() -> Entry:
            records = store.append(target.id, f"appended {self.call}.0", wait=60)
            return {"appended": [[record.seq, record.message["content"]] for record in records]}

        told = [self.restore(store, target)] if is_deleted else []
        return [*told, self.do("append", target, append), self.say(store, target)]

    # --- the journal ---

    def _ask(
        self,
        does: str,
        target: Target,
        ask: Callable[[str], Turn],
        text: str | None = None,
        key: str | None = None,
    ) -> Entry:
        def run() -> Entry:
            return describe_turn(ask(said))

        said = text if text is not None else f"said {self._name}-{self._count + 1}"
        return self.do(does, target, run, text=said, key=key)

    def do(
        self,
        does: str,
        target: Target,
        act: Callable[[], Entry],
        *,
        text: str | None = None,
        key: str | None = None,
    ) -> Entry:
        """Make one call; write its begin and its end into the journal, and return the end."""
        self._count += 1
        self.call = f"{self._name}-{self._count}"
        where = {"owner": target.owner, "conversation": target.id}
        begun = {"call": self.call, "does": does, **where, "text": text, "key": key, "began": time.monotonic()}
        self._journal.write(begun)
        try:
            ended = act()
        except ConvstoreError as error:
            ended = {"error": type(error).__name__, "said": str(error)}
            turn = getattr(error, "turn", None)
            if isinstance(turn, Turn):
                ended |= describe_turn(turn)
        except TimeoutError:
            ended = {"cancelled": True}
        except Exception:
            ended = {"error": "unexpected", "said": traceback.format_exc()}
        ended |= {"call": self.call, "ended": time.monotonic()}
        self._journal.write(ended)
        return ended

    def _choose_wait(self) -> float:
        return self._random.choice([0, 1, 10, 30])


def describe_turn(turn: Turn) -> Entry:
    """Return what a caller was told about a turn, for its journal."""
    return {"turn": turn.seq, "status": str(turn.status), "reply": turn.text}
