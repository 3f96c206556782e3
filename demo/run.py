"""Run the demo: two turns by the real program with a real model, in a temporary database."""

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import FrameType

from demo.model import local_model

SECRET = "4821"
TIME_LIMIT = 120  # seconds


def main() -> None:
    """Run the demo; exit with 1 unless the second reply shows that the model saw the first turn."""
    # An exception removes the temporary directory; a signal without a handler would leave it.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _stop)
    signal.alarm(TIME_LIMIT)
    try:
        with tempfile.TemporaryDirectory(prefix="convstore-demo-") as folder, local_model() as base_url:
            print(f"A real model, SmolLM2-135M-Instruct, answers on {base_url}\n", flush=True)
            _converse(_environment(Path(folder), base_url))
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"The demo failed: {error}")


def _converse(environment: dict[str, str]) -> None:
    _convstore(environment, "new", "A demo", "--system", "Answer briefly.", "--temperature", "0")
    _convstore(environment, "say", f"The secret code is {SECRET}. Please remember it.")
    answer = _convstore(environment, "say", "What is the secret code?")
    _convstore(environment, "show")
    _convstore(environment, "list")
    if SECRET not in answer:
        raise RuntimeError(f"the second answer lacks {SECRET}: the model did not see the first turn")
    print(
        f"The demo worked: the second answer contains {SECRET}, which the second question does not.\n"
        "Each command was a separate process, so the model can have 4821 only from the stored history."
    )


def _convstore(environment: dict[str, str], *arguments: str) -> str:
    """Run one command, print it and its output as it comes, and return its stdout."""
    print(f"$ {shlex.join(['convstore', *arguments])}", flush=True)
    program = Path(sysconfig.get_path("scripts"), "convstore")
    came = bytearray()
    with subprocess.Popen(
        [program, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            while some := os.read(process.stdout.fileno(), 4096):
                came += some
                sys.stdout.buffer.write(some)
                sys.stdout.buffer.flush()
        except BaseException:
            process.terminate()
            raise
    if came and not came.endswith(b"\n"):
        print()
    print(flush=True)
    if process.returncode != 0:
        raise RuntimeError(f"`convstore {arguments[0]}` exited with {process.returncode}")
    return came.decode()


def _environment(folder: Path, base_url: str) -> dict[str, str]:
    """Return this process's environment without the user's settings, key and home."""
    ours = ("CONVSTORE_", "OPENAI_")
    homes = ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours) and key not in homes}
    return kept | {
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "CONVSTORE_DB": f"sqlite:///{folder}/demo.db",
        "CONVSTORE_MODEL": "smollm2",
        "OPENAI_BASE_URL": base_url,
    }


def _stop(number: int, _frame: FrameType | None) -> None:
    late = number == signal.SIGALRM
    sys.exit(f"The demo failed: not done within {TIME_LIMIT} seconds" if late else 128 + number)


if __name__ == "__main__":
    main()
