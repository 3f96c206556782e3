"""Measure turns a second of many threads and of many tasks, beside the bare driver with as many threads."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import Any

from bench.clock import Stopwatch, take_medians
from bench.databases import Copies
from bench.figures import Row, record, say_alone
from bench.model import MODEL, QUESTION, AsyncFakeClient
from bench.replay import Step, replay
from convstore import AsyncStore

CONNECTIONS = 15
"""What the pool of a store opens at most; the bare driver has as many."""


def measure_throughput(copies: Copies, turns: int, callers: Sequence[int], rounds: int) -> list[Row]:
    """Return a row for each number of threads and of tasks; each turn has a conversation of its own."""
    return [
        _measure(copies, turns, count, kind, run, rounds)
        for count in callers
        for kind, run in (("threads", _run_threads), ("tasks", _run_tasks))
    ]


def _measure(
    copies: Copies,
    turns: int,
    count: int,
    kind: str,
    run: Callable[[Copies, list[str], int], Stopwatch],
    rounds: int,
) -> Row:
    ours: list[Stopwatch] = []
    bare: list[Stopwatch] = []
    for number in range(rounds):
        ids = [f"{kind}-{count}-{number}-{turn}" for turn in range(turns)]
        for url in (copies.recorded, copies.timed, copies.bare):
            with copies.store(url) as store:
                for id in ids:
                    store.new(id=id, model=MODEL)
        steps = record(copies, say_alone, ids)
        ours.append(run(copies, ids, count))
        bare.append(_run_bare(copies, steps, count))
    (our_wall, our_cpu), (bare_wall, bare_cpu) = map(take_medians, (ours, bare))
    return (
        f"{bare_wall / our_wall:.2f}",
        f"{our_cpu / bare_cpu:.2f}",
        f"{copies.backend}, {count} {kind}",
        f"{turns / our_wall:,.0f}",
        f"{turns / bare_wall:,.0f} {copies.driver}",
    )


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
