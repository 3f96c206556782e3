"""A pooler like PgBouncer in transaction mode, with one connection to the server.

A client has the server's connection from the first statement of a transaction to its end. So what one client sets in
the session, as `SET search_path` does, holds for the next client too.

https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from sqlalchemy import make_url

_CANCEL, _REQUESTS_OF_ENCRYPTION = 80877102, (80877103, 80877104)
_TOLD_AT_START = (
    "server_version",
    "server_encoding",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "integer_datetimes",
    "standard_conforming_strings",
)


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """Run a pooler for the database at `url`, and yield the URL at which clients reach it."""
    direct = make_url(url)
    plain = direct.set(drivername="postgresql").render_as_string(hide_password=False)
    with (
        psycopg.connect(plain, sslmode="disable", client_encoding="utf8") as connection,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        pooler = _Pooler(connection)
        threading.Thread(target=pooler.accept, args=(listener,), daemon=True).start()
        try:
            through = direct.set(host="127.0.0.1", port=listener.getsockname()[1], query={"sslmode": "disable"})
            yield through.render_as_string(hide_password=False)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            pooler.close()


class _Pooler:
    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        # psycopg has logged in; from now on, only bytes are passed on.
        self._server = socket.socket(fileno=os.dup(connection.fileno()))
        self._server.settimeout(None)
        told = [(name, connection.info.parameter_status(name) or "") for name in _TOLD_AT_START]
        self._greeting = _message(b"R", struct.pack("!i", 0)) + b"".join(
            _message(b"S", f"{name}\0{value}\0".encode()) for name, value in told
        )
        self._is_free = threading.Lock()
        self._clients: list[socket.socket] = []

    def accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                # Else each small message waits until the one before it is acknowledged: 40 ms for each statement.
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        for one in (*self._clients, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client:
            code = 0
            while code == 0 or code in _REQUESTS_OF_ENCRYPTION:
                if code:
                    client.sendall(b"N")
                size, code = struct.unpack("!ii", _read(client, 8))
                _read(client, size - 8)
            if code == _CANCEL:
                return
            client.sendall(self._greeting + _message(b"K", struct.pack("!ii", 1, 1)) + _message(b"Z", b"I"))
            while True:
                kind, data = _read_message(client)
                if kind == b"X":
                    return
                with self._is_free:
                    self._run_transaction(client, kind, data)

    def _run_transaction(self, client: socket.socket, kind: bytes, data: bytes) -> None:
        """Pass messages on, from the first one to the end of the transaction."""
        unanswered, is_open = 0, True
        try:
            while True:
                self._server.sendall(_message(kind, data))
                unanswered += kind in (b"Q", b"S", b"F")
                while unanswered:
                    answer, told = _read_message(self._server)
                    client.sendall(_message(answer, told))
                    if answer == b"Z":
                        unanswered, is_open = unanswered - 1, told != b"I"
                if not is_open:
                    return
                kind, data = _read_message(client)
                if kind == b"X":
                    raise EOFError
        finally:
            if is_open:
                self._roll_back(unanswered)

    def _roll_back(self, unanswered: int) -> None:
        """End the transaction of a client that has gone."""
        self._server.sendall(_message(b"S", b"") + _message(b"Q", b"ROLLBACK\0"))
        unanswered += 2
        while unanswered:
            unanswered -= _read_message(self._server)[0] == b"Z"


def _message(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("!i", len(data) + 4) + data


def _read_message(source: socket.socket) -> tuple[bytes, bytes]:
    kind = _read(source, 1)
    return kind, _read(source, struct.unpack("!i", _read(source, 4))[0] - 4)


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
