"""Child processes for the tests of faults: forked from one that has imported everything, so each takes milliseconds.

A child runs a function of a test module, and speaks with the test over a channel, so that moments are forced and not
slept for. It is told where the lock files of its host are: with another folder, it is on another host.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds, for what should take none: then the test fails


class Channel:
    """Messages between a test and its child: JSON, one a line."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(PATIENCE)
        self._lines = end.makefile("r", encoding="utf-8", newline="\n")
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        with self._sending:
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """The next message; EOFError once the other side has ended."""
        line = self._lines.readline()
        if not line.endswith("\n"):
            raise EOFError
        return json.loads(line)

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
        self._end.close()


class Child:
    """A running child, as its test sees it."""

    def __init__(self, zygote: Zygote, pid: int, channel: Channel) -> None:
        self.pid = pid
        self._zygote = zygote
        self._channel = channel
        self._status: int | None = None

    def send(self, message: Any) -> None:
        self._channel.send(message)

    def receive(self, expected: str | None = None) -> Any:
        """The value of the child's next message, which must be of the kind `expected`; the child's failure is ours."""
        kind, value = self._channel.receive()
        assert kind != "failed", value
        assert expected in (None, kind), f"{kind!r} instead of {expected!r}: {value!r}"
        return value if expected is not None else (kind, value)

    def rest(self) -> list[tuple[str, Any]]:
        """All further messages, until the child ends."""
        found = []
        with suppress(EOFError):
            while True:
                found.append(self.receive())
        return found

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it outright, and return when it is gone."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        """Wait for its end, and return its exit status (of a signal: negative)."""
        if self._status is None:
            self._status = int(self._zygote._ask({"wait": self.pid}))
            self._channel.close()
        return self._status

    def discard(self) -> None:
        """End it, and what it has forked."""
        self._zygote._ask({"bury": self.pid})
        self._channel.close()


class Zygote:
    """Starts children."""

    def __init__(self, control: socket.socket, tmpdir: Path) -> None:
        self._control = control
        self._lines = control.makefile("r", encoding="utf-8", newline="\n")
        self._using = threading.Lock()
        self._children: list[Child] = []
        self.tmpdir = tmpdir
        """Where the lock files of this host are."""

    def start(self, target: Callable[..., None], *, host: Path | None = None, **arguments: Any) -> Child:
        """Run `target(channel, **arguments)` in a new process.

        Args:
            host: the folder of the lock files of the host on which the child is; this one, unless given.
        """
        ours, theirs = socket.socketpair()
        request = {
            "target": [target.__module__, target.__qualname__],
            "arguments": arguments,
            "tmpdir": str(host or self.tmpdir),
        }
        with theirs:
            data = json.dumps(request).encode() + b"\n"
            with self._using:
                socket.send_fds(self._control, [data], [theirs.fileno()])
                pid = json.loads(self._lines.readline())
        child = Child(self, pid, Channel(ours))
        self._children.append(child)
        return child

    def discard(self) -> None:
        """End every child that still runs."""
        for child in self._children:
            child.discard()
        self._children.clear()

    def _ask(self, request: dict[str, int]) -> Any:
        with self._using:
            self._control.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(self._lines.readline())


@contextmanager
def running_zygote(tmpdir: Path) -> Iterator[Zygote]:
    """Starts the process from which children are forked; it ends, and ends them all, when this one does."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        zygote = Zygote(ours, tmpdir)
        try:
            assert json.loads(zygote._lines.readline()) == "ready"
            yield zygote
            zygote.discard()
        finally:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            process.wait(timeout=PATIENCE)
            zygote._lines.close()


def _serve(control: socket.socket) -> None:
    # What children need, once.
    import alembic.command
    import psycopg

    import convstore.db.schema_upgrade
    import convstore.testing
    from tests import compiled
    from tests.faults import clients

    assert alembic.command
    assert psycopg
    assert convstore.db.schema_upgrade
    assert convstore.testing
    compiled.share()
    clients.prepare()
    children: set[int] = set()
    control.sendall(b'"ready"\n')
    while True:
        data, ends, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not data:
            break
        request = json.loads(data)
        answer = 0
        if "wait" in request:  # and leave it unburied: its number, which is its group's, stays taken
            ended = os.waitid(os.P_PID, request["wait"], os.WEXITED | os.WNOWAIT)
            assert ended is not None
            answer = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        elif "bury" in request:
            _bury(request["bury"])
            children.discard(request["bury"])
        else:
            importlib.import_module(request["target"][0])
            answer = os.fork()
            if answer == 0:
                os.setpgid(0, 0)
                control.close()
                _run(ends[0], **request)
            children.add(answer)
            os.close(ends[0])
        control.sendall(json.dumps(answer).encode() + b"\n")
    for pid in children:
        _bury(pid)


def _bury(pid: int) -> None:
    for kill in (os.kill, os.killpg):  # it may not be a group yet
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _run(end: int, target: list[str], arguments: dict[str, Any], tmpdir: str) -> None:
    """The whole life of a child."""
    status = 1
    try:
        tempfile.tempdir = tmpdir
        channel = Channel(socket.socket(fileno=end))
        function = getattr(sys.modules[target[0]], target[1])
        try:
            function(channel, **arguments)
            status = 0
        except BaseException:
            channel.send(["failed", traceback.format_exc()])
    finally:
        atexit._run_exitfuncs()
        os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
