"""Child processes, forked from one that has imported everything: each starts in milliseconds instead of seconds.

A child runs a function of a test module, and speaks with the test over a channel, so that moments are forced and not
slept for. It is told where the lock files of its host are: with another folder, it is on another host.

A child may also run the command line (`Zygote.start_program`): the real `main` in a process of its own, with its own
streams, environment and signals. Only the start of Python and the imports are missing.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0  # seconds: the longest wait for what should be instant; then the test fails

# Python reads these once, when it starts.
_START_SETTINGS = re.compile(r"PYTHON(?!PATH|HASHSEED|DONTWRITEBYTECODE).*|LC_.*|LANG")


def can_fork_program() -> bool:
    """Return True if a forked program would behave as a started one does in the environment of this process."""
    return _find_start_settings() == _ZYGOTE_SETTINGS


def _find_start_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _START_SETTINGS.fullmatch(name)}


_ZYGOTE_SETTINGS = {name: value for name, value in _find_start_settings().items() if not name.startswith("PYTHON")}


class Channel:
    """The messages between a test and its child: one JSON value in each line."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(PATIENCE)
        self._lines = end.makefile("r", encoding="utf-8", newline="\n")
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        with self._sending:
            self._end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        """Return the next message; raise EOFError if the other side has ended."""
        line = self._lines.readline()
        if not line.endswith("\n"):
            raise EOFError
        return json.loads(line)

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
        self._end.close()


def press_until_heard(press: Callable[[], object], answers: int) -> None:
    """Send a signal, and send it again if nothing can be read from the file `answers` for a while.

    A signal in the microsecond before Python begins to wait for the network does not end that wait: the handler runs
    only when the wait is over. That happened in 1 of 200 tries on a busy machine. A person presses Ctrl-C again.
    """
    press()
    if not select.select([answers], [], [], PATIENCE / 4)[0]:
        press()


class Child:
    """A running child, seen from its test."""

    def __init__(self, zygote: Zygote, pid: int, channel: Channel) -> None:
        self.pid = pid
        self._zygote = zygote
        self._channel = channel
        self._status: int | None = None

    def send(self, message: Any) -> None:
        self._channel.send(message)

    def receive(self, expected: str | None = None) -> Any:
        """Return the value of the child's next message, which must be of the kind `expected`."""
        kind, value = self._channel.receive()
        assert kind != "failed", value
        assert expected in (None, kind), f"{kind!r} instead of {expected!r}: {value!r}"
        return value if expected is not None else (kind, value)

    def has_something(self, seconds: float) -> bool:
        """Return True if a message of the child, or its end, comes within some seconds."""
        return bool(select.select([self._channel], [], [], seconds)[0])

    def rest(self) -> list[tuple[str, Any]]:
        """Return all further messages, until the child ends."""
        found = []
        with suppress(EOFError):
            while True:
                found.append(self.receive())
        return found

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def interrupt(self) -> None:
        """Press Ctrl-C, as `press_until_heard` does."""
        press_until_heard(lambda: self.signal(signal.SIGINT), self._channel.fileno())

    def kill(self) -> None:
        """Kill the child with SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def wait(self) -> int:
        """Wait for the end of the child, and return its exit status; a signal's number is negative."""
        if self._status is None:
            self._status = int(self._zygote._ask({"wait": self.pid}))
            self._channel.close()
        return self._status

    def discard(self) -> None:
        """End the child and its children."""
        self._zygote._ask({"bury": self.pid})
        self._channel.close()


