"""Count what each call asks of a database, with a hundred to a million messages: `python bench/growth.py [--quick]`.

It counts statements, commits, rows and the database's own steps, and measures no time. `tests/contract/test_growth.py`
tests the same with up to a hundred thousand messages.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script sees only its own folder

from sqlalchemy import create_engine, text

from bench.model import FakeClient
from convstore import Store
from convstore.db.schema_upgrade import upgrade
from tests.contract.growth import Cost, Meter, costs, filled
from tests.postgres import new_database, running_server

FULL, QUICK = (100, 10_000, 1_000_000), (100, 1_000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts what each call asks of a database.")
    parser.add_argument("--quick", action="store_true", help="to ten thousand messages only")
    lengths = QUICK if parser.parse_args().quick else FULL
    with tempfile.TemporaryDirectory(prefix="convstore-growth-") as folder, running_server() as server:
        _table("SQLite, instructions in hundreds", f"sqlite:///{folder}/chat.db", lengths)
        with new_database(server) as url:
            _table("PostgreSQL, rows looked at", url, lengths)


def _table(title: str, url: str, lengths: tuple[int, ...]) -> None:
    upgrade(url)
    engine = create_engine(url, pool_size=1, max_overflow=0)  # with one connection, its counters are the whole count
    meter = Meter(engine)
    try:
        with Store(engine=engine, client=FakeClient(), model="test-model") as store:  # type: ignore[arg-type]
            for summarised in (False, True):
                columns = []
                for length in lengths:
                    began = time.monotonic()
                    id = filled(store, engine, length, summarised=summarised)
                    _say(f"{length:,} messages written in {time.monotonic() - began:.0f} s")
                    with engine.connect() as connection, connection.begin():
                        connection.execute(text("ANALYZE"))
                    began = time.monotonic()
                    columns.append(costs(store, meter, id))
                    _say(f"every call made twice in {time.monotonic() - began:.2f} s")
                _print(f"{title}{', behind a summary' if summarised else ''}", lengths, columns)
    finally:
        engine.dispose()


def _print(title: str, lengths: tuple[int, ...], columns: list[dict[str, Cost]]) -> None:
    _say(f"\n{title}: statements, commits, rows, work; of {' | '.join(f'{length:,}' for length in lengths)} messages")
    for name in columns[0]:
        cells = (f"{len(c.statements):2} {c.commits} {c.rows:4} {c.steps:5}" for c in (each[name] for each in columns))
        _say(f"  {name:30} {'  |  '.join(cells)}")
    _say("")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
