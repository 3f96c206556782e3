"""Check every row of a database: also those that no call reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any

from sqlalchemy import Row, bindparam, select, tuple_

from convstore.db.conversation_verification import ConversationCheck
from convstore.db.engine import Database
from convstore.db.row_check import RowCheck
from convstore.db.search_verification import check_documents
from convstore.db.tables import attachments, conversations
from convstore.db.verification_report import Damage, Verification
from convstore.errors import DamagedRow
from convstore.messages.inline_data import digest_attachment
from convstore.values.identifiers import ConversationKey

_PAGE = 500
_ATTACHMENT_PAGE = 16  # they may be large

_KEYS = (
    select(conversations.c.owner, conversations.c.id)
    .order_by(conversations.c.owner, conversations.c.id)
    .limit(bindparam("most"))
)
_KEYS_AFTER = _KEYS.where(
    tuple_(conversations.c.owner, conversations.c.id) > tuple_(bindparam("after_owner"), bindparam("after_id"))
)
_ATTACHMENTS = select(attachments).order_by(attachments.c.owner, attachments.c.digest).limit(bindparam("most"))
_ATTACHMENTS_AFTER = _ATTACHMENTS.where(
    tuple_(attachments.c.owner, attachments.c.digest) > tuple_(bindparam("after_owner"), bindparam("after_digest"))
)
_check_attachment_types = RowCheck(attachments.c)


def verify(
    database: Database,
    key: ConversationKey | None = None,
    on_progress: Callable[[Verification], object] | None = None,
    *,
    all_terms: bool = False,
) -> Verification:
    """Check the rows of one conversation, or all rows of a database, and what the search index has of them.

    Each conversation is read in a transaction of its own, in pages, so that the memory that this takes does not grow
    with the database, and callers may go on writing.

    Args:
        key: the conversation; it must exist. None: all conversations of all owners, and all attachments.
        on_progress: called now and then with what has been checked so far.
        all_terms: whether the terms of every message are compared with the search index; else, of one in a thousand.

    Raises:
        DatabaseUnavailable: the database cannot be read at all.
    """
    found = Verification()
    tell = on_progress or (lambda _: None)
    if key is not None:
        _verify_conversation(database, key, found, tell, all_terms=all_terms)
        check_documents(database, key, found.search_index)
        return found
    _verify_file(database, found)
    for one in _list_keys(database):
        _verify_conversation(database, one, found, tell, all_terms=all_terms)
    check_documents(database, None, found.search_index)
    _verify_attachments(database, found, tell)
    _verify_daily_usage(database, found)
    return found


def _verify_file(database: Database, found: Verification) -> None:
    """Let SQLite check its file and its foreign keys; PostgreSQL checks its own."""
    if not database.is_sqlite:
        return
    with database.read(keeps_bytes=True) as connection:
        for (problem,) in connection.plain.exec_driver_sql("PRAGMA integrity_check(100)"):
            if problem != "ok":
                found.damages.append(Damage("", None, f"SQLite's integrity check: {problem}"))
        for table, rowid, parent, _ in connection.plain.exec_driver_sql("PRAGMA foreign_key_check"):
            found.damages.append(Damage("", None, f"{table}, row {rowid}: {parent} does not have its conversation"))


def _list_keys(database: Database) -> Iterator[ConversationKey]:
    after: dict[str, Any] | None = None
    while True:
        with database.read(keeps_bytes=True) as connection:
            statement = _KEYS if after is None else _KEYS_AFTER
            rows = connection.execute(statement, {**(after or {}), "most": _PAGE}).all()
        for row in rows:
            yield ConversationKey(row.owner, row.id)
        if len(rows) < _PAGE:
            return
        after = {"after_owner": rows[-1].owner, "after_id": rows[-1].id}


def _verify_conversation(
    database: Database,
    key: ConversationKey,
    found: Verification,
    tell: Callable[[Verification], object],
    *,
    all_terms: bool,
) -> None:
    with database.read(keeps_bytes=True) as connection:
        check = ConversationCheck(connection, key, found, tell, all_terms=all_terms)
        check.run()
    found.conversations += 1
    tell(found)


def _verify_attachments(database: Database, found: Verification, tell: Callable[[Verification], object]) -> None:
    after: dict[str, Any] | None = None
    while True:
        with database.read(keeps_bytes=True) as connection:
            statement = _ATTACHMENTS if after is None else _ATTACHMENTS_AFTER
            rows = connection.execute(statement, {**(after or {}), "most": _ATTACHMENT_PAGE}).all()
        found.damages.extend(_find_damaged_attachments(rows))
        found.attachments += len(rows)
        tell(found)
        if len(rows) < _ATTACHMENT_PAGE:
            return
        after = {"after_owner": rows[-1].owner, "after_digest": rows[-1].digest}


def _verify_daily_usage(database: Database, found: Verification) -> None:
    """Compare the sums of usage with the turns, each month in a transaction of its own."""
    from convstore.db.daily_usage import check_days, list_owners

    with database.read(keeps_bytes=True) as connection:
        owners = list_owners(connection)
    for owner in owners:
        after: date | None = date.min
        while after is not None:
            with database.read(keeps_bytes=True) as connection:
                problems, after = check_days(connection, owner, after)
            found.damages.extend(Damage(owner, None, problem) for problem in problems)


def _find_damaged_attachments(rows: Iterable[Row[Any]]) -> Iterator[Damage]:
    for row in rows:
        name = row.digest.hex() if isinstance(row.digest, bytes) else repr(row.digest)
        try:
            _check_attachment_types([row], "")
        except DamagedRow as error:
            yield Damage(row.owner, None, f"attachment {name}: {error.problem}")
        else:
            if digest_attachment(row.data) != row.digest:
                yield Damage(row.owner, None, f"attachment {name}: its bytes were changed")
