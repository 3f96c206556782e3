"""Measure the stores of one backend in alternation, at growing lengths of a conversation."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from bench.peers.peer_results import StoreResults, Times
from bench.peers.peer_store import PeerStore
from bench.peers.places import Places
from bench.peers.worker import ANSWER_CHARACTERS, QUESTION_CHARACTERS
from bench.peers.worker_process import WorkerError, WorkerProcess


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure."""

    lengths: Sequence[int]
    rounds: int = 15
    fewest_rounds: int = 3
    enough_seconds: float = 3
    """After these seconds with one act, a store has no more rounds of it than the fewest."""
    fill_seconds: float = 120
    """A store is stopped if its next filling, of ten times as many messages, would take longer."""
    act_seconds: float = 1
    """A store is stopped if one act takes longer: the next length would be ten times as long."""
    longest_load: int = 10_000
    turns_for_size: int = 100


class StoreRun:
    """The process of one store, and what is known of it in each mode of its database."""

    def __init__(self, store: type[PeerStore], process: WorkerProcess, place: str, modes: Sequence[str]) -> None:
        versions = {package: version(package) for package in store.packages}
        self.process, self.place = process, place
        self.results = {mode: StoreResults(store.name, store.reads, versions) for mode in modes}
        self.is_stopped = False

    def stop(self, reason: str) -> None:
        """Measure no more lengths."""
        say(f"{self.process.store.name}: stopped: {reason}")
        self.is_stopped = True
        for results in self.results.values():
            results.stopped = reason


def measure_stores(
    stores: Sequence[type[PeerStore]], places: Places, scale: Scale, modes: Sequence[str]
) -> dict[str, list[StoreResults]]:
    """Return the results of each mode: for PostgreSQL, its fsync off and on."""
    runs: list[StoreRun] = []
    with ExitStack() as stack:
        for store in stores:
            place = places.make(store)
            try:
                process = stack.enter_context(WorkerProcess(store, place, places.log))
            except WorkerError as error:
                say(f"{store.name}: {error}")
                raise
            run = StoreRun(store, process, place, modes)
            _measure_bytes(run, places, scale.turns_for_size)
            runs.append(run)
        for length in scale.lengths:
            _measure_length(runs, places, scale, length, modes)
    return {mode: [run.results[mode] for run in runs] for mode in modes}


def _measure_length(runs: list[StoreRun], places: Places, scale: Scale, length: int, modes: Sequence[str]) -> None:
    places.switch_fsync(on=False)
    keys = _make_keys(scale, length, len(modes))
    for run in _list_running(runs):
        _fill(run, scale, length, keys)
        places.settle(run.place)
    os.sync()  # else the disk is still busy with it
    spare = iter(keys)
    for mode in modes:
        places.switch_fsync(on=mode.endswith("on"))
        for act in ("read", "load", "turn"):
            if act != "load" or length <= scale.longest_load:
                _alternate(_list_running(runs), scale, act, mode, length, spare if act == "turn" else iter(keys))
        say(f"{mode}, {length:,} messages: measured")
    for run in _list_running(runs) if length < scale.lengths[-1] else []:
        _check_limits(run, scale, length)


def _make_keys(scale: Scale, length: int, modes: int) -> list[str]:
    """Return names of conversations: one for each turn while a turn makes them noticeably longer, else one for all."""
    if length <= 10:
        return [f"{length}-{number}" for number in range(scale.rounds * modes)]
    return [str(length)] * (scale.rounds * modes)


def _fill(run: StoreRun, scale: Scale, length: int, keys: list[str]) -> None:
    """Fill the conversations, and record the time of the first."""
    taken = None
    try:
        for key in dict.fromkeys(keys):
            run.process.ask("create", key=key)
            one = run.process.ask("fill", key=key, count=length, seconds=scale.fill_seconds)
            taken = taken or one
            if one["count"] < length:
                run.stop(f"{one['wall']:.0f} s to fill {one['count']:,}")
                return
    except WorkerError as error:
        run.stop(f"filling {length:,}: {error}")
        return
    assert taken is not None
    say(f"{run.process.store.name}, {length:,} messages: filled in {taken['wall']:.1f} s")
    for results in run.results.values():
        results.fills[length] = Times(taken["wall"], taken["cpu"])


def _alternate(runs: list[StoreRun], scale: Scale, act: str, mode: str, length: int, keys: Iterator[str]) -> None:
    """Let each store do the act once in each round, in turn."""
    samples: dict[int, list[dict[str, Any]]] = {place: [] for place in range(len(runs))}
    for number in range(scale.rounds):
        key = next(keys)
        for place in sorted(samples, reverse=bool(number % 2)):  # no store is always first
            run, taken = runs[place], samples[place]
            enough = number >= scale.fewest_rounds and sum(one["wall"] for one in taken) > scale.enough_seconds
            if run.is_stopped or enough:
                continue
            try:
                taken.append(run.process.ask(act, key=key))
            except WorkerError as error:
                run.stop(f"{act} with {length:,}: {error}")
    for place, taken in samples.items():
        if taken and not runs[place].is_stopped:
            runs[place].results[mode].acts.setdefault(act, {})[length] = Times.from_samples(taken)


def _check_limits(run: StoreRun, scale: Scale, length: int) -> None:
    filled = next(iter(run.results.values())).fills[length].wall
    if filled * 10 > scale.fill_seconds:
        run.stop(f"{filled:.0f} s to fill {length:,}")
    for results in run.results.values():
        for act, times in results.acts.items():
            if length in times and times[length].wall > scale.act_seconds:
                run.stop(f"{times[length].wall:.1f} s for a {act} with {length:,}")


def _list_running(runs: list[StoreRun]) -> list[StoreRun]:
    return [run for run in runs if not run.is_stopped]


def _measure_bytes(run: StoreRun, places: Places, turns: int) -> None:
    """Record by how many bytes the database grows for each character of the text of turns."""
    run.process.ask("create", key="size")
    before = places.count_bytes(run.place)
    for _ in range(turns):
        run.process.ask("turn", key="size")
    grown = places.count_bytes(run.place) - before
    for results in run.results.values():
        results.bytes_per_character = grown / (turns * (QUESTION_CHARACTERS + ANSWER_CHARACTERS))


def say(line: str) -> None:
    """Tell on stderr how far the run is."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
