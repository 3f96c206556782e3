"""Try what a store guarantees: kill it, come between, and change a letter."""

import time

from bench.peers.peer_store import PeerStore
from bench.peers.places import CHANGED_MARK, MARK, Places
from bench.peers.worker_process import WorkerError, WorkerProcess

CHANGED, KILLED, SHARED = "changed", "killed", "shared"
"""Conversations of the trials."""
FIRST, SECOND = ("first question", "first answer"), ("second question", "second answer")
PATIENCE_SECONDS = 3
"""How long a second turn may wait for the first, before the first goes on."""


def try_guarantees(store: type[PeerStore], places: Places) -> dict[str, str]:
    """Return the outcome of each trial; a store that fails is an outcome too.

    The trials share a database and four processes, as the packages of some stores take seconds to import.
    """
    place = places.make(store)
    found: dict[str, str] = {}
    try:
        _prepare_and_kill(store, places, place)
        with WorkerProcess(store, place, places.log) as one:
            one.ask("reopen", key=KILLED)
            found["killed"] = _judge_kill(one)
            with WorkerProcess(store, place, places.log) as other:
                found["interleaving"] = _try_two_turns(one, other)
        found["letter"] = _try_changed_letter(store, places, place)
    except WorkerError as error:
        found["failed"] = str(error)
    return found


def _prepare_and_kill(store: type[PeerStore], places: Places, place: str) -> None:
    """Fill conversations for the trials, and kill the process during the model call of a turn."""
    with WorkerProcess(store, place, places.log) as process:
        for key in (CHANGED, KILLED):
            process.ask("create", key=key)
            process.ask("turn", key=key, question=f"a question about a {MARK}")
            process.ask("turn", key=key, question="a later question")
        process.send(do="turn", key=KILLED, question=MARK, hold=True)
        process.receive(PATIENCE_SECONDS * 10)
        time.sleep(1)  # a model takes seconds: some stores write in the background meanwhile
        process.kill()


def _judge_kill(process: WorkerProcess) -> str:
    if MARK in _read_texts(process, KILLED):
        return "kept"
    stored = process.ask("stored texts", key=KILLED)["texts"]
    return "kept, not in the history" if MARK in stored else "lost"


def _try_two_turns(one: WorkerProcess, other: WorkerProcess) -> str:
    """Start a second turn, in another process, during the model call of the first."""
    one.ask("create", key=SHARED)
    one.ask("turn", key=SHARED, question="an earlier question", answer="an earlier answer")
    one.send(do="turn", key=SHARED, question=FIRST[0], answer=FIRST[1], hold=True)
    one.receive(PATIENCE_SECONDS * 10)
    other.ask("reopen", key=SHARED)
    other.send(do="turn", key=SHARED, question=SECOND[0], answer=SECOND[1])
    second = other.poll(PATIENCE_SECONDS)
    one.send(do="go on")
    first_done = _is_done(one)
    second_done = "error" not in second if second is not None else _is_done(other)
    told = [text for done, turn in ((first_done, FIRST), (second_done, SECOND)) if done for text in turn]
    return judge_order(_read_texts(other, SHARED)[2:], told)


def judge_order(found: list[str], told: list[str]) -> str:
    """Return what became of two turns.

    Args:
        found: texts of their messages, in the store's order.
        told: texts of the messages of the turns that returned without an error.
    """
    failed = "" if len(told) == 4 else ", a turn fails"
    if any(text not in found for text in told):
        return "a turn is missing" + failed
    pairs = [tuple(found[place : place + 2]) for place in range(0, len(found), 2)]
    return ("in order" if all(pair in {FIRST, SECOND} for pair in pairs) else "interleaved") + failed


def _try_changed_letter(store: type[PeerStore], places: Places, place: str) -> str:
    """Change one letter of a message in the database; does reading notice it?"""
    if not places.change_letter(place):
        return "not found as text"
    with WorkerProcess(store, place, places.log) as process:
        try:
            process.ask("reopen", key=CHANGED)
            texts = _read_texts(process, CHANGED)
        except WorkerError:
            return "noticed"
    return "not noticed" if any(CHANGED_MARK in text for text in texts) else "another text returned"


def _is_done(process: WorkerProcess) -> bool:
    """Wait for the end of a turn; return False if it failed."""
    answer = process.poll(60)
    return answer is not None and "error" not in answer


def _read_texts(process: WorkerProcess, key: str) -> list[str]:
    texts: list[str] = process.ask("texts", key=key)["texts"]
    return texts
