"""Read and write what people put conversations in order with: the archive, tags, and ratings of replies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, func, select, update

from convstore.db.connection import Connection
from convstore.db.dialect import NO_LIMIT, insert_or_ignore, insert_or_update
from convstore.db.fork_sharing import Lineage, list_origins
from convstore.db.row_check import RowCheck
from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.db.tables import conversations, ratings, tags
from convstore.messages.storable_text import from_column, to_column
from convstore.values.identifiers import NO_SEQ, ConversationKey, Seq
from convstore.values.results import Rating, RatingValue

_ARCHIVE = (
    update(conversations)
    .where(conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
    .values(archived_at=bindparam("moment"))
)
_UNTAG = delete(tags).where(
    tags.c.owner == bindparam("owner"),
    tags.c.conversation_id == bindparam("conversation_id"),
    tags.c.tag == bindparam("tag"),
)
_HAS_TAG = select(tags.c.tag).where(
    tags.c.owner == bindparam("owner"),
    tags.c.conversation_id == bindparam("conversation_id"),
    tags.c.tag == bindparam("tag"),
)
_TAGS = (
    select(tags.c.tag)
    .where(tags.c.owner == bindparam("owner"), tags.c.conversation_id == bindparam("conversation_id"))
    .order_by(tags.c.tag)
)
_TAGGED = (
    select(tags.c.conversation_id)
    .where(tags.c.owner == bindparam("owner"), tags.c.tag == bindparam("tag"))
    .order_by(tags.c.conversation_id)
    .limit(bindparam("most"))
)
_TAG_COUNTS = (
    select(tags.c.tag, func.count().label("conversations"))
    .join(
        conversations,
        (conversations.c.owner == bindparam("owner")) & (conversations.c.id == tags.c.conversation_id),
    )
    .where(tags.c.owner == bindparam("owner"), conversations.c.deleted_at.is_(None))
    .group_by(tags.c.tag)
    .order_by(tags.c.tag)
)
_RATING_COLUMNS = (ratings.c.seq, ratings.c.rating, ratings.c.note, ratings.c.rated_at)
_check_ratings = RowCheck(_RATING_COLUMNS)
_OF_CONVERSATION = (ratings.c.owner == bindparam("owner"), ratings.c.conversation_id == bindparam("conversation_id"))
_RATINGS = (
    select(*_RATING_COLUMNS)
    .where(*_OF_CONVERSATION, ratings.c.seq > bindparam("after"), ratings.c.seq <= bindparam("up_to"))
    .order_by(ratings.c.seq)
)
_RATING = select(ratings.c.rating).where(*_OF_CONVERSATION, ratings.c.seq == bindparam("seq"))
_RATED_AT = select(ratings.c.rated_at).where(*_OF_CONVERSATION, ratings.c.seq == bindparam("seq"))
_UNRATE = delete(ratings).where(*_OF_CONVERSATION, ratings.c.seq == bindparam("seq"))


@cache
def _tag_statement(dialect: str) -> Any:
    return insert_or_ignore(tags, dialect)


@cache
def _rate_statement(dialect: str) -> Any:
    given = {name: bindparam(f"given_{name}", type_=ratings.c[name].type) for name in ("rating", "note", "rated_at")}
    return insert_or_update(ratings, given, dialect)


def set_archived(connection: Connection, key: ConversationKey, moment: datetime | None) -> None:
    """Put a conversation into the archive; None: take it out."""
    connection.execute(_ARCHIVE, {"key_owner": key.owner, "key_id": key.id, "moment": moment})


def add_tags(connection: Connection, key: ConversationKey, names: Sequence[str]) -> None:
    """Add tags to a conversation; those that it has stay."""
    if names:
        connection.execute_many(_tag_statement(connection.dialect.name), [_bind_tag(key, name) for name in names])


def remove_tags(connection: Connection, key: ConversationKey, names: Sequence[str]) -> None:
    """Remove tags from a conversation; those that it does not have do not matter."""
    for name in names:
        connection.execute(_UNTAG, _bind_tag(key, name))


def read_tags(connection: Connection, key: ConversationKey) -> list[str]:
    """Return the tags of a conversation, in alphabetical order."""
    found = connection.execute(_TAGS, {"owner": key.owner, "conversation_id": key.id})
    return [row.tag for row in found]


def has_tag(connection: Connection, key: ConversationKey, name: str) -> bool:
    """Return True if a conversation has a tag."""
    return connection.execute(_HAS_TAG, _bind_tag(key, name)).first() is not None


def list_tagged(connection: Connection, owner: str, name: str, most: int) -> list[str]:
    """Return the ids of conversations with a tag, deleted ones too: `most` of them at most."""
    return [row.conversation_id for row in connection.execute(_TAGGED, {"owner": owner, "tag": name, "most": most})]


def count_tags(connection: Connection, owner: str) -> dict[str, int]:
    """Return an owner's tags, each with the number of its conversations that are not deleted."""
    return {row.tag: row.conversations for row in connection.execute(_TAG_COUNTS, {"owner": owner})}


