"""Connections that are in no request, and bring no whole head of one in time, are closed.

uvicorn has a limit for idle connections after a response, and none for a client that sends a head byte by byte, or
that goes on to send a body after the response.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 64 * 1024
"""The largest head of a request: its line and its headers."""


class ServiceConfig(uvicorn.Config):
    """How uvicorn runs, and within how many seconds the head of a request must have come."""

    head_seconds = 30.0


class TimedProtocol(H11Protocol):
    """A connection that is closed if the head of a request does not come in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_request():
            self._stop_timer()
        elif self._head_timer is None:
            self._start_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_in_request():  # the next one had come already
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._unset_keepalive_if_required()
            self.transport.close()
        if self._head_timer is not None:
            return
        if self.transport.is_closing():
            self._start_timer()  # a client that reads nothing does not hold what is still to be sent
        elif self.conn.trailing_data[0]:
            # A part of the next head has come already, with the end of this request.
            self._unset_keepalive_if_required()
            self._start_timer()

    def _is_in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        seconds = self.config.head_seconds if isinstance(self.config, ServiceConfig) else ServiceConfig.head_seconds
        self._head_timer = self.loop.call_later(seconds, self._give_up)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self.transport.abort()
