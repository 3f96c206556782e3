"""Test stores of one schema inside a caller's own transaction, which keeps the schemas of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Select,
    Table,
    create_engine,
    select,
    text,
)
from sqlalchemy.ext.asyncio import create_async_engine

from convstore import AsyncStore, Store
from convstore.errors import ConversationNotFound
from tests.schema.tenants import (
    execute,
    with_path,
)


def count_mine() -> Select[Any]:
    """Return a statement on the application's table, which names no schema."""
    return select(Table("mine", MetaData(), Column("number", Integer)).c.number)


@pytest.fixture
def engine(tenants_url: str) -> Iterator[Engine]:
    """Yield an application's engine; its table `mine` is in two schemas."""
    execute(
        tenants_url, "CREATE SCHEMA app", "CREATE TABLE app.mine (number int)", "CREATE TABLE public.mine (number int)"
    )
    execute(tenants_url, "INSERT INTO app.mine VALUES (1)", "INSERT INTO public.mine VALUES (2)")
    made = create_engine(tenants_url)
    yield made
    made.dispose()


def test_a_callers_transaction_uses_the_schema_of_each_store(tenants_url: str, engine: Engine) -> None:
    mine = count_mine()
    with (
        Store(tenants_url, schema="t1") as one,
        Store(engine=engine, schema="t2") as two,
        Store(engine=engine) as third,
    ):
        for is_used in (False, True):  # before and after the stores know their schemas
            with engine.begin() as connection:
                views = [store.using(connection) for store in (one, two, third)]
                for number, view in enumerate(views):
                    view.new(f"Of {number}", id=f"same-{is_used}", system="Hi")
                    assert connection.scalars(mine).all() == [2]
                for number, view in enumerate(views):
                    assert view.get(f"same-{is_used}").title == f"Of {number}"
                    view.append(f"same-{is_used}", f"more of {number}")
                    assert view.history(f"same-{is_used}")[-1]["content"] == f"more of {number}"
                    assert len(view.list()) == 1 + is_used
                assert connection.scalars(mine).all() == [2]
            for number, store in enumerate((one, two, third)):
                assert [found.title for found in store.list()] == [f"Of {number}"] * (1 + is_used)


@pytest.mark.parametrize("own", [{None: "app"}, {None: "app", "x": "public"}, {"x": "app"}])
def test_a_callers_own_schemas_hold_again_after_each_call(engine: Engine, own: dict[Any, str]) -> None:
    mine = count_mine()
    with Store(engine=engine, schema="t1") as store, engine.connect() as connection:
        connection.execution_options(schema_translate_map=own)
        view = store.using(connection)
        number = 1 if own.get(None) == "app" else 2
        for _ in range(2):
            view.new()
            assert connection.get_execution_options()["schema_translate_map"] == own
            assert connection.scalars(mine).all() == [number]
        with pytest.raises(ConversationNotFound):
            view.history("absent")
        assert connection.get_execution_options()["schema_translate_map"] == own
        assert connection.scalars(mine).all() == [number]
        connection.commit()
        assert len(store.list()) == 2


def test_a_connection_without_schemas_of_its_own_has_none_after_an_error(engine: Engine) -> None:
    mine = count_mine()
    with Store(engine=engine, schema="t1") as store, engine.connect() as connection:
        with pytest.raises(ConversationNotFound):
            store.using(connection).history("absent")
        assert connection.get_execution_options().get("schema_translate_map") is None
        assert connection.scalars(mine).all() == [2]


def test_the_schema_of_a_callers_engine_or_connection_is_the_stores(engine: Engine) -> None:
    """`schema_translate_map` is SQLAlchemy's own way to choose a schema for tables that name none."""
    chosen = engine.execution_options(schema_translate_map={None: "t2"})
    with Store(engine=chosen) as store, Store(engine=engine, schema="t1") as one, Store(engine=engine) as third:
        store.new("Of t2")
        with engine.begin() as connection:
            connection.execution_options(schema_translate_map={None: "t2"})
            assert [found.title for found in third.using(connection).list()] == ["Of t2"]
            assert one.using(connection).list() == []  # what the store was given comes first
        assert third.list() == []
    with Store(engine=chosen, schema="t1") as store:
        assert store.list() == []


def test_without_a_schema_a_strange_connection_means_its_current_one_at_the_first_call(
    tenants_url: str, postgres_server: str
) -> None:
    strange = create_engine(with_path(tenants_url, "t2,public"))
    with Store(postgres_server) as elsewhere, strange.begin() as connection:
        view = elsewhere.using(connection)
        view.new("Of t2")
        connection.execute(text("SET LOCAL search_path TO t1"))
        assert len(view.list()) == 1  # still t2
        assert elsewhere.using(connection).list() == []
    strange.dispose()
    with Store(tenants_url, schema="t2") as store:
        assert len(store.list()) == 1


def test_without_a_schema_the_connections_path_does_not_change_what_a_store_knows(
    tenants_url: str, engine: Engine
) -> None:
    with Store(engine=engine) as store:
        store.new("Of public")
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL search_path TO t1"))
            assert [found.title for found in store.using(connection).list()] == ["Of public"]


def test_an_asynchronous_transaction_uses_the_schema_of_the_store(tenants_url: str) -> None:
    async def use() -> None:
        engine = create_async_engine(tenants_url)
        store, third = AsyncStore(tenants_url, schema="t1"), AsyncStore(tenants_url)
        async with engine.begin() as connection:
            view = store.using(connection)
            await view.new("Of t1", id="x")
            await view.append("x", "Hi")
            plain = third.using(connection)
            await plain.new("Of public", id="x")
            await connection.execute(text("SET LOCAL search_path TO t2"))
            assert [found.title for found in await plain.list()] == ["Of public"]  # read once
            assert (await connection.get_raw_connection()).driver_connection is not None
            assert (await connection.execute(text("SELECT count(*) FROM convstore_conversations"))).scalar() == 0
        assert [found.title for found in await store.list()] == ["Of t1"]
        assert [found.title for found in await third.list()] == ["Of public"]
        await engine.dispose()
        await store.close()
        await third.close()

    asyncio.run(use())
