"""Copy all conversations of all owners to another database, SQLite or PostgreSQL.

The source is read as it was at one moment. Each of its tables is compared with the target's, row by row in the order of
their keys, and what differs is written in batches. So a copy that was stopped goes on where it was, and a copy of a
source that was used since then brings what is new. At the end all rows are compared again. Until then, no release uses
the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from sqlalchemy import bindparam, func, select

from convstore.db import schema_upgrade
from convstore.db.copied_rows import (
    ATTACHMENTS,
    CONVERSATIONS,
    COPIED_TABLES,
    MESSAGES,
    TURNS,
    get_column,
    take_name_away,
)
from convstore.db.copy_differences import Sides, describe_difference, name_row
from convstore.db.copy_target import TableWriter, mark_finished, mark_unfinished, prepare_target
from convstore.db.engine import Database
from convstore.db.erasure_steps import read_copied
from convstore.db.purged_conversation import remove_alone, remove_with_descendants
from convstore.db.row_stream import Row
from convstore.db.sqlite_erasing import finish_erasing
from convstore.db.tables import attachments, conversations, messages, ratings, redactions, tags, tombstones
from convstore.errors import Conflict, ConversationNotFound, DatabaseUnavailable, InvalidInput
from convstore.values.identifiers import ConversationKey
from convstore.values.results import ErasureReason

_KEPT = (CONVERSATIONS, MESSAGES, TURNS)
"""If the target has a row of these that the source does not have, somebody has used the target."""
_WRITTEN_BY_CALLS = (CONVERSATIONS, tags.name, ratings.name)
"""Every call that writes changes one of these tables."""
_MAX_DIFFERENCES = 100

_COUNT = select(func.count()).select_from(messages)
_RUNNING = select(func.count()).select_from(conversations).where(conversations.c.lease_token.is_not(None))
_ATTACHMENT = select(attachments).where(
    attachments.c.owner == bindparam("owner"), attachments.c.digest == bindparam("digest")
)

Tell = Callable[[str, int, int], object]
"""Takes what is being done ("copied" or "compared"), the number of messages so far, and the number of all."""


@dataclass(slots=True)
class CopyReport:
    """What a copy did."""

    rows: Counter[str] = field(default_factory=Counter)
    """How many rows each table of the source has."""
    written: Counter[str] = field(default_factory=Counter)
    """How many rows of each table of the target were written or deleted."""
    running_turns: int = 0
    """How many turns of the source had not ended."""
    erased: int = 0
    """How many conversations of the target were removed, because they were purged or redacted in the source."""
    changed_meanwhile: int = 0
    """How many conversations of the source were written while it was copied."""
    differences: list[str] = field(default_factory=list)
    """Where the target differs from the source after all, the first hundred."""


def copy_database(source: Database, target: Database, on_progress: Tell | None = None) -> CopyReport:
    """Make the target equal to the source; it may be an unfinished or an older copy.

    Args:
        on_progress: called now and then.

    Raises:
        InvalidInput: the source and the target are the same database.
        Conflict: the target has conversations, messages or turns that the source does not have.
        DamagedRow: a value of the source has another type than its column.
        DatabaseUnavailable: a database cannot be read or written.
        SchemaOutdated: the source, or a target on PostgreSQL, needs `convstore db upgrade`.
        SchemaTooNew: a newer release has upgraded one of them.
    """
    minimum = _check_source(source)
    if source.identity == target.identity:
        raise InvalidInput(f"database {source.label} cannot be copied to itself")
    prepare_target(target)
    report = CopyReport()
    with source.read(keeps_bytes=True) as snapshot:
        sides = Sides(source, snapshot, target)
        report.running_turns = int(snapshot.scalar(_RUNNING))
        total = int(snapshot.scalar(_COUNT))

        def tell(what: str, count: int) -> None:
            if on_progress is not None:
                on_progress(what, count, total)

        erased = _find_erased(sides)
        if erased:
            _check_unused(sides, erased)
            mark_unfinished(target)
            report.erased = _erase(target, erased)
        renamed = _find_renamed(sides)
        mark_unfinished(target)
        _take_names_away(target, renamed)
        for table in COPIED_TABLES:
            report.written[table] = _copy_table(sides, table, partial(tell, "copied"))
        for table in COPIED_TABLES:
            _compare_table(sides, table, report, partial(tell, "compared"))
    if not report.differences:
        mark_finished(target, minimum)
    if report.erased:
        finish_erasing(target)
    report.changed_meanwhile = _count_changed(source, target)
    return report


def _check_source(source: Database) -> str | None:
    """Check that the source can be copied, and return the minimum version that it names."""
    if source.path is not None and not source.path.exists():
        raise DatabaseUnavailable(f"database {source.label}: no such file")
    found = schema_upgrade.state(source)
    if not found.usable or not found.up_to_date:
        raise schema_upgrade.refusal(found, source, names_database=True)
    return found.minimum


def _find_erased(sides: Sides) -> dict[ConversationKey, bool]:
    """Return the conversations of the target that were purged in the source, or have a message that was redacted there.

    Returns:
        For each, whether its forks are removed too, and copied again: a message that was redacted is in them.
    """
    found: dict[ConversationKey, bool] = {}
    for row, copy in sides.find_differences(redactions.name):
        if row is not None and row != copy:
            found[ConversationKey(row[0], row[1])] = True
    for row, copy in sides.find_differences(tombstones.name):
        if row is not None and row != copy and get_column(tombstones.name, row, "reason") == ErasureReason.PURGED:
            found.setdefault(ConversationKey(row[0], row[1]), False)
    return found


def _check_unused(sides: Sides, erased: Collection[ConversationKey]) -> None:
    """Check that nothing is removed from the target that was written there after it was copied.

    Args:
        erased: the conversations that may not be in the source any more.

    Raises:
        Conflict: the target has a conversation, a message or a turn that the source does not have.
    """
    with sides.target.read() as connection:
        copied_at = read_copied(connection)
    for row, copy in sides.find_differences(CONVERSATIONS):
        if copy is None:
            continue
        if ConversationKey(copy[0], copy[1]) in erased:
            if copied_at is not None and get_column(CONVERSATIONS, copy, "updated_at") > copied_at:
                raise _refuse_used(sides, CONVERSATIONS, copy)
            if row is None:
                continue
        if row is None:
            raise _refuse_unknown(sides, copy)
        if _has_more(row, copy):
            raise _refuse_used(sides, CONVERSATIONS, copy)


def _has_more(row: Row, copy: Row) -> bool:
    """Return True if the copy of a conversation has a message or a turn that the conversation does not have."""
    names = ("next_seq", "next_turn")
    return any(get_column(CONVERSATIONS, copy, name) > get_column(CONVERSATIONS, row, name) for name in names)


def _erase(target: Database, erased: dict[ConversationKey, bool]) -> int:
    """Remove conversations from the target, each in a transaction of its own, and return how many there were."""
    removed = 0
    for key, takes_forks in erased.items():
        with target.write() as connection:
            try:
                if takes_forks:
                    remove_with_descendants(connection, key, datetime.now(UTC))
                else:
                    remove_alone(connection, key, datetime.now(UTC))
            except ConversationNotFound:
                continue
        removed += 1
    return removed


def _find_renamed(sides: Sides) -> list[Row]:
    """Return the conversations of the target that have another name in the source.

    Raises:
        Conflict: the target has a conversation, a message or a turn that the source does not have.
    """
    renamed = []
    for row, copy in sides.find_differences(CONVERSATIONS):
        if copy is None:
            continue
        if row is None:
            raise _refuse_unknown(sides, copy)
        get, get_copy = partial(get_column, CONVERSATIONS, row), partial(get_column, CONVERSATIONS, copy)
        if _has_more(row, copy):
            raise _refuse_used(sides, CONVERSATIONS, copy)
        if get_copy("name") not in (None, get("name")):
            renamed.append(copy)
    return renamed


def _refuse_unknown(sides: Sides, copy: Row) -> Conflict:
    return Conflict(
        f"{name_row(CONVERSATIONS, copy)} is in {sides.target.label} and not in {sides.source.label}: copy to a new "
        "database, or purge it there too (`convstore purge`) if everything of its owner was purged"
    )


def _refuse_used(sides: Sides, table: str, copy: Row) -> Conflict:
    return Conflict(
        f"{name_row(table, copy)} was written in {sides.target.label} after it was copied, and {sides.source.label} "
        "does not have it: copy to a new database"
    )


def _take_names_away(target: Database, renamed: list[Row]) -> None:
    """Free the names of conversations, because others of the source may have them now."""
    writer = TableWriter(target, CONVERSATIONS)
    for row in renamed:
        writer.write(take_name_away(row), row)
    writer.flush()


def _copy_table(sides: Sides, table: str, tell: Callable[[int], object]) -> int:
    """Make a table of the target equal, and return how many rows were written or deleted."""
    if table == ATTACHMENTS:
        return _copy_attachments(sides)
    writer, written = TableWriter(sides.target, table), 0
    for row, copy in sides.find_differences(table, tell if table == MESSAGES else None):
        written += 1
        if copy is not None and (row is None or _is_another(table, row, copy)):
            if table in _KEPT:
                raise _refuse_used(sides, table, copy)
            writer.delete(copy)
        elif row is not None:
            writer.write(row, copy)
    writer.flush()
    return written


def _is_another(table: str, row: Row, copy: Row) -> bool:
    """Return True if rows with the same key are different messages or turns, and not one that has changed."""
    if table == MESSAGES:
        return True  # a message never changes
    return table == TURNS and get_column(table, row, "started_at") != get_column(table, copy, "started_at")


def _copy_attachments(sides: Sides) -> int:
    writer, written = TableWriter(sides.target, ATTACHMENTS), 0
    for key, copy in sides.find_missing_attachments():
        written += 1
        if key is not None:
            values = {"owner": key[0], "digest": key[1]}
            writer.write(tuple(sides.snapshot.execute(_ATTACHMENT, values).one()), None)
        elif copy is not None:
            writer.delete(copy)
    writer.flush()
    return written


def _compare_table(sides: Sides, table: str, report: CopyReport, tell: Callable[[int], object]) -> None:
    """Count the rows of a table of the source, and note where the target differs."""

    def count(rows: int) -> None:
        report.rows[table] = rows
        if table == MESSAGES:
            tell(rows)

    is_bytes = table == ATTACHMENTS
    found = sides.find_different_attachments(count) if is_bytes else sides.find_differences(table, count)
    room = _MAX_DIFFERENCES - len(report.differences)
    report.differences.extend(describe_difference(table, pair) for pair in islice(found, room))


def _count_changed(source: Database, target: Database) -> int:
    """Return how many conversations of the source differ from their copies by now."""
    with source.read(keeps_bytes=True) as snapshot:
        return len(set(_list_changed(Sides(source, snapshot, target))))


def _list_changed(sides: Sides) -> Iterator[Row]:
    for table in _WRITTEN_BY_CALLS:
        for row, copy in sides.find_differences(table):
            yield (row or copy or ())[:2]
