"""Fill, read and inspect PostgreSQL schemas that several stores have in one database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import (
    Connection,
    create_engine,
    make_url,
    text,
)

from convstore import Store
from convstore.db.engine import Database, open_database
from convstore.db.tables import VERSION_TABLE, metadata
from convstore.errors import ConversationNotFound

OURS = {*metadata.tables, VERSION_TABLE}


def in_schema(url: str, schema: str) -> str:
    return make_url(url).update_query_dict({"schema": schema}).render_as_string(hide_password=False)


def with_path(url: str, path: str) -> str:
    """Return the URL with a search path that holds from the start of each connection."""
    return make_url(url).update_query_dict({"options": f"-csearch_path={path}"}).render_as_string(hide_password=False)


@contextmanager
def administered(url: str) -> Iterator[Connection]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def execute(url: str, *statements: str) -> None:
    with administered(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def find_tables(url: str) -> dict[str, set[str]]:
    """Return the names of tables, indexes and constraints by schema, except PostgreSQL's own."""
    found: dict[str, set[str]] = {}
    with administered(url) as connection:
        for schema, name in connection.execute(
            text(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"
            )
        ):
            found.setdefault(schema, set()).add(name)
    return found


@contextmanager
def opened_database(url: str) -> Iterator[Database]:
    database = open_database(url)
    yield database
    database.close()


def fill_with(store: Store, mark: str) -> None:
    """Do the same for each tenant; only the texts differ."""
    store.new(mark, id="same-id", name="same-name", system=mark, metadata={"mark": mark})
    store.say("same-id", f"{mark} says", idempotency_key="key")
    store.say("same-id", f"{mark} says", idempotency_key="key")
    store.append("same-id", {"role": "user", "content": f"{mark} adds"})
    store.undo("same-id")
    store.fork("same-id", name="fork")
    store.say(store.get("fork").id, f"{mark} goes on")
    store.new(f"{mark} deleted", id="deleted")
    store.delete("deleted")
    store.new(f"{mark} alone", id=f"only-{mark}")


def assert_only(store: Store, mark: str, other: str) -> None:
    assert [found.title for found in store.list(deleted=True)] == [f"{mark} deleted"]
    assert len(store.list(limit=None)) == 3
    assert store.get("same-").title == store.get("same-name").title == mark
    assert store.get("same-name").metadata == {"mark": mark}
    texts = [mark, f"{mark} says", f"You said: {mark} says", f"{mark} goes on", f"You said: {mark} goes on"]
    assert [message["content"] for message in store.history(store.get("fork").id)] == texts
    assert [message["content"] for message in store.history("same-id")] == texts[:3]
    assert len(store.turns("same-id")) == 1
    assert store.usage().total.turns == 2
    assert [row.turns for row in store.usage_by_owner().rows] == [2]
    assert store.get("only-").id == f"only-{mark}"
    with pytest.raises(ConversationNotFound):
        store.get(f"only-{other}")
