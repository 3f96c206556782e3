"""Measure the service as a process: what a recorded request and a piece of a stream cost, and many streams at once."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2 as httpx

from bench.figures import Row
from bench.model import MODEL
from convstore import AsyncStore

_TEXT = "x" * 300
_TURNS = 10
"""Turns of each conversation."""
_TICKS = os.sysconf("SC_CLK_TCK")
_COMPLETIONS = "/v1/chat/completions"


def measure_service(folder: Path, conversations: int, chunks: int, streams: int) -> list[Row]:
    """Return the cost of a request and of a piece of a stream, and the memory of many streams."""
    with _upstream(chunks) as upstream:
        said_cpu, said_wall = asyncio.run(_say(folder / "said.db", upstream, conversations))
        with (
            _serving(folder / "served.db", upstream) as (process, url),
            httpx.Client(base_url=url, trust_env=False, timeout=120) as client,
        ):
            _talk(client, 3)
            began, walls = _read_cpu(process), _talk(client, conversations)
            cpu = (_read_cpu(process) - began) / (conversations * _TURNS)
            recorded, passed = [], []
            for _ in range(3):
                passed.append(_measure_stream(process, client, chunks, stores=False))
                recorded.append(_measure_stream(process, client, chunks, stores=True))
            asyncio.run(_stream_many(url, streams))
            memory = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0]) / 1024
    more = (median(recorded) - median(passed)) * 1e6
    return [
        (f"{cpu * 1e3:.2f}", "ms of CPU", "a recorded request", f"{said_cpu * 1e3:.2f} for `say` of an AsyncStore"),
        (f"{median(walls) * 1e3:.2f}", "ms", "a recorded request", f"{said_wall * 1e3:.2f} for `say` of an AsyncStore"),
        (f"{more:.1f}", "µs of CPU", "a piece of a recorded stream", f"above {median(passed) * 1e6:.0f} to pass it on"),
        (f"{memory:.0f}", "MB at most", f"{streams} streams at one time", "one process"),
    ]


async def _say(path: Path, upstream: str, conversations: int) -> tuple[float, float]:
    walls: list[float] = []
    async with AsyncStore(f"sqlite:///{path}", base_url=upstream, model=MODEL) as store:

        async def talk(count: int) -> None:
            for _ in range(count):
                id = (await store.new(system="S")).id
                for number in range(_TURNS):
                    began = time.perf_counter()
                    await store.say(id, f"{number} {_TEXT}")
                    walls.append(time.perf_counter() - began)

        await talk(3)
        walls.clear()
        cpu = time.process_time()
        await talk(conversations)
        return (time.process_time() - cpu) / len(walls), median(walls)


def _talk(client: httpx.Client, conversations: int) -> list[float]:
    walls = []
    for one in range(conversations):
        messages: list[dict[str, Any]] = [{"role": "system", "content": "S"}]
        for number in range(_TURNS):
            messages.append({"role": "user", "content": f"{one} {number} {_TEXT}"})
            began = time.perf_counter()
            answer = client.post(_COMPLETIONS, json={"model": MODEL, "messages": messages}).json()
            walls.append(time.perf_counter() - began)
            messages.append(answer["choices"][0]["message"])
    return walls


def _measure_stream(process: int, client: httpx.Client, chunks: int, *, stores: bool) -> float:
    """Return the processor seconds of one piece."""
    body = {"model": MODEL, "stream": True, "store": stores, "messages": [{"role": "user", "content": "Hi"}]}
    began = _read_cpu(process)
    with client.stream("POST", _COMPLETIONS, json=body) as answer:
        for _ in answer.iter_raw():
            pass
    return (_read_cpu(process) - began) / chunks


async def _stream_many(url: str, streams: int) -> None:
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=300, limits=limits) as client:

        async def stream(number: int) -> None:
            body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": f"{number} {_TEXT}"}]}
            async with client.stream("POST", _COMPLETIONS, json=body) as answer:
                async for _ in answer.aiter_raw():
                    pass

        await asyncio.gather(*(stream(number) for number in range(streams)))


def _read_cpu(process: int) -> float:
    """Return the processor seconds that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def _serving(path: Path, upstream: str) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "convstore", "serve", "--port", "0", "--rate", "0", "--db", f"sqlite:///{path}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "CONVSTORE_"))}
    with subprocess.Popen(
        [*command, "--upstream", upstream], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=kept, text=True
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://[0-9.:]+", process.stdout.readline())
        assert found is not None
        try:
            yield process.pid, found[0]
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def _upstream(chunks: int) -> Iterator[str]:
    """Run this module as a server that answers whole, or with so many pieces, each sent alone."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.service", str(chunks)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def _answer(chunks: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    facts = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "system_fingerprint": "f"}
    number = 0

    def make_event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return b"data: " + json.dumps({**facts, "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"

    async def send(data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()

    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        length = re.search(rb"content-length: (\d+)", head.lower())
        body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
        number += 1
        if not body.get("stream"):
            message = {"role": "assistant", "content": f"{number} {_TEXT}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            data = json.dumps({**facts, "choices": [choice]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data))
            writer.write(data)
            await writer.drain()
            continue
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await send(make_event({"role": "assistant", "content": ""}))
        for _ in range(chunks):
            await send(make_event({"content": " word"}))
            await asyncio.sleep(0.0005)  # so that each is sent alone
        await send(make_event({}, "stop") + b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _serve_upstream(chunks: int) -> None:
    server = await asyncio.start_server(lambda reader, writer: _answer(chunks, reader, writer), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve_upstream(int(sys.argv[1])))
