"""List conversations: page by page, and only those that a filter chooses.

The database narrows the rows where it can; each row is then compared here, so that both databases list the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, func, or_, select, tuple_

from convstore.db.connection import Connection
from convstore.db.conversation_rows import CONVERSATION_COLUMNS, LATEST_REQUEST, decode_row
from convstore.db.dialect import NO_LIMIT, count_bytes, hide_from_planner
from convstore.db.drawer_rows import list_tagged
from convstore.db.row_errors import DECODING_ERRORS, damaged_row
from convstore.db.tables import EPOCH, UtcDateTime, tags
from convstore.db.tables import conversations as table
from convstore.errors import DamagedRow
from convstore.messages.storable_text import from_column, to_column, to_json
from convstore.values.list_filter import Drawer, ListCursor, ListFilter
from convstore.values.results import Conversation

_ROWS_AT_ONCE = 500
_TAG, _METADATA, _JSON = "tag_", "metadata_", "json_"
_OTHER_LETTERS, _RARE = "other_letters", "rare"
_FEW = 500  # conversations with a tag: then they are read and sorted, and no others
_DRAWERS = {
    Drawer.LISTED: (table.c.deleted_at.is_(None), table.c.archived_at.is_(None)),
    Drawer.ARCHIVED: (table.c.deleted_at.is_(None), table.c.archived_at.is_not(None)),
    Drawer.DELETED: (table.c.deleted_at.is_not(None),),
}
_NEWEST_FIRST = (table.c.updated_at.desc(), table.c.id.desc())
_MOMENT = UtcDateTime()
# SQLite would read all conversations in this order for a few with a tag.
_SORTED_NEWEST_FIRST = (hide_from_planner(table.c.updated_at, EPOCH).desc(), table.c.id.desc())
_IS_BEFORE = tuple_(table.c.updated_at, table.c.id) < tuple_(
    bindparam("updated_at", type_=_MOMENT), bindparam("before_id")
)


def _contains(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """Return whether a text has a part; `LIKE` would take its `%` and `_` for signs of its own."""
    return func.replace(column, bindparam(parameter), "") != column


def _has_other_letters(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    """Return whether a text has letters beyond ASCII, or is stored as JSON: only `fold` can compare these."""
    return or_(count_bytes(dialect, column) != func.length(column), func.substr(column, 1, 1) == '"')


def _read_names(dialect: str, condition: Callable[[ColumnElement[Any], str], ColumnElement[bool]]) -> Any:
    """Return whether a title or a name meets a condition."""
    return or_(*(condition(column, dialect) for column in (table.c.title, table.c.made_title, table.c.name)))


def _has_text(column: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    return or_(_contains(func.lower(column), "text"), _has_other_letters(column, dialect))


@cache
def _list_statement(dialect: str, drawer: Drawer, used: frozenset[str]) -> Any:
    """Return the statement for a page of a list.

    Args:
        used: the parameters of the conditions that it has; `other_letters`: a title or a name must have letters beyond
            ASCII; `rare`: few conversations have one of the tags.
    """
    tagged = tags.c.owner == bindparam("owner")
    conditions: dict[str, ColumnElement[bool]] = {
        "before_id": _IS_BEFORE,
        "since": table.c.updated_at >= bindparam("since", type_=_MOMENT),
        "until": table.c.updated_at < bindparam("until", type_=_MOMENT),
        "text": _read_names(dialect, _has_text),
        _OTHER_LETTERS: _read_names(dialect, _has_other_letters),
        "model": or_(
            _contains(table.c.settings, "model_json"),
            _contains(LATEST_REQUEST.element, "model_json"),
            table.c.inherited_model == bindparam("model"),
            table.c.inherited_model.is_(None) & table.c.lineage.is_not(None),  # an earlier release wrote the row
        ),
    }
    chosen = [condition for name, condition in conditions.items() if name in used]
    for name in sorted(used):
        if name.startswith(_TAG):
            has_tag = tagged & (tags.c.tag == bindparam(name))
            if _RARE in used:
                chosen.append(table.c.id.in_(select(tags.c.conversation_id).where(has_tag)))
            else:
                one = select(tags.c.tag).where(has_tag, tags.c.conversation_id == table.c.id)
                chosen.append(one.correlate(table).exists())
        elif name.startswith(_METADATA):
            as_json = _JSON + name.removeprefix(_METADATA)
            chosen.append(or_(_contains(table.c.metadata, name), _contains(table.c.metadata, as_json)))
    return (
        select(*CONVERSATION_COLUMNS)
        .where(table.c.owner == bindparam("owner"), *_DRAWERS[drawer], *chosen)
        .order_by(*(_SORTED_NEWEST_FIRST if _RARE in used else _NEWEST_FIRST))
        .limit(bindparam("most"))
    )


def _bind(chosen: ListFilter) -> dict[str, Any]:
    """Return the parameters of a filter's conditions."""
    values: dict[str, Any] = {"since": chosen.since, "until": chosen.until}
    if chosen.text is not None and chosen.text.isascii():
        values["text"] = max(chosen.text.split(), key=len)  # white space between words may be any
    # JSON with a text that no database can hold has escapes for all letters beyond ASCII.
    if chosen.model is not None and chosen.model.isascii():
        values |= {"model": to_column(chosen.model), "model_json": f'"model":{to_json(chosen.model)}'}
    # Each value as a text, and as the JSON that it may be: 3, true, {"a": 1}.
    parts = [(f"{to_json(key)}:{to_json(value)}", f"{to_json(key)}:{value}") for key, value in chosen.metadata.items()]
    if chosen.source is not None:
        parts.append((f'"kind":{to_json(chosen.source)}',) * 2)
    for number, (as_text, as_json) in enumerate(parts):
        if as_text.isascii():
            values |= {f"{_METADATA}{number}": as_text, f"{_JSON}{number}": as_json}
    values |= {f"{_TAG}{number}": tag for number, tag in enumerate(sorted(chosen.tags))}
    return {name: value for name, value in values.items() if value is not None}


