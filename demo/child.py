"""Servers that live as long as the process that wants them, and never longer."""

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def child(module: str, *arguments: str, patience: float = 60) -> Iterator[str]:
    """Runs `python -m module` as a child process and yields the line it answers with once it is ready.

    The child ends when its stdin does. The system closes that pipe however this process ends, killed outright
    too, so nothing is left running. A session of its own keeps the terminal's Ctrl-C from ending the child
    before its parent is done with it.

    Raises RuntimeError when the child ends, or `patience` seconds pass, without an answer.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
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
    """In the child: hands `line` to the parent, and returns when the parent is done or gone."""
    print(line, flush=True)
    sys.stdin.read()
