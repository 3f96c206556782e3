"""Test that the hot paths stay short: the number of function calls, which no machine changes.

A count may grow by a tenth before its test fails. When one fails, look at what was added. If it is worth its cost,
write the new count down, and say so in the commit.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.model import QUESTION, FakeClient, dialogue
from convstore import Store
from tests import driver_events

CALLS = {
    "say, last=5": 2_180,
    "say, history=False": 1_700,
    "append": 495,
    "the last 20 messages": 710,
    "the history of 1,000 messages": 28_300,
    "append 1,000 messages": 74_600,
    "get": 312,
    "fork": 602,
}
"""Function calls, of Python's and of C's, on a SQLite file with Python 3.11; later ones make fewer."""


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


@pytest.mark.parametrize("what", CALLS)
def test_a_hot_path_makes_no_more_calls(store: Store, what: str) -> None:
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
    work[what]()  # the first time compiles statements
    calls = count_calls(work[what])
    assert calls <= 1.1 * CALLS[what], f"{what}: {calls} calls"
    if sys.version_info[:2] == (3, 11):
        assert calls >= 0.7 * CALLS[what], f"{what}: only {calls} calls: write the new count down"
