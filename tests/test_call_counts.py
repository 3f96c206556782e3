"""Test that the hot paths stay short: their function calls and their memory, which no machine changes.

A number may grow by a tenth before its test fails. When one fails, look at what was added. If it is worth its cost,
write the new count down, and say so in the commit.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.model import QUESTION, FakeClient, dialogue
from convstore import Store
from tests import driver_events

CALLS = {
    "say, last=5": 2_180,
    "say, history=False": 1_740,
    "append": 557,
    "the last 20 messages": 710,
    "the history of 1,000 messages": 28_300,
    "append 1,000 messages": 108_600,
    "get": 312,
    "fork": 602,
}
"""Function calls, of Python's and of C's, on a SQLite file with Python 3.11; later ones make fewer."""


KILOBYTES = {
    "say, last=5": 43,
    "say, history=False": 27,
    "append": 16.3,
    "the last 20 messages": 37,
    "the history of 1,000 messages": 1_040,
    "append 1,000 messages": 3_310,
    "get": 10.4,
    "fork": 15.2,
}
"""The memory that a call needs at most, beyond what was there before it."""


def measure_peak(work: Callable[[], object]) -> int:
    """Return the bytes that a call needs at most, beyond what was there before it."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        gc.enable()


def count_calls(work: Callable[[], object]) -> int:
    """Return the number of function calls of this thread within a call, the least of three."""

    def count_once() -> int:
        calls = 0

        def note(_frame: Any, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            work()
        finally:
            sys.setprofile(None)
        return calls

    return min(count_once() for _ in range(3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path: Path = tmp_path_factory.mktemp("calls") / "chat.db"
    with driver_events.taken_back(), Store(path, client=FakeClient(), model="m") as store:  # type: ignore[arg-type]
        yield store


@pytest.fixture(autouse=True)
def _without_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide OpenTelemetry, which another test may have imported: with it, each call of a model is a span."""
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)


@pytest.mark.parametrize("what", CALLS)
def test_a_hot_path_makes_no_more_calls(store: Store, what: str) -> None:
    work = make_work(store, what)
    calls = count_calls(work)
    assert calls <= 1.1 * CALLS[what], f"{what}: {calls} calls"
    if sys.version_info[:2] == (3, 11):
        assert calls >= 0.7 * CALLS[what], f"{what}: only {calls} calls: write the new count down"


@pytest.mark.parametrize("what", KILOBYTES)
def test_a_hot_path_takes_no_more_memory(store: Store, what: str) -> None:
    work = make_work(store, what)
    peak = min(measure_peak(work) for _ in range(3)) / 1000
    of_this_python = 1.1 if sys.version_info[:2] == (3, 11) else 1.5  # objects differ in size
    assert peak <= of_this_python * KILOBYTES[what], f"{what}: {peak:.1f} kB"


def make_work(store: Store, what: str) -> Callable[[], object]:
    """Return the call with this name, after it has been made once, which compiles statements."""
    many = dialogue(1_000)
    id = store.new(system="Be brief", messages=dialogue(20)).id
    long = store.new(messages=many).id if "1,000" in what else id
    work: dict[str, Callable[[], object]] = {
        "say, last=5": lambda: store.say(id, QUESTION, last=5),
        "say, history=False": lambda: store.say(id, QUESTION, history=False),
        "append": lambda: store.append(id, {"role": "user", "content": QUESTION}),
        "the last 20 messages": lambda: store.messages(id, limit=20),
        "the history of 1,000 messages": lambda: store.history(long),
        "append 1,000 messages": lambda: store.append(id, *many),
        "get": lambda: store.get(id),
        "fork": lambda: store.fork(id),
    }
    work[what]()
    return work[what]
