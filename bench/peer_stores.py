"""The stores that `bench/peers.py` compares: one class for each, all with the same few methods.

Every store is used as its own pages show, with its defaults. A class imports its packages when it is opened, so that this
module can be read without them.
"""

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.model import MODEL, FakeClient

WORDS = ("harbour", "lantern", "meadow", "orchard", "pebble", "river", "saddle", "thicket", "valley", "willow")


def write_text(number: int, length: int) -> str:
    """Return a text of exactly this length, different for each number."""
    text = f"{number}:"
    place = number
    while len(text) < length:
        text += f" {WORDS[place % 10]} {place}"
        place = place * 7 + 3 if place < 1_000_000_000 else place % 9973 + 1
    return text[:length]


class PeerStore:
    """A store in one database; a conversation is named by a key."""

    name: ClassVar[str]
    backend: ClassVar[str] = "SQLite"
    packages: ClassVar[tuple[str, ...]] = ()
    """The packages that hold it; the output names their versions."""
    reads: ClassVar[str] = "the last 20"
    """What is read by the shortest read that the store has."""
    repeats: ClassVar[str] = "stored twice"
    """What becomes of a turn that is repeated with the same key of the caller's, as read in the source."""
    owners: ClassVar[str] = "no"
    """Whether the store keeps owners apart, as read in the source."""
    batch: ClassVar[int] = 10_000
    """How many messages are added at once when a conversation is filled."""

    def __init__(self, place: str, question: str, answer: str) -> None:
        """Open the database.

        Args:
            place: path of a SQLite file, or SQLAlchemy URL of a PostgreSQL database.
            question: text of the user's message of each turn.
            answer: text of the model's reply.
        """
        self.place, self.question, self.answer = place, question, answer
        self.model: Callable[[], str] = lambda: self.answer
        """The model: replies at once. The trials replace it."""

    def create(self, key: str) -> None:
        """Create an empty conversation."""

    def add(self, key: str, texts: Sequence[str]) -> None:
        """Add many messages, user and assistant in turn, as fast as the store can."""
        raise NotImplementedError

    def turn(self, key: str) -> None:
        """Store the user's message, call the model, store its reply."""
        raise NotImplementedError

    def read(self, key: str) -> Sequence[Any]:
        """Return the last 20 messages, or what must be read to have them."""
        return self.load(key)

    def load(self, key: str) -> Sequence[Any]:
        """Return all messages of the conversation."""
        raise NotImplementedError

    def text(self, message: Any) -> str:
        """Return the text of a message that `load` returned."""
        return str(message.content)

    def close(self) -> None:
        """Close the database."""

    def follow(self, key: str) -> None:
        """Open a conversation that another instance has created. For most stores, its key is enough."""


class AsyncPeerStore(PeerStore):
    """A store with asynchronous methods; one event loop runs each call to its end."""

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        self._loop = asyncio.new_event_loop()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(call)

    def close(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.close()


def sqlite_url(place: str) -> str:
    return f"sqlite:///{place}"


def async_url(place: str) -> str:
    """Return the URL with the driver that the peers' pages name for asyncio."""
    if "://" not in place:
        return f"sqlite+aiosqlite:///{place}"
    return place.replace("postgresql+psycopg://", "postgresql+asyncpg://")


def libpq_url(place: str) -> str:
    return place.replace("postgresql+psycopg://", "postgresql://")


class BareSQLite(PeerStore):
    """What everything is compared with: one row and one commit for each message, and an index."""

    name = "sqlite3, two commits"

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        self._connection = sqlite3.connect(place)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, conversation TEXT, role TEXT, content TEXT)"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS by_conversation ON messages (conversation, id)")

    def add(self, key: str, texts: Sequence[str]) -> None:
        rows = [(key, "assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
        self._connection.executemany("INSERT INTO messages (conversation, role, content) VALUES (?, ?, ?)", rows)
        self._connection.commit()

    def turn(self, key: str) -> None:
        self._insert(key, "user", self.question)
        self._insert(key, "assistant", self.model())

    def _insert(self, key: str, role: str, text: str) -> None:
        self._connection.execute(
            "INSERT INTO messages (conversation, role, content) VALUES (?, ?, ?)", (key, role, text)
        )
        self._connection.commit()

    def read(self, key: str) -> Sequence[Any]:
        rows = self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = ? ORDER BY id DESC LIMIT 20", (key,)
        ).fetchall()
        rows.reverse()
        return rows

    def load(self, key: str) -> Sequence[Any]:
        return self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = ? ORDER BY id", (key,)
        ).fetchall()

    def text(self, message: Any) -> str:
        return str(message[1])

    def close(self) -> None:
        self._connection.close()


