"""Read references, models and tags for the shell, fast, and change nothing.

A SQLite file is read by Python's `sqlite3` alone: importing SQLAlchemy takes longer than a person waits after Tab.
A server is asked through its driver, for as long as that takes no longer than `SERVER_SECONDS`; then there are no
values. No error is reported: the shell would print it into the line that is being typed.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SERVER_SECONDS = 0.15
_MAX_VALUES = 100
_MAX_TURNS = 2000  # the models of these turns are offered
_SQLITE_SECONDS = 0.1
_POSTGRES = re.compile(r"postgres(ql)?(\+psycopg)?://")
_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")

Kind = Literal["reference", "deleted", "archived", "model", "tag"]


@dataclass(frozen=True, slots=True)
class CompletedValue:
    """A value that the shell may offer, and what it is."""

    value: str
    description: str | None = None
    other: str | None = None
    """The id of a conversation that has a name as its value."""


_TITLE = "coalesce(title, made_title)"
_DRAWERS = {
    "reference": "deleted_at IS NULL AND archived_at IS NULL",
    "deleted": "deleted_at IS NOT NULL",
    "archived": "deleted_at IS NULL AND archived_at IS NOT NULL",
}


def _make_statements(kind: Kind, *, has_prefix: bool) -> list[str]:
    """Return the statements that read the values of a kind; each uses an index."""
    if kind == "tag":
        return [
            "SELECT DISTINCT tag, NULL, NULL FROM {place}convstore_tags WHERE owner = {owner} AND tag >= {begin} "  # noqa: S608
            f"AND tag < {{end}} LIMIT {_MAX_VALUES}"
        ]
    if kind == "model":
        latest = (
            "SELECT requested_model AS model FROM {place}convstore_turns WHERE owner = {owner} "  # noqa: S608
            f"ORDER BY started_at DESC LIMIT {_MAX_TURNS}"
        )
        return [
            f"SELECT DISTINCT model, NULL, NULL FROM ({latest}) AS latest "  # noqa: S608 (constants)
            "WHERE model >= {begin} AND model < {end}"
        ]
    read = f"FROM {{place}}convstore_conversations WHERE owner = {{owner}} AND {_DRAWERS[kind]}"
    if not has_prefix or kind != "reference":
        column = "id" if kind == "deleted" else "coalesce(name, id)"  # its name may belong to another one now
        order = "id" if kind == "deleted" and has_prefix else "updated_at DESC"  # each has an index
        word = f"AND {column} >= {{begin}} AND {column} < {{end}}" if has_prefix else ""
        return [f"SELECT {column}, {_TITLE}, id {read} {word} ORDER BY {order} LIMIT {_MAX_VALUES}"]
    return [
        f"SELECT {column}, {_TITLE}, NULL {read} AND {column} >= {{begin}} AND {column} < {{end}} "
        f"ORDER BY {column} LIMIT {_MAX_VALUES}"
        for column in ("name", "id")
    ]


def read_completed_values(database: str, kind: Kind, owner: str, prefix: str) -> list[CompletedValue]:
    """Return the values of a kind that begin with a prefix, or none if it takes long.

    Args:
        database: a URL, or the path of a SQLite file.
    """
    end = prefix + "\U0010ffff"
    statements = _make_statements(kind, has_prefix=bool(prefix))
    if _POSTGRES.match(database):
        read: Callable[[], list[Any]] = lambda: _read_postgres(database, statements, owner, prefix, end)  # noqa: E731
        rows = _run_in_time(read)
    else:
        rows = _read_sqlite(database, statements, owner, prefix, end)
    found: dict[str, CompletedValue] = {}
    for value, description, other in rows:
        if isinstance(value, str):
            texts = (text if isinstance(text, str) else None for text in (description, other))
            found.setdefault(value, CompletedValue(value, *texts))
    return list(found.values())


def _read_sqlite(database: str, statements: list[str], owner: str, begin: str, end: str) -> list[Any]:
    import sqlite3

    path = unquote(_SQLITE.sub("", database).partition("?")[0]) if _SQLITE.match(database) else database
    if "://" in path or path.startswith("file:") or not os.path.isfile(path):  # noqa: PTH113
        return []
    # A file without a log is read as it is: nothing is made beside it, and a writer that begins now is not waited for.
    has_log = os.path.exists(f"{os.path.realpath(path)}-wal")  # noqa: PTH110
    uri = f"file:{quote(os.path.realpath(path))}?{'mode=ro' if has_log else 'immutable=1'}"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=_SQLITE_SECONDS)
        try:
            names = {"owner": ":owner", "begin": ":begin", "end": ":end", "place": ""}
            values = {"owner": owner, "begin": begin, "end": end}
            return [
                row
                for statement in statements
                for row in connection.execute(statement.format(**names), values).fetchall()
            ]
        finally:
            connection.close()
    except (sqlite3.Error, ValueError, UnicodeError):
        return []


def _read_postgres(database: str, statements: list[str], owner: str, begin: str, end: str) -> list[Any]:
    import psycopg
    from psycopg import sql

    parts = urlsplit(_POSTGRES.sub("postgresql://", database))
    options = dict(parse_qsl(parts.query))
    schema = options.pop("schema", None)
    url = parts._replace(query="&".join(f"{name}={quote(value)}" for name, value in options.items())).geturl()
    place = sql.SQL("{}.").format(sql.Identifier(schema)) if schema else sql.SQL("")
    names = {name: sql.Placeholder(name) for name in ("owner", "begin", "end")}
    values = {"owner": owner, "begin": begin, "end": end}
    with psycopg.connect(url, connect_timeout=2, autocommit=True, prepare_threshold=None) as connection:
        connection.read_only = True
        return [
            row
            for statement in statements
            for row in connection.execute(sql.SQL(statement).format(place=place, **names), values).fetchall()
        ]


def _run_in_time(read: Callable[[], list[Any]]) -> list[Any]:
    """Return what a function returns within `SERVER_SECONDS`, else an empty list."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.extend(read())
        except Exception:
            found.clear()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SERVER_SECONDS)
    return [] if thread.is_alive() else found
