"""Adapter of the logs of `llm`."""

from collections.abc import Sequence
from typing import Any

from bench.model import MODEL
from bench.peers.peer_store import PeerStore


class Llm(PeerStore):
    """`llm`: `conversation.prompt`, then `log_to_db`, as `llm chat` does."""

    name = "llm logs database"
    provider_data = "provider_metadata"
    packages = ("llm", "sqlite-utils")
    reads = "everything"
    batch = 100_000  # one response with a long history is the fastest way

    def __init__(self, place: str) -> None:
        super().__init__(place)
        import llm
        import sqlite_utils
        from llm.logs import LogStore

        store = self

        class Instant(llm.Model):  # type: ignore[misc]  # the package is not there for mypy
            model_id = MODEL
            can_stream = False

            def execute(self, prompt: Any, stream: Any, response: Any, conversation: Any) -> Any:  # noqa: ARG002
                yield store.model()

        self._llm, self._instant = llm, Instant()
        self._db = sqlite_utils.Database(place)
        self._log = LogStore(self._db)
        self._conversations: dict[str, Any] = {}

    def create(self, key: str) -> None:
        self._conversations[key] = self._llm.Conversation(model=self._instant, id=key)

    def reopen(self, key: str) -> None:
        self.create(key)
        self._conversations[key].loaded_messages = self._log.thread_messages(key)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._llm.user, self._llm.assistant)
        conversation = self._conversations[key]
        history = [kinds[place % 2](text) for place, text in enumerate(texts[:-2])]
        conversation.loaded_messages = [*(conversation.loaded_messages or []), *history]
        model, self.model = self.model, lambda: texts[-1]
        self._respond(conversation, texts[-2])
        self.model = model
        # The history is then in `loaded_messages` only, as when `llm chat -c` continues a conversation.
        self.reopen(key)

    def take_turn(self, key: str, question: str) -> None:
        self._respond(self._conversations[key], question)

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._log.append(key, [self._llm.assistant(text, **fields)])

    def _respond(self, conversation: Any, question: str) -> None:
        response = conversation.prompt(question)
        response.text()
        response.log_to_db(self._db)

    def load_all(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self._log.thread_messages(key)
        return messages

    def read_text(self, message: Any) -> str:
        return str(message.parts[0].text)

    def close(self) -> None:
        self._db.close()
