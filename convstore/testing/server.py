"""Serve scripted Chat Completions on loopback, over real HTTP and SSE."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from convstore.testing.completions import CREATED, DEFAULT_MODEL, Answer, answer_to
from convstore.testing.responses import Drop, Failure, JSONObject, Raw, Response, echo

_TICK = 0.01  # seconds between two checks during a wait: event set, server closed, client disconnected


@dataclass(frozen=True)
class Request:
    """A request as it arrived: header names in lower case; ``body`` is ``{}`` unless it was a JSON object."""

    method: str
    path: str
    headers: dict[str, str]
    body: JSONObject


class ChatServer:
    """A server that answers Chat Completions calls from a script, from its creation until ``close``.

        with ChatServer() as server:
            server.script(Failure(429, retry_after=1), Reply("Hello"))
            client = openai.OpenAI(base_url=server.url, api_key="x")

    Any number of clients may call at once, and all methods may be called from any thread. ``GET /v1/models``
    lists one model, ``test-model``; any other path is a 404 in OpenAI's form. ``port`` 0 takes a free one.
    """

    otherwise: Callable[[JSONObject], Response]
    """The function that answers when the script is used up, called with the request's body. Default: ``echo``.

    It runs in a thread of its own. It may wait, but not for ever: ``close`` waits for it."""

    def __init__(self, *, port: int = 0) -> None:
        self.otherwise = echo
        self._changed = threading.Condition()
        self._script: deque[Response] = deque()
        self._requests: list[Request] = []
        self._disconnects = 0
        self._closing = threading.Event()
        self._listener = _Listener(port, self)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(_TICK,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL, as ``OPENAI_BASE_URL`` takes it."""
        return f"http://127.0.0.1:{self._listener.server_port}/v1"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, for any path, in order of arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def disconnects(self) -> int:
        """Number of clients that disconnected before their whole answer was sent."""
        with self._changed:
            return self._disconnects

    def script(self, *responses: Response) -> None:
        """Queue responses: each answers one chat completion request, in order of arrival."""
        with self._changed:
            self._script.extend(responses)

    def wait_requests(self, n: int = 1, timeout: float = 5.0) -> bool:
        """Wait until ``n`` requests have arrived in all; return False if ``timeout`` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._requests) >= n, timeout)

    def wait_disconnect(self, timeout: float = 5.0, *, n: int = 1) -> bool:
        """Wait until ``n`` clients have disconnected in all; return False if ``timeout`` seconds pass first.

        The server notices a client that disconnects during a hold or a delay within a hundredth of a second,
        otherwise at the next part that it sends. A client that disconnects after the last part is not counted.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._disconnects >= n, timeout)

    def close(self) -> None:
        """Stop: end all holds, close all connections, join all threads. It may be called again."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.close_connections()
        self._listener.server_close()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _arrived(self, request: Request, *, scripted: bool) -> tuple[int, Response | None]:
        """Record a request; return its number, and the next response of the script if it may have one."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()
            # Under one lock: the order of the requests is the order of the script.
            return len(self._requests), self._script.popleft() if scripted and self._script else None

    def _disconnected(self) -> None:
        if self._closing.is_set():
            return  # this side closed the connection
        with self._changed:
            self._disconnects += 1
            self._changed.notify_all()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True  # a server without `close` does not keep the process alive
    request_queue_size = 128

    def __init__(self, port: int, chat: ChatServer) -> None:
        self.chat = chat
        self._connections: list[tuple[threading.Thread, socket.socket]] = []
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's method asks the resolver for the host's name, which takes seconds on some machines.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        # socketserver does not join daemon threads, so they are kept here.
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._connections = [kept for kept in self._connections if kept[0].is_alive()]
        self._connections.append((thread, request))
        thread.start()

    def close_connections(self) -> None:
        """Wake the thread of each connection, and join it; to call when no more connections are accepted."""
        for _, connection in self._connections:
            with contextlib.suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        for thread, _ in self._connections:
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may break an idle connection; an exception in `otherwise` is printed.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # TCP_NODELAY: events leave at once

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        try:
            self._respond(self.rfile.read(self._content_length()))
        except ConnectionError:
            self.close_connection = True
            self.server.chat._disconnected()

    def _content_length(self) -> int:
        length = self.headers.get("Content-Length", "")
        if length.isdecimal():
            return int(length)
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True  # with a chunked body, which is not read
        return 0

    def _respond(self, data: bytes) -> None:
        chat = self.server.chat
        body = _json_object(data)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body or {})
        route = f"{self.command} {urlsplit(self.path).path}"
        is_chat = route == "POST /v1/chat/completions"
        number, response = chat._arrived(request, scripted=is_chat and body is not None)
        if response is None:
            if route == "GET /v1/models":
                response = _MODELS
            elif not is_chat:
                response = Failure(404, f"Unknown request URL: {route}.", code="unknown_url")
            elif body is None:
                response = Failure(400, "We could not parse the JSON body of your request.")
            else:
                response = chat.otherwise(body)
        if isinstance(response, Drop):
            self.close_connection = True
        else:
            self._send(answer_to(request.body, response, number), number)

    def _send(self, answer: Answer, number: int) -> None:
        if answer.hold_after == 0:
            self._hold(answer)
        self._check_connection()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(answer.length))
        self.send_header("X-Request-Id", f"req_test_{number}")
        self.end_headers()

        last = len(answer.parts) - 1
        for place, part in enumerate(answer.parts):
            if place > 1 and answer.delay:
                self._wait(None, answer.delay)
            self._check_connection()
            data = part
            if answer.length is None:
                data = b"%x\r\n%b\r\n" % (len(part), part) if part else b""
                # In one write with the last event, for clients that stop reading at [DONE].
                data += b"0\r\n\r\n" if answer.whole and place == last else b""
            self.wfile.write(data)
            if place == answer.hold_after > 0:
                self._hold(answer)
        if not answer.whole:
            self.close_connection = True

    def _hold(self, answer: Answer) -> None:
        if answer.started is not None:
            answer.started.set()
        if answer.hold is not None:
            self._wait(answer.hold, None)

    def _wait(self, event: threading.Event | None, seconds: float | None) -> None:
        """Wait for the event or the time; raise ConnectionError if the server closes or the client leaves first."""
        event = event or threading.Event()
        end = float("inf") if seconds is None else time.monotonic() + seconds
        while not event.wait(max(0, min(_TICK, end - time.monotonic()))) and time.monotonic() < end:
            self._check_connection()

    def _check_connection(self) -> None:
        if self.server.chat._closing.is_set():
            raise ConnectionAbortedError
        with contextlib.suppress(BlockingIOError):
            if self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                raise ConnectionResetError


_MODELS = Raw(
    json.dumps(
        {
            "object": "list",
            "data": [{"id": DEFAULT_MODEL, "object": "model", "created": CREATED, "owned_by": "convstore"}],
        }
    )
)


def _json_object(data: bytes) -> JSONObject | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
