"""Other people's PostgreSQL: a database in another encoding, and sessions with other settings."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url

from convstore import DatabaseUnavailable, Store
from convstore.db import schema_upgrade
from convstore.db.engine import open_database
from convstore.testing import ChatServer, Reply
from tests.faults.clients import open_store
from tests.postgres import new_database

PNG = "data:image/png;base64," + b64encode(bytes(range(256)) * 12).decode()
TEXT = "It’s 22 °C in 北京 😀 \\ ' \" \0"

SETTINGS = {
    "DateStyle": ["SQL, DMY", "German", "Postgres, MDY", "ISO, DMY"],
    "TimeZone": ["Asia/Kathmandu", "<+03>-3"],
    "client_encoding": ["LATIN1", "SQL_ASCII"],
    "IntervalStyle": ["sql_standard"],
    "bytea_output": ["escape"],
    "standard_conforming_strings": ["off"],
    "extra_float_digits": ["-15"],
    "default_transaction_isolation": ["serializable"],
    "default_transaction_deferrable": ["on"],
    "quote_all_identifiers": ["on"],
    "transform_null_equals": ["on"],
    "backslash_quote": ["off"],
}


@pytest.fixture
def fresh_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    with new_database(postgres_server, postgres_template) as url:
        yield url


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_a_database_in_another_encoding_is_refused_by_name(postgres_server: str, encoding: str) -> None:
    with new_database(postgres_server, encoding=encoding) as url:
        database = open_database(url)
        for use in (schema_upgrade.state, schema_upgrade.upgrade_database, schema_upgrade.ensure_schema):
            with pytest.raises(DatabaseUnavailable, match=f"in the encoding {encoding}.*ENCODING 'UTF8'"):
                use(database)
        database.close()
        engine = create_engine(url, connect_args={"client_encoding": "utf8"})
        with Store(engine=engine) as store, pytest.raises(DatabaseUnavailable, match=encoding):
            store.list()
        engine.dispose()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SETTINGS.items() for value in values])
def test_a_session_with_other_settings_reads_and_writes_the_same(
    fresh_url: str, chat_server: ChatServer, name: str, value: str
) -> None:
    admin = create_engine(fresh_url)
    with admin.begin() as connection:
        database = make_url(fresh_url).database
        connection.exec_driver_sql(f"ALTER DATABASE \"{database}\" SET {name} = '{value}'")
    admin.dispose()
    chat_server.script(Reply(TEXT))
    with open_store(fresh_url, chat_server.url) as store:
        id = store.new(title=TEXT).id
        turn = store.say(id, [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]}])
    with open_store(fresh_url, chat_server.url) as store:
        assert store.history(id)[0]["content"][0]["image_url"]["url"] == PNG
        assert store.history(id)[1]["content"] == TEXT
        assert store.get(id).title == TEXT
        (stored,) = store.turns(id)
        assert (stored.started_at, stored.ended_at) == (turn.started_at, turn.ended_at)
        assert store.usage(by="day").total.turns == 1
        store.say(id, "Once more")
