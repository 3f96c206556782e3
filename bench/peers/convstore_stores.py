"""Adapters of convstore."""

from collections.abc import Sequence
from typing import Any

from bench.model import MODEL, FakeClient
from bench.peers.peer_store import ROLES, PeerStore


class ConvstoreSay(PeerStore):
    """`Store.say`, with the last five turns of the history in its request."""

    name = "convstore say"
    packages = ("convstore",)

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from convstore import Store
        from convstore.db.schema_upgrade import upgrade

        if "://" in place:
            upgrade(place)
        self._client = _Client(self)
        self._store = Store(place, client=self._client)  # type: ignore[arg-type]

    def create(self, key: str) -> None:
        self._store.new(id=key, model=MODEL)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        self._store.append(key, *({"role": ROLES[place % 2], "content": text} for place, text in enumerate(texts)))

    def take_turn(self, key: str, question: str) -> None:
        self._store.say(key, question, last=5)

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self.model, self._client.fields = lambda: text, fields
        self.take_turn(key, "a question")

    def read_last(self, key: str) -> Sequence[Any]:
        return self._store.history(key, limit=20)

    def load_all(self, key: str) -> Sequence[Any]:
        return self._store.history(key)

    def read_text(self, message: Any) -> str:
        return str(message["content"])

    def read_field(self, message: Any, name: str) -> Any:
        return message.get(name)

    def list_stored(self, key: str) -> Sequence[Any]:
        return [record.message for record in self._store.tree(key)]

    def close(self) -> None:
        self._store.close()


class _Client(FakeClient):
    """The fake client, with the model of the trial behind it."""

    def __init__(self, store: PeerStore) -> None:
        super().__init__()
        self._peer_store = store
        self.fields: dict[str, Any] = {}
        """Fields of the replies besides their content."""

    def create(self, **arguments: Any) -> Any:
        completion = super().create(**arguments)
        message = completion.choices[0].message
        message.content = self._peer_store.model()
        for name, value in self.fields.items():
            setattr(message, name, value)
        return completion


class ConvstoreAppend(ConvstoreSay):
    """`Store.append`, once for each message."""

    name = "convstore append"

    def take_turn(self, key: str, question: str) -> None:
        self._store.append(key, {"role": "user", "content": question})
        self._store.append(key, {"role": "assistant", "content": self.model()})

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._store.append(key, {"role": "assistant", "content": text, **fields})


class ConvstoreSayPostgres(ConvstoreSay):
    backend = "PostgreSQL"


class ConvstoreAppendPostgres(ConvstoreAppend):
    backend = "PostgreSQL"
