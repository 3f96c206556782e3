"""Adapter of pydantic-ai-harness's conversation store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.model import MODEL
from bench.peers.peer_store import AsyncPeerStore


class PydanticHarness(AsyncPeerStore):
    """`SqliteConversationStore`: `save` with the user's message, and again with the reply.

    The program keeps the messages in memory between turns, as its save takes all of them.
    """

    name = "pydantic-ai-harness SqliteConversationStore"
    provider_data = "provider_details"
    packages = ("pydantic-ai-harness", "pydantic-ai-slim")
    reads = "everything"
    batch = 100_000  # each save writes the whole conversation

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
        from pydantic_ai_harness.step_persistence.conversations import ConversationSummary, SqliteConversationStore

        self._request: Any = lambda text: ModelRequest(parts=[UserPromptPart(text)])
        self._response: Any = lambda text, **fields: ModelResponse(parts=[TextPart(text)], model_name=MODEL, **fields)
        self._summary = ConversationSummary
        self._store = SqliteConversationStore(database=Path(place))
        self._known: dict[str, tuple[Any, list[Any]]] = {}

    def create(self, key: str) -> None:
        self._known[key] = (self._summary(id=key, workspace="bench"), [])

    def reopen(self, key: str) -> None:
        saved = self.run(self._store.get(conversation_id=key))
        if saved is None:  # nothing was saved yet
            self.create(key)
        else:
            self._known[key] = (saved.summary, list(saved.messages))

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._request, self._response)
        self._save(key, [kinds[place % 2](text) for place, text in enumerate(texts)])

    def take_turn(self, key: str, question: str) -> None:
        self._save(key, [self._request(question)])
        self._save(key, [self._response(self.model())])

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._save(key, [self._response(text, **fields)])

    def _save(self, key: str, more: list[Any]) -> None:
        summary, messages = self._known[key]
        messages = [*messages, *more]
        self._known[key] = (self.run(self._store.save(summary=summary, messages=messages)), messages)

    def load_all(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self.run(self._store.get(conversation_id=key)).messages
        return messages

    def read_text(self, message: Any) -> str:
        return str(message.parts[0].content)
