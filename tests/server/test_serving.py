"""Test how the service begins and ends: addresses, keys, signals, several processes, TLS."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from starlette.datastructures import Headers

from convstore import InvalidInput, Store
from convstore.server import serving as serving_module
from convstore.server.request_checks import check_request
from convstore.server.service_errors import ServiceError
from convstore.server.service_settings import ServiceSettings, is_loopback_address
from tests.cli.program import Program
from tests.processes import PATIENCE, ROOT
from tests.server.running import RunningService, read_all, serving

DATA = Path(__file__).parent / "data"


@contextmanager
def held_upstream() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """Run an upstream that answers one request when it may: yield its URL, and the events "asked" and "may answer"."""
    asked, go = threading.Event(), threading.Event()
    body = b'{"object":"list","data":[]}'

    def answer(listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                asked.set()
                go.wait(PATIENCE)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\nX-Other: c\r\n"
                    b"X-Request-Id: up-1\r\nOpenAI-Version: 1\r\nX-RateLimit-Limit-Requests: 9\r\nRetry-After: 2\r\n"
                    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                )

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", asked, go
        finally:
            go.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class Asking(threading.Thread):
    """Asks for the models in a thread."""

    def __init__(self, running: RunningService) -> None:
        super().__init__()
        self.running = running
        self.answer: httpx.Response | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self.running.ask("GET", "/v1/models", headers={"X-Request-Id": "mine"})
        except Exception as error:
            self.error = error


def test_it_prints_its_address_and_what_a_client_needs(keyless: RunningService) -> None:
    address, base_url, key, model = keyless.first_lines
    assert address == f"# convstore serves {keyless.url}; Ctrl-C ends it"
    assert base_url == f"export OPENAI_BASE_URL={keyless.url}/v1"
    assert key.startswith("export OPENAI_API_KEY=")
    assert "/v1/models" in model


def test_what_it_prints_has_no_password(sqlite_url: str) -> None:
    with serving(sqlite_url, "--upstream", "http://ann:secret@127.0.0.1:1/v1") as running:
        assert running.first_lines[-1].endswith(" http://ann:***@127.0.0.1:1/v1: GET /v1/models")


def test_an_upstream_that_is_no_url_is_refused(program: Program) -> None:
    program("serve", "--upstream", "notaurl").failed(2, "is not a URL")


def test_sigterm_lets_a_request_end_and_takes_no_new_one(sqlite_url: str) -> None:
    with held_upstream() as (upstream, asked, go), serving(sqlite_url, "--upstream", upstream) as running:
        asking = Asking(running)
        assert asked.wait(PATIENCE)
        running.process.send_signal(signal.SIGTERM)
        while True:
            try:
                running.connect().close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                continue  # it was in the queue when the queue was closed
        go.set()
        asking.join()
        assert asking.answer is not None, asking.error
        assert asking.answer.json() == {"object": "list", "data": []}
        headers = asking.answer.headers
        assert (headers["x-request-id"], headers["x-convstore-request-id"]) == ("up-1", "mine")
        assert (headers["openai-version"], headers["x-ratelimit-limit-requests"], headers["retry-after"]) == (
            *("1", "9"),
            "2",
        )
        assert {"set-cookie", "x-other"} & set(headers) == set()
        assert running.process.wait(PATIENCE) == 0


def test_after_the_time_of_grace_requests_are_cut_off(sqlite_url: str) -> None:
    with (
        held_upstream() as (upstream, asked, _),
        serving(sqlite_url, "--upstream", upstream, "--grace", "1") as running,
    ):
        asking = Asking(running)
        assert asked.wait(PATIENCE)
        assert running.end() == 0
        asking.join()
        assert asking.answer is None or asking.answer.status_code >= 500


def test_ctrl_c_ends_it(sqlite_url: str) -> None:
    with serving(sqlite_url) as running:
        assert running.end(signal.SIGINT) == 130
        running.process.wait()
    assert "Traceback" not in "".join(running.log)


def list_children(pid: int) -> set[int]:
    """Return the processes that serve: the children that have a socket."""
    return {
        int(one)
        for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()
    }


def wait_for_workers(running: RunningService, count: int, without: set[int]) -> set[int]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            found = list_children(running.process.pid) - without
            if len(found) == count:
                return found
        time.sleep(0.05)
    raise AssertionError("the workers were not started")


def test_a_worker_that_dies_is_started_again(postgres_url: str) -> None:
    with serving(postgres_url, "--workers", "2") as running:
        workers = wait_for_workers(running, 2, set())
        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        wait_for_workers(running, 2, {killed})
        assert {running.ask("GET", "/v1/conversations").status_code for _ in range(20)} == {200}
        assert running.end() == 0
        assert list(Path("/proc").glob(f"{killed}")) == []


def test_once_a_key_exists_a_running_service_asks_for_it(sqlite_url: str) -> None:
    with serving(sqlite_url) as running, Store(sqlite_url) as store:
        assert running.ask("GET", "/v1/conversations").status_code == 200
        made = store.create_key()
        assert running.ask("GET", "/v1/conversations").status_code == 401
        assert running.ask("GET", "/v1/conversations", key=made.secret).status_code == 200
        store.revoke_key(made.key.id)
        assert running.ask("GET", "/v1/conversations").status_code == 401  # not open again
        store.purge_owner(finish=False)
        for key in (made.secret, None):  # a process that has seen a key does not open itself
            assert running.ask("GET", "/v1/conversations", key=key).status_code == 401


def test_keys_that_existed_at_the_start_count_although_they_are_gone_before_the_first_request(sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        store.create_key()
        with serving(sqlite_url) as running:
            store.purge_owner(finish=False)
            assert running.ask("GET", "/v1/conversations").status_code == 401


def test_more_connections_than_allowed_are_told_to_come_back(sqlite_url: str) -> None:
    with serving(sqlite_url, "--max-connections", "5") as running:
        held = [running.connect() for _ in range(5)]
        assert running.ask("GET", "/healthz").status_code == 503
        for connection in held:
            connection.close()
        deadline = time.monotonic() + PATIENCE
        while running.ask("GET", "/healthz").status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.ask("GET", "/healthz").status_code == 200


def test_a_client_that_does_not_read_its_answers_is_cut_off(sqlite_url: str) -> None:
    with Store(sqlite_url) as store:
        for _ in range(30):
            store.new(metadata={str(number): "x" * 512 for number in range(16)})
    with serving(sqlite_url, "--read-timeout", "1") as running, running.connect() as connection:
        connection.sendall(b"GET /v1/conversations?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        deadline = time.monotonic() + PATIENCE
        # The request that waited for the client is logged when it ends.
        while not re.search(r"conversations 200, [1-9]", "".join(running.log)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 0 < read_all(connection).count(b"HTTP/1.1 200") < 200


def test_a_body_that_comes_on_after_the_answer_holds_no_connection(sqlite_url: str) -> None:
    with serving(sqlite_url, "--max-connections", "4") as running:
        held = [running.connect() for _ in range(3)]
        for connection in held:
            connection.sendall(
                b"POST /v1/conversations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
                b"Content-Length: 100000\r\n\r\n"
            )
            assert connection.recv(12) == b"HTTP/1.1 415"
            with suppress(OSError):
                connection.sendall(b"x")
        deadline = time.monotonic() + PATIENCE
        while running.ask("GET", "/healthz").status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.ask("GET", "/healthz").status_code == 200
        for connection in held:
            connection.close()


def test_a_database_that_cannot_be_used_makes_it_not_ready(sqlite_url: str) -> None:
    with serving(sqlite_url) as running:
        assert running.ask("GET", "/readyz").text == "ok\n"
        path = Path(sqlite_url.removeprefix("sqlite:///"))
        for part in path.parent.glob("chat.db*"):
            if part.is_file():
                part.unlink()
        path.mkdir()
        deadline = time.monotonic() + PATIENCE
        while running.ask("GET", "/readyz").status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        answer = running.ask("GET", "/readyz")
        assert (answer.status_code, answer.text) == (503, "unavailable\n")
        assert running.ask("GET", "/healthz").text == "ok\n"
        error = running.ask("GET", "/v1/conversations")
        assert error.status_code in (500, 503)
        assert str(path.parent) not in error.text


def test_tls_is_served_with_a_certificate(sqlite_url: str) -> None:
    options = ("--tls-cert", str(DATA / "localhost.pem"), "--tls-key", str(DATA / "localhost.key"))
    with serving(sqlite_url, *options) as running:
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(DATA / "localhost.pem"))
        with httpx.Client(verify=context, timeout=PATIENCE, trust_env=False) as client:
            assert client.get(f"{running.url}/v1/conversations").status_code == 200


def test_the_address_may_be_one_of_ipv6(sqlite_url: str) -> None:
    with serving(sqlite_url, "--host", "::1") as running:
        assert running.url.startswith("http://[::1]:")
        assert running.ask("GET", "/v1/conversations").status_code == 200


@pytest.mark.parametrize(
    ("host", "came_to", "is_served"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7:8377", "::ffff:192.0.2.7", True),
        ("[2001:db8::7]", "2001:db8:0:0::7", True),
        ("192.0.2.8", "192.0.2.7", False),
        ("0.0.0.0", "192.0.2.7", True),  # the address that was bound
        ("example.org", "192.0.2.7", False),
    ],
)
def test_the_address_that_a_request_came_to_is_its_host(host: str, came_to: str, is_served: bool) -> None:
    scope = {"type": "http", "method": "GET", "server": (came_to, 8377), "headers": [(b"host", host.encode())]}
    settings = ServiceSettings(None, host="0.0.0.0")
    if is_served:
        check_request(scope, Headers(scope=scope), settings)
    else:
        with pytest.raises(ServiceError, match="does not answer to that name"):
            check_request(scope, Headers(scope=scope), settings)


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True)),
        *(("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("0.0.0.0", False), ("", False), ("localhost", False)),
    ],
)
def test_a_loopback_is_told_by_its_address(address: str, is_loopback: bool) -> None:
    assert is_loopback_address(address) is is_loopback


def test_small_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY only if the socket knows its protocol; else each second answer takes 40 ms more."""
    with serving_module.open_socket(ServiceSettings(None, port=0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP


# --- what is refused at the start ---


def test_without_its_packages_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; sys.argv = ['convstore', 'serve', '--db', ':memory:'];"
        "from convstore.cli import main; main()"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "pip install 'convstore[server]'" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_without_a_key_it_listens_on_this_machine_alone(program: Program) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        program("serve", "--host", host, "--port", "0").failed(2, "without a key", "convstore keys create")


def test_an_address_that_cannot_be_had_is_told(program: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program("serve", "--port", port).failed(2, "cannot listen on 127.0.0.1", "in use")
    program("keys", "create")
    program("serve", "--host", "192.0.2.1", "--port", "0").failed(2, "cannot listen on 192.0.2.1")


def test_a_certificate_needs_its_key_and_an_origin_is_one(program: Program) -> None:
    program("serve", "--tls-cert", str(DATA / "localhost.pem")).failed(2, "private key")
    program("serve", "--cors-origin", "*").failed(2, "an origin is")
    program("serve", "--cors-origin", "https://a.example.org/x").failed(2, "an origin is")


def test_a_database_that_cannot_be_reached_is_told(bare: Program, tmp_path: Path) -> None:
    bare("serve", "--db", str(tmp_path / "no" / "chat.db")).failed(7)


def test_a_name_that_is_not_of_this_machine_is_no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InvalidInput, match="not an address of this machine alone"):
        serving_module.open_socket(ServiceSettings(None, host="localhost", port=0))


@pytest.mark.parametrize(
    ("uid", "shell", "expected"),
    [(1001, "/bin/bash", True), (1001, "/usr/sbin/nologin", False), (33, "/bin/sh", False), (65534, "/bin/sh", False)],
)
def test_other_people_are_those_who_can_log_in(
    monkeypatch: pytest.MonkeyPatch, uid: int, shell: str, expected: bool
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    me, other = SimpleNamespace(pw_uid=1000, pw_shell="/bin/sh"), SimpleNamespace(pw_uid=uid, pw_shell=shell)
    monkeypatch.setattr(pwd, "getpwall", lambda: [me, other])
    assert serving_module.has_other_people() is expected
