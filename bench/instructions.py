"""Count the processor's instructions of the hot paths: `make instructions`, `python bench/instructions.py [--store]`.

A machine that is busy or slow does not change these. valgrind's callgrind counts them
(https://valgrind.org/docs/manual/cl-manual.html), in this process and in the libraries that it calls, not in the
kernel. The unit is a turn by bare sqlite3, counted in the same run, so that the build of Python matters little. What
was counted is in `instructions.json`, by architecture and Python; an act that needs more than a tenth more ends this
with 1. A Python that has not been counted is compared with the one that needed most.
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from bench.model import ANSWER, MODEL, QUESTION, FakeClient, dialogue
from bench.streams import serving
from convstore import Store
from convstore.leases import heartbeat

STORED = Path(__file__).with_suffix(".json")
TOLERANCE = 1.1
BARE = "a turn by bare sqlite3"
_REPEATS, _CHEAP_REPEATS = 4, 9
"""SQLite puts its files in order once in a while, within any statement; a cheap act that meets this is far dearer."""
_CHEAP_ACTS = frozenset({BARE, "append", "the last 20 messages", "get", "fork"})
_WARM_UP = 2
# Callgrind writes down what it has counted, and begins again at 0, whenever this function of the C library is called.
# Nothing else here calls it.
_MARK = "getsid"
_SUMMARY = re.compile(r"^summary: (\d+)", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the processor's instructions of the hot paths.")
    parser.add_argument("--store", action="store_true", help=f"write the counts into {STORED.name}")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        _work(given.inside)
    valgrind = find_valgrind()
    if valgrind is None:
        sys.exit("valgrind is not installed (`apt install valgrind`)")
    counts = count_instructions(valgrind)
    ratios, stored = make_ratios(counts), read_stored()
    print(f"{'instructions':>12}   {'bare turns':>10}   {'stored':>6}   act")
    for act, count in counts.items():
        before = f"{stored[act]:.2f}" if act in stored else "-"
        print(f"{count:12,}   {ratios.get(act, 1):10.2f}   {before:>6}   {act}")
    if given.store:
        _store(ratios)
    elif grown := find_grown(ratios, stored):
        sys.exit("more than a tenth more than before: " + ", ".join(grown))


def find_valgrind() -> str | None:
    """Return the path of valgrind; None if it or its `callgrind_control` is not installed."""
    return shutil.which("valgrind") if shutil.which("callgrind_control") else None


def count_instructions(valgrind: str) -> dict[str, int]:
    """Return the instructions of each act, the fewest of some repeats.

    Raises:
        RuntimeError: the run under valgrind failed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONVSTORE_", "OPENAI_"))}
    with tempfile.TemporaryDirectory(prefix="convstore-instructions-") as name:
        folder = Path(name)
        done = subprocess.run(
            [
                *(valgrind, "--tool=callgrind", "--instr-atstart=no", f"--dump-before={_MARK}"),
                *(f"--callgrind-out-file={folder / 'counted'}", "--quiet"),
                *(sys.executable, str(Path(__file__).resolve()), "--inside", str(folder)),
            ],
            env={**kept, "PYTHONHASHSEED": "0", "TMPDIR": name, "OPENAI_API_KEY": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"counting ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        acts: list[str] = json.loads((folder / "acts.json").read_text())
        counts: dict[str, int] = {}
        for number, act in enumerate(acts, 2):  # the first one has what was before the first mark
            found = _SUMMARY.search((folder / f"counted.{number}").read_text())
            if found is None:
                raise RuntimeError(f"callgrind's file for {act!r} has no sum")
            counts[act] = min(int(found[1]), counts.get(act, sys.maxsize))
    return counts


def make_ratios(counts: dict[str, int]) -> dict[str, float]:
    """Return the acts without the bare one, in its turns."""
    return {act: round(count / counts[BARE], 2) for act, count in counts.items() if act != BARE}


def read_stored() -> dict[str, float]:
    """Return what is stored for this architecture and Python; if nothing is, the most of all."""
    everything: dict[str, dict[str, float]] = json.loads(STORED.read_text())
    most: dict[str, float] = {}
    for acts in everything.values():
        most |= {act: max(ratio, most.get(act, 0)) for act, ratio in acts.items()}
    return everything.get(_name_machine(), most)


def find_grown(ratios: dict[str, float], stored: dict[str, float]) -> list[str]:
    """Return a line for each act that needs more than a tenth more than stored."""
    return [
        f"{act} ({stored[act]:.2f}, now {ratio:.2f})"
        for act, ratio in ratios.items()
        if act in stored and ratio > TOLERANCE * stored[act]
    ]


def _name_machine() -> str:
    return f"{platform.machine()}, {platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"


def _store(ratios: dict[str, float]) -> None:
    everything = json.loads(STORED.read_text())
    everything[_name_machine()] = ratios
    STORED.write_text(json.dumps(everything, indent=2, sort_keys=True) + "\n")


def _work(folder: Path) -> None:
    """Do each act some times, with a mark after each; this runs under callgrind, which is told when to begin."""
    heartbeat.FLUSH_SECONDS = heartbeat.LOOK_SECONDS = 3600.0  # here everything is fifty times as slow as elsewhere
    done: list[str] = []
    with (
        serving() as url,
        Store(folder / "chat.db", client=FakeClient(), model=MODEL) as store,  # type: ignore[arg-type]
        Store(folder / "chat.db", base_url=url, model=MODEL) as streaming,
        closing(_open_bare(folder / "bare.db")) as bare,
    ):
        acts = _make_acts(store, streaming, bare)
        for act in acts.values():
            for _ in range(_WARM_UP):
                act()
        gc.collect()
        gc.disable()
        _begin_counting()
        os.getsid(0)
        for name, act in acts.items():
            for _ in range(_CHEAP_REPEATS if name in _CHEAP_ACTS else _REPEATS):
                act()
                os.getsid(0)
                done.append(name)
        (folder / "acts.json").write_text(json.dumps(done))
        os._exit(0)  # what is left to do at the end would be counted too; the server ends with its pipe


def _begin_counting() -> None:
    command = ["callgrind_control", "-i", "on", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as control:
        while control.poll() is None:
            pass  # valgrind looks for commands while the program runs, and needs other rights to interrupt a wait
    if control.returncode != 0:
        raise RuntimeError(f"callgrind_control ended with {control.returncode}")


def _make_acts(store: Store, streaming: Store, bare: sqlite3.Connection) -> dict[str, Callable[[], object]]:
    many = [
        {**message, "content": f"{message['content']} number{number}"} for number, message in enumerate(dialogue(1_000))
    ]
    id = store.new(system="Be brief", messages=dialogue(20)).id
    long, whole = (store.new(messages=many).id for _ in range(2))
    other = store.new(messages=dialogue(20)).id

    def stream() -> object:
        with streaming.stream(other, QUESTION, history=False) as reply:
            return list(reply)

    return {
        BARE: lambda: _take_bare_turn(bare),
        "say, last=5": lambda: store.say(id, QUESTION, last=5),
        "say, max_context=4000": lambda: store.say(long, QUESTION, max_context=4000),
        "append": lambda: store.append(id, {"role": "user", "content": QUESTION}),
        "append 100 messages": lambda: store.append(id, *many[:100]),
        "the last 20 messages": lambda: store.messages(id, limit=20),
        "the history of 1,000 messages": lambda: store.history(whole),
        "a stream of 260 chunks": stream,
        "search, a rare word": lambda: store.search("number777"),
        "search, a common word": lambda: store.search("olympic"),
        "get": lambda: store.get(id),
        "fork": lambda: store.fork(id),
    }


def _open_bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE said (id INTEGER PRIMARY KEY, conversation TEXT, message TEXT)")
    connection.execute("CREATE INDEX of_conversation ON said (conversation, id)")
    return connection


def _take_bare_turn(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Store a message, read the last 20, store the reply: with a commit for each, and nothing else."""
    _insert_bare(connection, {"role": "user", "content": QUESTION})
    sql = "SELECT message FROM said WHERE conversation = ? ORDER BY id DESC LIMIT 20"
    sent = [json.loads(message) for (message,) in connection.execute(sql, ("a",))]
    _insert_bare(connection, {"role": "assistant", "content": ANSWER})
    return sent


def _insert_bare(connection: sqlite3.Connection, message: dict[str, str]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO said (conversation, message) VALUES (?, ?)", ("a", json.dumps(message)))
    connection.execute("COMMIT")


if __name__ == "__main__":
    main()
