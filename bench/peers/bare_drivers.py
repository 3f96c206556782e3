"""What every store is compared with: the bare driver, with a row and a commit for each message."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from bench.peers.peer_store import ROLES, PeerStore, make_libpq_url


class BareSQLite(PeerStore):
    """One row and one commit for each message, and an index. WAL and full sync, as convstore has them."""

    name = "sqlite3, two commits"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._connection = sqlite3.connect(place)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, conversation TEXT, role TEXT, content TEXT)"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS by_conversation ON messages (conversation, id)")

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        rows = [(key, ROLES[place % 2], text) for place, text in enumerate(texts)]
        self._connection.executemany("INSERT INTO messages (conversation, role, content) VALUES (?, ?, ?)", rows)
        self._connection.commit()

    def take_turn(self, key: str, question: str) -> None:
        self._insert(key, "user", question)
        self._insert(key, "assistant", self.model())

    def _insert(self, key: str, role: str, text: str) -> None:
        self._connection.execute(
            "INSERT INTO messages (conversation, role, content) VALUES (?, ?, ?)", (key, role, text)
        )
        self._connection.commit()

    def read_last(self, key: str) -> Sequence[Any]:
        rows = self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = ? ORDER BY id DESC LIMIT 20", (key,)
        ).fetchall()
        rows.reverse()
        return rows

    def load_all(self, key: str) -> Sequence[Any]:
        return self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = ? ORDER BY id", (key,)
        ).fetchall()

    def read_text(self, message: Any) -> str:
        return str(message[1])

    def close(self) -> None:
        self._connection.close()


class BarePostgres(PeerStore):
    """The same on PostgreSQL; long conversations come by COPY."""

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
        self._connection.execute("CREATE INDEX IF NOT EXISTS by_conversation ON messages (conversation, id)")
        self._connection.commit()

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        copy = "COPY messages (conversation, role, content) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(copy) as rows:
            for place, text in enumerate(texts):
                rows.write_row((key, ROLES[place % 2], text))
        self._connection.commit()

    def take_turn(self, key: str, question: str) -> None:
        self._insert(key, "user", question)
        self._insert(key, "assistant", self.model())

    def _insert(self, key: str, role: str, text: str) -> None:
        self._connection.execute(
            "INSERT INTO messages (conversation, role, content) VALUES (%s, %s, %s)", (key, role, text)
        )
        self._connection.commit()

    def read_last(self, key: str) -> Sequence[Any]:
        rows = self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = %s ORDER BY id DESC LIMIT 20", (key,)
        ).fetchall()
        self._connection.commit()
        rows.reverse()
        return rows

    def load_all(self, key: str) -> Sequence[Any]:
        rows = self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = %s ORDER BY id", (key,)
        ).fetchall()
        self._connection.commit()
        return rows

    def read_text(self, message: Any) -> str:
        return str(message[1])

    def close(self) -> None:
        self._connection.close()
