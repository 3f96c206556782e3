"""Check the rules for statements that let a distributed PostgreSQL run them on one server.

Citus and its kin keep all rows of an owner on one server. They find it by a constant owner at every level of a
statement, and they refuse a volatile function in a write, because each copy of a row could get another value.

The statements are those that the modules of `convstore.db` define, and those that a walk through the store sends.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import (
    Alias,
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    FromClause,
    Join,
    Select,
    Table,
    bindparam,
    event,
    func,
    select,
    update,
)
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.dml import Delete, Insert, Update
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, Label
from sqlalchemy.sql.functions import FunctionElement

import convstore.db
from convstore import ImportedConversation, ImportedMessage, Store
from convstore.db import copied_rows, loaded_lines, text_occurrences
from convstore.db.tables import conversations, messages, turns
from convstore.testing import ChatServer, Reply
from convstore.values.list_filter import Drawer
from tests.faults.driven import opened

# https://www.postgresql.org/docs/current/xfunc-volatility.html; all functions that the package may call in a write.
NOT_VOLATILE = {"statement_timestamp", "coalesce", "count", "length", "few"}

REFERENCE_TABLES = {"convstore_api_keys"}
"""Tables that every server has whole: a key is looked up by the digest of its secret, before its owner is known."""


def find_faults(statement: Any) -> list[str]:
    """Return what a distributed PostgreSQL would not accept in a statement."""
    faults = []
    if isinstance(statement, Insert | Update | Delete):
        faults += [
            f"{function.name} in a write"
            for function in visitors.iterate(statement)
            if isinstance(function, FunctionElement) and function.name not in NOT_VOLATILE
        ]
    for part in visitors.iterate(statement):
        if isinstance(part, Select):
            outer = part._correlate or ()  # belongs to a level around this one
            faults += _find_unbound([one for one in part.get_final_froms() if one not in outer], part.whereclause)
        elif isinstance(part, Update | Delete):
            faults += _find_unbound([part.table], part.whereclause)
        elif isinstance(part, Insert) and part.select is not None:
            source = dict(zip(part._select_names or (), part.select.selected_columns, strict=True))
            if not _is_owner_column(source.get("owner")):
                faults.append("INSERT … SELECT does not take the owner from its source")
    return faults


def _find_unbound(froms: Any, where: ColumnElement[bool] | None) -> list[str]:
    conditions = list(_split(where))
    tables = [table for one in froms for table in _list_tables(one, conditions)]
    bound = [
        column.table
        for condition in conditions
        if isinstance(condition, BinaryExpression) and condition.operator is operators.eq
        for column, value in ((condition.left, condition.right), (condition.right, condition.left))
        if isinstance(value, BindParameter) and getattr(column, "name", None) == "owner"
    ]
    return [f"{table} is read without a constant owner" for table in tables if table not in bound]


def _list_tables(one: FromClause, conditions: list[ColumnElement[bool]]) -> Iterator[FromClause]:
    """Yield the tables with an owner; add the conditions of joins to `conditions`."""
    if isinstance(one, Join):
        conditions.extend(_split(one.onclause))
        yield from _list_tables(one.left, conditions)
        yield from _list_tables(one.right, conditions)
    elif isinstance(one, Table | Alias) and "owner" in one.c and one.name not in REFERENCE_TABLES:
        yield one


def _split(condition: Any) -> Iterator[ColumnElement[bool]]:
    if isinstance(condition, BooleanClauseList) and condition.operator is operators.and_:
        for clause in condition.clauses:
            yield from _split(clause)
    elif condition is not None:
        yield condition


def _is_owner_column(value: Any) -> bool:
    while isinstance(value, Label):
        value = value.element
    return getattr(value, "name", None) == "owner" and getattr(value, "table", None) is not None


def list_defined_statements() -> dict[str, Any]:
    """Return the statements that the modules of `convstore.db` keep, by name; functions are called for every kind."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(convstore.db.__path__):
        for name, value in vars(importlib.import_module(f"convstore.db.{module.name}")).items():
            if isinstance(value, Executable):
                found[f"{module.name}.{name}"] = value
            elif name.endswith("_statement"):
                for arguments in itertools.product(*map(_choose, inspect.signature(value).parameters.values())):
                    made = value(**dict(arguments))
                    assert isinstance(made, Executable), f"{module.name}.{name} makes no statement"
                    found[f"{module.name}.{name}{dict(arguments)}"] = made
    return found


