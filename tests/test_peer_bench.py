"""Test the parts of `make bench-peers` that need no other store: its processes, its judgement and its tables."""

from pathlib import Path

import pytest

from bench.peers.bare_drivers import BareSQLite
from bench.peers.convstore_stores import ConvstoreAppend, ConvstoreSay
from bench.peers.peer_results import Results, StoreResults, Times
from bench.peers.peer_store import PeerStore
from bench.peers.peer_tables import format_lengths, format_results
from bench.peers.trials import FIRST, SECOND, UNKNOWN_FIELDS, judge_clock, judge_order
from bench.peers.worker_process import WorkerError, WorkerProcess


@pytest.mark.parametrize("store", [BareSQLite, ConvstoreSay])
def test_a_process_fills_a_conversation_takes_turns_and_reads(store: type[PeerStore], tmp_path: Path) -> None:
    with WorkerProcess(store, str(tmp_path / "chat.db"), tmp_path / "log") as process:
        process.ask("create", key="a")
        filled = process.ask("fill", key="a", count=30, seconds=60)
        process.send(do="turn", key="a", question="Who?", answer="Me.", hold=True)
        called = process.receive(60)
        process.send(do="go on")
        turn = process.receive(60)

        assert filled["count"] == 30
        assert called == {"model": "called"}
        assert turn["wall"] > 0
        assert turn["cpu"] > 0
        assert process.ask("read", key="a")["count"] == 20
        assert process.ask("load", key="a")["count"] == 32
        assert process.ask("texts", key="a")["texts"][-2:] == ["Who?", "Me."]
        with pytest.raises(WorkerError, match="KeyError"):
            process.ask("dance")


@pytest.mark.parametrize(
    ("found", "told", "outcome"),
    [
        ([*FIRST, *SECOND], [*FIRST, *SECOND], "in order"),
        ([*SECOND, *FIRST], [*SECOND, *FIRST], "in order"),
        ([*FIRST], [*FIRST], "in order, a turn fails"),
        ([FIRST[0], *SECOND, FIRST[1]], [*FIRST, *SECOND], "interleaved"),
        ([FIRST[0], *SECOND], [*SECOND], "interleaved, a turn fails"),
        ([*SECOND], [*FIRST, *SECOND], "a turn is missing"),
    ],
)
def test_two_turns_are_judged_by_the_order_of_their_messages(found: list[str], told: list[str], outcome: str) -> None:
    assert judge_order(found, told) == outcome


@pytest.mark.parametrize(
    ("whole", "last", "outcome"),
    [
        ([*FIRST, *SECOND], [*FIRST, *SECOND], "in order"),
        ([*SECOND, *FIRST], [*SECOND, *FIRST], "out of order"),
        ([*FIRST, *SECOND], [*SECOND, *FIRST], "in order, the last 20 out of order"),
        ([*FIRST, SECOND[0]], [*FIRST, SECOND[0]], "a turn is missing"),
    ],
)
def test_the_clock_is_judged_by_what_was_said_first(whole: list[str], last: list[str], outcome: str) -> None:
    assert judge_clock(whole, last) == outcome


@pytest.mark.parametrize("store", [ConvstoreSay, ConvstoreAppend])
def test_a_reply_with_unknown_fields_is_read_as_it_is_loaded_and_as_it_is_stored(
    store: type[PeerStore], tmp_path: Path
) -> None:
    with WorkerProcess(store, str(tmp_path / "chat.db"), tmp_path / "log") as process:
        process.ask("create", key="a")
        process.ask("reply", key="a", text="Me.", fields=UNKNOWN_FIELDS)
        found = process.ask("fields", key="a", names=list(UNKNOWN_FIELDS))

    assert found["stored"] == UNKNOWN_FIELDS
    assert found["loaded"]["reasoning_content"] is None


def test_a_process_gets_what_is_added_to_its_environment(tmp_path: Path) -> None:
    with WorkerProcess(BareSQLite, str(tmp_path / "chat.db"), tmp_path / "log", {"TZ": "UTC"}) as process:
        assert process.ask("clock")["seconds"] > 0
        with pytest.raises(WorkerError, match="CannotBeGiven"):
            process.ask("reply", key="a", text="Me.", fields=UNKNOWN_FIELDS)


def test_the_tables_have_ratios_to_the_bare_driver_and_say_why_a_store_was_stopped(tmp_path: Path) -> None:
    bare = StoreResults(
        "bare", "the last 20", {"bare": "1.0"}, {"turn": {10: Times(0.001, 0.0005), 100: Times(0.001, 0.0005)}}
    )
    other = StoreResults(
        "other", "everything", {"other": "2.0"}, {"turn": {10: Times(0.004, 0.001)}}, stopped="9 s to fill 10"
    )
    results = Results(["2 cores"], [10, 100], {"SQLite": [bare, other]}, {"some list": Times(0.1, 0.09)})
    results.write(tmp_path / "results.json")

    _, _, first, second = format_lengths([bare, other], "turn", [10, 100])
    assert first == "| bare | 1 ms (0.5) | 1 ms (0.5) |  |"
    assert second == "| other | 4.0 (2.0) | – | stopped: 9 s to fill 10 |"
    assert Results.read(tmp_path / "results.json") == results
    assert "| `some list` | 100 ms (90) |" in format_results(results)
    assert "Versions: bare 1.0, other 2.0." in format_results(results)
