"""Adapters of the sessions of the OpenAI Agents SDK."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.peers.peer_store import ROLES, AsyncPeerStore, make_async_url


class _AgentsSession(AsyncPeerStore):
    """A session of the OpenAI Agents SDK: `add_items` for the user's message, and again for the reply."""

    packages: ClassVar[tuple[str, ...]] = ("openai-agents",)

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._sessions: dict[str, Any] = {}

    @abstractmethod
    def open_session(self, key: str) -> Any:
        """Return the session of a conversation."""

    def create(self, key: str) -> None:
        self._sessions[key] = self.open_session(key)

    def reopen(self, key: str) -> None:
        self.create(key)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        items = [{"role": ROLES[place % 2], "content": text} for place, text in enumerate(texts)]
        self.run(self._sessions[key].add_items(items))

    def take_turn(self, key: str, question: str) -> None:
        session = self._sessions[key]
        self.run(session.add_items([{"role": "user", "content": question}]))
        self.run(session.add_items([{"role": "assistant", "content": self.model()}]))

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self.run(self._sessions[key].add_items([{"role": "assistant", "content": text, **fields}]))

    def read_last(self, key: str) -> Sequence[Any]:
        items: Sequence[Any] = self.run(self._sessions[key].get_items(limit=20))
        return items

    def load_all(self, key: str) -> Sequence[Any]:
        items: Sequence[Any] = self.run(self._sessions[key].get_items())
        return items

    def read_text(self, message: Any) -> str:
        return str(message["content"])

    def read_field(self, message: Any, name: str) -> Any:
        return message.get(name)


class AgentsSQLite(_AgentsSession):
    name = "Agents SDK SQLiteSession"

    def open_session(self, key: str) -> Any:
        from agents import SQLiteSession

        return SQLiteSession(key, self.place)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        super().close()


class AgentsAdvancedSQLite(AgentsSQLite):
    name = "Agents SDK AdvancedSQLiteSession"

    def open_session(self, key: str) -> Any:
        from agents.extensions.memory import AdvancedSQLiteSession

        return AdvancedSQLiteSession(session_id=key, db_path=self.place, create_tables=True)


class AgentsSQLAlchemy(_AgentsSession):
    name = "Agents SDK SQLAlchemySession"
    packages = ("openai-agents", "SQLAlchemy", "aiosqlite")

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from sqlalchemy.ext.asyncio import create_async_engine

        self._engine = create_async_engine(make_async_url(place))

    def open_session(self, key: str) -> Any:
        from agents.extensions.memory import SQLAlchemySession

        return SQLAlchemySession(key, engine=self._engine, create_tables=True)

    def close(self) -> None:
        self.run(self._engine.dispose())
        super().close()


class AgentsSQLAlchemyPostgres(AgentsSQLAlchemy):
    backend = "PostgreSQL"
    packages = ("openai-agents", "SQLAlchemy", "asyncpg")
