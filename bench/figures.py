"""The measurements: each function returns the rows of a table, the ratio first."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from bench.clock import alternate
from bench.databases import Copies
from bench.model import MODEL, QUESTION, dialogue
from bench.replay import BEGIN, COMMIT, Step, recording, replay
from convstore import Store
from convstore.testing import ChatServer, Reply

# What a program needs that asks a model once and has a database: the same imports, and the request of `say`.
_BARE_SAY = f"""
import sys, click, sqlalchemy, openai
with sqlalchemy.create_engine(sys.argv[1]).connect() as connection:
    connection.execute(sqlalchemy.text("SELECT id FROM convstore_conversations LIMIT 1")).all()
messages = [{{"role": "user", "content": "Hi"}}]
for chunk in openai.OpenAI().chat.completions.create(model="{MODEL}", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
"""

Row = tuple[str, ...]
Operation = Callable[[Store, str], object]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    turns: int
    repeats: int
    starts: int
    crowd: int
    crowd_rounds: int
    throughput: int
    conversations: int
    stored: int
    short: int = 100
    long: int = 100_000

    def fill(self, store: Store) -> None:
        """Fill a store with what every figure needs."""
        for kind in ("alone", "history"):
            for number in range(self.turns):
                store.new(id=f"{kind}-{number}", model=MODEL, messages=dialogue(10))
        for length in (10, self.short, self.long):
            store.new(id=f"long-{length}", model=MODEL, messages=dialogue(length))
        store.new(id="grows", model=MODEL)
        for length in (10, 1_000):
            store.new(id=f"whole-{length}", model=MODEL, messages=dialogue(length))


def say_alone(store: Store, id: str) -> object:
    return store.say(id, QUESTION, history=False)


def say_with_history(store: Store, id: str) -> object:
    return store.say(id, QUESTION)


def append(store: Store, id: str) -> object:
    return store.append(id, {"role": "user", "content": QUESTION})


def read_last(store: Store, id: str) -> object:
    return store.messages(id, limit=50)


def read_last_20(store: Store, id: str) -> object:
    return store.messages(id, limit=20)


def read_all(store: Store, id: str) -> object:
    return store.history(id)


def choose_window(store: Store, id: str) -> object:
    return store.preview(id, QUESTION, max_context=4000)


def append_1000(store: Store, id: str) -> object:
    return store.append(id, *dialogue(1000))


TURNS: list[tuple[str, str, Operation]] = [
    ("alone", "a message alone", say_alone),
    ("history", "with 10 messages before it", say_with_history),
]
GROWTH: list[tuple[str, Operation]] = [
    ("read the last 50", read_last),
    ("append one", append),
    ("say one alone", say_alone),
]


def turns(copies: Copies, scale: Scale) -> list[Row]:
    """Measure a turn by `Store.say` beside the same statements by the bare driver, each in a new conversation."""
    return [
        _compare(copies, label, operation, [f"{kind}-{number}" for number in range(scale.turns)])
        for kind, label, operation in TURNS
    ]


def reads(copies: Copies, scale: Scale) -> list[Row]:
    """Measure reading and appending many messages beside the same statements by the bare driver."""
    few = max(3, scale.repeats // 10)
    return [
        _compare(copies, "read the last 20", read_last_20, [f"long-{scale.long}"] * scale.repeats),
        _compare(copies, "a window of 4,000 tokens", choose_window, [f"long-{scale.long}"] * scale.repeats),
        _compare(copies, "read all 1,000", read_all, ["whole-1000"] * scale.repeats),
        _compare(copies, "append 1,000 at once", append_1000, ["grows"] * few),
    ]


def _compare(copies: Copies, label: str, operation: Operation, ids: list[str]) -> Row:
    """Measure calls, one with each id, beside the same statements by the bare driver."""
    steps = record(copies, operation, ids)
    with copies.store(copies.timed) as store, closing(copies.connect(copies.bare)) as connection:
        ours, bare = alternate(len(ids), _ours(store, operation, ids), _bare(connection, steps))
    _check_equal(copies, ids[-1])
    return (
        _ratio(ours.wall, bare.wall),
        _ratio(ours.cpu, bare.cpu),
        f"{copies.backend}, {label}",
        _ms(ours.wall),
        f"{_ms(bare.wall)} {copies.driver}",
    )


def growth(copies: Copies, scale: Scale) -> list[Row]:
    """Measure a call on a short and on a long conversation, by the store and by the bare driver."""
    rows: list[Row] = []
    short, long = (f"long-{length}" for length in (scale.short, scale.long))
    for label, operation in GROWTH:
        steps = record(copies, operation, [short, long] * scale.repeats)
        with copies.store(copies.timed) as store, closing(copies.connect(copies.bare)) as connection:
            ours_short, bare_short, ours_long, bare_long = alternate(
                scale.repeats,
                _ours(store, operation, [short] * scale.repeats),
                _bare(connection, steps[0::2]),
                _ours(store, operation, [long] * scale.repeats),
                _bare(connection, steps[1::2]),
            )
        _check_equal(copies, long)
        rows.append(
            (
                _ratio(ours_long.wall, ours_short.wall),
                _ratio(bare_long.wall, bare_short.wall),
                _ratio(ours_long.wall, bare_long.wall),
                f"{copies.backend}, {label}",
                f"{_ms(ours_short.wall)} → {_ms(ours_long.wall)}",
                f"{_ms(bare_short.wall)} → {_ms(bare_long.wall)} {copies.driver}",
            )
        )
    return rows


def costs(copies: Copies, scale: Scale) -> list[Row]:
    """Count the statements, commits and received rows of one `say`."""
    rows: list[Row] = []
    for label, operation, kind, lengths in (
        ("a message alone", say_alone, "long", (10, scale.long)),
        ("with all its history", say_with_history, "whole", (10, 1_000)),
    ):
        short, long = (record(copies, operation, [f"{kind}-{length}"])[0] for length in lengths)
        few, many = _count(short), _count(long)
        columns = [f"{a} → {b}" for a, b in zip(few, many, strict=True)]
        size = " → ".join(f"{length:,}" for length in lengths)
        rows.append((_ratio(many[0], few[0]), _ratio(many[2], few[2]), f"{copies.backend}, {label}", size, *columns))
    return rows


def starts(url: str, scale: Scale) -> list[Row]:
    """Measure whole processes beside Python alone, and beside the import of the package that they need."""
    nothing, click, sqlalchemy = (["-c", code] for code in ("pass", "import click", "import sqlalchemy"))
    commands = [
        ["-m", "convstore", *line] for line in (["--help"], ["--version"], ["list"], ["say", "Hi", "-c", "alone-0"])
    ]
    with ChatServer() as server:
        server.otherwise = lambda _: Reply("Hello.")
        every = (nothing, click, sqlalchemy, ["-c", _BARE_SAY, url], *commands)
        timings = alternate(scale.starts, *(_process(each, url, server.url) for each in every))
    empty, with_click, with_sqlalchemy, bare_say, *ours = (timing.wall for timing in timings)
    needs = [
        (with_click, "import click"),
        (with_click, "import click"),
        (with_sqlalchemy, "import sqlalchemy"),
        (bare_say, "a program that asks"),
    ]
    return [
        (
            _ratio(taken, needed),
            _ratio(taken, empty),
            f"convstore {command[2]}",
            _ms(taken),
            f"{_ms(needed)} {need}",
            f"{_ms(empty)} pass",
        )
        for command, taken, (needed, need) in zip(commands, ours, needs, strict=True)
    ]


def _ours(store: Store, operation: Operation, ids: list[str]) -> Callable[[int], object]:
    return lambda number: operation(store, ids[number])


def _bare(connection: Any, steps: list[list[Step]]) -> Callable[[int], object]:
    return lambda number: replay(connection, steps[number])


def _process(arguments: list[str], url: str, server: str) -> Callable[[int], object]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONVSTORE_", "OPENAI_"))}
    environment = {**kept, "CONVSTORE_DB": url, "OPENAI_BASE_URL": server, "OPENAI_API_KEY": "none"}
    command = [sys.executable, *arguments]
    return lambda _: subprocess.run(command, check=True, capture_output=True, env=environment)


def record(copies: Copies, operation: Operation, ids: list[str]) -> list[list[Step]]:
    with recording() as recorder, copies.store(copies.recorded) as store:
        store.get(ids[0])  # the first use of a store also reads the schema
        recorder.take()
        steps = []
        for id in ids:
            operation(store, id)
            steps.append(recorder.take())
        return steps


def _count(steps: list[Step]) -> tuple[int, int, int]:
    """Return the number of statements (without BEGIN), of commits, and of received rows."""
    commits = sum(step.sql == COMMIT for step in steps)
    begins = sum(step.sql.startswith(BEGIN) for step in steps)
    return len(steps) - commits - begins, commits, sum(step.received for step in steps)


def _check_equal(copies: Copies, id: str) -> None:
    """Raise RuntimeError if the two have not written the same: then the comparison means nothing."""
    found = []
    for url in (copies.timed, copies.bare):
        with copies.store(url) as store:
            found.append([(record.seq, record.digest) for record in store.messages(id)])
    if found[0] != found[1]:
        raise RuntimeError(f"{copies.backend}: the bare driver has not written what the store has written ({id})")


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.2f}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
