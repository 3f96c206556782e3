"""Measure many callers at once beside few: the same calls on the same number of conversations."""

import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from bench.databases import Copies
from bench.figures import Row
from bench.model import MODEL, QUESTION
from convstore import Store

CONVERSATIONS, FEW = 20, 20


def measure_crowds(copies: Copies, calls: int, rounds: int) -> list[Row]:
    """Return the row of one backend: `calls` turns, first by 20 threads, then by as many threads as calls."""
    with copies.store(copies.timed) as store:
        few: list[tuple[float, float]] = []
        many: list[tuple[float, float]] = []
        for _ in range(rounds):
            few.append(_time(lambda: _say_all(store, calls, FEW)))
            many.append(_time(lambda: _say_all(store, calls, calls)))
    (few_wall, few_cpu), (many_wall, many_cpu) = (
        (median(wall for wall, _ in times), median(cpu for _, cpu in times)) for times in (few, many)
    )
    return [
        (
            f"{many_wall / few_wall:.2f}",
            f"{many_cpu / few_cpu:.2f}",
            copies.backend,
            f"{many_wall:.2f} s",
            f"{few_wall:.2f} s",
        )
    ]


def _say_all(store: Store, calls: int, threads: int) -> None:
    ids = [store.new(model=MODEL).id for _ in range(CONVERSATIONS)]
    with ThreadPoolExecutor(threads) as pool:
        for turn in [pool.submit(store.say, ids[n % CONVERSATIONS], QUESTION, wait=600) for n in range(calls)]:
            turn.result()


def _time(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU time of this process that some work takes, in seconds."""
    cpu, wall = _read_cpu(), time.perf_counter()
    work()
    return time.perf_counter() - wall, _read_cpu() - cpu


def _read_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
