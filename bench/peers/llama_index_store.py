"""Adapter of LlamaIndex's chat store."""

from collections.abc import Sequence
from typing import Any

from bench.peers.peer_store import ROLES, AsyncPeerStore, make_async_url


class LlamaIndex(AsyncPeerStore):
    """`SQLAlchemyChatStore`: `add_message` for the user's message, and again for the reply."""

    name = "LlamaIndex SQLAlchemyChatStore"
    provider_data = "additional_kwargs"
    packages = ("llama-index-core", "SQLAlchemy", "aiosqlite")
    reads = "a count, then the last 20"  # its limit takes the first ones

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from llama_index.core.llms import ChatMessage
        from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

        self._message = ChatMessage
        self._store = SQLAlchemyChatStore(table_name="chat", async_database_uri=make_async_url(place))

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        messages = [self._message(role=ROLES[place % 2], content=text) for place, text in enumerate(texts)]
        for first in range(0, len(messages), 1_000):  # it is one statement, and databases limit its parameters
            self.run(self._store.add_messages(key, messages[first : first + 1_000]))

    def take_turn(self, key: str, question: str) -> None:
        self.run(self._store.add_message(key, self._message(role="user", content=question)))
        self.run(self._store.add_message(key, self._message(role="assistant", content=self.model())))

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self.run(self._store.add_message(key, self._message(role="assistant", content=text, **fields)))

    def read_last(self, key: str) -> Sequence[Any]:
        count = self.run(self._store.count_messages(key))
        messages: Sequence[Any] = self.run(self._store.get_messages(key, limit=20, offset=max(count - 20, 0)))
        return messages

    def load_all(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self.run(self._store.get_messages(key))
        return messages

    def close(self) -> None:
        if self._store._async_engine is not None:  # it has no method that closes it
            self.run(self._store._async_engine.dispose())
        super().close()


class LlamaIndexPostgres(LlamaIndex):
    backend = "PostgreSQL"
    packages = ("llama-index-core", "SQLAlchemy", "asyncpg")
