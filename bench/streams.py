"""Measure what a streamed chunk costs, beside the openai package alone."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection

import openai

from bench.clock import alternate
from bench.databases import Copies
from bench.figures import Row
from bench.model import MODEL, QUESTION
from convstore import Store
from convstore.testing import ChatServer, Reply

CHUNKS = 260


def measure_chunks(copies: Copies, repeats: int) -> list[Row]:
    """Return the processor time of the calling thread for each chunk of a stream."""
    with (
        serving() as url,
        openai.OpenAI(base_url=url, api_key="none") as client,
        Store(copies.recorded, base_url=url, model=MODEL) as store,
    ):
        id = store.new().id

        def stream_stored(_: int) -> object:
            with store.stream(id, QUESTION, history=False) as reply:
                return list(reply)

        def stream_alone(_: int) -> object:
            return list(
                client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": QUESTION}], stream=True
                )
            )

        stream_stored(0)  # the first time, modules are imported
        stream_alone(0)
        ours, alone = alternate(repeats, stream_stored, stream_alone)
    return [
        (
            f"{ours.cpu / alone.cpu:.2f}",
            f"{copies.backend}, a chunk of {CHUNKS}",
            f"{1000 * ours.cpu / CHUNKS:.0f} µs",
            f"{1000 * alone.cpu / CHUNKS:.0f} µs openai",
        )
    ]


@contextmanager
def serving() -> Iterator[str]:
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
        server.otherwise = lambda _: Reply(pieces=[f"word {number} " for number in range(CHUNKS)])
        pipe.send(server.url)
        with suppress(EOFError):
            pipe.recv()  # until the other end is closed
