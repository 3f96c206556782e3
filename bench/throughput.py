"""Measure turns a second of many threads and of many tasks, beside the bare driver with as many threads."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from multiprocessing import get_context
from queue import SimpleQueue
from typing import Any

from bench.clock import Stopwatch, take_medians
from bench.databases import Copies
from bench.figures import Row, record, say_alone
from bench.model import MODEL, QUESTION, AsyncFakeClient
from bench.replay import Step, replay
from convstore import AsyncStore

MANY_TASKS = 500
CONNECTIONS = 15
"""What the pool of a store opens at most; the bare driver has as many."""


def measure_throughput(copies: Copies, turns: int, callers: Sequence[int], rounds: int) -> list[Row]:
    """Return a row for each number of threads and of tasks; each turn has a conversation of its own."""
    kinds = [
        (count, kind, run) for count in callers for kind, run in (("threads", _run_threads), ("tasks", _run_tasks))
    ]
    return [
        _measure(
            copies,
            turns,
            f"{count} {kind}",
            rounds,
            partial(run, copies, count=count),
            partial(_run_bare, copies, count=count),
        )
        for count, kind, run in (*kinds, (MANY_TASKS, "tasks", _run_tasks))
    ]


def _measure(
    copies: Copies,
    turns: int,
    label: str,
    rounds: int,
    run_ours: Callable[[list[str]], Stopwatch],
    run_bare: Callable[[list[list[Step]]], Stopwatch],
) -> Row:
    """Return the row of turns by the store and by the bare driver, in alternation."""
    ours: list[Stopwatch] = []
    bare: list[Stopwatch] = []
    for number in range(rounds):
        ids = _make_conversations(copies, f"{label.replace(' ', '-')}-{number}", turns)
        steps = record(copies, say_alone, ids)
        ours.append(run_ours(ids))
        bare.append(run_bare(steps))
    (our_wall, our_cpu), (bare_wall, bare_cpu) = map(take_medians, (ours, bare))
    return (
        f"{bare_wall / our_wall:.2f}",
        f"{our_cpu / bare_cpu:.2f}",
        f"{copies.backend}, {label}",
        f"{turns / our_wall:,.0f}",
        f"{turns / bare_wall:,.0f} {copies.driver}",
    )


def _make_conversations(copies: Copies, name: str, count: int) -> list[str]:
    """Create conversations with the same ids in each copy, and return the ids."""
    ids = [f"{name}-{number}" for number in range(count)]
    for url in (copies.recorded, copies.timed, copies.bare):
        with copies.store(url) as store:
            for id in ids:
                store.new(id=id, model=MODEL)
    return ids


def _run_threads(copies: Copies, ids: list[str], count: int) -> Stopwatch:
    with copies.store(copies.timed) as store, ThreadPoolExecutor(count) as pool:
        store.list(limit=1)
        with Stopwatch() as taken:
            list(pool.map(lambda id: store.say(id, QUESTION, history=False), ids))
    return taken


def _run_tasks(copies: Copies, ids: list[str], count: int) -> Stopwatch:
    async def work() -> Stopwatch:
        left = iter(ids)
        async with AsyncStore(copies.timed, client=AsyncFakeClient()) as store:  # type: ignore[arg-type]

            async def ask() -> None:
                for id in left:
                    await store.say(id, QUESTION, history=False)

            await store.list(limit=1)
            with Stopwatch() as taken:
                await asyncio.gather(*(ask() for _ in range(count)))
        return taken

    return asyncio.run(work())


def _run_bare(copies: Copies, steps: list[list[Step]], count: int) -> Stopwatch:
    free: SimpleQueue[Any] = SimpleQueue()

    def turn(some: list[Step]) -> None:
        connection = free.get()
        replay(connection, some)
        free.put(connection)

    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        for _ in range(min(count, CONNECTIONS)):
            free.put(stack.enter_context(closing(copies.connect(copies.bare))))
        with Stopwatch() as taken:
            list(pool.map(turn, steps))
    return taken


PROCESSES = 2
_THREADS = 8


def measure_processes(copies: Copies, turns: int, rounds: int) -> Row:
    """Return the row of two processes with eight threads each."""
    return _measure(
        copies,
        turns,
        f"{PROCESSES} processes, {_THREADS} threads each",
        rounds,
        partial(_run_processes, _run_threads, copies),
        partial(_run_processes, _run_bare, copies),
    )


def _run_processes(run: Callable[[Copies, Any, int], Stopwatch], copies: Copies, work: list[Any]) -> Stopwatch:
    """Run a part of the work in each of some processes, at the same time.

    Returns:
        The time of the slowest, and the processor time of all.
    """
    spawning = get_context("spawn")
    ready = spawning.Barrier(PROCESSES)
    results: Any = spawning.SimpleQueue()
    parts = [work[place::PROCESSES] for place in range(PROCESSES)]
    processes = [spawning.Process(target=_work, args=(run, copies, part, ready, results)) for part in parts]
    for process in processes:
        process.start()
    taken: list[Stopwatch] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return Stopwatch(max(one.wall for one in taken), sum(one.cpu for one in taken))


def _work(
    run: Callable[[Copies, Any, int], Stopwatch], copies: Copies, part: list[Any], ready: Any, results: Any
) -> None:
    ready.wait(60)
    results.put(run(copies, part, _THREADS))
