"""Test how PostgreSQL's index of terms takes many texts at once."""

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy import Engine, create_engine, text

from convstore import Store
from convstore.db import pending_terms
from convstore.db.connection import Connection
from convstore.db.pending_terms import sorted_in_together
from convstore.db.tables import search_documents

FORGET = (
    "DELETE FROM convstore_search_documents",
    "INSERT INTO convstore_search_backlog SELECT owner, id, 0 FROM convstore_conversations",
)
COUNT_WAITING_PAGES = text("SELECT gin_clean_pending_list('convstore_search_documents_terms_idx')")
READ_LIMIT = text("SELECT current_setting('gin_pending_list_limit')")


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(postgres_url)
    yield engine
    engine.dispose()


def read_limit(connection: sqlalchemy.Connection) -> object:
    return connection.scalar(READ_LIMIT)


@pytest.mark.parametrize(("fewest", "has_waiting"), [(20, False), (21, True)])
def test_no_terms_wait_to_be_sorted_in_after_many_texts_were_added(
    postgres_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, fewest: int, has_waiting: bool
) -> None:
    monkeypatch.setattr(pending_terms, "FEWEST_TEXTS", fewest)
    with Store(postgres_url) as store:
        id = store.new(messages=[{"role": "user", "content": f"word {number}"} for number in range(20)]).id
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in FORGET:
                connection.execute(text(statement))
            connection.execute(COUNT_WAITING_PAGES)
            assert store.reindex() == 20
            assert bool(connection.scalar(COUNT_WAITING_PAGES)) == has_waiting
        assert [(hit.conversation, hit.position) for hit in store.search("17").hits] == [(id, 18)]


def test_the_limit_is_as_before_in_the_rest_of_the_transaction(postgres_url: str, engine: Engine) -> None:
    with Store(postgres_url) as store:
        store.new(messages=[{"role": "user", "content": "word"}])
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL gin_pending_list_limit = '2MB'"))
        with sorted_in_together(Connection(connection), ""):
            assert read_limit(connection) == "256MB"
        assert read_limit(connection) == "2MB"


def test_a_role_that_does_not_own_the_index_leaves_the_limit(engine: Engine) -> None:
    with engine.connect() as connection:  # what it creates is rolled back
        connection.execute(text("CREATE ROLE convstore_other"))
        connection.execute(text(f"GRANT SELECT, INSERT ON {search_documents.name} TO convstore_other"))
        before = read_limit(connection)
        connection.execute(text("SET LOCAL ROLE convstore_other"))
        with sorted_in_together(Connection(connection), ""):
            assert read_limit(connection) == before
