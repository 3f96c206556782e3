"""Read and write how long conversations are kept."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import bindparam, delete, select

from convstore.db.connection import Connection
from convstore.db.dialect import insert_or_update
from convstore.db.tables import retention as table
from convstore.values.retention_rule import Retained, RetentionRule

_OF_OWNER = select(table).where(table.c.owner == bindparam("owner")).order_by(table.c.covers)
_OWNERS = select(table.c.owner).distinct().order_by(table.c.owner)
_REMOVE = delete(table).where(table.c.owner == bindparam("owner"), table.c.covers == bindparam("covers"))


@cache
def _set_statement(dialect: str) -> Any:
    given = {name: bindparam(f"given_{name}", type_=table.c[name].type) for name in ("keep_seconds", "set_at")}
    return insert_or_update(table, given, dialect)


def set_rule(connection: Connection, rule: RetentionRule) -> None:
    """Store a rule; it replaces the one for the same conversations."""
    values = {"keep_seconds": int(rule.keep.total_seconds()), "set_at": rule.set_at}
    given = {f"given_{name}": value for name, value in values.items()}
    key = {"owner": rule.owner, "covers": rule.covers.value}
    connection.execute(_set_statement(connection.dialect.name), {**key, **values, **given})


def read_rules(connection: Connection, owner: str) -> list[RetentionRule]:
    """Return the rules of an owner."""
    return [
        RetentionRule(row.owner, Retained(row.covers), timedelta(seconds=row.keep_seconds), row.set_at)
        for row in connection.execute(_OF_OWNER, {"owner": owner})
    ]


def remove_rule(connection: Connection, owner: str, covers: Retained) -> bool:
    """Remove a rule; return False if it does not exist."""
    return bool(connection.execute(_REMOVE, {"owner": owner, "covers": covers.value}).rowcount)


def list_owners(connection: Connection) -> list[str]:
    """Return the owners that have a rule: for administrators."""
    return [row.owner for row in connection.execute(_OWNERS)]