def _choose(parameter: inspect.Parameter) -> list[tuple[str, Any]]:
    choices: dict[str, list[Any]] = {
        "dialect": ["sqlite", "postgresql"],
        "width": [0, 1, 4],
        "ends_early": [True, False],
        "is_named": [True, False],
        "count": [1, 3],
        "moves_head": [True, False],
        "drawer": list(Drawer),
        "used": [
            frozenset(),
            frozenset({"tag_0", "other_letters"}),
            frozenset(
                {
                    "before_id",
                    "updated_at",
                    "since",
                    "until",
                    "text",
                    "model",
                    "model_json",
                    "tag_0",
                    "metadata_0",
                    "rare",
                }
            ),
        ],
        "is_next_page": [True, False],
        "is_after": [True, False],
        "is_descending": [True, False],
        "of_model": [True, False],
        "given": [(), ("title",), ("made_title",), ("title", "made_title")],
        "clears": [True, False],
        "has_alternatives": [True, False],
        "is_scan": [True, False],
        "is_sorted": [True, False],
        "terms": [1, 3],
        "prefixes": [0, 2],
        "alternatives": [0, 2],
        "of_conversation": [True, False],
        "table": [*copied_rows.COPIED_TABLES],
        "columns": [None],
        "loaded": [*loaded_lines.LOADED_TABLES],
        "searched": [*text_occurrences.SEARCHED],
    }
    return [(parameter.name, value) for value in choices[parameter.name]]


DEFINED = list_defined_statements()


def test_the_modules_define_the_statements_of_a_turn() -> None:
    assert len(DEFINED) > 80
    assert {"lease_rows._claim_statement{'dialect': 'postgresql'}", "head_rows._MOVE"} <= DEFINED.keys()


ACROSS_OWNERS = {
    "daily_usage._OWNERS",
    "database_copy._COUNT",
    "database_copy._RUNNING",
    *(f"database_statistics.{name}" for name in ("_OWNERS", "_TURNS", "_MESSAGES", "_CONVERSATIONS", "_UNINDEXED")),
    "database_statistics._attachments_statement",
    "health_rows._HOLDERS",
    "retention_rows._OWNERS",
    "row_stream._page_statement",
    "search_backlog._OWNERS",
    "search_backlog._WAITING_OWNERS",
    *(f"verification._{name}" for name in ("KEYS", "KEYS_AFTER", "ATTACHMENTS", "ATTACHMENTS_AFTER")),
}
"""`db copy`, `db reindex`, `db stats`, `db verify`, `doctor`, `retention run --all-owners`: for administrators."""


@pytest.mark.parametrize("name", sorted(name for name in DEFINED if name.partition("{")[0] not in ACROSS_OWNERS))
def test_a_defined_statement_names_a_constant_owner_at_every_level(name: str) -> None:
    statement = DEFINED[name]
    assert find_faults(statement) == [], str(statement)


@pytest.fixture
def sync_store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with opened("sync", database_url, chat_server) as store:
        yield store


