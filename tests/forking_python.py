"""Run programs on an installed package: a process of any Python imports the package, and forks each program.

Each program has its own process, streams and environment. Only the imports are shared: they take most of the time of a
new Python, and so does its end, which frees each object. This file is also the program that forks, so it imports
nothing of the tests.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 300.0  # seconds


class ForkingPython:
    """The process that forks, seen from the tests."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.package = Path(self._read())
        """Where it has found the package."""

    def run(
        self,
        *arguments: str,
        cwd: Path,
        env: dict[str, str],
        status: int | None = 0,
        written: Path | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script, `-m module` or `-c code` in a new process, and check its exit status.

        Args:
            status: the exit status that is right; None: any.
            written: a folder for what the program writes until it ends; by default `cwd`.
        """
        streams = (written or cwd) / "stdout", (written or cwd) / "stderr"
        request = {"arguments": arguments, "directory": str(cwd), "environment": env, "streams": [*map(str, streams)]}
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        ended = self._read()
        out, err = (stream.read_text() for stream in streams)
        for stream in streams:
            stream.unlink()
        assert status in (None, ended), out + err
        return subprocess.CompletedProcess(arguments, ended, out, err)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return json.loads(line)


@contextmanager
def forking_python(*python: str, cwd: Path, env: dict[str, str]) -> Iterator[ForkingPython]:
    """Start the process that forks with a Python and its options; it ends with the block."""
    with subprocess.Popen(
        [*python, "-P", __file__], cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield ForkingPython(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


# --- in the process that forks ---


def _import() -> Path:
    """Import the package and what it imports late; return its folder."""
    package = importlib.import_module("convstore")
    for name in ("alembic.command", "openai.resources.chat", "psycopg"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, "convstore."):
        if not module.name.startswith("convstore.migrations") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return Path(str(package.__file__))


def _serve() -> None:
    answers = os.dup(1)  # what a program prints is not an answer

    def answer(value: Any) -> None:
        os.write(answers, json.dumps(value).encode() + b"\n")

    answer(str(_import()))
    gc.collect()
    gc.freeze()
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.close(answers)
            _run_to_its_end(request)
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _run_to_its_end(request: dict[str, Any]) -> NoReturn:
    """Run a program, and end as Python does, without freeing each object."""
    status: Any = 1
    try:
        _run(**request)
        status = 0
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def _run(arguments: list[str], directory: str, environment: dict[str, str], streams: list[str]) -> None:
    for number, path in enumerate([os.devnull, *streams]):
        file = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    _serve()
