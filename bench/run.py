"""Measure convstore beside the bare driver: `make bench`, or `python bench/run.py [--quick]`.

What the figures mean: docs/benchmarks.md.
"""

import argparse
import platform
import sqlite3
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

import psycopg
from sqlalchemy import make_url

from bench import figures
from bench.crowds import measure_crowds
from bench.databases import postgres_copies, sqlite_copies
from bench.figures import Row, Scale
from bench.lookups import measure_forks, measure_lookups
from bench.rendering import measure_rendering
from bench.service import measure_service
from bench.storage import TEXT_BYTES, fill, measure_bytes, measure_verify
from bench.streams import measure_chunks
from bench.throughput import measure_processes, measure_throughput
from tests.postgres import running_server

FULL = Scale(
    turns=250,
    repeats=100,
    starts=9,
    crowd=300,
    crowd_rounds=3,
    throughput=600,
    conversations=1_000_000,
    stored=20_000,
)
QUICK = Scale(
    turns=10,
    repeats=5,
    starts=1,
    crowd=40,
    crowd_rounds=1,
    throughput=20,
    conversations=200,
    stored=1_000,
    long=2_000,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure convstore beside the bare driver.")
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run? Its figures mean nothing")
    scale = QUICK if parser.parse_args().quick else FULL
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="convstore-bench-") as folder, running_server() as server:
        print(_versions(server))
        with (
            sqlite_copies(Path(folder), scale.fill) as sqlite,
            postgres_copies(server, scale.fill) as postgres,
        ):
            both = (sqlite, postgres)
            _table(
                "A turn: Store.say beside the same statements and commits by the bare driver",
                ("ratio", "CPU", "say", "convstore", "bare driver"),
                [row for copies in both for row in figures.turns(copies, scale)],
            )
            _table(
                "Many messages, beside the same statements by the bare driver",
                ("ratio", "CPU", "act", "convstore", "bare driver"),
                [row for copies in both for row in figures.reads(copies, scale)],
            )
            _table(
                f"From {scale.short:,} to {scale.long:,} messages",
                ("growth", "bare growth", "to bare", "act", "convstore", "bare driver"),
                [row for copies in both for row in figures.growth(copies, scale)],
            )
            _table(
                "What a say asks of the database, as the conversation grows",
                ("statements", "rows", "say", "messages", "statements", "commits", "rows"),
                [row for copies in both for row in figures.costs(copies, scale)],
            )
            _table(
                f"{scale.crowd} turns in 20 conversations, {scale.crowd} callers at once beside 20 at once",
                ("ratio", "CPU", "database", "all at once", "20 at once"),
                [row for copies in both for row in measure_crowds(copies, scale.crowd, scale.crowd_rounds)],
            )
            _table(
                "Turns a second, each in a conversation of its own, beside the bare driver with as many threads",
                ("of bare", "CPU", "callers", "convstore", "bare driver"),
                [
                    *measure_throughput(postgres, scale.throughput, (1, 16, 64), scale.crowd_rounds),
                    measure_processes(postgres, scale.throughput, scale.crowd_rounds),
                ],
            )
            _table(
                f"Finding one of {scale.conversations:,} conversations, and forking one: milliseconds",
                ("wall", "CPU", "act", "wall / CPU of the bare driver"),
                [row for copies in both for row in (*measure_lookups(copies, scale), *measure_forks(copies, scale))],
            )
            _table(
                "A streamed chunk: processor time of the caller, beside the openai package alone",
                ("ratio", "stream", "convstore", "alone"),
                [row for copies in both for row in measure_chunks(copies, scale.starts)],
            )
            _table(
                "A streamed reply on a terminal: processor time, rendered and plain, beside the openai package alone",
                ("ratio", "plain", "reply", "rendered", "plain", "alone"),
                measure_rendering(Path(folder), scale.starts, (4, 16, 64) if scale is FULL else (4,)),
            )
            _table(
                "Start-up, whole processes",
                ("ratio", "to pass", "command", "convstore", "what it needs", "python -c"),
                figures.starts(sqlite.timed, scale),
            )
        _table(
            "The service on SQLite, a process of its own",
            ("", "", "what", "beside"),
            measure_service(Path(folder), *((30, 2000, 500) if scale is FULL else (2, 100, 10))),
        )
        path = Path(folder) / "stored.db"
        fill(path, scale.stored)
        _table(
            f"Where the bytes of a SQLite file go: {scale.stored:,} messages of {TEXT_BYTES} characters",
            ("to text", "what", "bytes"),
            measure_bytes(path, scale.stored),
        )
        _table(
            "db verify: messages a second",
            ("messages a second", "database"),
            measure_verify(Path(folder) / "verified.db", 2 * scale.stored),
        )
    print(f"\n{time.monotonic() - began:.0f} seconds; medians, taken in alternation")


def _versions(server: str) -> str:
    url = make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        settings = {
            name: (connection.execute(f"SHOW {name}").fetchone() or ("?",))[0]
            for name in ("server_version", "fsync", "synchronous_commit")
        }
    packages = ", ".join(f"{name} {version(name)}" for name in ("convstore", "SQLAlchemy", "psycopg", "openai"))
    return (
        f"Python {platform.python_version()}, {packages}\n"
        f"SQLite {sqlite3.sqlite_version}: journal_mode=WAL, synchronous=FULL\n"
        f"PostgreSQL {settings['server_version'].split()[0]}: "
        f"fsync={settings['fsync']}, synchronous_commit={settings['synchronous_commit']}"
    )


def _table(title: str, head: Row, rows: list[Row]) -> None:
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    print(f"\n{title}")
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if _is_number(rows[0][place]) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(("  " + "   ".join(cells)).rstrip(), flush=True)


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").isdecimal()


if __name__ == "__main__":
    main()
