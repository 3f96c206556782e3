"""Run convstore's command line, in this process for speed or as the real program."""

import codecs
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import pytest
from sqlalchemy import Connection, create_engine, text

from convstore.cli import main
from convstore.db.engine import parse_url
from tests.processes import PATIENCE, ROOT, can_fork_program, get_zygote


@dataclass(frozen=True)
class Ran:
    """The exit code and the output of a run."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def failed(self, code: int, *words: str) -> "Ran":
        """Assert that the run failed with this exit code and printed one error line.

        The line on stderr contains `words`, and stdout is empty.
        """
        assert (self.code, self.out) == (code, ""), self
        self.one_line(*words)
        return self

    def one_line(self, *words: str) -> None:
        """Assert that stderr is one line of convstore that contains these words."""
        assert self.err.startswith("convstore: "), self
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err, self
        for word in words:
            assert word in self.err, self


class _Screen(io.TextIOWrapper):
    """A stream that reports that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Program:
    """The command line with its own environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self._patch = monkeypatch
        self._input = tmp_path / "standard input"

    def set(self, **environment: str | None) -> None:
        """Set environment variables; None removes one."""
        for name, value in environment.items():
            if value is None:
                self._patch.delenv(name, raising=False)
            else:
                self._patch.setenv(name, value)

    def __call__(
        self, *arguments: str, stdin: bytes | None = None, terminal: bool = False, keyboard: bool = False
    ) -> Ran:
        """Run the command line in this process, which is faster than the real program.

        The types of the streams and the exit code are the same as in the real program.

        Args:
            terminal: True if stdout and stderr report that they are a terminal.
            keyboard: True if stdin reports that it is a terminal.
        """
        kind = _Screen if terminal else io.TextIOWrapper
        out, err = (kind(io.BytesIO(), "utf-8", write_through=True, newline="") for _ in range(2))
        self._input.write_bytes(stdin or b"")
        source = self._input if stdin is not None else Path(os.devnull)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        with _Screen(source.open("rb")) if keyboard else source.open() as given, self._patch.context() as patch:
            patch.setattr(sys, "argv", ["convstore", *arguments])
            patch.setattr(sys, "stdin", given)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(
                sys, "warnoptions", ["error"]
            )  # the program must not turn off the warnings, which are errors in all tests
            try:
                main()
            except SystemExit as end:
                code = end.code
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        assert isinstance(code, int)
        return Ran(code, _read_written(out), _read_written(err))

    def real(self, *arguments: str | bytes, stdin: bytes | None = None) -> Ran:
        """Run the program in a separate process."""
        with start(*arguments, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE) as process:
            out, err = process.communicate(stdin, timeout=180)
            return Ran(process.wait(), out.decode(), err.decode())

    def from_nothing(self, *arguments: str | bytes, stdin: bytes | None = None) -> Ran:
        """Run the program in a new Python process that imports everything itself."""
        ended = subprocess.run(
            command(*arguments),
            cwd=ROOT,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=180,
            check=False,
        )
        return Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def _read_written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def command(*arguments: str | bytes) -> list[str | bytes]:
    """Return the command line that starts the real program."""
    return [sys.executable, "-m", "convstore", *arguments]


class ForkedProgram:
    """A program that was forked from the zygote, with the methods of `Popen`.

    It is not a child of this process.
    """

    def __init__(self, arguments: Sequence[str | bytes], *, stdin: int, stdout: int, stderr: int) -> None:
        self.stdin, self.stdout, self.stderr = None, None, None
        self.returncode: int | None = None
        with ExitStack() as theirs:
            self.stdin, child_in = _make_stream(stdin, theirs, writes=True)
            self.stdout, child_out = _make_stream(stdout, theirs)
            self.stderr, child_err = (None, child_out) if stderr == subprocess.STDOUT else _make_stream(stderr, theirs)
            texts = [os.fsdecode(argument) for argument in arguments]
            self.pid, self._life = get_zygote().start_program(texts, child_in, child_out, child_err)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait(PATIENCE)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._life], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("convstore", timeout or 0)
            self.returncode = get_zygote().reap(self.pid)
            self._life.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, data: bytes | None = None, timeout: float | None = None) -> tuple[bytes, bytes]:
        """Write `data` to stdin, return all of stdout and stderr, and wait for the end."""
        found: dict[Any, bytes] = {stream: b"" for stream in (self.stdout, self.stderr) if stream is not None}
        with ThreadPoolExecutor(3) as threads:
            if self.stdin is not None:
                threads.submit(_write_all, self.stdin, data or b"")
            reading = {stream: threads.submit(stream.read) for stream in found if not stream.closed}
            for stream, read in reading.items():
                found[stream] = read.result(timeout)
                stream.close()
        self.wait(timeout)
        return found.get(self.stdout, b""), found.get(self.stderr, b"")


def _make_stream(given: int, theirs: ExitStack, *, writes: bool = False) -> tuple[Any, int]:
    """Return our end of a stream, and the file for the program.

    Our end is None unless the stream is a pipe.
    """
    if given == subprocess.DEVNULL:
        return None, theirs.enter_context(open(os.devnull, "rb" if writes else "wb")).fileno()  # noqa: PTH123
    if given != subprocess.PIPE:
        return None, given
    reader, writer = os.pipe()
    theirs.callback(os.close, reader if writes else writer)
    ours = os.fdopen(writer, "wb", 0) if writes else os.fdopen(reader, "rb", 0)
    return ours, reader if writes else writer


def _write_all(stream: Any, data: bytes) -> None:
    with suppress(BrokenPipeError), stream:
        while data:
            data = data[stream.write(data) :]


Process = ForkedProgram | subprocess.Popen[bytes]


def start(
    *arguments: str | bytes,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> Process:
    """Start the program as a fork of the zygote, or as a new Python process.

    A new process is needed if `can_fork_program` returns False.

    Args:
        stdin, stdout, stderr: a file, PIPE, DEVNULL or STDOUT, as `subprocess.Popen` takes them.
    """
    if can_fork_program():
        return ForkedProgram(arguments, stdin=stdin, stdout=stdout, stderr=stderr)
    return subprocess.Popen(command(*arguments), cwd=ROOT, stdin=stdin, stdout=stdout, stderr=stderr)


class Running:
    """The program while it runs in a separate process with pipes for its output."""

    def __init__(self, *arguments: str) -> None:
        self.out = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.process = start(*arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def until(self, text: str) -> None:
        """Read until `text` has been printed."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while text not in self.out:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"the program printed nothing more after {self.out!r}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the program ended after {self.out!r}"
            self.out += self._decoder.decode(data)

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self) -> Ran:
        """Wait for the end of the process, and return its output."""
        out, err = self.process.communicate(timeout=PATIENCE)
        self.out += self._decoder.decode(out, final=True)
        return Ran(self.process.wait(), self.out, err.decode())


def run_python(code: str, *arguments: str) -> str:
    """Run `code` in a new Python process, and return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=180,
        check=True,
    )
    return ended.stdout.decode()


class Rows:
    """The rows of a database, read without convstore."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(parse_url(url))

    def __call__(self, statement: str) -> Sequence[tuple[Any, ...]]:
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def change(self, statement: str) -> None:
        with self._engine.begin() as connection:
            _run(connection, statement)

    def close(self) -> None:
        self._engine.dispose()

    @property
    def turns(self) -> list[tuple[str, Any]]:
        """Return the status and the error of each turn, oldest first."""
        found = self("SELECT status, error FROM convstore_turns ORDER BY started_at, seq")
        return [(status, json.loads(error) if error is not None else None) for status, error in found]

    @property
    def count(self) -> int:
        """Return the number of messages."""
        [(count,)] = self("SELECT count(*) FROM convstore_messages")
        return int(count)


def _run(connection: Connection, statement: str) -> None:
    connection.execute(text(statement))


def commands_of(group: click.Group) -> dict[str, click.Command]:
    """Return the commands of a group by name."""
    with click.Context(group) as context:
        found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}
