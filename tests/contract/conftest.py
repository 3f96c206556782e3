"""Provide a `Store` on each kind of database, and a scripted model.

The tests use only the public methods of a store. So they can test any object with the same methods.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

from convstore import AsyncStore, Store
from convstore.db.schema_upgrade import upgrade
from convstore.testing import ChatServer, Reply
from tests.contract.facade import EventLoopThread, Facade
from tests.contract.invariants import CheckedOut, check_all, engine_of

ASYNC_KINDS = ("async-sqlite-file", "async-postgresql")
"""Kinds with an `AsyncStore` that has its own event loop."""
OWN_ENGINE_KINDS = ("sqlite-file", "sqlite-memory", "postgresql", *ASYNC_KINDS)
"""Kinds for which convstore makes the engine. They are enough for tests of what is stored."""
ALL_KINDS = (*OWN_ENGINE_KINDS, "sqlite-engine", "postgresql-engine")
ON_ALL_BACKENDS = pytest.mark.parametrize("backend", ALL_KINDS, indirect=True)
"""For tests that depend on how a transaction begins and ends."""
ON_THREE_BACKENDS = pytest.mark.parametrize("backend", ["sqlite-file", "postgresql", "async-postgresql"], indirect=True)
"""For tests that take seconds on each kind."""


class Backend:
    """One database. Open stores on it, or read it without a store."""

    def __init__(
        self, kind: str, url: str, client: openai.OpenAI, async_opener: AsyncOpener | None, memory_template: bytes
    ) -> None:
        self.kind = kind
        self.url = url
        self.client = client
        self._async_opener = async_opener
        self._memory_template = memory_template
        self.is_intact = True
        """False if the test damaged rows on purpose. Then nobody checks the rows at the end of the test."""
        self.checked_out: set[CheckedOut] = set()
        """The (conversation, `seq`) of each message to which the test moved a head by `checkout`."""
        self._stores: list[Store] = []
        self._engines: list[Engine] = []

    @property
    def is_postgres(self) -> bool:
        return "postgresql" in self.kind

    @property
    def is_memory(self) -> bool:
        return self.kind == "sqlite-memory"

    def open(self, **options: Any) -> Store:
        """Return a new store on this database. In memory, each store has its own database."""
        options = {"model": "test-model", **options}
        if "base_url" not in options:
            options.setdefault("client", self.client)
        where: dict[str, Any] = {"engine": self.engine()} if self.kind.endswith("-engine") else {"url": self.url}
        store = Store(**where, **options) if self._async_opener is None else self._async_opener.open(**where, **options)
        self._stores.append(store)
        if self.is_memory:
            event.listen(engine_of(store), "connect", lambda driver, _: driver.deserialize(self._memory_template))
        return store

    def engine(self) -> Engine:
        """Return a new engine, as an application would make it."""
        engine = create_engine(self.url)
        self._engines.append(engine)
        return engine

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a second connection to the database (in memory: the only one)."""
        engine = engine_of(self._stores[0]) if self.is_memory else self.engine()
        with engine.connect() as connection:
            yield connection

    def damage(self, statement: str, **values: Any) -> None:
        """Change one row in a way that no store does."""
        self.is_intact = False
        with self.connect() as connection, connection.begin():
            assert connection.execute(text(statement), values).rowcount == 1, statement

    def check(self) -> None:
        """Assert that every conversation in the database is consistent."""
        if self.is_memory:
            for store in self._stores:
                store.list()  # creates the tables if the store was never used
                check_all(engine_of(store), checked_out=self.checked_out)
        else:
            check_all(self.engine(), checked_out=self.checked_out)

    def close(self) -> None:
        for store in self._stores:
            store.close()
        for engine in self._engines:
            engine.dispose()


class AsyncOpener:
    """Open `AsyncStore`s that share one event loop and one HTTP client."""

    def __init__(self) -> None:
        self._loop = EventLoopThread()
        self._http_client = openai.DefaultAsyncHttpxClient(trust_env=False)

    def open(self, *, client: openai.OpenAI | None = None, **options: Any) -> Store:
        """Return an `AsyncStore` with the methods of a `Store`."""
        if client is not None:
            options["client"] = openai.AsyncOpenAI(
                base_url=client.base_url,
                api_key=client.api_key,
                max_retries=client.max_retries,
                default_headers=client._custom_headers,
                http_client=self._http_client,
            )
        return cast("Store", Facade(AsyncStore(**options), self._loop))

    def close(self) -> None:
        self._loop.run(self._http_client.aclose())
        self._loop.close()


