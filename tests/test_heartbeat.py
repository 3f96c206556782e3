"""Test the heartbeat's thread at moments that a whole store reaches only by chance."""

import queue
import signal
import threading
import time
from datetime import datetime, timedelta

import pytest

from convstore.leases.heartbeat import Beat, Heartbeat
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
    heartbeat = Heartbeat(timedelta(hours=1), lambda *_: (True, False), lambda: None)
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

    def beat(_: Beat) -> tuple[bool, bool]:
        blocked.put(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return True, False

    heartbeat = Heartbeat(timedelta(milliseconds=3), beat, lambda: None)
    heartbeat.watch(TURN)
    try:
        assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked.get(timeout=PATIENCE)
    finally:
        heartbeat.close()


def test_an_error_of_the_idle_work_does_not_end_the_thread_for_good() -> None:
    beats: queue.SimpleQueue[Beat] = queue.SimpleQueue()
    idle = threading.Event()

    def beat(each: Beat) -> tuple[bool, bool]:
        beats.put(each)
        return True, False

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
