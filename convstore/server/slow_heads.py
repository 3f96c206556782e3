"""Connections that are in no request, and bring no whole head of one in time, are closed.

uvicorn has a limit for idle connections after a response, and none for a client that sends a head byte by byte, or
that goes on to send a body after the response. Nor has it one for a client that does not read what is sent to it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from convstore.server.grace_time import note_end

MAX_HEAD_BYTES = 64 * 1024
"""The largest head of a request: its line and its headers."""


class ServiceConfig(uvicorn.Config):
    """How uvicorn runs, and within how many seconds the head of a request must have come."""

    head_seconds = 30.0


class TimedProtocol(H11Protocol):
    """A connection that is closed if the head of a request does not come in time, or an answer is not read."""

    _head_timer: asyncio.TimerHandle | None = None
    _reading_timer: asyncio.TimerHandle | None = None
    """Runs while the client does not read what is sent to it."""

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

    def shutdown(self) -> None:
        note_end()
        super().shutdown()

    def _is_in_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading_timer = self._call_in_time()

    def resume_writing(self) -> None:
        self._stop_reading_timer()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_reading_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._head_timer = self._call_in_time()

    def _call_in_time(self) -> asyncio.TimerHandle:
        seconds = self.config.head_seconds if isinstance(self.config, ServiceConfig) else ServiceConfig.head_seconds
        return self.loop.call_later(seconds, self._give_up)

    def _stop_reading_timer(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self.transport.abort()