def write_rating(
    connection: Connection, home: ConversationKey, seq: Seq, rating: RatingValue, note: str | None, now: datetime
) -> None:
    """Rate a reply; a rating that it has is replaced.

    Args:
        home: the conversation that has the reply's row.
    """
    row = {"rating": rating.value, "note": to_column(note), "rated_at": now}
    given = {f"given_{name}": value for name, value in row.items()}
    connection.execute(_rate_statement(connection.dialect.name), {**_bind_reply(home, seq), **row, **given})


def keep_later_rating(connection: Connection, home: ConversationKey, rating: Rating) -> None:
    """Store a rating, unless the reply has a later one."""
    rated_at = connection.scalar(_RATED_AT, _bind_reply(home, rating.seq))
    if rated_at is None or rated_at < rating.rated_at:
        write_rating(connection, home, rating.seq, rating.rating, rating.note, rating.rated_at)


def remove_rating(connection: Connection, home: ConversationKey, seq: Seq) -> None:
    """Remove the rating of a reply, if it has one."""
    connection.execute(_UNRATE, _bind_reply(home, seq))


def read_rating(connection: Connection, home: ConversationKey, seq: Seq) -> str | None:
    """Return `good` or `bad`, or None if the reply is not rated."""
    found: str | None = connection.scalar(_RATING, _bind_reply(home, seq))
    return found


def read_ratings(connection: Connection, lineage: Lineage) -> list[Rating]:
    """Return the ratings of a conversation's replies, those of its shared past too, by `seq`.

    Raises:
        DamagedRow: a row cannot be decoded.
    """
    origins = list_origins(connection, lineage)  # nearest first, so their parts end earlier and earlier
    homes = [(lineage.key.id, Seq(NO_LIMIT)), *((one.conversation_id, one.up_to_seq) for one in origins)]
    found: list[Rating] = []
    for number, (id, up_to) in enumerate(homes):
        after = homes[number + 1][1] if number + 1 < len(homes) else NO_SEQ
        values = {"owner": lineage.key.owner, "conversation_id": id, "after": after, "up_to": up_to}
        rows = connection.execute(_RATINGS, values).all()
        _check_ratings(rows, id, "the rating of message seq")
        found += [_decode_rating(row, id) for row in rows]
    return sorted(found, key=lambda rating: rating.seq)


def _decode_rating(row: Any, conversation_id: str) -> Rating:
    try:
        return Rating(row.seq, RatingValue(row.rating), from_column(row.note), row.rated_at)
    except DECODING_ERRORS as error:
        raise damaged_row(conversation_id, f"the rating of message seq {row.seq}: {error}") from error


def _bind_tag(key: ConversationKey, name: str) -> dict[str, Any]:
    return {"owner": key.owner, "conversation_id": key.id, "tag": name}


def _bind_reply(home: ConversationKey, seq: Seq) -> dict[str, Any]:
    return {"owner": home.owner, "conversation_id": home.id, "seq": seq}
