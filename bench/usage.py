"""Measure the time of a usage report over many turns: `python bench/usage.py [--turns N] [--plans]`.

Every figure is a ratio to one pass of the bare driver over the same rows (a count and a sum), in the same run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

import sqlalchemy
from sqlalchemy import event, text

from bench.clock import alternate
from bench.databases import connect_postgres, connect_sqlite
from convstore import Store
from convstore.db import usage_sums
from convstore.db.connection import Connection
from convstore.db.engine import Database, open_database
from convstore.db.schema_upgrade import upgrade
from convstore.usage.price_file import parse_prices
from tests.postgres import new_database, running_server

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 300
PER_CONVERSATION = 50
LAST_WEEK = BEGAN + timedelta(days=DAYS - 7)
MODELS = ("gpt-4o-mini", "gpt-4o", "o3-mini", "claude", "local")
PRICES = {
    "models": {
        "gpt-4o-mini*": {"prompt": 0.15, "completion": 0.6},
        "gpt-4o": [
            {"prompt": 5, "completion": 15},
            {"since": (BEGAN + timedelta(days=100)).date(), "prompt": 2.5, "completion": 10},
        ],
    }
}
ONE_PASS = "SELECT count(*), sum(prompt_tokens) FROM convstore_turns WHERE owner = ''"

# Random, and the same on both databases. A third of the turns have no stored cost, 5 % have no reply.
_FILL = """
INSERT INTO convstore_turns (owner, conversation_id, seq, status, base_seq, first_input_seq, last_input_seq, output_seq,
    request, requested_model, "window", response_id, model, finish_reason, prompt_tokens, cached_tokens,
    completion_tokens, total_tokens, reasoning_tokens, usage, cost, latency_ms, started_at, ended_at)
WITH RECURSIVE numbers(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM numbers WHERE i < :turns),
dice AS (SELECT i, i * 7919 % 9973 AS a, i * 104729 % 99991 AS b, {moment} AS at,
    CASE i * 104729 % 99991 % :conversations % 10 {models} END AS model FROM numbers)
SELECT '', 'c' || (b % :conversations), i, CASE WHEN a % 20 = 0 THEN 'failed' ELSE 'completed' END, 1, 2, 2,
    CASE WHEN a % 20 = 0 THEN NULL ELSE 3 END,
    '{{"model": "gpt-4o-mini", "temperature": 0.2, "stream": true, "stream_options": {{"include_usage": true}}}}',
    model,
    '{{"history": true,"from": 2,"messages": 20}}',
    'chatcmpl-0123456789' || i, CASE WHEN a % 20 = 0 THEN NULL ELSE model || '-2026-01-01' END, 'stop',
    CASE WHEN a % 20 = 0 THEN NULL ELSE 50 + a END, CASE WHEN a % 2 = 0 THEN a / 2 END,
    CASE WHEN a % 20 = 0 THEN NULL ELSE 1 + b % 1500 END, 50 + a + 1 + b % 1500, 0,
    '{{"prompt_tokens": 1900, "completion_tokens": 660, "prompt_tokens_details": {{"cached_tokens": 0}}}}',
    CASE WHEN a % 20 = 0 OR b % 3 = 0 THEN NULL ELSE a / 1000000.0 END, 200 + b % 30011, at, at
FROM dice
"""
_MOMENT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', :began + i * 1.0 * :span / :turns, 'unixepoch')",
    "postgresql": "to_timestamp(:began + i * 1.0 * :span / :turns)",
}
_CONVERSATIONS = """
INSERT INTO convstore_conversations
    (owner, id, settings, metadata, head_seq, length, next_seq, next_turn, created_at, updated_at)
