"""Measure times in turn, so that a disturbance of the machine hits everything that is compared."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


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
