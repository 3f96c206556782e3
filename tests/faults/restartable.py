"""A PostgreSQL server of a test's own, which it may stop as if the power had gone, and start again."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from sqlalchemy import make_url

from demo.child import child

PATIENCE = 60.0  # seconds for what takes less than one


class Restartable:
    """A server, stopped in immediate mode: it answers nobody any more, and writes nothing more to its files."""

    def __init__(self, uri: str) -> None:
        self.url = make_url(uri).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        host = make_url(uri).query["host"]
        assert isinstance(host, str)
        self._data = Path(host)
        # What the server was started with: the path of its program, then its options.
        self._pg_ctl = Path(shlex.split((self._data / "postmaster.opts").read_text())[0]).with_name("pg_ctl")
        with psycopg.connect(uri, autocommit=True) as connection:
            # As a server has it by default: what was committed is there after a restart.
            connection.execute("ALTER SYSTEM RESET synchronous_commit")
            connection.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        self._control("restart", "-l", str(self._data / "log"))  # "restart" remembers the options; "start" does not

    def restart(self) -> None:
        self.stop()
        self.start()

    def _control(self, *what: str) -> None:
        owner = self._data.stat().st_uid
        subprocess.run(
            [self._pg_ctl, "-w", "-D", self._data, *what],
            check=True,
            cwd="/",
            user=owner if owner != os.getuid() else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )


@contextmanager
def restartable_server() -> Iterator[Restartable]:
    """A new server, which ends with the block."""
    with child("tests.postgres") as uri:
        server = Restartable(uri)
        try:
            yield server
        finally:
            with suppress(subprocess.SubprocessError):  # it is stopped already
                server.stop()
