"""Try what a store guarantees: kill it, come between, change a letter, move its clock, give it unknown fields."""

import time
from typing import Any

from bench.peers.peer_store import PeerStore
from bench.peers.places import CHANGED_MARK, MARK, Places
from bench.peers.worker_process import WorkerError, WorkerProcess

CHANGED, KILLED, SHARED, MOVED = "changed", "killed", "shared", "moved"
"""Conversations of the trials."""
FIRST, SECOND = ("first question", "first answer"), ("second question", "second answer")
PATIENCE_SECONDS = 3
"""How long a second turn may wait for the first, before the first goes on."""
UNKNOWN_FIELDS: dict[str, Any] = {"reasoning_content": "thoughts", "x_vendor": {"a": [1, None]}}


def try_guarantees(store: type[PeerStore], places: Places) -> dict[str, str]:
    """Return the outcome of each trial; a store that fails is an outcome too.

    The first three share a database and four processes, as the packages of some stores take seconds to import.
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
        found["clock"] = _try_clock_that_goes_back(store, places)
        found["fields"] = _try_unknown_fields(store, places)
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


def _try_clock_that_goes_back(store: type[PeerStore], places: Places) -> str:
    """Take two turns in two processes, the clock an hour back for the second; read them with the right clock."""
    place, environment = places.make(store, is_clock_moved=True), places.clock.make_environment()
    places.clock.move(0)
    with WorkerProcess(store, place, places.log, environment) as process:
        process.ask("create", key=MOVED)
        process.ask("turn", key=MOVED, question=FIRST[0], answer=FIRST[1])
    places.clock.move(-1)
    try:
        with WorkerProcess(store, place, places.log, environment) as process:
            hours = {round((process.ask("clock")["seconds"] - time.time()) / 3600), places.read_moved_hours()}
            if hours != {-1}:
                return "not tried: libfaketime does not work here"
            try:
                process.ask("reopen", key=MOVED)
                process.ask("turn", key=MOVED, question=SECOND[0], answer=SECOND[1])
            except WorkerError:
                return "a turn fails"
    finally:
        places.clock.move(0)
    with WorkerProcess(store, place, places.log) as process:
        process.ask("reopen", key=MOVED)
        whole, last = (process.ask(order, key=MOVED)["texts"] for order in ("texts", "last texts"))
    return judge_clock(whole, last)


def judge_clock(whole: list[str], last: list[str]) -> str:
    """Return what became of the order of two turns.

    Args:
        whole: texts of all messages, as the store returns them.
        last: the same, by its read of the last 20.
    """
    said = [*FIRST, *SECOND]
    if any(text not in whole for text in said):
        return "a turn is missing"
    if whole != said:
        return "out of order"
    return "in order" if last == said else "in order, the last 20 out of order"


def _try_unknown_fields(store: type[PeerStore], places: Places) -> str:
    """Give fields to a reply; if they are not kept, give them to the field that has room for a provider's data."""
    with WorkerProcess(store, places.make(store), places.log) as process:
        outcome = _try_fields(process, "as they are", UNKNOWN_FIELDS)
        if outcome.startswith("kept") or not store.provider_data:
            return outcome
        instead = _try_fields(process, "within another", {store.provider_data: UNKNOWN_FIELDS})
    return f"{outcome}; {instead} in `{store.provider_data}`"


def _try_fields(process: WorkerProcess, key: str, fields: dict[str, Any]) -> str:
    process.ask("create", key=key)
    process.ask("turn", key=key)
    try:
        process.ask("reply", key=key, text="an answer", fields=fields)
    except WorkerError as error:
        # Python raises TypeError for an argument that the message does not have.
        return "cannot be given" if str(error).startswith(("CannotBeGiven", "TypeError")) else "refused"
    found = process.ask("fields", key=key, names=list(fields))
    if found["loaded"] == fields:
        return "kept"
    return "kept, not all in the history" if found["stored"] == fields else "dropped"


def _is_done(process: WorkerProcess) -> bool:
    """Wait for the end of a turn; return False if it failed."""
    answer = process.poll(60)
    return answer is not None and "error" not in answer


def _read_texts(process: WorkerProcess, key: str) -> list[str]:
    texts: list[str] = process.ask("texts", key=key)["texts"]
    return texts