class BarePostgres(PeerStore):
    """The same on PostgreSQL."""

    name = "psycopg, two commits"
    backend = "PostgreSQL"
    packages = ("psycopg",)

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        import psycopg

        self._connection = psycopg.connect(libpq_url(place))
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id BIGSERIAL PRIMARY KEY, conversation TEXT, role TEXT, content TEXT)"
        )
        self._connection.execute("CREATE INDEX IF NOT EXISTS by_conversation ON messages (conversation, id)")
        self._connection.commit()

    def add(self, key: str, texts: Sequence[str]) -> None:
        rows = [(key, "assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
        with self._connection.cursor() as cursor:
            cursor.executemany("INSERT INTO messages (conversation, role, content) VALUES (%s, %s, %s)", rows)
        self._connection.commit()

    def turn(self, key: str) -> None:
        self._insert(key, "user", self.question)
        self._insert(key, "assistant", self.model())

    def _insert(self, key: str, role: str, text: str) -> None:
        self._connection.execute(
            "INSERT INTO messages (conversation, role, content) VALUES (%s, %s, %s)", (key, role, text)
        )
        self._connection.commit()

    def read(self, key: str) -> Sequence[Any]:
        rows = self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = %s ORDER BY id DESC LIMIT 20", (key,)
        ).fetchall()
        self._connection.commit()
        rows.reverse()
        return rows

    def load(self, key: str) -> Sequence[Any]:
        rows = self._connection.execute(
            "SELECT role, content FROM messages WHERE conversation = %s ORDER BY id", (key,)
        ).fetchall()
        self._connection.commit()
        return rows

    def text(self, message: Any) -> str:
        return str(message[1])

    def close(self) -> None:
        self._connection.close()


class ConvstoreSay(PeerStore):
    """`Store.say`, with the last five turns of the history in its request."""

    name = "convstore say"
    packages = ("convstore",)
    repeats = "stored once"
    owners = "yes"
    wait = 30.0
    """Seconds that a `say` waits for a running turn; the trials wait less."""

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from convstore import Store
        from convstore.db.schema_upgrade import upgrade

        if "://" in place:
            upgrade(place)
        self._store = Store(place, client=_Client(self))  # type: ignore[arg-type]

    def create(self, key: str) -> None:
        self._store.new(id=key, model=MODEL)

    def add(self, key: str, texts: Sequence[str]) -> None:
        roles = ("user", "assistant")
        self._store.append(key, *({"role": roles[place % 2], "content": text} for place, text in enumerate(texts)))

    def turn(self, key: str) -> None:
        self._store.say(key, self.question, last=5, wait=self.wait)

    def read(self, key: str) -> Sequence[Any]:
        return self._store.messages(key, limit=20)

    def load(self, key: str) -> Sequence[Any]:
        return self._store.messages(key, limit=None)

    def text(self, message: Any) -> str:
        return str(message.message["content"])

    def close(self) -> None:
        self._store.close()


class _Client(FakeClient):
    """The fake client, with the store's model behind it."""

    def __init__(self, store: PeerStore) -> None:
        super().__init__(store.answer)
        self._peer_store = store

    def create(self, **arguments: Any) -> Any:
        self._peer_store.model()
        return super().create(**arguments)


class ConvstoreAppend(ConvstoreSay):
    """`Store.append`, once for each message."""

    name = "convstore append"

    def turn(self, key: str) -> None:
        self._store.append(key, {"role": "user", "content": self.question}, wait=self.wait)
        self._store.append(key, {"role": "assistant", "content": self.model()}, wait=self.wait)


class ConvstoreSayPostgres(ConvstoreSay):
    backend = "PostgreSQL"


class ConvstoreAppendPostgres(ConvstoreAppend):
    backend = "PostgreSQL"


class _AgentsSession(AsyncPeerStore):
    """A session of the OpenAI Agents SDK: `add_items` for the user's message, and again for the reply."""

    packages = ("openai-agents",)

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        self._sessions: dict[str, Any] = {}

    def open_session(self, key: str) -> Any:
        raise NotImplementedError

    def create(self, key: str) -> None:
        self._sessions[key] = self.open_session(key)

    def follow(self, key: str) -> None:
        self.create(key)

    def add(self, key: str, texts: Sequence[str]) -> None:
        roles = ("user", "assistant")
        items = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
        self.run(self._sessions[key].add_items(items))

    def turn(self, key: str) -> None:
        session = self._sessions[key]
        self.run(session.add_items([{"role": "user", "content": self.question}]))
        self.run(session.add_items([{"role": "assistant", "content": self.model()}]))

    def read(self, key: str) -> Sequence[Any]:
        items: Sequence[Any] = self.run(self._sessions[key].get_items(limit=20))
        return items

    def load(self, key: str) -> Sequence[Any]:
        items: Sequence[Any] = self.run(self._sessions[key].get_items())
        return items

    def text(self, message: Any) -> str:
        return str(message["content"])


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

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from sqlalchemy.ext.asyncio import create_async_engine

        self._engine = create_async_engine(async_url(place))

    def open_session(self, key: str) -> Any:
        from agents.extensions.memory import SQLAlchemySession

        return SQLAlchemySession(key, engine=self._engine, create_tables=True)

    def close(self) -> None:
        self.run(self._engine.dispose())
        super().close()


class AgentsSQLAlchemyPostgres(AgentsSQLAlchemy):
    backend = "PostgreSQL"
    packages = ("openai-agents", "SQLAlchemy", "asyncpg")


class LangChain(PeerStore):
    """`SQLChatMessageHistory`: `add_message` for the user's message, and again for the reply."""

    name = "LangChain SQLChatMessageHistory"
    packages = ("langchain-community", "SQLAlchemy")
    reads = "everything"

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from langchain_community.chat_message_histories import SQLChatMessageHistory
        from langchain_core.messages import AIMessage, HumanMessage
        from sqlalchemy import create_engine

        self._human, self._reply, self._history = HumanMessage, AIMessage, SQLChatMessageHistory
        self._engine = create_engine(place if "://" in place else sqlite_url(place))
        self._histories: dict[str, Any] = {}

    def create(self, key: str) -> None:
        self._histories[key] = self._history(session_id=key, connection=self._engine)

    def follow(self, key: str) -> None:
        self.create(key)

    def add(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._human, self._reply)
        self._histories[key].add_messages([kinds[place % 2](text) for place, text in enumerate(texts)])

    def turn(self, key: str) -> None:
        history = self._histories[key]
        history.add_message(self._human(self.question))
        history.add_message(self._reply(self.model()))

    def load(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self._histories[key].messages
        return messages

    def close(self) -> None:
        self._engine.dispose()


class LangChainPostgres(LangChain):
    backend = "PostgreSQL"


class LangGraphSQLite(PeerStore):
    """A graph of one node over `MessagesState`, with a saver: `invoke` with the user's message."""

    name = "LangGraph SqliteSaver"
    packages = ("langgraph", "langgraph-checkpoint-sqlite")
    reads = "everything"
    batch = 100_000  # each addition writes the whole state

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from langchain_core.messages import AIMessage, HumanMessage
        from langgraph.graph import START, MessagesState, StateGraph

        self._human, self._reply = HumanMessage, AIMessage
        self._context = self.open_saver()
        saver = self._context.__enter__()
        if "://" in place:
            saver.setup()
        graph = StateGraph(MessagesState)
        graph.add_node("model", lambda _: {"messages": [AIMessage(self.model())]})
        graph.add_edge(START, "model")
        self._graph: Any = graph.compile(checkpointer=saver)

    def open_saver(self) -> Any:
        from langgraph.checkpoint.sqlite import SqliteSaver

        return SqliteSaver.from_conn_string(self.place)

    def add(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._human, self._reply)
        messages = [kinds[place % 2](text) for place, text in enumerate(texts)]
        self._graph.update_state(self._config(key), {"messages": messages}, as_node="model")

    def turn(self, key: str) -> None:
        self._graph.invoke({"messages": [self._human(self.question)]}, self._config(key))

    def load(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self._graph.get_state(self._config(key)).values.get("messages", [])
        return messages

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def _config(self, key: str) -> dict[str, Any]:
        return {"configurable": {"thread_id": key}}


class LangGraphPostgres(LangGraphSQLite):
    name = "LangGraph PostgresSaver"
    backend = "PostgreSQL"
    packages = ("langgraph", "langgraph-checkpoint-postgres")

    def open_saver(self) -> Any:
        from langgraph.checkpoint.postgres import PostgresSaver

        return PostgresSaver.from_conn_string(libpq_url(self.place))


class Adk(AsyncPeerStore):
    """`DatabaseSessionService`: `append_event` for the user's message, and again for the reply."""

    name = "ADK DatabaseSessionService"
    packages = ("google-adk", "SQLAlchemy", "aiosqlite")
    repeats = "error if the event's id is set"
    owners = "yes"

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from google.adk.events import Event
        from google.adk.sessions import DatabaseSessionService
        from google.adk.sessions.base_session_service import GetSessionConfig
        from google.genai import types

        self._event, self._types = Event, types
        self._last = GetSessionConfig(num_recent_events=20)
        self._service = DatabaseSessionService(async_url(place))
        self._sessions: dict[str, Any] = {}

    def create(self, key: str) -> None:
        self._sessions[key] = self.run(self._service.create_session(app_name="bench", user_id="user", session_id=key))

    def follow(self, key: str) -> None:
        self._sessions[key] = self._get(key, None)

    def add(self, key: str, texts: Sequence[str]) -> None:
        for place, text in enumerate(texts):  # it has no call for many events
            self._append(key, "model" if place % 2 else "user", text)

    def turn(self, key: str) -> None:
        self._append(key, "user", self.question)
        self._append(key, "model", self.model())

    def _append(self, key: str, role: str, text: str) -> None:
        content = self._types.Content(role=role, parts=[self._types.Part(text=text)])
        event = self._event(author=role, invocation_id="bench", content=content)
        self.run(self._service.append_event(self._sessions[key], event))

    def read(self, key: str) -> Sequence[Any]:
        events: Sequence[Any] = self._get(key, self._last).events
        return events

    def load(self, key: str) -> Sequence[Any]:
        events: Sequence[Any] = self._get(key, None).events
        return events

    def text(self, message: Any) -> str:
        return str(message.content.parts[0].text)

    def _get(self, key: str, config: Any) -> Any:
        return self.run(
            self._service.get_session(app_name="bench", user_id="user", session_id=key, config=config)
        )

    def close(self) -> None:
        self.run(self._service.close())
        super().close()


class AdkPostgres(Adk):
    backend = "PostgreSQL"
    packages = ("google-adk", "SQLAlchemy", "asyncpg")


class LlamaIndex(AsyncPeerStore):
    """`SQLAlchemyChatStore`: `add_message` for the user's message, and again for the reply."""

    name = "LlamaIndex SQLAlchemyChatStore"
    packages = ("llama-index-core", "SQLAlchemy", "aiosqlite")
    reads = "a count, then the last 20"  # its limit takes the first ones

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from llama_index.core.llms import ChatMessage
        from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

        self._message = ChatMessage
        self._store = SQLAlchemyChatStore(table_name="chat", async_database_uri=async_url(place))

    def add(self, key: str, texts: Sequence[str]) -> None:
        roles = ("user", "assistant")
        messages = [self._message(role=roles[place % 2], content=text) for place, text in enumerate(texts)]
        for first in range(0, len(messages), 1_000):  # it is one statement, and databases limit its parameters
            self.run(self._store.add_messages(key, messages[first : first + 1_000]))

    def turn(self, key: str) -> None:
        self.run(self._store.add_message(key, self._message(role="user", content=self.question)))
        self.run(self._store.add_message(key, self._message(role="assistant", content=self.model())))

    def read(self, key: str) -> Sequence[Any]:
        count = self.run(self._store.count_messages(key))
        messages: Sequence[Any] = self.run(self._store.get_messages(key, limit=20, offset=max(count - 20, 0)))
        return messages

    def load(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self.run(self._store.get_messages(key))
        return messages

    def close(self) -> None:
        if self._store._async_engine is not None:  # it has no method that closes it
            self.run(self._store._async_engine.dispose())
        super().close()


class LlamaIndexPostgres(LlamaIndex):
    backend = "PostgreSQL"
    packages = ("llama-index-core", "SQLAlchemy", "asyncpg")


class PydanticHarness(AsyncPeerStore):
    """`SqliteConversationStore`: `save` with the user's message, and again with the reply.

    The program keeps the messages in memory between turns, as its save takes all of them.
    """

    name = "pydantic-ai-harness SqliteConversationStore"
    packages = ("pydantic-ai-harness", "pydantic-ai-slim")
    reads = "everything"
    batch = 100_000  # each save writes the whole conversation

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
        from pydantic_ai_harness.step_persistence.conversations import ConversationSummary, SqliteConversationStore

        self._request: Any = lambda text: ModelRequest(parts=[UserPromptPart(text)])
        self._response: Any = lambda text: ModelResponse(parts=[TextPart(text)], model_name=MODEL)
        self._summary = ConversationSummary
        self._store = SqliteConversationStore(database=Path(place))
        self._known: dict[str, tuple[Any, list[Any]]] = {}

    def create(self, key: str) -> None:
        self._known[key] = (self._summary(id=key, workspace="bench"), [])

    def follow(self, key: str) -> None:
        saved = self.run(self._store.get(conversation_id=key))
        self._known[key] = (saved.summary, list(saved.messages))

    def add(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._request, self._response)
        self._save(key, [kinds[place % 2](text) for place, text in enumerate(texts)])

    def turn(self, key: str) -> None:
        self._save(key, [self._request(self.question)])
        self._save(key, [self._response(self.model())])

    def _save(self, key: str, more: list[Any]) -> None:
        summary, messages = self._known[key]
        messages = [*messages, *more]
        self._known[key] = (self.run(self._store.save(summary=summary, messages=messages)), messages)

    def load(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self.run(self._store.get(conversation_id=key)).messages
        return messages

    def text(self, message: Any) -> str:
        return str(message.parts[0].content)


class Agno(PeerStore):
    """`SqliteDb`: one run for each turn, stored as an agent does at its end: `upsert_session`, then `upsert_run`."""

    name = "agno SqliteDb"
    packages = ("agno", "SQLAlchemy")
    repeats = "stored once, by run_id"
    owners = "if a user_id is given"

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
        from agno.db.base import SessionType
        from agno.db.sqlite import SqliteDb
        from agno.models.message import Message
        from agno.run.agent import RunOutput
        from agno.run.base import RunStatus
        from agno.session import AgentSession

        self._message, self._output, self._agent_session = Message, RunOutput, AgentSession
        self._completed, self._agent = RunStatus.completed, SessionType.AGENT
        self._db = SqliteDb(db_file=place)
        self._sessions: dict[str, Any] = {}
        self._runs: dict[str, int] = {}

    def create(self, key: str) -> None:
        self._sessions[key] = self._db.upsert_session(
            self._agent_session(session_id=key, agent_id="bench", session_data={}, metadata={})
        )
        self._runs[key] = 0

    def follow(self, key: str) -> None:
        self._sessions[key] = self._db.get_session(key, self._agent)
        self._runs[key] = len(self._sessions[key].runs)

    def add(self, key: str, texts: Sequence[str]) -> None:
        for place in range(0, len(texts), 2):  # it has no call for many runs
            self._store_run(key, texts[place], texts[place + 1])

    def turn(self, key: str) -> None:
        reply = self.model()
        self._db.upsert_session(self._sessions[key])
        self._store_run(key, self.question, reply)

    def _store_run(self, key: str, question: str, reply: str) -> None:
        run = self._output(
            run_id=str(uuid.uuid4()),
            session_id=key,
            agent_id="bench",
            content=reply,
            model=MODEL,
            messages=[self._message(role="user", content=question), self._message(role="assistant", content=reply)],
            status=self._completed,
        )
        self._db.upsert_run(run, key, run_index=self._runs[key])
        self._runs[key] += 1

    def read(self, key: str) -> Sequence[Any]:
        return self._messages(self._db.get_session(key, self._agent, runs_limit=10))

    def load(self, key: str) -> Sequence[Any]:
        return self._messages(self._db.get_session(key, self._agent))

    def _messages(self, session: Any) -> list[Any]:
        return [message for run in session.runs for message in run.messages]

    def close(self) -> None:
        self._db.close()


class Llm(PeerStore):
    """`llm`: `conversation.prompt`, then `log_to_db`, as `llm chat` does."""

    name = "llm logs database"
    packages = ("llm", "sqlite-utils")
    reads = "everything"
    batch = 100_000  # one response with a long history is the fastest way

    def __init__(self, place: str, question: str, answer: str) -> None:
        super().__init__(place, question, answer)
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

    def follow(self, key: str) -> None:
        self.create(key)
        self._conversations[key].loaded_messages = self._log.thread_messages(key)

    def add(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._llm.user, self._llm.assistant)
        conversation = self._conversations[key]
        history = [kinds[place % 2](text) for place, text in enumerate(texts[:-2])]
        conversation.loaded_messages = [*(conversation.loaded_messages or []), *history]
        model, self.model = self.model, lambda: texts[-1]
        self._respond(conversation, texts[-2])
        self.model = model
        # The history is then in `loaded_messages` only, as when `llm chat -c` continues a conversation.
        self.follow(key)

    def turn(self, key: str) -> None:
        self._respond(self._conversations[key], self.question)

    def _respond(self, conversation: Any, question: str) -> None:
        response = conversation.prompt(question)
        response.text()
        response.log_to_db(self._db)

    def load(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self._log.thread_messages(key)
        return messages

    def text(self, message: Any) -> str:
        return str(message.parts[0].text)

    def close(self) -> None:
        self._db.close()


STORES: tuple[type[PeerStore], ...] = (
    BareSQLite,
    ConvstoreSay,
    ConvstoreAppend,
    AgentsSQLite,
    AgentsAdvancedSQLite,
    AgentsSQLAlchemy,
    LangChain,
    LangGraphSQLite,
    Adk,
    LlamaIndex,
    PydanticHarness,
    Agno,
    Llm,
    BarePostgres,
    ConvstoreSayPostgres,
    ConvstoreAppendPostgres,
    AgentsSQLAlchemyPostgres,
    LangChainPostgres,
    LangGraphPostgres,
    AdkPostgres,
    LlamaIndexPostgres,
)
"""Every store; the first of each backend is what the others are compared with."""
