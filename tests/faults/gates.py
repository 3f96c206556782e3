"""Replies that wait for the test, so that a test forces a moment and never sleeps for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from convstore import Store
from convstore.leases.waiting_lines import LINES
from convstore.testing import ChatServer, Reply
from convstore.testing.responses import JSONObject, Response, echo, text_of
from convstore.values.identifiers import ConversationKey
from tests.processes import PATIENCE


class Held:
    """The next reply of a server's script; it waits until the test releases it."""

    def __init__(self, server: ChatServer, text: str = "Held", **options: Any) -> None:
        self._go, self._begun = threading.Event(), threading.Event()
        server.script(Reply(text, hold=self._go, started=self._begun, **options))

    def wait(self) -> None:
        assert self._begun.wait(PATIENCE), "nobody asked"

    def open(self) -> None:
        self._go.set()


class Gate:
    """Hold back the replies to chosen messages, and tell when the messages arrived."""

    def __init__(self, server: ChatServer, held: Callable[[str], bool], **options: Any) -> None:
        self._go, self._begun = threading.Event(), threading.Event()
        self._held = held
        self._options = options
        server.otherwise = self._answer

    def _answer(self, body: JSONObject) -> Response:
        reply = echo(body)
        if not self._held(text_of(body["messages"][-1])):
            return reply
        return Reply(reply.text, hold=self._go, started=self._begun, **self._options)

    def wait(self) -> None:
        assert self._begun.wait(PATIENCE), "nobody asked"

    def open(self) -> None:
        self._go.set()


def wait_for_waiters(store: Store, id: str, count: int = 1) -> None:
    """Wait until so many callers of this process wait for a conversation."""
    line = store._engine.name_line(ConversationKey("", id))
    deadline = time.monotonic() + PATIENCE
    while (found := len(LINES._places.get(line, []))) != count:
        assert time.monotonic() < deadline, f"{found} callers wait, not {count}"
        time.sleep(0.001)
