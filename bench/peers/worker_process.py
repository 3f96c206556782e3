"""Start a store in a process of its own, and give it orders."""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bench.peers.peer_store import PeerStore

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300


class WorkerError(RuntimeError):
    """The store failed, its process ended, or it did not answer in time."""


class WorkerProcess:
    """The process of one store. It ends with this one, as its stdin is a pipe from here.

    Args:
        store: class of the store.
        place: path of its SQLite file, or SQLAlchemy URL of its PostgreSQL database.
        log: file that gets what the store prints.
        environment: what is added to the environment of this process.
    """

    def __init__(
        self, store: type[PeerStore], place: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.store = store
        self._errors: IO[str] = log.open("a")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers.worker", store.__name__, place],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.receive(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None and self._process.poll() is None:
            self.close()
        self.kill()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """Give an order and return the answer; one that may take `seconds` has them, and more.

        Raises:
            WorkerError: the store failed, or its process ended.
        """
        self.send(do=do, **order)
        return self.receive(PATIENCE_SECONDS + order.get("seconds", 0))

    def send(self, **order: Any) -> None:
        """Give an order and do not wait."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError("its process ended") from error

    def receive(self, seconds: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            WorkerError: the store failed, its process ended, or the seconds passed.
        """
        answer = self.poll(seconds)
        if answer is None:
            self.kill()
            raise WorkerError(f"no answer in {seconds:.0f} s")
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def poll(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer, also an error's, or None if the seconds pass."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            return None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError("its process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the store, and wait for the end of its process."""
        self.ask("close")
        self._process.wait(timeout=PATIENCE_SECONDS)

    def kill(self) -> None:
        """End the process by SIGKILL, as a crash would."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # an order that it had not read
                stream.close()
