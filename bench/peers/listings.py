"""Measure the commands that list conversations, as whole processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from bench.clock import alternate
from bench.peers.convstore_stores import ConvstoreSay
from bench.peers.llm_logs import Llm
from bench.peers.peer_store import PeerStore
from bench.peers.places import Places
from bench.peers.worker_process import WorkerProcess

CONVERSATIONS = 20
ROUNDS = 15


def measure_listings(places: Places) -> dict[str, float]:
    """Return the median milliseconds of each command, with 20 conversations of one turn."""
    ours, theirs = (_fill(store, places) for store in (ConvstoreSay, Llm))
    logs = ["-m", "llm", "logs", "list", "-d", theirs]
    commands = {
        'python -c "pass"': ["-c", "pass"],
        'python -c "import sqlalchemy"': ["-c", "import sqlalchemy"],
        "convstore list": ["-m", "convstore", "list"],
        "llm logs list": logs,
        f"llm logs list -s -n {CONVERSATIONS}": [*logs, "-s", "-n", str(CONVERSATIONS)],
    }
    timings = alternate(ROUNDS, *(_prepare(arguments, ours) for arguments in commands.values()))
    return {name: timing.wall for name, timing in zip(commands, timings, strict=True)}


def _fill(store: type[PeerStore], places: Places) -> str:
    place = places.make(store)
    with WorkerProcess(store, place, places.log) as process:
        for number in range(CONVERSATIONS):
            process.ask("create", key=f"conversation-{number}")
            process.ask("turn", key=f"conversation-{number}")
    return place


def _prepare(arguments: list[str], place: str) -> Callable[[int], Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONVSTORE_", "LLM_"))}
    environment = {**kept, "CONVSTORE_DB": f"sqlite:///{place}"}
    command = [sys.executable, *arguments]
    return lambda _: subprocess.run(command, check=True, capture_output=True, env=environment)
