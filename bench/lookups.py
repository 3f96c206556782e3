"""Measure finding one of very many conversations, and forking a short and a long one."""

from contextlib import closing

from sqlalchemy import text

from bench.clock import alternate
from bench.databases import Copies
from bench.figures import Operation, Row, Scale, record
from bench.replay import replay

# The ids are spread, as random ones are; every tenth conversation has a name.
_FILL = """
INSERT INTO convstore_conversations
    (owner, id, name, settings, metadata, head_seq, length, next_seq, next_turn, created_at, updated_at)
WITH RECURSIVE numbers(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM numbers WHERE i < :count)
SELECT 'many', {id}, CASE WHEN i % 10 = 0 THEN 'name-' || i END, '{{}}', '{{}}', 0, 0, 1, 1, {moment}, {moment}
FROM numbers
"""
_DIALECTS = {
    "SQLite": {
        "id": "printf('%08x-abc', i * 2654435761 % 4294967296)",
        "moment": "strftime('%Y-%m-%d %H:%M:%f000', 1700000000 + i, 'unixepoch')",
    },
    "PostgreSQL": {
        "id": "lpad(to_hex(i * 2654435761 % 4294967296), 8, '0') || '-abc'",
        "moment": "to_timestamp(1700000000 + i)",
    },
}


def make_id(number: int) -> str:
    """Return the id of one of the many conversations."""
    return f"{number * 2654435761 % 4294967296:08x}-abc"


def measure_lookups(copies: Copies, scale: Scale) -> list[Row]:
    """Measure the first page of the list, and `get` by id, by the beginning of an id and by name."""
    with copies.store(copies.recorded) as store:
        engine = store._engine.transactions.database.engine
        with engine.begin() as connection:
            connection.execute(text(_FILL.format(**_DIALECTS[copies.backend])), {"count": scale.conversations})
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")
    known = scale.conversations // 20 * 10  # it has a name
    acts: list[tuple[str, Operation]] = [
        ("list, the first page", lambda store, _: store.for_owner("many").list(limit=20)),
        ("get by id", lambda store, _: store.for_owner("many").get(make_id(known))),
        ("get by 7 characters of an id", lambda store, _: store.for_owner("many").get(make_id(known)[:7])),
        ("get by name", lambda store, _: store.for_owner("many").get(f"name-{known}")),
    ]
    return [_measure_reading(copies, label, act, scale.repeats) for label, act in acts]


def _measure_reading(copies: Copies, label: str, act: Operation, repeats: int) -> Row:
    steps = record(copies, act, ["long-10"])[0]
    with copies.store(copies.recorded) as store, closing(copies.connect(copies.recorded)) as connection:
        ours, bare = alternate(repeats, lambda _: act(store, ""), lambda _: replay(connection, steps))
    return (
        f"{ours.wall:.3f}",
        f"{ours.cpu:.3f}",
        f"{copies.backend}, {label}",
        f"{bare.wall:.3f} / {bare.cpu:.3f} {copies.driver}",
    )


def measure_forks(copies: Copies, scale: Scale) -> list[Row]:
    """Measure forks of a short and of a long conversation, in alternation."""
    lengths = (10, scale.long)
    with copies.store(copies.recorded) as store:
        found = alternate(scale.repeats, *(lambda _, n=n: store.fork(f"long-{n}") for n in lengths))
    return [
        (f"{timing.wall:.3f}", f"{timing.cpu:.3f}", f"{copies.backend}, fork of {length:,} messages", "")
        for length, timing in zip(lengths, found, strict=True)
    ]