WITH RECURSIVE numbers(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i < :conversations - 1)
SELECT '', 'c' || i, '{}', '{}', 0, 0, 1, 1, {now}, {now} FROM numbers
"""


def fill(database: Database, turns: int) -> None:
    """Insert turns into an empty database."""
    dialect = "sqlite" if database.is_sqlite else "postgresql"
    cases = " ".join(f"WHEN {place} THEN '{MODELS[max(0, place - 5)]}'" for place in range(10))
    values = {
        "turns": turns,
        "conversations": max(1, turns // PER_CONVERSATION),
        "began": int(BEGAN.timestamp()),
        "span": DAYS * 86_400,
    }
    with database.write() as connection:
        connection.execute(text(_CONVERSATIONS.replace("{now}", "CURRENT_TIMESTAMP")), values)
        connection.execute(text(_FILL.format(moment=_MOMENT[dialect], models=cases)), values)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql("ANALYZE" if database.is_sqlite else "VACUUM ANALYZE convstore_turns")


def reports(turns: int) -> list[tuple[str, dict[str, Any]]]:
    one = f"c{max(1, turns // PER_CONVERSATION) // 2}"
    return [
        ("all", {}),
        ("of the last week", {"since": LAST_WEEK}),
        ("of one conversation", {"conversation_id": one}),
        ("by model", {"by": "model"}),
        ("by day", {"by": "day"}),
        ("by day, of the last week", {"by": "day", "since": LAST_WEEK}),
        ("by conversation", {"by": "conversation"}),
    ]


def measure(name: str, url: str, connect: Callable[[str], Any], turns: int, *, plans: bool) -> None:
    database = open_database(url)
    upgrade(url)
    began = time.monotonic()
    fill(database, turns)
    print(f"\n{name}, {turns:,} turns (filled in {time.monotonic() - began:.0f} s)\n   ratio      CPU   report")
    with closing(connect(url)) as bare, Store(url, prices=PRICES) as store:

        def read_turns(_: int) -> object:
            with database.read() as connection:
                return usage_sums.report(connection, "", parse_prices(PRICES, "bench"))

        def pass_once(_: int) -> object:
            return bare.execute(ONE_PASS).fetchall()

        def print_row(label: str, report: Callable[[int], object], rounds: int = 3) -> None:
            ours, one_pass = alternate(rounds, report, pass_once)
            # The thread does not see the processor time of a server.
            cpu = f"{ours.cpu / one_pass.cpu:6.2f}" if database.is_sqlite else "      "
            print(
                f"  {ours.wall / one_pass.wall:6.2f}   {cpu}   {label:<33} {ours.wall:9.1f} ms   one pass "
                f"{one_pass.wall:7.1f} ms",
                flush=True,
            )

        print_row("all, without sums of past days", read_turns)
        print_row("all, the first time: it sums days", lambda _: store.usage(), rounds=1)
        for label, how in reports(turns):
            print_row(label, lambda _, how=how: store.usage(**how))  # type: ignore[misc]
            if plans:
                with database.read() as connection:
                    _print_plans(connection.plain, how)
    database.close()


def _print_plans(connection: sqlalchemy.Connection, how: dict[str, Any]) -> None:
    said: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        said.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    usage_sums.report(Connection(connection), "", parse_prices(PRICES, "bench"), **how)
    event.remove(connection, "before_cursor_execute", note)
    is_sqlite = connection.dialect.name == "sqlite"
    for statement, parameters in said:
        explain = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN (ANALYZE, COSTS OFF, BUFFERS OFF) "
        print("      --")
        for row in connection.exec_driver_sql(explain + statement, parameters):
            print(f"      {row[3] if is_sqlite else row[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures reports of usage.")
    parser.add_argument("--turns", type=int, default=1_000_000, help="how many; 1,000,000 by default")
    parser.add_argument("--plans", action="store_true", help="print the databases' plans too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="convstore-bench-") as folder, running_server() as server:
        measure("SQLite", f"sqlite:///{folder}/usage.db", connect_sqlite, given.turns, plans=given.plans)
        with new_database(server) as url:
            measure("PostgreSQL", url, connect_postgres, given.turns, plans=given.plans)


if __name__ == "__main__":
    main()