class Zygote:
    """The process from which children are forked, seen from the tests."""

    def __init__(self, control: socket.socket, path: Path, tmpdir: Path) -> None:
        self._control = control
        self._lines = control.makefile("r", encoding="utf-8", newline="\n")
        self._using = threading.Lock()
        self._children: list[Child] = []
        self.path = path
        """The socket at which it listens for scripts."""
        self.tmpdir = tmpdir
        """The folder of this host's lock files."""

    def start(self, target: Callable[..., None], *, host: Path | None = None, **arguments: Any) -> Child:
        """Run `target(channel, **arguments)` in a new process.

        Args:
            host: the folder of the lock files of the child's host; by default, of this host. A child of another host
                does not see the folder beside a SQLite file.
        """
        ours, theirs = socket.socketpair()
        request = {
            "target": [target.__module__, target.__qualname__],
            "arguments": arguments,
            "tmpdir": str(host or self.tmpdir),
            "elsewhere": host is not None,
        }
        with theirs:
            pid = self._ask(request, theirs.fileno())
        child = Child(self, pid, Channel(ours))
        self._children.append(child)
        return child

    def start_program(self, arguments: Sequence[str], *streams: int) -> tuple[int, socket.socket]:
        """Run the command line in a new process, with the environment of this one.

        Args:
            streams: the files that become its stdin, stdout and stderr.

        Returns:
            The process id, and a socket; its other side is closed when the program ends.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            request = {"program": list(arguments), "environment": dict(os.environ), "directory": str(ROOT)}
            return self._ask(request, theirs.fileno(), *streams), ours

    def reap(self, pid: int) -> int:
        """Wait for the end of a program, and return its exit status; a signal's number is negative."""
        status = self._ask({"wait": pid})
        self._ask({"bury": pid})
        return int(status)

    def discard(self) -> None:
        """End every running child."""
        for child in self._children:
            child.discard()
        self._children.clear()

    def _ask(self, request: dict[str, Any], *files: int) -> Any:
        with self._using:
            _send(self._control, request, *files)
            return json.loads(self._lines.readline())


_zygotes: list[tuple[Zygote, ExitStack]] = []


def write_program(folder: Path) -> None:
    """Write an executable `convstore` into a folder, for scripts: the zygote forks it."""
    program = folder / "convstore"
    program.write_text(PROGRAM_OF_A_SHELL.format(python=sys.executable, path=str(get_zygote().path)))
    program.chmod(0o700)


def get_zygote() -> Zygote:
    """Return the one zygote of this process; it starts at the first call, and ends with `end_zygote`."""
    if not _zygotes:
        stack = ExitStack()
        _zygotes.append((stack.enter_context(running_zygote(Path(tempfile.gettempdir()))), stack))
    return _zygotes[0][0]


def end_zygote() -> None:
    """End the zygote of this process, if one runs."""
    while _zygotes:
        _zygotes.pop()[1].close()


@contextmanager
def running_zygote(tmpdir: Path) -> Iterator[Zygote]:
    """Start a zygote; it ends its children and itself when this process ends."""
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryDirectory(prefix="convstore-tests-") as folder:
        path = Path(folder, "zygote")
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(path)],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if not _START_SETTINGS.fullmatch(name)}
                | _ZYGOTE_SETTINGS,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        zygote = Zygote(ours, path, tmpdir)
        try:
            assert json.loads(zygote._lines.readline()) == "ready"
            yield zygote
            zygote.discard()
        finally:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            process.wait(timeout=PATIENCE)
            zygote._lines.close()


def _send(end: socket.socket, request: dict[str, Any], *files: int) -> None:
    data = json.dumps(request).encode() + b"\n"
    socket.send_fds(end, [data[:1]], files)
    end.sendall(data[1:])