@pytest.fixture(scope="session")
def async_opener() -> Iterator[AsyncOpener]:
    """Yield the opener that all tests share."""
    opener = AsyncOpener()
    yield opener
    opener.close()


@pytest.fixture(scope="session")
def http_client() -> Iterator[openai.DefaultHttpxClient]:
    """Yield the HTTP client that all tests share.

    A new client reads certificates, which takes longer than a test.
    """
    with openai.DefaultHttpxClient(trust_env=False) as client:
        yield client


@pytest.fixture
def client(chat_server: ChatServer, http_client: openai.DefaultHttpxClient) -> openai.OpenAI:
    """Return a client of the scripted server, with openai's default retries."""
    return openai.OpenAI(base_url=chat_server.url, api_key="secret-key", http_client=http_client)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with convstore's schema, made once."""
    path = tmp_path_factory.mktemp("template") / "chat.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def memory_template() -> bytes:
    """Return a SQLite database in memory with convstore's schema: a copy is far cheaper than an upgrade."""
    with Store("sqlite://") as store:
        store.list()  # creates the tables
        with engine_of(store).connect() as connection:
            driver: Any = connection.connection.driver_connection
            template: bytes = driver.serialize()
            return template


@pytest.fixture(params=OWN_ENGINE_KINDS)
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, client: openai.OpenAI, memory_template: bytes
) -> Iterator[Backend]:
    """Yield an empty database of each kind; check its rows at the end of the test."""
    kind: str = request.param
    if "postgresql" in kind:
        url: str = request.getfixturevalue("postgres_url")
    elif kind == "sqlite-memory":
        url = "sqlite://"
    else:
        template: Path = request.getfixturevalue("sqlite_template")
        path = tmp_path / "chat.db"
        shutil.copy(template, path)
        url = f"sqlite:///{path}"
    async_opener = request.getfixturevalue("async_opener") if kind in ASYNC_KINDS else None
    backend = Backend(kind, url, client, async_opener, memory_template)
    try:
        yield backend
        if backend.is_intact:
            backend.check()
    finally:
        backend.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    """Return a store on each kind of database in turn."""
    return backend.open()


class HeldReply:
    """A reply that the server holds back until `release`."""

    def __init__(self, reply: Callable[[threading.Event, threading.Event], Reply], server: ChatServer) -> None:
        self._go, self._begun = threading.Event(), threading.Event()
        server.script(reply(self._go, self._begun))

    def wait(self) -> None:
        """Wait until the server holds the reply back."""
        assert self._begun.wait(60), "the server received no request"

    def release(self) -> None:
        self._go.set()


@pytest.fixture
def run_in_thread() -> Iterator[Callable[[Callable[[], Any]], Future[Any]]]:
    """Return a function that runs a call in another thread and returns its future."""
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


@pytest.fixture
def hold(chat_server: ChatServer, run_in_thread: object) -> Iterator[Callable[..., HeldReply]]:
    """Yield a function that scripts a reply and lets the server hold it back.

    The server holds the reply before its headers, or after `hold_after` pieces. If a test fails, this fixture releases
    the replies before `run_in_thread` waits for its threads.
    """
    made: list[HeldReply] = []

    def script(content: str = "At last.", **options: Any) -> HeldReply:
        held = HeldReply(lambda go, begun: Reply(content, hold=go, started=begun, **options), chat_server)
        made.append(held)
        return held

    yield script
    for held in made:
        held.release()


HARD_TEXTS = (
    "a\0b",
    "\0",
    "a\ud83d",
    "\ude00b",
    "\ude00\ud83d",
    "👩‍👩‍👧‍👦 🏳️‍🌈 😀",
    "2008年奥运会是在哪里举行的？",
    "مرحبا \u202eabc\u202c שלום",
    "e\u0301 not é",
    "\ufffe\uffff\U0010ffff",
    "\ufeffx",
    "\x1b[31mred\x07\x7f\x85",
    "a\r\nb\rc\u2028d\n",
    "  x \t ",
    '"quoted"',
    '"',
    '{"role": "system"}',
    "'; DROP TABLE convstore_messages; --",
    "\\u0000 \\ \\\\ %s %(x)s :x ?",
)
"""Texts that some database or codec changes. Some contain half of a character."""
