"""The checker of a soak: looks at the database while it is used, and at the end."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, select

from convstore.db.engine import open_database
from convstore.db.tables import conversations, deltas
from convstore.db.verification import verify
from tests.contract.invariants import CheckedOut, check_conversation
from tests.soak.checks import (
    check_acknowledged,
    check_calls,
    check_keys,
    check_once,
    check_one_at_a_time,
    check_replies,
    check_takes,
)
from tests.soak.databases import open_snapshots
from tests.soak.evidence import EvidenceReader
from tests.soak.plan import Plan
from tests.soak.snapshot import Place, Snapshot, read_snapshot

RECENT_SECONDS = 60.0
"""During the soak, the rows of conversations are checked that were written so recently."""


class Checker:
    """Checks, and remembers each violation once."""

    def __init__(self, plan: Plan, url: str) -> None:
        self.violations: dict[str, None] = {}
        self.checks = 0
        self.seconds = 0.0
        self.takeovers = 0
        self.messages = 0
        self.reader = EvidenceReader(plan)
        self._has_server = plan.database != "sqlite"
        self._url = url

    def check(self, *, at_end: bool) -> None:
        """Check all that callers were told, and the rows.

        Args:
            at_end: no process uses the database any more: all rows are checked, and no turn may be running.
        """
        began = time.monotonic()
        with open_snapshots(self._url) as engine:
            self.reader.read_told()
            with engine.connect() as connection:
                snapshot = read_snapshot(connection)
            self.reader.read_asked()
            evidence = self.reader.evidence
            self.takeovers = sum(turn.was_taken for turn in snapshot.turns.values())
            self.messages = len(snapshot.messages)
            for found in (
                check_calls(evidence, has_server=self._has_server),
                check_acknowledged(evidence, snapshot),
                check_once(snapshot),
                check_keys(evidence, snapshot),
                check_replies(evidence, snapshot),
                check_one_at_a_time(evidence, snapshot),
                check_takes(evidence),
                _check_rows(engine, snapshot, evidence.list_checked_out(), at_end=at_end),
                _check_settled(engine, snapshot) if at_end else (),
            ):
                self.violations |= dict.fromkeys(found)
        if at_end:
            self.violations |= dict.fromkeys(_verify(self._url))
        self.checks += 1
        self.seconds += time.monotonic() - began


def list_places(url: str) -> dict[Place, bool]:
    """Return each conversation, and whether it is deleted."""
    with open_snapshots(url) as engine, engine.connect() as connection:
        columns = conversations.c
        rows = connection.execute(select(columns.owner, columns.id, columns.deleted_at)).all()
    return {(row.owner, row.id): row.deleted_at is not None for row in rows}


def _check_rows(
    engine: Engine, snapshot: Snapshot, checked_out: Collection[CheckedOut], *, at_end: bool
) -> Iterator[str]:
    """Yield what breaks the invariants of a conversation's rows."""
    since = datetime.now(UTC) - timedelta(seconds=RECENT_SECONDS)
    for (owner, id), written_at in snapshot.conversations.items():
        if not at_end and written_at < since:
            continue
        try:
            check_conversation(engine, owner, id, running=not at_end, checked_out=checked_out)
        except Exception as error:  # also what no check expects, such as a row that cannot be decoded
            problem = str(error).splitlines()[0] if str(error) else ""
            yield f"owner {owner!r}, conversation {id!r}: {type(error).__name__}: {problem}"


def _check_settled(engine: Engine, snapshot: Snapshot) -> Iterator[str]:
    """Yield each turn that still runs, and each piece that is left of a stream."""
    for turn in snapshot.turns.values():
        if turn.status == "running":
            yield f"{turn.where} is still running"
    with engine.connect() as connection:
        for row in connection.execute(select(deltas.c.owner, deltas.c.conversation_id, deltas.c.turn_seq).distinct()):
            yield f"owner {row.owner!r}, conversation {row.conversation_id!r}: deltas of turn {row.turn_seq} are left"


def _verify(url: str) -> Iterator[str]:
    """Yield the damages that `convstore db verify` finds."""
    database = open_database(url)
    try:
        for damage in verify(database).damages:
            yield f"db verify: owner {damage.owner!r}, conversation {damage.conversation_id!r}: {damage.problem}"
    finally:
        database.close()
