"""Measure the commands that list conversations, as whole processes."""

import os
import subprocess
import sys
import time
from resource import RUSAGE_CHILDREN, getrusage

from bench.peers.convstore_stores import ConvstoreSay
from bench.peers.llm_logs import Llm
from bench.peers.peer_results import Times
from bench.peers.peer_store import PeerStore
from bench.peers.places import Places
from bench.peers.worker_process import WorkerProcess

CONVERSATIONS = 20
ROUNDS = 15


def measure_listings(places: Places) -> dict[str, Times]:
    """Return the median times of each command, with 20 conversations of one turn, in alternation."""
    ours, theirs = (_fill(store, places) for store in (ConvstoreSay, Llm))
    logs = ["-m", "llm", "logs", "list", "-d", theirs]
    commands = {
        'python -c "pass"': ["-c", "pass"],
        'python -c "import sqlalchemy"': ["-c", "import sqlalchemy"],
        "convstore list": ["-m", "convstore", "list"],
        "llm logs list": logs,
        f"llm logs list -s -n {CONVERSATIONS}": [*logs, "-s", "-n", str(CONVERSATIONS)],
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONVSTORE_", "LLM_"))}
    environment = {**kept, "CONVSTORE_DB": f"sqlite:///{ours}"}
    rounds = [
        {name: _measure_process(arguments, environment) for name, arguments in commands.items()} for _ in range(ROUNDS)
    ]
    return {name: Times.from_samples([taken[name] for taken in rounds]) for name in commands}


def _fill(store: type[PeerStore], places: Places) -> str:
    place = places.make(store)
    with WorkerProcess(store, place, places.log) as process:
        for number in range(CONVERSATIONS):
            process.ask("create", key=f"conversation-{number}")
            process.ask("turn", key=f"conversation-{number}")
    return place


def _measure_process(arguments: list[str], environment: dict[str, str]) -> dict[str, float]:
    before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}
