"""Adapter of agno's sessions."""

import time
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.model import MODEL
from bench.peers.peer_store import PeerStore


class Agno(PeerStore):
    """`SqliteDb`: one run for each turn, stored as an agent does at its end: `upsert_session`, then `upsert_run`."""

    name = "agno SqliteDb"
    packages: ClassVar[tuple[str, ...]] = ("agno", "SQLAlchemy")
    provider_data = "provider_data"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from agno.db.base import SessionType
        from agno.models.message import Message
        from agno.run.agent import RunOutput
        from agno.run.base import RunStatus
        from agno.session import AgentSession

        self._message, self._output, self._agent_session = Message, RunOutput, AgentSession
        self._completed, self._agent = RunStatus.completed, SessionType.AGENT
        self._db = self.open_db()
        self._sessions: dict[str, Any] = {}
        self._runs: dict[str, int] = {}

    def open_db(self) -> Any:
        from agno.db.sqlite import SqliteDb

        return SqliteDb(db_file=self.place)

    def create(self, key: str) -> None:
        self._sessions[key] = self._db.upsert_session(
            self._agent_session(
                session_id=key, agent_id="bench", session_data={}, metadata={}, created_at=int(time.time())
            )
        )
        self._runs[key] = 0

    def reopen(self, key: str) -> None:
        self._sessions[key] = self._db.get_session(key, self._agent)
        self._runs[key] = len(self._sessions[key].runs)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        for place in range(0, len(texts), 2):  # it has no call for many runs
            self._store_run(key, texts[place], texts[place + 1])

    def take_turn(self, key: str, question: str) -> None:
        reply = self.model()
        self._db.upsert_session(self._sessions[key])
        self._store_run(key, question, reply)

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._store_run(key, "a question", text, **fields)

    def _store_run(self, key: str, question: str, reply: str, **fields: Any) -> None:
        run = self._output(
            run_id=str(uuid.uuid4()),
            session_id=key,
            agent_id="bench",
            content=reply,
            model=MODEL,
            messages=[
                self._message(role="user", content=question),
                self._message(role="assistant", content=reply, **fields),
            ],
            status=self._completed,
        )
        self._db.upsert_run(run, key, run_index=self._runs[key])
        self._runs[key] += 1

    def read_last(self, key: str) -> Sequence[Any]:
        return self._messages(self._db.get_session(key, self._agent, runs_limit=10))

    def load_all(self, key: str) -> Sequence[Any]:
        return self._messages(self._db.get_session(key, self._agent))

    def _messages(self, session: Any) -> list[Any]:
        return [message for run in session.runs for message in run.messages]

    def close(self) -> None:
        self._db.close()


class AgnoPostgres(Agno):
    name = "agno PostgresDb"
    backend = "PostgreSQL"
    packages = ("agno", "SQLAlchemy", "psycopg")

    def open_db(self) -> Any:
        from agno.db.postgres import PostgresDb

        return PostgresDb(db_url=self.place)
