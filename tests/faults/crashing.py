"""Crash at every point: one child reports the points of its database work; other children kill themselves at one."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from convstore.db.schema_upgrade import upgrade
from tests.processes import Channel, Child


class Points:
    """Report every statement and commit to the test, and kill the process at the point `kill_at`.

    The order is the same in each run, because the dialogue waits for each flush of the heartbeat. Beats that only read
    the stop request are not counted: their number is not the same in each run, and they change nothing.
    """

    def __init__(self, channel: Channel, kill_at: int) -> None:
        self.step = "open"
        self.flushed = threading.Semaphore(0)
        self._channel = channel
        self._kill_at = kill_at
        self._count = 0
        self._thread = threading.local()
        commit: Callable[[DefaultDialect, Any], None] = DefaultDialect.do_commit

        def do_commit(dialect: DefaultDialect, connection: Any) -> None:
            self._happens("before", "COMMIT")
            commit(dialect, connection)
            self._happens("after", "COMMIT")
            if self._is_writing and self._is_beating:
                self.flushed.release()
            self._thread.writing = False

        DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]
        event.listen(Engine, "before_cursor_execute", self._before)
        event.listen(Engine, "after_cursor_execute", self._after)

    def _before(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("BEGIN IMMEDIATE", "INSERT", "UPDATE", "DELETE", "CREATE")):
            self._thread.writing = True
        self._happens("before", statement)

    def _after(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self._happens("after", statement)

    @property
    def _is_writing(self) -> bool:
        return getattr(self._thread, "writing", False)

    @property
    def _is_beating(self) -> bool:
        return threading.current_thread() is not threading.main_thread()

    def _happens(self, when: str, what: str) -> None:
        if self._is_beating and not self._is_writing:
            return
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1
        if self._kill_at < 0:
            by = "heartbeat" if self._is_beating else "caller"
            self._channel.send(["point", [self.step, by, when, " ".join(what.split())[:50], self._is_writing]])


class Databases:
    """Make a database for each point."""

    def __init__(self, folder: Path, postgres: str | None) -> None:
        self.kind = "sqlite" if postgres is None else "postgresql"
        self._folder = folder
        self._postgres = postgres
        self._count = 0
        self._template = folder / "template.db"
        if postgres is None:
            upgrade(f"sqlite:///{self._template}")

    def new(self) -> str:
        """Return the URL of a database. PostgreSQL: one database for all points, with a conversation for each."""
        if self._postgres is not None:
            return self._postgres
        self._count += 1
        path = self._folder / f"{self._count}.db"
        shutil.copy(self._template, path)
        return f"sqlite:///{path}"


def run_child(child: Child, *, killed: bool) -> tuple[list[str], list[list[Any]]]:
    """Wait for the end of a child; return the steps that it acknowledged, and its points."""
    said = child.rest()
    assert child.wait() == (-signal.SIGKILL if killed else 0)
    return [value for kind, value in said if kind == "done"], [value for kind, value in said if kind == "point"]
