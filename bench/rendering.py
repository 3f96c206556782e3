"""Measure what a reply costs that is rendered on a terminal, beside the openai package that only receives it."""

import os
import pty
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import openai

from bench.clock import alternate
from bench.figures import Row
from bench.model import MODEL, QUESTION
from convstore import Store
from convstore.cli.render.reply_output import print_reply
from convstore.testing import ChatServer, Reply

PIECE_CHARACTERS = 4
"""About as many as a token has."""

TEXT = """## Sorting

There are **two** ways to sort a list: `list.sort()`, which changes the list, and the function `sorted()`, which
returns a new one ([documentation](https://docs.python.org/3/howto/sorting.html)).

1. Use `sorted` when you *need* the old list too.
2. Use `sort` otherwise:

```python
def sort_pairs(pairs):
    \"\"\"Return the pairs, sorted by their second part.\"\"\"
    return sorted(pairs, key=lambda pair: pair[1])  # the smallest first
```

| Function | In place | Cost |
|---|---|---:|
| `sort` | yes | O(n log n) |
| `sorted` | **no** | O(n log n) |

> Both are stable: what compares as equal keeps its order, as the documentation says in its first chapter.

"""


def measure_rendering(folder: Path, repeats: int, kilobytes: tuple[int, ...]) -> list[Row]:
    """Return the processor time of whole replies: rendered, plain on a terminal, and only received."""
    rows: list[Row] = []
    with (
        _serving() as url,
        openai.OpenAI(base_url=url, api_key="none") as client,
        Store(folder / "rendered.db", base_url=url, model=MODEL) as store,
        _terminal(),
    ):
        id = store.new().id

        def print_from(size: int, *, is_plain: bool) -> Callable[[int], object]:
            return lambda _: print_reply(
                lambda: store.stream(id, f"{size} {QUESTION}", history=False),
                lambda: store.say(id, QUESTION),
                as_stream=True,
                as_json=False,
                is_plain=is_plain,
            )

        def receive(size: int) -> Callable[[int], object]:
            message = {"role": "user", "content": f"{size} {QUESTION}"}
            return lambda _: list(
                client.chat.completions.create(model=MODEL, messages=[message], stream=True)  # type: ignore[list-item]
            )

        for size in kilobytes:
            actions = (print_from(size, is_plain=False), print_from(size, is_plain=True), receive(size))
            for action in actions:
                action(0)  # the first time, modules are imported
            rendered, plain, alone = alternate(repeats, *actions)
            rows.append(
                (
                    f"{rendered.cpu / alone.cpu:.2f}",
                    f"{plain.cpu / alone.cpu:.2f}",
                    f"a reply of {size} KB",
                    f"{rendered.cpu:.1f} ms",
                    f"{plain.cpu:.1f} ms",
                    f"{alone.cpu:.1f} ms",
                )
            )
    return rows


@contextmanager
def _terminal() -> Iterator[None]:
    """Let stdout be a terminal that somebody reads."""
    master, slave = pty.openpty()
    reader = threading.Thread(target=_drain, args=(master,), daemon=True)
    reader.start()
    before = os.environ.get("TERM"), sys.stderr
    os.environ["TERM"] = "xterm"
    with os.fdopen(slave, "w", encoding="utf-8") as screen, redirect_stdout(screen):
        try:
            yield
        finally:
            if before[0] is None:
                del os.environ["TERM"]
            else:
                os.environ["TERM"] = before[0]
    reader.join()
    os.close(master)


def _drain(master: int) -> None:
    with suppress(OSError):  # the other side is closed
        while os.read(master, 65536):
            pass


@contextmanager
def _serving() -> Iterator[str]:
    """Run a server in a process of its own, because threads of one process share an interpreter; yield its URL."""
    here, there = (spawning := get_context("spawn")).Pipe()
    process = spawning.Process(target=_serve, args=(there,))
    process.start()
    try:
        yield here.recv()
    finally:
        here.close()
        process.join()


def _serve(pipe: Connection) -> None:
    with ChatServer() as server:
        server.otherwise = lambda body: Reply(pieces=_cut(int(str(body["messages"][-1]["content"]).split()[0])))
        pipe.send(server.url)
        with suppress(EOFError):
            pipe.recv()  # until the other end is closed


def _cut(kilobytes: int) -> list[str]:
    text = (TEXT * (1024 * kilobytes // len(TEXT) + 1))[: 1024 * kilobytes]
    return [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
