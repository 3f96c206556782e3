"""What the bench asks of every store that it compares: one class for each, with the same few methods.

A store is used as its own pages show, with its defaults. A class imports its packages when it is opened, so that it can
be named without them.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

WORDS = ("harbour", "lantern", "meadow", "orchard", "pebble", "river", "saddle", "thicket", "valley", "willow")
ROLES = ("user", "assistant")


def write_text(number: int, length: int) -> str:
    """Return a text of exactly this length, different for each number."""
    text = f"{number}:"
    place = number
    while len(text) < length:
        text += f" {WORDS[place % 10]} {place}"
        place = place * 7 + 3 if place < 1_000_000_000 else place % 9973 + 1
    return text[:length]


class CannotBeGiven(Exception):
    """The messages of a store have no place for these fields."""


class PeerStore(ABC):
    """A store in one database; a conversation is named by a key."""

    name: ClassVar[str]
    backend: ClassVar[str] = "SQLite"
    packages: ClassVar[tuple[str, ...]] = ()
    """The packages that hold it; the output names their versions."""
    reads: ClassVar[str] = "the last 20"
    """What is read by the shortest read that the store has."""
    batch: ClassVar[int] = 10_000
    """How many messages are added at once when a conversation is filled."""

    provider_data: ClassVar[str] = ""
    """The field of its messages that has room for a provider's own data."""

    def __init__(self, place: str) -> None:
        """Open the database.

        Args:
            place: path of a SQLite file, or SQLAlchemy URL of a PostgreSQL database.
        """
        self.place = place
        self.model: Callable[[], str] = lambda: ""
        """The model. Each turn sets it."""

    def create(self, key: str) -> None:  # noqa: B027 (most stores need nothing)
        """Create an empty conversation."""

    @abstractmethod
    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        """Add many messages, user and assistant in turn, as fast as the store can."""

    @abstractmethod
    def take_turn(self, key: str, question: str) -> None:
        """Store the user's message, call the model, store its reply."""

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        """Store a reply that has more fields than role and content.

        Raises:
            CannotBeGiven: the store's messages have a role and a text, and no place for others.
        """
        raise CannotBeGiven(f"no place for {', '.join(fields)} beside {text!r} in {key!r}")

    def read_last(self, key: str) -> Sequence[Any]:
        """Return the last 20 messages, or what must be read to have them."""
        return self.load_all(key)

    @abstractmethod
    def load_all(self, key: str) -> Sequence[Any]:
        """Return all messages of the conversation."""

    def list_stored(self, key: str) -> Sequence[Any]:
        """Return all messages, also those that are stored and not part of the conversation as it is now."""
        return self.load_all(key)

    def read_text(self, message: Any) -> str:
        """Return the text of a message that `load_all` returned."""
        return str(message.content)

    def read_field(self, message: Any, name: str) -> Any:
        """Return a field of a message that `load_all` returned, None if it has no such field."""
        return getattr(message, name, None)

    def close(self) -> None:  # noqa: B027 (most stores need nothing)
        """Close the database."""

    def reopen(self, key: str) -> None:  # noqa: B027 (most stores need nothing)
        """Open a conversation that another instance has created. For most stores, its key is enough."""


class AsyncPeerStore(PeerStore):
    """A store with asynchronous methods; one event loop runs each call."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._loop = asyncio.new_event_loop()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(call)

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.close()


def make_sqlite_url(place: str) -> str:
    """Return the SQLAlchemy URL of a file."""
    return f"sqlite:///{place}"


def make_async_url(place: str) -> str:
    """Return the URL with the driver that the peers' pages name for asyncio."""
    if "://" not in place:
        return f"sqlite+aiosqlite:///{place}"
    return place.replace("postgresql+psycopg://", "postgresql+asyncpg://")


def make_libpq_url(place: str) -> str:
    """Return the URL without the name of a driver."""
    return place.replace("postgresql+psycopg://", "postgresql://")
