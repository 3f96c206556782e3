"""Measure an import, searches, an export and a copy of many messages: `python bench/million.py [--messages N]`.

Each is a whole process of the command line, with its processor time and its largest memory; searches are calls of the
library. `--postgres` copies the result to PostgreSQL too, and searches there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from convstore import Store
from convstore.db.schema_upgrade import upgrade
from tests.postgres import new_database, running_server

PER_CONVERSATION = 10
CHARACTERS = 500
CHINESE = (
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十"
)
_COMMON = "the of and to in a is that for it as was with be by on not he his but at are this have had from or one"
COMMON = _COMMON.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUERIES = {
    "a rare word": "needle",
    "a common word": "that",
    "two common words": "that with",
    "a common and a rare word": "that needle",
    "one Chinese character": "国",
    "two Chinese characters": "中国",
    "a phrase of common words": '"of the"',
    "a common word without another": "that -with",
    "words that begin so": "nee*",
    "nothing": "absentword",
}
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures an import, searches, an export and a copy.")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--postgres", action="store_true", help="copy to PostgreSQL too, and search there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.messages, with_postgres=arguments.postgres)


def measure(folder: Path, messages: int, *, with_postgres: bool) -> None:
    source, database, exported = folder / "source.jsonl", folder / "chat.db", folder / "export.jsonl"
    write_source(source, messages)
    print(f"{messages:,} messages of {CHARACTERS} characters in conversations of {PER_CONVERSATION}")
    print(f"{'':34} wall s    CPU s   messages/s   peak MB")
    show("import", messages, ["import", str(source), "--db", str(database)])
    source.unlink()
    show("db reindex", messages, ["db", "reindex", "--db", str(database)])
    search(f"sqlite:///{database}", "SQLite")
    show("export --all", messages, ["export", "--all", "-o", str(exported), "--db", str(database)])
    show("import of that export", messages, ["import", str(exported), "--db", str(folder / "second.db")])
    exported.unlink()
    (folder / "second.db").unlink()
    show("db verify", messages, ["db", "verify", "--db", str(database)])
    show("db copy to SQLite", messages, ["db", "copy", str(database), str(folder / "copy.db")])
    if with_postgres:
        with running_server() as server, new_database(server) as url:
            upgrade(url)
            show("db copy --no-index to PostgreSQL", messages, ["db", "copy", str(database), url, "--no-index"])
            show("db reindex, PostgreSQL", messages, ["db", "reindex", "--db", url])
            search(url, "PostgreSQL")


def write_source(path: Path, messages: int) -> None:
    choose = random.Random(5)
    words = [*COMMON, *("".join(choose.choices(LETTERS, k=choose.randint(4, 11))) for _ in range(60_000))]
    weights = [1 / (place + 2) for place in range(len(words))]
    pool = list(_make_texts(choose, words, weights))
    with path.open("w") as stream:
        for number in range(messages // PER_CONVERSATION):
            texts = [choose.choice(pool) for _ in range(PER_CONVERSATION)]
            if number % 1_000 == 7:
                texts[3] = f"needle {texts[3]}"[:CHARACTERS]
            said = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
            said[0]["content"] = f"{number} {said[0]['content']}"[:CHARACTERS]
            stream.write(json.dumps({"messages": said}) + "\n")


def _make_texts(choose: random.Random, words: list[str], weights: list[float]) -> Iterator[str]:
    for number in range(20_000):
        if number % 10 == 9:
            yield "".join(choose.choices(CHINESE, k=CHARACTERS // 3))
        else:
            yield " ".join(choose.choices(words, weights, k=100))[:CHARACTERS]


def show(name: str, messages: int, command: list[str]) -> None:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "convstore", *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
    peak = used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    print(
        f"{name:34} {wall:6.1f}   {used.ru_utime + used.ru_stime:6.1f}   {messages / wall:10,.0f}   {peak:7.0f}",
        flush=True,
    )


def search(url: str, database: str) -> None:
    print(f"{'the first page of 20, ' + database:34}   ms")
    everything: list[float] = []
    with Store(url) as store:
        store.search("warm up")
        for name, query in QUERIES.items():
            taken = []
            for _ in range(REPEATS):
                began = time.perf_counter()
                store.search(query)
                taken.append((time.perf_counter() - began) * 1000)
            everything += taken
            print(f"{name:34} {median(taken):6.1f}", flush=True)
    print(f"{'median, and 95th percentile':34} {median(everything):6.1f} {quantiles(everything, n=20)[-1]:6.1f}")


if __name__ == "__main__":
    main()
