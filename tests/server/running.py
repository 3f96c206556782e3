"""Run `convstore serve` as a process, and send it requests."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx

from convstore import Store
from tests.processes import PATIENCE, ROOT

_LOOPBACK = re.compile(r"# convstore serves (https?)://(.+):(\d+);")


@dataclass
class RunningService:
    """A process that serves."""

    process: subprocess.Popen[str]
    url: str
    port: int
    first_lines: list[str]
    log: list[str] = field(default_factory=list)
    """The lines of its stderr so far."""

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        **how: Any,
    ) -> httpx.Response:
        """Send a request on a new connection, and return the response."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        with httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, verify=False) as client:
            return client.request(method, path, json=json, headers=sent, **how)

    def connect(self) -> socket.socket:
        """Return a plain connection."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, data: bytes) -> bytes:
        """Send bytes on a connection, and return all that comes back until it is closed."""
        with self.connect() as connection:
            with suppress(OSError):  # it may be refused before all is sent
                connection.sendall(data)
            return read_all(connection)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """Return all that comes until the connection is closed."""
    found = b""
    while True:
        try:
            piece = connection.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            return found
        if not piece:
            return found
        found += piece


@contextmanager
def serving(database_url: str, *options: str, verbosity: str = "-vv", **environment: str) -> Iterator[RunningService]:
    """Run the service on a free port, with the log of all requests, until the block ends."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "CONVSTORE_"))}
    env = {**kept, "NO_PROXY": "127.0.0.1,localhost", **environment}
    command = [sys.executable, "-m", "convstore", "serve", "--port", "0", "--db", database_url, *options]
    if verbosity:
        command.append(verbosity)
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    stderr = process.stderr
    reading = threading.Thread(target=lambda: log.extend(stderr), daemon=True)
    reading.start()
    try:
        first = [process.stdout.readline().rstrip("\n") for _ in range(4)]
        found = _LOOPBACK.match(first[0])
        assert found is not None, (first, log)
        host = "127.0.0.1" if found[2] in ("0.0.0.0", "localhost") else found[2]
        service = RunningService(process, f"{found[1]}://{host}:{found[3]}", int(found[3]), first, log)
        if found[1] == "http":
            service.ask("GET", "/healthz")
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        reading.join(PATIENCE)
        process.stdout.close()
        stderr.close()


@dataclass(frozen=True)
class Keys:
    """Secrets of keys, by what they may do."""

    ada: str
    bob: str
    reader: str
    """It may read ada's conversations alone."""
    writer: str
    """It may write ada's conversations, and not read them."""
    agent: str
    """It may act for owners that begin with `team-`."""
    revoked: str
    expired: str


def make_keys(database_url: str) -> Keys:
    """Make keys of each kind."""
    from datetime import timedelta

    with Store(database_url) as store:
        ada, bob = store.for_owner("ada"), store.for_owner("bob")
        revoked = ada.create_key()
        ada.revoke_key(revoked.key.id)
        return Keys(
            ada=ada.create_key(name="ada").secret,
            bob=bob.create_key().secret,
            reader=ada.create_key(rights=["read"]).secret,
            writer=ada.create_key(rights=["write"]).secret,
            agent=store.for_owner("agent").create_key(rights=["read", "write", "act-for"], acts_for="team-").secret,
            revoked=revoked.secret,
            expired=ada.create_key(expires_in=timedelta(microseconds=1)).secret,
        )
