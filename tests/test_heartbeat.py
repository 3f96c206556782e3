"""Test the heartbeat's thread at moments that a whole store reaches only by chance."""

import queue
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from convstore.errors import ConvstoreError
from convstore.leases.heartbeat import JOIN_SECONDS, Beat, Heartbeat
from convstore.values.identifiers import ConversationKey, Seq, TurnNumber
from convstore.values.turn_outcome import RunningTurn
from convstore.values.window_report import WindowReport

PATIENCE = 120.0
TURN = RunningTurn(
    key=ConversationKey("", "c"),
    seq=TurnNumber(1),
    token="t",
    base_seq=Seq(0),
    first_input_seq=None,
    last_input=None,
    request={},
    window=WindowReport(0, None, 0),
    estimated_tokens=0,
    started_at=datetime(2026, 1, 2),  # noqa: DTZ001 (it is never looked at)
)


def test_closing_does_not_wait_for_a_beat_of_a_new_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()
    run = Heartbeat._run

    def run_late(self: Heartbeat) -> None:
        assert go.wait(PATIENCE)
        run(self)

    monkeypatch.setattr(Heartbeat, "_run", run_late)
    heartbeat = Heartbeat(timedelta(hours=1), lambda beats: [(True, False) for _ in beats], lambda: None)
    heartbeat.forget(heartbeat.watch(TURN))
    closing = threading.Thread(target=heartbeat.close, daemon=True)
    closing.start()
    while heartbeat._thread is not None:  # until `close` waits for the end of the thread
        time.sleep(0)
    go.set()
    closing.join(PATIENCE)
    assert not closing.is_alive()


def test_signals_are_left_to_the_main_thread() -> None:
    blocked: queue.SimpleQueue[set[int]] = queue.SimpleQueue()

    def beat(beats: Sequence[Beat]) -> list[tuple[bool, bool]]:
        blocked.put(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return [(True, False) for _ in beats]

    heartbeat = Heartbeat(timedelta(milliseconds=3), beat, lambda: None)
    heartbeat.watch(TURN)
    try:
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked.get(timeout=PATIENCE)
    finally:
        heartbeat.close()


def test_an_error_of_the_idle_work_does_not_end_the_thread_for_good() -> None:
    beats: queue.SimpleQueue[Beat] = queue.SimpleQueue()
    idle = threading.Event()

    def beat(due: Sequence[Beat]) -> list[tuple[bool, bool]]:
        for each in due:
            beats.put(each)
        return [(True, False) for _ in due]

    def fail() -> None:
        idle.set()
        raise RuntimeError("an error that nobody expects")

    heartbeat = Heartbeat(timedelta(milliseconds=3), beat, fail)
    heartbeat.forget(heartbeat.watch(TURN))
    try:
        assert idle.wait(PATIENCE)
        heartbeat.watch(TURN)
        beats.get(timeout=PATIENCE)
    finally:
        heartbeat.close()


def test_the_beats_of_all_turns_are_stored_together() -> None:
    stored: queue.SimpleQueue[list[int]] = queue.SimpleQueue()

    def beat(due: Sequence[Beat]) -> list[tuple[bool, bool]]:
        stored.put([each.turn.seq for each in due])
        return [(True, each.turn.seq == 2) for each in due]

    heartbeat = Heartbeat(timedelta(seconds=1), beat, lambda: None)
    with heartbeat._changed:
        watched = [heartbeat.watch(replace(TURN, seq=TurnNumber(number))) for number in (1, 2, 3)]
        for each in watched:
            each.beat_at = watched[0].beat_at
    try:
        assert stored.get(timeout=PATIENCE) == [1, 2, 3]
        assert watched[1].stop_requested.given.result(PATIENCE) is None
        assert not watched[0].stop_requested.is_set()
    finally:
        heartbeat.close()


def test_if_the_beats_of_all_turns_fail_each_is_stored_alone() -> None:
    stored: queue.SimpleQueue[int] = queue.SimpleQueue()

    def beat(due: Sequence[Beat]) -> list[tuple[bool, bool]]:
        if len(due) > 1 or due[0].turn.seq == 2:
            raise ConvstoreError("one conversation is locked")
        stored.put(due[0].turn.seq)
        return [(True, False)]

    heartbeat = Heartbeat(timedelta(seconds=1), beat, lambda: None)
    with heartbeat._changed:
        watched = [heartbeat.watch(replace(TURN, seq=TurnNumber(number))) for number in (1, 2, 3)]
        for each in watched:
            each.beat_at = watched[0].beat_at
    try:
        assert [stored.get(timeout=PATIENCE) for _ in range(2)] == [1, 3]
    finally:
        heartbeat.close()


def test_a_stream_joins_the_beats_of_the_others() -> None:
    heartbeat = Heartbeat(timedelta(hours=1), lambda beats: [(True, False) for _ in beats], lambda: None)
    try:
        with heartbeat._changed:
            first = heartbeat.watch(TURN, lambda: None)
            second = heartbeat.watch(TURN, lambda: None)
            first.beat_at = second.beat_at = time.monotonic() + JOIN_SECONDS / 2  # too soon to join
            third = heartbeat.watch(TURN, lambda: None)
            fourth = heartbeat.watch(TURN, lambda: None)
        assert third.beat_at > first.beat_at
        assert fourth.beat_at == third.beat_at
    finally:
        heartbeat.close()
