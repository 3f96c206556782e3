"""Copy all conversations of all owners to another database, SQLite or PostgreSQL.

The source is read as it was at one moment. Each of its tables is compared with the target's, row by row in the order of
their keys, and what the target does not have is written in batches. So a copy that was stopped goes on where it was,
and a copy of a source that was used since brings what is new. At the end both are compared again. Until then, no
release uses the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import bindparam, func, select

from convstore.db import schema_upgrade
from convstore.db.connection import Connection
from convstore.db.copied_rows import (
    ATTACHMENTS,
    CONVERSATIONS,
    COPIED_TABLES,
    MESSAGES,
    get_column,
    is_running,
    read_rows,
    take_name_away,
)
from convstore.db.copy_target import TableWriter, mark_finished, mark_unfinished, prepare_target
from convstore.db.engine import Database
from convstore.db.row_pairs import pair_rows
from convstore.db.row_stream import OpenConnection, Row, count_key_columns, stream_rows
from convstore.db.tables import attachments, messages, ratings, tags, turns
from convstore.errors import Conflict, DatabaseUnavailable
from convstore.messages.inline_data import digest_attachment

_KEPT = (CONVERSATIONS, MESSAGES, turns.name)
"""A row of these in the target is never deleted: somebody has used the target since it was copied."""
_WATCHED = (CONVERSATIONS, tags.name, ratings.name)
"""A call that writes changes one of these tables."""
_MAX_DIFFERENCES = 100

_COUNT = select(func.count()).select_from(messages)
_ATTACHMENT = select(attachments).where(
    attachments.c.owner == bindparam("owner"), attachments.c.digest == bindparam("digest")
)


@dataclass(slots=True)
class CopyReport:
    """What a copy did."""

    rows: Counter[str] = field(default_factory=Counter)
    """How many rows of each table the source has."""
    written: Counter[str] = field(default_factory=Counter)
    """How many rows of each table were written to the target or deleted there."""
    running_turns: int = 0
    changed_meanwhile: int = 0
    """How many conversations of the source were written while it was copied."""
    differences: list[str] = field(default_factory=list)
    """Where the target differs from the source after all."""


Tell = Callable[[str, int, int], object]
"""Takes what is being done ("copied" or "compared"), the number of messages so far, and the number of all messages."""


def copy_database(source: Database, target: Database, on_progress: Tell | None = None) -> CopyReport:
    """Make the target equal to the source; it may be an unfinished or an older copy of it.

    Args:
        on_progress: called now and then.

    Raises:
        Conflict: the target has conversations, messages or turns that the source does not have.
        DamagedRow: a row of the source has a value of a wrong type.
        DatabaseUnavailable: a database cannot be read or written.
        SchemaOutdated, SchemaTooNew: a database has another schema than this release.
    """
    minimum = _check_source(source)
    if source.identity == target.identity:
        raise Conflict(f"database {source.label} cannot be copied to itself")
    prepare_target(target)
    report = CopyReport()
    with source.read(keeps_bytes=True) as snapshot:
        reading: OpenConnection = lambda: nullcontext(snapshot)  # noqa: E731
        total = int(snapshot.plain.scalar(_COUNT) or 0)
        tell = partial(_tell, on_progress, total)
        renamed = _find_renamed(source, target, reading)
        mark_unfinished(target)
        for table in COPIED_TABLES:
            if table == CONVERSATIONS:
                _take_names_away(target, renamed)
            if table == ATTACHMENTS:
                _copy_attachments(snapshot, target, report)
            else:
                _copy_table(table, reading, target, report, tell)
        for table in COPIED_TABLES:
            _compare_table(table, reading, target, report, tell)
    if not report.differences:
        mark_finished(target, minimum)
    report.changed_meanwhile = _count_changed(source, target)
    return report


def _tell(on_progress: Tell | None, total: int, what: str, count: int) -> None:
    if on_progress is not None:
        on_progress(what, count, total)


def _check_source(source: Database) -> str | None:
    """Check that the source can be copied, and return the minimum version that it names."""
    if source.path is not None and not source.path.exists():
        raise DatabaseUnavailable(f"database {source.label}: no such file")
    found = schema_upgrade.state(source)
    if not found.usable or not found.up_to_date:
        raise schema_upgrade.refusal(found, source, names_database=True)
    return found.minimum


def _read_target(target: Database) -> OpenConnection:
    # A transaction for each page: one that stayed open would keep the log of a SQLite file from shrinking.
    return partial(target.read, keeps_bytes=True)


def _find_renamed(source: Database, target: Database, reading: OpenConnection) -> list[Row]:
    """Return the conversations of the target that have another name in the source.

    Raises:
        Conflict: the target has a conversation that the source does not have, or a turn that only the target has.
    """
    renamed = []
    pairs = pair_rows(
        read_rows(reading, CONVERSATIONS), read_rows(_read_target(target), CONVERSATIONS), count_key_columns(CONVERSATIONS)
    )
    for row, copy in pairs:
        if row is None and copy is not None:
            raise Conflict(
                f"{_name(CONVERSATIONS, copy)} is in {target.label}, and not in {source.label}: "
                "copy to another database, or purge it there"
            )
        if row is None or copy is None:
            continue
        if any(get_column(CONVERSATIONS, copy, one) > get_column(CONVERSATIONS, row, one) for one in ("next_seq", "next_turn")):
            raise Conflict(_explain_use(CONVERSATIONS, copy, target))
        name = get_column(CONVERSATIONS, copy, "name")
        if name is not None and name != get_column(CONVERSATIONS, row, "name"):
            renamed.append(copy)
    return renamed


def _explain_use(table: str, row: Row, target: Database) -> str:
    return f"{_name(table, row)} was used in {target.label} since it was copied: copy to another database"


def _take_names_away(target: Database, renamed: list[Row]) -> None:
    """Free the names of conversations, because others of the source may have them now."""
    writer = TableWriter(target, CONVERSATIONS)
    for row in renamed:
        writer.replace(row, take_name_away(row))
    writer.flush()


def _copy_table(
    table: str, reading: OpenConnection, target: Database, report: CopyReport, tell: Callable[[str, int], object]
) -> None:
    writer, written = TableWriter(target, table), 0
    pairs = pair_rows(read_rows(reading, table), read_rows(_read_target(target), table), count_key_columns(table))
    for number, (row, copy) in enumerate(pairs, 1):
        if row is not None and table == CONVERSATIONS:
            report.running_turns += is_running(row)
        if table == MESSAGES and not number % 1000:
            tell("copied", number)
        if row == copy:
            continue
        written += 1
        if copy is None and row is not None:
            writer.insert(row)
        elif copy is not None and (row is None or _is_another(table, row, copy)):
            if table in _KEPT:
                raise Conflict(_explain_use(table, copy, target))
            writer.delete(copy)
        elif copy is not None and row is not None:
            writer.replace(copy, row)
    writer.flush()
    report.written[table] = written


def _is_another(table: str, row: Row, copy: Row) -> bool:
    """Return True if rows with the same key are not the same message or turn."""
    if table == MESSAGES:
        return True  # a message never changes
    return table == turns.name and get_column(table, row, "started_at") != get_column(table, copy, "started_at")


def _copy_attachments(snapshot: Connection, target: Database, report: CopyReport) -> None:
    """Copy attachments; only those that the target does not have are read."""
    writer, keys = TableWriter(target, ATTACHMENTS), ("owner", "digest")
    of_source = stream_rows(lambda: nullcontext(snapshot), ATTACHMENTS, keys)
    for key, copy in pair_rows(of_source, stream_rows(_read_target(target), ATTACHMENTS, keys), len(keys)):
        if key is not None and copy is None:
            row = snapshot.execute(_ATTACHMENT, dict(zip(keys, key, strict=True))).one()
            writer.insert(tuple(row))
            report.written[ATTACHMENTS] += 1
        elif copy is not None and key is None:
            writer.delete(copy)
            report.written[ATTACHMENTS] += 1
    writer.flush()


def _compare_table(
    table: str, reading: OpenConnection, target: Database, report: CopyReport, tell: Callable[[str, int], object]
) -> None:
    """Note where the target differs from the source; count the rows of the source."""
    if table == ATTACHMENTS:
        differences = _compare_attachments(reading, target, report)
    else:
        differences = _compare_rows(table, reading, target, report, tell)
    for difference in differences:
        if len(report.differences) < _MAX_DIFFERENCES:
            report.differences.append(difference)


def _compare_rows(
    table: str, reading: OpenConnection, target: Database, report: CopyReport, tell: Callable[[str, int], object]
) -> Iterator[str]:
    pairs = pair_rows(read_rows(reading, table), read_rows(_read_target(target), table), count_key_columns(table))
    count = 0
    for row, copy in pairs:
        if row is not None:
            count += 1
            if table == MESSAGES and not count % 1000:
                tell("compared", count)
        if row != copy:
            yield _describe(table, row, copy)
    report.rows[table] = count


def _describe(table: str, row: Row | None, copy: Row | None) -> str:
    if copy is None or row is None:
        return f"{_name(table, row or copy or ())} is only in the {'source' if copy is None else 'target'}"
    return f"{_name(table, row)} differs"


def _compare_attachments(reading: OpenConnection, target: Database, report: CopyReport) -> Iterator[str]:
    of_source = stream_rows(reading, ATTACHMENTS, ("owner", "digest"))
    of_target = stream_rows(_read_target(target), ATTACHMENTS, ("owner", "digest", "data"))
    for key, copy in pair_rows(of_source, of_target, 2):
        report.rows[ATTACHMENTS] += key is not None
        if key is None or copy is None:
            yield _describe(ATTACHMENTS, key, copy)
        elif digest_attachment(copy[2]) != copy[1]:
            yield f"{_name(ATTACHMENTS, key)} does not fit its digest"


def _count_changed(source: Database, target: Database) -> int:
    """Return how many conversations of the source differ from their copies."""
    changed = set()
    with source.read(keeps_bytes=True) as connection:
        reading: OpenConnection = lambda: nullcontext(connection)  # noqa: E731
        for table in _WATCHED:
            of_target = read_rows(_read_target(target), table)
            for row, copy in pair_rows(read_rows(reading, table), of_target, count_key_columns(table)):
                if row != copy:
                    changed.add((row or copy or ())[:2])
    return len(changed)


def _name(table: str, row: Row) -> str:
    """Return what a row is, in words."""
    owner, id, *rest = row
    of_owner = f" of owner {owner!r}" if owner else ""
    if table == CONVERSATIONS:
        return f"conversation {id!r}{of_owner}"
    what = table.removeprefix("convstore_").removesuffix("s")
    if table in (MESSAGES, turns.name):
        return f"{what} {rest[0]} of conversation {id!r}{of_owner}"
    if table == ATTACHMENTS:
        return f"attachment {id.hex()}{of_owner}"
    return f"a row of {table} for {id!r}{of_owner}"
