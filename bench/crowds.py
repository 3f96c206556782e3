"""Measure many callers at once beside few: the same calls on the same number of conversations."""

from concurrent.futures import ThreadPoolExecutor

from bench.clock import Stopwatch, take_medians
from bench.databases import Copies
from bench.figures import Row
from bench.model import MODEL, QUESTION
from convstore import Store

CONVERSATIONS, FEW = 20, 20


def measure_crowds(copies: Copies, calls: int, rounds: int) -> list[Row]:
    """Return the row of one backend: `calls` turns, first by 20 threads, then by as many threads as calls."""
    with copies.store(copies.timed) as store:
        few: list[Stopwatch] = []
        many: list[Stopwatch] = []
        for _ in range(rounds):
            for threads, taken in ((FEW, few), (calls, many)):
                with Stopwatch() as one:
                    _say_all(store, calls, threads)
                taken.append(one)
    (few_wall, few_cpu), (many_wall, many_cpu) = map(take_medians, (few, many))
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
