"""Run servers as child processes that never live longer than their parent."""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def child(
    module: str, *arguments: str, patience: float = 60, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `python -m module` as a child process, and yield the line that it prints when it is ready.

    The child ends when its stdin is closed. The system closes that pipe however this process ends, also by SIGKILL,
    so no child is left. The child has its own session, so that Ctrl-C in the terminal does not end it before its
    parent. `environment` is added to that of this process.

    Raises:
        RuntimeError: the child ends, or `patience` seconds pass, without a line.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], patience)
            line = process.stdout.readline().strip() if ready else ""
            if not line:
                raise RuntimeError(f"{module} did not start; what it said is on stderr")
            yield line
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def answer_parent(line: str) -> None:
    """Give `line` to the parent, and return when the parent has ended or closed the pipe. For the child."""
    print(line, flush=True)
    sys.stdin.read()
