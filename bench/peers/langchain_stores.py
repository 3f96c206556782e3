"""Adapters of LangChain's history and LangGraph's savers."""

from collections.abc import Sequence
from typing import Any

from bench.peers.peer_store import PeerStore, make_libpq_url, make_sqlite_url


class LangChain(PeerStore):
    """`SQLChatMessageHistory`: `add_message` for the user's message, and again for the reply."""

    name = "LangChain SQLChatMessageHistory"
    provider_data = "additional_kwargs"
    packages = ("langchain-community", "SQLAlchemy")
    reads = "everything"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from langchain_community.chat_message_histories import SQLChatMessageHistory
        from langchain_core.messages import AIMessage, HumanMessage
        from sqlalchemy import create_engine

        self._human, self._reply, self._history = HumanMessage, AIMessage, SQLChatMessageHistory
        self._engine = create_engine(place if "://" in place else make_sqlite_url(place))
        self._histories: dict[str, Any] = {}

    def create(self, key: str) -> None:
        self._histories[key] = self._history(session_id=key, connection=self._engine)

    def reopen(self, key: str) -> None:
        self.create(key)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._human, self._reply)
        self._histories[key].add_messages([kinds[place % 2](text) for place, text in enumerate(texts)])

    def take_turn(self, key: str, question: str) -> None:
        history = self._histories[key]
        history.add_message(self._human(question))
        history.add_message(self._reply(self.model()))

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._histories[key].add_message(self._reply(text, **fields))

    def load_all(self, key: str) -> Sequence[Any]:
        messages: Sequence[Any] = self._histories[key].messages
        return messages

    def close(self) -> None:
        self._engine.dispose()


class LangChainPostgres(LangChain):
    backend = "PostgreSQL"


class LangGraphSQLite(PeerStore):
    """A graph of one node over `MessagesState`, with a saver: `invoke` with the user's message."""

    name = "LangGraph SqliteSaver"
    provider_data = "additional_kwargs"
    packages = ("langgraph", "langgraph-checkpoint-sqlite")
    reads = "everything"
    batch = 100_000  # each addition writes the whole state

    def __init__(self, place: str) -> None:
        super().__init__(place)
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

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        kinds = (self._human, self._reply)
        messages = [kinds[place % 2](text) for place, text in enumerate(texts)]
        self._graph.update_state(self._config(key), {"messages": messages}, as_node="model")

    def take_turn(self, key: str, question: str) -> None:
        self._graph.invoke({"messages": [self._human(question)]}, self._config(key))

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._graph.update_state(self._config(key), {"messages": [self._reply(text, **fields)]}, as_node="model")

    def load_all(self, key: str) -> Sequence[Any]:
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

        return PostgresSaver.from_conn_string(make_libpq_url(self.place))
