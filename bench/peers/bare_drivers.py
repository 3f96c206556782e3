"""What every store is compared with: the bare driver, with a row and a commit for each message."""

import sqlite3
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from bench.peers.peer_store import ROLES, PeerStore, make_libpq_url

_INSERT = "INSERT INTO messages (conversation, role, content) VALUES (?, ?, ?)"
_LAST = "SELECT role, content FROM messages WHERE conversation = ? ORDER BY id DESC LIMIT 20"
_ALL = "SELECT role, content FROM messages WHERE conversation = ? ORDER BY id"
_INDEX = "CREATE INDEX IF NOT EXISTS by_conversation ON messages (conversation, id)"


class _BareDriver(PeerStore):
    """One row and one commit for each message, and an index."""

    _connection: Any

    @abstractmethod
    def run(self, statement: str, values: Sequence[str]) -> Any:
        """Run a statement with `?` for each value, and return the cursor."""

    def take_turn(self, key: str, question: str) -> None:
        self._insert(key, "user", question)
        self._insert(key, "assistant", self.model())

    def _insert(self, key: str, role: str, text: str) -> None:
        self.run(_INSERT, (key, role, text))
        self._connection.commit()

    def read_last(self, key: str) -> Sequence[Any]:
        rows: list[Any] = self.run(_LAST, (key,)).fetchall()
        self._connection.commit()
        rows.reverse()
        return rows

    def load_all(self, key: str) -> Sequence[Any]:
        rows: list[Any] = self.run(_ALL, (key,)).fetchall()
        self._connection.commit()
        return rows

    def read_text(self, message: Any) -> str:
        return str(message[1])

    def close(self) -> None:
        self._connection.close()


class BareSQLite(_BareDriver):
    """On SQLite, with WAL and full sync, as convstore has them."""

    name = "sqlite3, two commits"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._connection = sqlite3.connect(place)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, conversation TEXT, role TEXT, content TEXT)"
        )
        self._connection.execute(_INDEX)

    def run(self, statement: str, values: Sequence[str]) -> Any:
        return self._connection.execute(statement, values)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        rows = [(key, ROLES[place % 2], text) for place, text in enumerate(texts)]
        self._connection.executemany(_INSERT, rows)
        self._connection.commit()


class BarePostgres(_BareDriver):
    """On PostgreSQL; long conversations come by COPY."""

    name = "psycopg, two commits"
    backend = "PostgreSQL"
    packages = ("psycopg",)

    def __init__(self, place: str) -> None:
        super().__init__(place)
        import psycopg

        self._connection = psycopg.connect(make_libpq_url(place))
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id BIGSERIAL PRIMARY KEY, conversation TEXT, role TEXT, content TEXT)"
        )
        self._connection.execute(_INDEX)
        self._connection.commit()

    def run(self, statement: str, values: Sequence[str]) -> Any:
        return self._connection.execute(statement.replace("?", "%s"), values)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        copy = "COPY messages (conversation, role, content) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(copy) as rows:
            for place, text in enumerate(texts):
                rows.write_row((key, ROLES[place % 2], text))
        self._connection.commit()