def list_conversations(
    connection: Connection, owner: str, limit: int | None, before: ListCursor | None, chosen: ListFilter
) -> tuple[list[Conversation], list[DamagedRow]]:
    """Return conversations, latest activity first, and the errors of those with a damaged row.

    Args:
        limit: the maximum number of both together; None: all.
        before: return only those that come after this place in that order; None: begin at the top.
    """
    found: list[Conversation] = []
    damaged: list[DamagedRow] = []
    if limit == 0:
        return found, damaged
    for row in _iterate_rows(connection, owner, limit, before, chosen):
        if chosen.text is not None and not _is_named(row, chosen.text):
            continue
        try:
            conversation = decode_row(connection, row)
            if _is_chosen(conversation, chosen):
                found.append(conversation)
        except DamagedRow as error:
            damaged.append(error)
        if len(found) + len(damaged) == limit:
            break
    return found, damaged


def _iterate_rows(
    connection: Connection, owner: str, limit: int | None, before: ListCursor | None, chosen: ListFilter
) -> Iterator[Row[Any]]:
    """Yield the rows that the database chooses, page by page."""
    values = _bind(chosen)
    flags = frozenset(_choose_flags(connection, owner, chosen))
    is_exact = chosen.text is chosen.model is chosen.source is None and not chosen.metadata
    most = NO_LIMIT if limit is None else limit if is_exact else max(limit, _ROWS_AT_ONCE)
    while True:
        if before is not None:
            values |= {"updated_at": before.updated_at, "before_id": before.id}
        statement = _list_statement(connection.dialect.name, chosen.drawer, frozenset(values) | flags)
        rows = connection.execute(statement, {"owner": owner, "most": most, **values}).all()
        yield from rows
        if len(rows) < most:
            return
        last = rows[-1]
        if not isinstance(last.updated_at, datetime):
            raise damaged_row(last.id, "column updated_at does not hold a time, so the list cannot go on from it")
        before = ListCursor(last.updated_at, last.id)


def _choose_flags(connection: Connection, owner: str, chosen: ListFilter) -> Iterator[str]:
    """Yield what else narrows the statement, besides its parameters."""
    if chosen.text is not None and not chosen.text.isascii():
        yield _OTHER_LETTERS
    if any(len(list_tagged(connection, owner, tag, _FEW + 1)) <= _FEW for tag in chosen.tags):
        yield _RARE


def _is_named(row: Row[Any], folded: str) -> bool:
    """Return True if a text is in the title or the name."""
    from convstore.search.folded_text import fold  # most lists need none

    try:
        title = from_column(row.title if row.title is not None else row.made_title)
    except DECODING_ERRORS:
        return True  # so that `decode_row` names the damage
    return any(type(name) is not str or folded in fold(name) for name in (title, row.name) if name is not None)


def _is_chosen(conversation: Conversation, chosen: ListFilter) -> bool:
    if chosen.model is not None and conversation.model != chosen.model:
        return False
    if chosen.source is not None:
        origin = conversation.metadata.get("import")
        if not isinstance(origin, dict) or origin.get("kind") != chosen.source:
            return False
    return all(
        key in conversation.metadata and value in _spell(conversation.metadata[key])
        for key, value in chosen.metadata.items()
    )


def _spell(value: object) -> tuple[str, ...]:
    """Return the texts that a value of metadata can be asked for by: the text itself, or its JSON."""
    return (value, to_json(value)) if isinstance(value, str) else (to_json(value),)
