"""Time, measured so that what disturbs the machine disturbs everything that is compared."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians, in milliseconds."""

    wall: float
    cpu: float
    """Of this thread: without waiting for a disk or a server."""


def alternate(rounds: int, *actions: Callable[[int], object]) -> list[Timing]:
    """Runs each action once a round, in turn, and returns what each took; they are given the round's number."""
    taken: list[list[tuple[float, float]]] = [[] for _ in actions]
    order = list(zip(actions, taken, strict=True))
    for number in range(rounds):
        order.reverse()  # nobody always goes first
        for action, times in order:
            cpu, wall = time.thread_time(), time.perf_counter()
            action(number)
            times.append((time.perf_counter() - wall, time.thread_time() - cpu))
    return [Timing(median(wall for wall, _ in times) * 1000, median(cpu for _, cpu in times) * 1000) for times in taken]