def _receive(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return a request and its files; None if the other side has ended."""
    data, files, _, _ = socket.recv_fds(end, 1, 4)
    while data and not data.endswith(b"\n"):
        data += end.recv(1 << 20)
    return (json.loads(data), files) if data else None


def _serve(control: socket.socket, path: str) -> None:
    _prepare()
    children: set[int] = set()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    control.sendall(b'"ready"\n')
    while True:
        if listener in select.select([control, listener], [], [])[0]:
            children.add(_serve_shell(listener))
            continue
        received = _receive(control)
        if received is None:
            break
        request, files = received
        answer = 0
        if "wait" in request:  # do not reap it: its number, which is also its group's, must stay in use
            ended = os.waitid(os.P_PID, request["wait"], os.WEXITED | os.WNOWAIT)
            assert ended is not None
            answer = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        elif "bury" in request:
            _bury(request["bury"])
            children.discard(request["bury"])
        else:
            if "target" in request:
                importlib.import_module(request["target"][0])
            answer = os.fork()
            if answer == 0:
                os.setpgid(0, 0)
                control.close()
                listener.close()
                if "program" in request:
                    _run_program(files, **request)
                _run(files[0], **request)
            children.add(answer)
            for file in files:
                os.close(file)
        control.sendall(json.dumps(answer).encode() + b"\n")
    for pid in children:
        _bury(pid)


def _serve_shell(listener: socket.socket) -> int:
    """Fork the program for `PROGRAM_OF_A_SHELL`, and return its process id."""
    connection, _ = listener.accept()
    with connection:
        received = _receive(connection)
        assert received is not None
        request, files = received
        pid = os.fork()
        if pid == 0:
            listener.close()
            _run_program([connection.detach(), *files], **request)
        for file in files:
            os.close(file)
    return pid


PROGRAM_OF_A_SHELL = """\
#!{python} -IS
import json, os, socket, sys
request = {{"program": sys.argv[1:], "environment": dict(os.environ), "directory": os.getcwd()}}
data = json.dumps(request).encode() + b"\\n"
with socket.socket(socket.AF_UNIX) as zygote:
    zygote.connect({path!r})
    socket.send_fds(zygote, [data[:1]], [0, 1, 2])
    zygote.sendall(data[1:])
    sys.exit(int(zygote.recv(16) or 1))
"""
"""`convstore` for scripts: asks the zygote to fork it, with the script's streams, environment and folder."""


def _prepare() -> None:
    """Import and do once what children need."""
    import alembic.command
    import psycopg

    import convstore.cli
    import convstore.db.schema_upgrade
    import convstore.testing
    from tests import compiled, driver_events
    from tests.faults import clients

    assert alembic.command
    assert psycopg
    assert convstore.db.schema_upgrade
    assert convstore.testing
    for module in (ROOT / "convstore").rglob("*.py"):
        name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        if not name.endswith("__main__"):
            importlib.import_module(name.removesuffix(".__init__"))
    compiled.share()
    driver_events.share()
    clients.prepare()
    gc.collect()
    gc.freeze()


def _bury(pid: int) -> None:
    for kill in (os.kill, os.killpg):  # it may not have its group yet
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _run(end: int, target: list[str], arguments: dict[str, Any], tmpdir: str, *, elsewhere: bool) -> None:
    """Run a child from its begin to its exit."""
    from convstore.leases import lock_folders

    status = 1
    try:
        tempfile.tempdir = tmpdir
        if elsewhere:
            lock_folders.find_folder_beside = lambda database: Path(tmpdir, "beside", database.name)
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


def _run_program(files: list[int], program: list[str], environment: dict[str, str], directory: str) -> None:
    """Run the program from its begin to its exit."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard, file in enumerate(files[1:]):
        os.dup2(file, standard)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None
    os.chdir(directory)
    sys.argv = ["convstore", *program]
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1)  # noqa: SIM115
    status: Any = 1
    try:
        from convstore.cli import main

        main()
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        status = _flush_as_python_does(status)
        with suppress(OSError):
            os.write(files[0], str(status).encode())
        os._exit(status)


def _flush_as_python_does(status: Any) -> Any:
    """Flush the streams at the end of a program, and return its exit status: 120 if that failed."""
    for stream in (sys.stdout, sys.stderr):
        if stream.closed:
            continue
        try:
            stream.flush()
        except OSError as error:
            with suppress(OSError):
                os.write(2, f"Exception ignored in: {stream!r}\n{error!r}\n".encode())
            status = 120
    return status


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
