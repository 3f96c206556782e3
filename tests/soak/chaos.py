"""The workers, and what happens to them: killed, stopped and continued, ended and started; the server too.

Only processes that were started here get signals. One that has ended keeps its number until the end of the soak, so
that no signal reaches a stranger.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import Child, Zygote
from tests.soak.databases import Database
from tests.soak.plan import Plan, name_worker
from tests.soak.workers import work

SHORTEST_PAUSE, LONGEST_PAUSE = 0.2, 2.0  # seconds between two events
END_SECONDS = 90.0
"""A worker that was asked to end must do so in this time: its longest call takes less."""
WEIGHTS = {"kill": 8, "stop": 8, "restart a worker": 2}
SERVER_WEIGHT = 1


@dataclass(slots=True)
class Worker:
    """A running worker process."""

    slot: int
    name: str
    child: Child
    continues_at: float | None = None
    """The time at which a stopped worker goes on; None: it is not stopped."""


@dataclass
class Chaos:
    """Keeps workers running, and lets things happen to them."""

    plan: Plan
    zygote: Zygote
    database: Database
    base_url: str
    counts: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    """What must not happen: a worker that crashed, or does not end."""
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = self.plan.make_random("chaos")
        self._next_at = 0.0
        self._started = 0

    def start(self) -> None:
        """Start the workers, on two hosts."""
        for slot in range(self.plan.workers):
            self.plan.find_host(slot).mkdir(exist_ok=True)
            self.workers.append(self._start_worker(slot))
        self._plan_next()

    def act(self) -> None:
        """Let the next thing happen if it is time for it."""
        self._continue_due()
        for worker in list(self.workers):
            if worker.continues_at is None and worker.child.has_something(0):
                self.troubles.append(f"worker {worker.name} ended unasked: {_read_last_words(worker.child)}")
                worker.child.signal(signal.SIGKILL)  # its other lane may still run
                self._replace(worker)
        if time.monotonic() < self._next_at:
            return
        weights = WEIGHTS | ({"restart the server": SERVER_WEIGHT} if self.database.server is not None else {})
        what = self._random.choices(list(weights), list(weights.values()))[0]
        worker = self._random.choice(self.workers)
        if what == "kill":
            worker.child.kill()
            self._replace(worker)
        elif what == "stop":
            self._continue(worker)
            worker.child.signal(signal.SIGSTOP)
            worker.continues_at = time.monotonic() + self.plan.lease * self._random.uniform(1.2, 2.5)
        elif what == "restart a worker":
            self._continue(worker)
            worker.child.send("end")
            self._wait(worker)
            self._replace(worker)
        else:
            self.database.restart(self._random.choice([0, 0.5, 2]))
        self.counts[what] += 1
        self._plan_next()

    def continue_all(self) -> None:
        """Let every stopped worker go on: one that holds a lock must not do so for long."""
        for worker in self.workers:
            self._continue(worker)

    def end(self) -> None:
        """Ask every worker to end, and wait for it."""
        self.continue_all()
        for worker in self.workers:
            worker.child.send("end")
        for worker in self.workers:
            self._wait(worker)
        self.workers.clear()

    def _plan_next(self) -> None:
        longest = min(LONGEST_PAUSE, self.plan.seconds / 5)
        self._next_at = time.monotonic() + self._random.uniform(min(SHORTEST_PAUSE, longest), longest)

    def _start_worker(self, slot: int) -> Worker:
        self._started += 1
        name = name_worker(self._started, slot)
        child = self.zygote.start(
            work,
            host=self.plan.find_host(slot),
            plan=self.plan.to_json(),
            url=self.database.url,
            base_url=self.base_url,
            name=name,
        )
        return Worker(slot, name, child)

    def _replace(self, worker: Worker) -> None:
        self.workers[self.workers.index(worker)] = self._start_worker(worker.slot)

    def _continue_due(self) -> None:
        for worker in self.workers:
            if worker.continues_at is not None and time.monotonic() >= worker.continues_at:
                self._continue(worker)

    def _continue(self, worker: Worker) -> None:
        if worker.continues_at is not None:
            worker.continues_at = None
            worker.child.signal(signal.SIGCONT)

    def _wait(self, worker: Worker) -> None:
        """Wait until a worker has ended; one that does not is killed, and is a fault."""
        ends_at = time.monotonic() + END_SECONDS
        while not worker.child.has_something(0.1) and time.monotonic() < ends_at:
            self._continue_due()  # the worker may be waiting for one of them
        if not worker.child.has_something(0):
            worker.child.signal(signal.SIGUSR1)  # it writes down where it stands
            time.sleep(1)
            stacks = Path(self.plan.folder, f"{worker.name}.stacks").read_text()
            self.troubles.append(f"worker {worker.name} did not end in {END_SECONDS:.0f} s:\n{stacks}")
            worker.child.kill()
            return
        words = _read_last_words(worker.child)
        if words != "status 0":
            self.troubles.append(f"worker {worker.name} ended with {words}")


def _read_last_words(child: Child) -> str:
    """Return what a child that ends said, or its exit status."""
    try:
        child.rest()
    except AssertionError as error:  # it reported an exception
        return str(error)
    return f"status {child.wait()}"
