"""Find and delete attachments that no message of their owner has any more."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, func, literal_column, select, tuple_

from convstore.db.attachment_rows import read_sizes
from convstore.db.connection import Connection
from convstore.db.dialect import is_sqlite
from convstore.db.tables import attachments as table
from convstore.db.tables import messages
from convstore.messages.inline_data import ATTACHMENT_DIGEST_BYTES
from convstore.values.identifiers import ConversationKey

_ROWS_AT_ONCE = 500
_DIGEST = re.compile(rf"[0-9a-f]{{{2 * ATTACHMENT_DIGEST_BYTES}}}")

# As the condition of an index, so that only messages with attachments are read.
_HAS_ATTACHMENTS = func.substr(messages.c.extra, literal_column("1"), literal_column("1")) == literal_column("'['")
_OF_OWNER = (messages.c.owner == bindparam("owner"), _HAS_ATTACHMENTS)
_OF_CONVERSATION = (
    select(messages.c.conversation_id, messages.c.seq, messages.c.extra)
    .where(*_OF_OWNER, messages.c.conversation_id == bindparam("id"), messages.c.seq > bindparam("after_seq"))
    .order_by(messages.c.seq)
    .limit(_ROWS_AT_ONCE)
)
_USES = (
    select(messages.c.conversation_id, messages.c.seq, messages.c.extra)
    .where(
        *_OF_OWNER,
        tuple_(messages.c.conversation_id, messages.c.seq) > tuple_(bindparam("after_id"), bindparam("after_seq")),
    )
    .order_by(messages.c.conversation_id, messages.c.seq)
    .limit(_ROWS_AT_ONCE)
)
_DELETE = delete(table).where(table.c.owner == bindparam("owner"), table.c.digest == bindparam("digest"))
_ALL = (
    select(table.c.digest)
    .where(table.c.owner == bindparam("owner"), table.c.digest > bindparam("after"))
    .order_by(table.c.digest)
    .limit(_ROWS_AT_ONCE)
)


@cache
def _lock_statement(count: int) -> Any:
    """Return the statement that locks attachments in the order in which `insert_attachments` does."""
    return (
        select(table.c.digest)
        .where(
            table.c.owner == bindparam("owner"),
            table.c.digest.in_([bindparam(f"digest_{number}") for number in range(count)]),
        )
        .order_by(table.c.digest)
        .with_for_update()
    )


def find_digests(connection: Connection, key: ConversationKey) -> set[bytes]:
    """Return the digests of the attachments that the rows of a conversation name."""
    found: set[bytes] = set()
    after = 0
    while rows := connection.execute(_OF_CONVERSATION, {"owner": key.owner, "id": key.id, "after_seq": after}).all():
        for row in rows:
            found.update(_list_digests(row.extra))
        after = rows[-1].seq
    return found


def _list_digests(extra: Any) -> Iterator[bytes]:
    """Yield the digests in a column, also if it is damaged. Something else may look like one; that does no harm."""
    if isinstance(extra, bytes):  # a text that is not UTF-8
        extra = extra.decode("latin-1")
    return (bytes.fromhex(found) for found in _DIGEST.findall(extra)) if isinstance(extra, str) else iter(())


def find_unused(
    connection: Connection, owner: str, digests: Collection[bytes], without: Collection[str] = ()
) -> set[bytes]:
    """Return which of these attachments no message of the owner has.

    Args:
        without: the ids of conversations that do not count.
    """
    left = set(digests)
    place: dict[str, Any] = {"after_id": "", "after_seq": 0}
    while left:
        rows = connection.execute(_USES, {"owner": owner, **place}).all()
        for row in rows:
            if row.conversation_id not in without:
                left.difference_update(_list_digests(row.extra))
        if len(rows) < _ROWS_AT_ONCE:
            break
        place = {"after_id": rows[-1].conversation_id, "after_seq": rows[-1].seq}
    return left


def delete_unused(connection: Connection, owner: str, digests: Collection[bytes]) -> tuple[int, int]:
    """Delete those of these attachments that no message has; return their number, and their bytes.

    On PostgreSQL each is locked first. So a transaction that has just stored a message with one of them has ended when
    the messages are read, and a later one waits, and stores the bytes again.
    """
    number = size = 0
    wanted = sorted(digests)
    for start in range(0, len(wanted), _ROWS_AT_ONCE):
        some = wanted[start : start + _ROWS_AT_ONCE]
        if not is_sqlite(connection):
            values = {f"digest_{place}": digest for place, digest in enumerate(some)}
            connection.plain.execute(_lock_statement(len(some)), {"owner": owner, **values})
        unused = read_sizes(connection, owner, find_unused(connection, owner, some))
        if unused:
            connection.execute_many(_DELETE, [{"owner": owner, "digest": digest} for digest in sorted(unused)])
        number, size = number + len(unused), size + sum(unused.values())
    return number, size


def list_digests(connection: Connection, owner: str, after: bytes) -> list[bytes]:
    """Return the next attachments of an owner after one, by their digests; []: there are no more."""
    return [bytes(row.digest) for row in connection.execute(_ALL, {"owner": owner, "after": after})]
