"""Measure times in turn, so that a disturbance of the machine hits everything that is compared."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians, in milliseconds."""

    wall: float
    cpu: float
    """CPU time of this thread: without the time that it waits for a disk or a server."""


def alternate(rounds: int, *actions: Callable[[int], object]) -> list[Timing]:
    """Run each action once in each round, in turn, and return their times; each action gets the round's number."""
    taken: list[list[tuple[float, float]]] = [[] for _ in actions]
    order = list(zip(actions, taken, strict=True))
    for number in range(rounds):
        order.reverse()  # no action is always first
        for action, times in order:
            cpu, wall = time.thread_time(), time.perf_counter()
            action(number)
            times.append((time.perf_counter() - wall, time.thread_time() - cpu))
    return [Timing(median(wall for wall, _ in times) * 1000, median(cpu for _, cpu in times) * 1000) for times in taken]


@dataclass(slots=True)
class Stopwatch:
    """Measures what happens within its `with` block, in seconds.

    >>> with Stopwatch() as taken:
    ...     work()
    >>> taken.wall, taken.cpu
    """

    wall: float = 0.0
    cpu: float = 0.0
    """CPU time of the process, all threads together."""

    def __enter__(self) -> Self:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def take_medians(taken: Sequence[Stopwatch]) -> tuple[float, float]:
    """Return the median wall time and the median CPU time."""
    return median(one.wall for one in taken), median(one.cpu for one in taken)
