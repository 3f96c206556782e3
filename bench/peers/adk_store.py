"""Adapter of ADK's sessions."""

from collections.abc import Sequence
from typing import Any

from bench.peers.peer_store import AsyncPeerStore, make_async_url


class Adk(AsyncPeerStore):
    """`DatabaseSessionService`: `append_event` for the user's message, and again for the reply."""

    name = "ADK DatabaseSessionService"
    packages = ("google-adk", "SQLAlchemy", "aiosqlite")
    provider_data = "custom_metadata"

    def __init__(self, place: str) -> None:
        super().__init__(place)
        from google.adk.events import Event
        from google.adk.sessions import DatabaseSessionService
        from google.adk.sessions.base_session_service import GetSessionConfig
        from google.genai import types

        self._event, self._types = Event, types
        self._last = GetSessionConfig(num_recent_events=20)
        self._service = DatabaseSessionService(make_async_url(place))
        self._sessions: dict[str, Any] = {}

    def create(self, key: str) -> None:
        self._sessions[key] = self.run(self._service.create_session(app_name="bench", user_id="user", session_id=key))

    def reopen(self, key: str) -> None:
        self._sessions[key] = self._get(key, None)

    def add_messages(self, key: str, texts: Sequence[str]) -> None:
        for place, text in enumerate(texts):  # it has no call for many events
            self._append(key, "model" if place % 2 else "user", text)

    def take_turn(self, key: str, question: str) -> None:
        self._append(key, "user", question)
        self._append(key, "model", self.model())

    def add_reply(self, key: str, text: str, fields: dict[str, Any]) -> None:
        self._append(key, "model", text, **fields)

    def _append(self, key: str, role: str, text: str, **fields: Any) -> None:
        content = self._types.Content(role=role, parts=[self._types.Part(text=text)])
        event = self._event(author=role, invocation_id="bench", content=content, **fields)
        self.run(self._service.append_event(self._sessions[key], event))

    def read_last(self, key: str) -> Sequence[Any]:
        events: Sequence[Any] = self._get(key, self._last).events
        return events

    def load_all(self, key: str) -> Sequence[Any]:
        events: Sequence[Any] = self._get(key, None).events
        return events

    def read_text(self, message: Any) -> str:
        return str(message.content.parts[0].text)

    def _get(self, key: str, config: Any) -> Any:
        return self.run(self._service.get_session(app_name="bench", user_id="user", session_id=key, config=config))

    def close(self) -> None:
        self.run(self._service.close())
        super().close()


class AdkPostgres(Adk):
    backend = "PostgreSQL"
    packages = ("google-adk", "SQLAlchemy", "asyncpg")