@pytest.fixture
def sent() -> Iterator[list[Any]]:
    """Yield the statements that any engine sends."""
    statements: list[Any] = []

    def keep(_: Connection, statement: Any, *__: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_execute", keep)
    yield statements
    event.remove(Engine, "before_execute", keep)


def walk(store: Store, chat_server: ChatServer) -> None:
    """Do everything that a store can do for one owner."""
    first = store.new(name="a", title="One", messages=[{"role": "system", "content": "Be brief."}])
    store.say(first.id, "Hi", idempotency_key="k")
    store.say(first.id, "Hi", idempotency_key="k")
    with store.stream(first.id, "And?") as reply:
        list(reply)
    fork = store.fork(first.id, name="f")
    fork_of_fork = store.fork(fork.id, title="Two")
    store.say(fork_of_fork.id, "More", last=2)
    store.append(fork.id, {"role": "user", "content": "x"})
    store.undo(first.id)
    store.redo(first.id)
    store.pin(first.id, 2)
    store.say(first.id, "Pinned", max_context=2000)
    store.unpin(first.id, 2)
    store.edit(first.id, 2, "Again")
    store.retry(first.id)
    store.checkout(first.id, 3)
    chat_server.script(Reply("A summary."))
    store.compact(first.id, keep_last=1)
    store.say(first.id, "After it")
    store.summary(first.id)
    store.drop_summary(first.id)
    store.set(first.id, name="b", title=None, metadata={"a": 1}, temperature=0.5)
    store.stop(first.id)
    for by in (None, "model", "day", "conversation"):
        store.usage(by=by)
        store.usage(conversation_id=first.id, by=by)
    store.list(before=store.list(limit=1)[0])
    store.get("b")
    store.get(first.id[:6])
    store.history(first.id, limit=1)
    store.history(fork_of_fork.id)
    store.tree(fork_of_fork.id)
    store.turns(first.id, limit=1)
    store.preview(first.id, "What would be sent?")
    for query in ("Hi", "->", "agai*"):
        store.search(query)
        store.search(query, conversation_id=fork_of_fork.id)
    store.append(fork.id, {"role": "user", "content": "x" * 100_001})  # the search index gets it later
    store.reindex(whole=True)
    store.import_([ImportedConversation("1", [ImportedMessage("1", None, {"role": "user", "content": "x"})], None)])
    store.delete(first.id)
    store.search("Hi")  # in a living fork
    store.restore(first.id)
    store.set_retention(timedelta(days=1))
    store.run_retention()
    store.unset_retention()
    store.create_key(name="k")
    store.list_keys()
    store.purge(first.id, dry_run=True)
    store.purge(first.id)
    store.purge_older_than(timedelta(), dry_run=True)
    store.purge_owner()


def test_every_statement_that_is_sent_names_a_constant_owner_at_every_level(
    sync_store: Store, chat_server: ChatServer, sent: list[Any]
) -> None:
    walk(sync_store, chat_server)
    assert len(sent) > 150
    faults = {
        fault: str(statement)
        for statement in sent
        if isinstance(statement, Executable)
        for fault in find_faults(statement)
    }
    assert faults == {}


def test_usage_by_owner_is_the_named_exception(sync_store: Store, sent: list[Any]) -> None:
    sync_store.usage_by_owner()
    assert {fault for statement in sent for fault in find_faults(statement)} == {
        "convstore_turns is read without a constant owner"
    }


OWNER = messages.c.owner == bindparam("owner")


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        (select(messages.c.seq), "convstore_messages is read without a constant owner"),
        (
            select(messages.c.seq).join(turns, turns.c.owner == messages.c.owner).where(OWNER),
            "convstore_turns is read without a constant owner",
        ),
        (
            select(messages.c.seq).where(OWNER, messages.c.seq.in_(select(turns.c.seq))),
            "convstore_turns is read without a constant owner",
        ),
        (
            update(conversations).where(conversations.c.owner == bindparam("o")).values(title=func.random()),
            "random in a write",
        ),
        (
            update(conversations).values(title=None),
            "convstore_conversations is read without a constant owner",
        ),
        (
            conversations.insert().from_select(
                ["owner", "id"], select(bindparam("o").label("owner"), messages.c.conversation_id).where(OWNER)
            ),
            "INSERT … SELECT does not take the owner from its source",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "statement",
)
def test_a_statement_that_breaks_a_rule_is_found(statement: Any, fault: str) -> None:
    assert find_faults(statement) == [fault]
