"""A PostgreSQL server that a test may stop, like a power cut, and start again."""

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

PATIENCE = 60.0  # seconds; it should take less than one


class Restartable:
    """A server that stops in immediate mode: it answers no one, and writes nothing more to its files."""

    def __init__(self, uri: str) -> None:
        self.url = make_url(uri).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        host = make_url(uri).query["host"]
        assert isinstance(host, str)
        self._data = Path(host)
        # How the server was started: the path of its program, then its options.
        self._pg_ctl = Path(shlex.split((self._data / "postmaster.opts").read_text())[0]).with_name("pg_ctl")
        with psycopg.connect(uri, autocommit=True) as connection:
            # A server's default: after a restart, everything committed is there.
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
    """Yield a new server; it ends with the block."""
    with child("tests.postgres") as uri:
        server = Restartable(uri)
        try:
            yield server
        finally:
            with suppress(subprocess.SubprocessError):  # it has stopped already
                server.stop()
