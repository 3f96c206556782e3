"""Fill a database with everything that a release can store, with the release's library and a scripted model."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy import text as statement

from convstore import Store
from convstore.errors import LeaseLost, ReplyInterrupted, TurnFailed
from convstore.testing import ChatServer, Drop, Failure, Raw, Reply
from tests.schema.old.samples import CALLING, OWNERS, PARTS, TITLES, USAGE, WEATHER, completion, messages, nested


def find_schema_module() -> ModuleType:
    """Return the release's module that upgrades the schema; its name has changed."""
    try:
        return importlib.import_module("convstore.db.schema_upgrade")
    except ModuleNotFoundError:
        return importlib.import_module("convstore.ledger.schema")


HEAD: str = find_schema_module().HEAD


class Filling:
    """Everything that a release can put into a database, with its library and a scripted model."""

    def __init__(self, url: str, server: ChatServer) -> None:
        self.url = url
        self.server = server
        self.store = Store(url, base_url=server.url, model="test-model")

    def everything(self) -> None:
        """Fill the database: first turns that end, then the turns of processes that are killed."""
        with self.store:
            for fill in (self.labels, self.contents, self.replies, self.failures, self.streams, self.long, self.late):
                fill()
            if HEAD >= "0002":
                for fill in (self.keys, self.again, self.stopped_from_elsewhere):
                    fill()
            if HEAD >= "0003":
                self.tree()
            if HEAD >= "0004":
                self.odd_answers()
            if HEAD >= "0005":
                self.many_forks()
            if HEAD >= "0008":
                self.drawer()
            if HEAD >= "0009":
                self.erased()
            self.killed()

    def new(self, id: str, owner: str = "", **how: Any) -> str:
        if HEAD >= "0003":  # from then on, a call without its result is not sent unless the caller says so
            how["fill_missing_tools"] = True
        self.store.for_owner(owner).new(id=id, **how)
        return id

    def labels(self) -> None:
        """Store names, titles, settings, metadata, one id for every owner, and conversations without messages."""
        for number, owner in enumerate(OWNERS):
            store = self.store.for_owner(owner)
            id = self.new("same", owner, title=f"Of owner {number}", name="handle", system=f"You serve {number}.")
            for text in ("Hi", "你好"):
                store.say(id, text)
            self.new("empty", owner)
        for number, title in enumerate(TITLES):
            self.new(f"title-{number:02}", "ada", title=title)
        metadata = {"b": 1, "a": [None, True, {"\0": "\ud83d"}], "": "空", "deep": nested(20)}
        self.new("名字/β 1", "用户 7", title="An id of the caller's own", name="Ünï.code-名_1", metadata=metadata)
        settings: dict[str, Any] = {"temperature": 0, "seed": 7, "stop": ["\n", "\0"], "logit_bias": {"50256": -100}}
        settings |= {"tools": [WEATHER], "response_format": {"type": "json_object"}, "x_vendor": {"k": [1, None]}}
        self.new("sticky", name="before", title="Before", model="sticky-model", metadata=metadata, **settings)
        self.store.say("sticky", "{}", tool_choice="none", max_tokens=9, temperature=1.5)
        self.store.set("sticky", name="after", title=None, metadata={"only": "this"}, top_p=0.25, seed=None)
        self.new("renamed", name="before", title="Took the name that was free")
        self.store.set("renamed", name=None)

    def contents(self) -> None:
        """Store every kind of message without a model."""
        self.new("messages", messages=messages())
        self.new("appended", "ada", system="First.")
        for message in messages():
            self.store.for_owner("ada").append("appended", message)
        self.store.for_owner("ada").append("appended", *messages()[:3])
        self.new("imported")
        self.store.append("imported", "A question")
        said = {"role": "assistant", "content": "An answer\0", "x": 1}
        self.store.append("imported", completion(said, usage=USAGE, system_fingerprint="fp \0"))
        self.store.append("imported", "Another")
        self.store.append("imported", completion(CALLING, model='"m"', usage={"prompt_tokens": 3}))
        depth = 45 if HEAD >= "0002" else 70  # 0001 had no limit
        self.new("deepest", messages=[{"role": "user", "content": "deep", "tree": nested(depth)}])

    def replies(self) -> None:
        """Store whole replies of every kind."""
        store, script = self.store, self.server.script
        self.new("tools", system="Use them.", tools=[WEATHER])
        script(Reply(message=CALLING, finish_reason="tool_calls", usage=USAGE))
        store.say("tools", "Which is warmer?")
        store.append("tools", *messages()[-12:-10])
        store.say("tools", "Well?")
        script(Reply(message=CALLING, finish_reason="tool_calls"))
        store.say("tools", "And now? These calls stay unanswered.")
        self.new("replies", "ada")
        for message in messages():
            if message["role"] == "assistant" and message["content"] != 5:
                script(Reply(message=message, model="an/other:model", system_fingerprint=None))
                store.for_owner("ada").say("replies", f"With {', '.join(message)}?")
        self.new("choices", temperature=2)
        for finish in ("stop", "length"):
            texts = [{"role": "assistant", "content": text} for text in ("One", "Two \0", "Three")]
            script(Reply(choices=[{"index": i, "finish_reason": finish, "message": it} for i, it in enumerate(texts)]))
            store.say("choices", "Pick", n=3)
        self.new("middle")
        store.say("middle", "Hi", system="You are first.")
        store.append("middle", {"role": "developer", "content": "Now in rhyme."})
        well = {"role": "user", "content": "Well", "name": "bob-2"}
        store.say("middle", [{"role": "system", "content": "And short."}, well])
        store.say("middle", "Bare", name="ada", history=False)
        store.say("middle", PARTS)
        store.append("middle", {"role": "system", "content": "A rule at the end."})

    def failures(self) -> None:
        """Store turns without a reply, then one with a reply."""
        self.new("failed", system="Patience.")
        for failure in (Failure(500), Failure(400, code="odd"), Drop(), Reply(None, finish_reason="stop", choices=[])):
            self.server.script(failure)
            self.fails("failed", "Does it work?")
        self.store.say("failed", "Does it work now?")
        self.server.script(Failure(401))
        self.fails("failed", "The last failed")
        self.new("only-failed", "ada", title="Nothing but a failure")
        self.server.script(Failure(404))
        self.fails("only-failed", "Hello?", owner="ada")

    def fails(self, id: str, text: str, owner: str = "", **how: Any) -> None:
        with contextlib.suppress(TurnFailed, ReplyInterrupted):
            self.store.for_owner(owner).say(id, text, **how)
            raise AssertionError("it did not fail")

    def stream(self, id: str, text: str, *, stop_after: int | None = None) -> None:
        with contextlib.suppress(ReplyInterrupted, TurnFailed), self.store.stream(id, text) as reply:
            for number, _ in enumerate(reply, 1):
                if number == stop_after:
                    break

    def streams(self) -> None:
        """Store streams: whole, cut off by the provider, stopped by their reader."""
        self.new("streamed", system="Stream.")
        halves = ["\ud83d", "\ude00 and ", "\ud83d"]
        for reply in (
            Reply(pieces=halves),
            Reply(message=CALLING, finish_reason="tool_calls", usage=USAGE),
            Reply(message={"role": "assistant", "content": "Hm", "reasoning_content": "I think"}, usage=None),
            Reply("never ends, says nobody", finish_reason=None),
            Reply("cut off in the middle of it all", cut_after=900),
            Reply(message=CALLING, finish_reason="tool_calls", cut_after=1100),
            Reply("an error comes", error_event={"message": "overloaded", "code": "x"}, error_after=2),
            Reply("nothing comes", cut_after=0),
        ):
            self.server.script(reply)
            self.stream("streamed", "Go on")
        self.stream("streamed", "And in the end?")
        self.new("stopped")
        for text in ("I am stopped in the middle", "and I too"):
            self.server.script(Reply(text))
            self.stream("stopped", f"Say: {text}", stop_after=3)
        self.server.script(Reply(message=CALLING, finish_reason="tool_calls"))
        with self.store.stream("stopped", "Stopped before anything came"):
            pass
        self.store.say("stopped", "Go on")

    def long(self) -> None:
        """Store a long path with messages off the path."""
        self.new("long", "ada", system="Count.")
        store = self.store.for_owner("ada")
        for number in range(1, 151):
            if number % 10 == 0:
                self.server.script(Failure(500), Failure(400))
                self.fails("long", f"Beside the path, {number}", owner="ada")
                self.fails("long", f"And once more, {number}", owner="ada")
            if number % 25 == 0:
                store.append("long", {"role": "system", "content": f"Rule {number}"})
            self.server.script(Reply(f"That was number {number}"))
            store.say("long", f"Number {number}", n=2 if number % 30 == 0 else None)

    # --- of 0002 ---

    def keys(self) -> None:
        """Store idempotency keys: used, free again after a failure, used without a model."""
        self.new("keys", "ada", system="Once.", messages=[{"role": "user", "content": "Begin"}])
        store = self.store.for_owner("ada")
        store.say("keys", "Charge my card", idempotency_key="order/1", temperature=0.5)
        self.server.script(Failure(500))
        self.fails("keys", "Charge it again", owner="ada", idempotency_key="订单 2")
        store.say("keys", "Charge it again", idempotency_key="订单 2")
        self.server.script(Failure(400))
        self.fails("keys", "Never charged", owner="ada", idempotency_key="order/3")
        store.append("keys", "A note", "And one more", idempotency_key="note")
        store.append("keys", completion({"role": "assistant", "content": "Noted"}), idempotency_key="imported")
        with store.stream("keys", "And as a stream", idempotency_key="stream") as reply:
            list(reply)

    def again(self) -> None:
        """Store replies with siblings, retries, and repeated calls."""
        self.new("again")
        self.store.say("again", "Joke?")
        for _ in range(2):
            self.server.script(Reply("Another one"))
            self.store.retry("again", temperature=1)
        self.server.script(Failure(500))
        self.fails("again", "Fails at first")
        self.store.retry("again")
        self.store.append("again", "The conversation goes on")
        self.store.retry("again")
        self.server.script(Failure(429, retry_after=0), Failure(503, retry_after=0), Reply("At last"))
        self.store.say("again", "Busy?")
        self.server.script(*[Failure(503, retry_after=0)] * 3)
        self.fails("again", "Busy all the time?")

    def stopped_from_elsewhere(self) -> None:
        """Store a reply that another process stopped, and a late one off the path."""
        self.new("stopped-from-elsewhere", system="Talk.")
        go = threading.Event()
        self.server.script(Reply(pieces=["It ", "never ", "ends"], hold=go, hold_after=2))
        thread = threading.Thread(target=self._loses, args=("stopped-from-elsewhere",))
        thread.start()
        self.wait_for("SELECT count(*) FROM convstore_deltas")
        self.store.stop("stopped-from-elsewhere", wait=0)
        self.store.say("stopped-from-elsewhere", "Thank you")
        go.set()
        thread.join()

    def _loses(self, id: str) -> None:
        with contextlib.suppress(LeaseLost), self.store.stream(id, "Talk for ever") as reply:
            list(reply)

    # --- of 0003 ---

    def tree(self) -> None:
        """Store forks, pins, a summary, heads that were moved, and attachments."""
        store = self.store.for_owner("ada")
        self.new("tree", "ada", system="Remember.", last=3)
        for number in range(1, 8):
            store.say("tree", f"Fact {number}")
        store.say("tree", PARTS)
        store.pin("tree", 3)
        store.fork("tree", at=9, new_id="fork", name="fork")
        store.say("fork", "Another way")
        store.fork("fork", new_id="fork-of-fork")
        self.server.script(Reply("Seven facts."))
        store.compact("tree")
        store.undo("tree")
        store.edit("tree", 6, "Fact 3 was wrong")
        store.checkout("tree", 7)
        store.delete("fork")

    # --- of 0005 ---

    def many_forks(self) -> None:
        """Store a fork with so many origins that its row names only some of them."""
        self.new("origin-0", model="model-of-the-origin")
        self.store.append("origin-0", {"role": "user", "content": "At the beginning"})
        for number in range(1, 41):
            id = f"origin-{number}"
            self.store.fork(f"origin-{number - 1}", new_id=id)
            if number % 10 == 0:  # in each fork, tests of all conversations at all positions would take too long
                self.store.append(id, {"role": "user", "content": f"Added by fork {number}"})
        self.store.say("origin-40", "What was added?")

    # --- of 0008 ---

    def drawer(self) -> None:
        """Store archived conversations, tags, ratings, and a title that was made of a message."""
        store = self.store.for_owner("ada")
        self.new("in-order", "ada")
        store.say("in-order", "Is this the title\0?")
        store.tag("in-order", "work", "a.b_c-1", "天气")
        store.rate("in-order", 2, "good", note="Short \0 \ud83d")
        store.fork("in-order", new_id="in-order-fork")
        store.say("in-order-fork", "And then?")
        store.rate("in-order-fork", 4, "bad")
        self.new("in-the-archive", "ada", title="Old", messages=[{"role": "user", "content": "Keep this"}])
        store.archive("in-the-archive")

    # --- of 0009 ---

    def erased(self) -> None:
        """Store what a purge leaves behind, and how long conversations are kept."""
        store = self.store.for_owner("grace")
        self.new("purged", "grace", messages=[{"role": "user", "content": "Forget this"}])
        store.say("purged", "And this")
        store.fork("purged", new_id="heir")
        store.purge("purged")
        store.set_retention(timedelta(days=365))
        store.set_retention(timedelta(days=30), covers="deleted")

    # --- of processes that are suspended or killed ---

    def late(self) -> None:
        """Store a reply that came after another caller took the conversation."""
        self.new("late")
        with self.asking("late", "say", Reply("Too late")) as (process, go):
            process.send_signal(signal.SIGSTOP)
            self.store.say("late", "Is anybody there?")
            go.set()
            process.send_signal(signal.SIGCONT)
            if process.wait(60) != 0:
                raise AssertionError("the suspended process did not lose its turn")

    # --- of 0004 ---

    def odd_answers(self) -> None:
        """Store answers with other fields, and replies that are not sent as they came."""
        self.new("odd")
        fields = {"citations": ["https://example.org/\0"], "x_groq": {"id": "req", "speed": 1.5, "none": None}}
        self.server.script(Raw(json.dumps({**completion({"role": "assistant", "content": "Cited"}), **fields})))
        self.store.say("odd", "With sources?")
        text = json.dumps(completion({"role": "assistant", "content": "Not a number"}))
        self.server.script(Raw(text[:-1] + ', "timings": {"ms": NaN, "most": Infinity}}'))
        self.store.say("odd", "With numbers that JSON does not have?")
        cut = [{"id": "", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Par'}}]
        self.server.script(Reply(message={**CALLING, "tool_calls": cut}, finish_reason="length"))
        self.store.say("odd", "With a call that is cut?")
        self.server.script(Reply(""))
        self.store.say("odd", "And nothing?")

    def killed(self) -> None:
        """Store running turns of processes that were killed: their conversations stay held."""
        for id in ("killed-saying", "killed-streaming"):
            self.new(id, "用户 7", system="Stay.", messages=messages()[2:4])
        with self.asking("killed-saying", "say", Reply("Never")) as (process, _):
            if HEAD >= "0002":
                with subprocess.Popen([*self.command("killed-saying", "stop"), "-"]) as stopping:
                    self.wait_for(
                        "SELECT count(*) FROM convstore_turns"
                        " WHERE status = 'running' AND stop_requested_at IS NOT NULL"
                    )
                    process.kill()
                    stopping.kill()
            process.kill()
        pieces = ["Half ", "of \ud83d", "\ude00 a ", "reply"]
        with self.asking("killed-streaming", "stream", Reply(pieces=pieces, hold_after=3, delay=0.4)) as (process, _):
            if HEAD >= "0002":
                self.wait_for("SELECT count(*) FROM convstore_deltas WHERE delta LIKE '% a %'")
            process.kill()

    @contextlib.contextmanager
    def asking(self, id: str, how: str, reply: Reply) -> Iterator[tuple[subprocess.Popen[bytes], threading.Event]]:
        """Start a process that asks, and hold it at a point of its reply."""
        go, held = threading.Event(), threading.Event()
        self.server.script(dataclasses.replace(reply, hold=go, started=held))
        # Like a process on another host: nobody here knows whether it lives. Since 0005 its lock file lies beside the
        # SQLite file, unless the folder for it is open to others.
        path = make_url(self.url).database
        if HEAD >= "0005" and self.url.startswith("sqlite") and path is not None:
            Path(path + "-locks").mkdir(exist_ok=True)
            Path(path + "-locks").chmod(0o755)
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "TMPDIR": folder}
            with subprocess.Popen([*self.command(id, how), self.server.url], env=environment) as process:
                if not held.wait(60):
                    raise AssertionError(f"{id} was not asked")
                yield process, go

    def command(self, id: str, how: str) -> list[str]:
        return [sys.executable, "-m", "tests.schema.old.make", sys.path[0], "--child", how, self.url, id]

    def count(self, query: str) -> int:
        with create_engine(self.url, poolclass=NullPool).connect() as connection:
            return connection.scalar(statement(query)) or 0

    def wait_for(self, query: str) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.count(query):
                return
            time.sleep(0.05)
        raise AssertionError(f"in vain: {query}")


def act(how: str, url: str, id: str, server: str) -> None:
    """Do what a process does that is suspended or killed in the middle of it."""
    if how == "stop":
        Store(url).for_owner("用户 7").stop(id, wait=60)
        return
    owner = "" if id == "late" else "用户 7"
    if HEAD == "0001":  # in this release, the lease's length was not a parameter
        importlib.import_module("convstore.runtime").__dict__["LEASE"] = timedelta(seconds=1)
        store = Store(url, owner=owner, base_url=server, model="test-model")
    else:
        store = Store(url, owner=owner, base_url=server, model="test-model", lease=1)
    key: dict[str, Any] = {"idempotency_key": "killed"} if HEAD >= "0002" else {}
    try:
        if how == "say":
            store.say(id, "Are you still there?", **key)
        else:
            with store.stream(id, "Are you still there?", **key) as reply:
                list(reply)
    except LeaseLost:
        sys.exit(0)
    sys.exit(1)
