"""Attack a running service: slow clients, huge and broken requests, foreign pages, wrong keys, tricks with paths."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.processes import PATIENCE
from tests.server.conftest import KeyedService
from tests.server.running import RunningService, read_all, serving

JSON = "Content-Type: application/json"


def make_head(method: str, path: str, *headers: str, host: str | None = "127.0.0.1") -> bytes:
    named = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", *named, "Connection: close", *headers, "", ""]).encode("latin-1")


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def post(running: RunningService, key: str, body: bytes, *headers: str) -> tuple[int, str]:
    """Post a body, and return the status and the code of the error."""
    sent = headers or (JSON,)
    head = make_head("POST", "/v1/conversations", f"Authorization: Bearer {key}", f"Content-Length: {len(body)}", *sent)
    answer = running.send(head + body)
    return status_of(answer), json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]


# --- names and pages ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("127.8.8.8", 200),
        ("localhost", 200),
        ("LOCALHOST.:80", 200),
        ("[::1]:8377", 200),
        ("chat.example.org", 200),
        ("Chat.Example.Org:443", 200),
        ("evil.example.org", 421),
        ("localhost.evil.example.org", 421),
        ("127.0.0.1.evil.example.org", 421),
        ("chat.example.org.evil.example.org", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("[::2]", 421),
        ("2130706433", 421),
        ("127.0.0.1@evil.example.org", 400),
        ("evil.example.org/127.0.0.1", 400),
        ("localhost:80:80", 400),
        ("", 400),
        (None, 400),
    ],
)
def test_a_name_that_was_rebound_to_this_machine_is_refused(keyed: KeyedService, host: str | None, status: int) -> None:
    for path in ("/healthz", "/v1/conversations"):
        answer = keyed.running.send(make_head("GET", path, f"Authorization: Bearer {keyed.keys.ada}", host=host))
        assert status_of(answer) == status


def test_two_hosts_are_no_host(keyed: KeyedService) -> None:
    assert status_of(keyed.running.send(make_head("GET", "/healthz", "Host: evil.example.org"))) == 400
    assert status_of(keyed.running.send(make_head("GET", "http://evil.example.org/healthz"))) == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://page.example.org.evil.example.org"},
        {"Origin": "https://page.example.org:8443"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
    ids=str,
)
def test_pages_of_other_sites_are_refused(keyless: RunningService, headers: dict[str, str]) -> None:
    for method, body in (("POST", {}), ("GET", None), ("OPTIONS", None)):
        answer = keyless.ask(method, "/v1/conversations", json=body, headers=headers)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_a_page_that_is_allowed_may_call_after_the_browser_has_asked(keyless: RunningService) -> None:
    origin = "https://page.example.org"
    wishes = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    asked = keyless.ask("OPTIONS", "/v1/conversations", headers={"Origin": origin, **wishes})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, origin)
    assert "access-control-allow-credentials" not in asked.headers
    made = keyless.ask("POST", "/v1/conversations", json={}, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"})
    assert (made.status_code, made.headers["access-control-allow-origin"]) == (200, origin)


def test_the_service_own_page_and_programs_are_no_foreign_pages(keyless: RunningService) -> None:
    assert keyless.ask("GET", "/v1/conversations", headers={"Origin": keyless.url}).status_code == 200
    for site in ("same-origin", "none"):
        assert keyless.ask("GET", "/v1/conversations", headers={"Sec-Fetch-Site": site}).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "Content-Type: text/plain",
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: application/jsonp",
        "Content-Type:",
        "X: y",
    ],
)
def test_a_form_of_a_page_is_no_body(keyed: KeyedService, content_type: str) -> None:
    assert post(keyed.running, keyed.keys.ada, b"{}", content_type) == (415, "unsupported_media_type")


# --- without a key ---


@pytest.mark.parametrize(
    "header",
    [
        *("Forwarded: for=10.0.0.1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: x", "Via: 1.1 proxy"),
        *("X-Real-IP: 10.0.0.1", "CF-Connecting-IP: 10.0.0.1", "True-Client-IP: 10.0.0.1", "X-Client-IP: 10.0.0.1"),
        "X-Original-Host: chat.example.org",
    ],
)
def test_without_a_key_no_proxy_is_served(keyless: RunningService, header: str) -> None:
    assert status_of(keyless.send(make_head("GET", "/v1/conversations", header))) == 403
    assert status_of(keyless.send(make_head("GET", "/healthz", header))) == 200


@pytest.mark.parametrize("header", ["X-Convstore-Owner", "X-User-Id", "X-OpenWebUI-User-Id"])
def test_without_a_key_nobody_acts_for_an_owner(keyless: RunningService, header: str) -> None:
    assert keyless.ask("GET", "/v1/conversations", headers={header: "ada"}).status_code == 403


def test_without_a_key_any_is_taken_for_none(keyless: RunningService) -> None:
    for key in (None, "sk-anything", "none"):
        assert keyless.ask("GET", "/v1/conversations", key=key).status_code == 200


def test_with_a_key_a_proxy_may_send_requests(keyed: KeyedService) -> None:
    headers = {"X-Forwarded-For": "10.0.0.1", "Via": "1.1 proxy"}
    assert keyed.running.ask("GET", "/v1/conversations", key=keyed.keys.ada, headers=headers).status_code == 200


# --- bodies ---


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"metadata": {"a": NaN}}', "invalid_json"),
        (b'{"metadata": 1e999}', "invalid_json"),
        (b'{"metadata": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b'{"metadata": "\xed\xa0\x80"}', "invalid_json"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "invalid_json"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "invalid_json"),
        (b'{"metadata": {"a": "' + b"x" * 900_000 + b'"}}', "invalid_value"),
    ],
    ids=range(12),
)
def test_a_broken_body_is_refused(keyed: KeyedService, body: bytes, code: str) -> None:
    assert post(keyed.running, keyed.keys.ada, body) == (400, code)


def test_a_compressed_body_is_refused(keyed: KeyedService) -> None:
    assert post(keyed.running, keyed.keys.ada, b"{}", JSON, "Content-Encoding: gzip") == (415, "unsupported_encoding")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(keyed: KeyedService) -> None:
    key = f"Authorization: Bearer {keyed.keys.ada}"
    head = make_head("POST", "/v1/conversations", key, JSON, "Content-Length: 10000000000", "Expect: 100-continue")
    answer = keyed.running.send(head)
    assert status_of(answer) == 413
    assert b"100 Continue" not in answer


def test_a_body_in_chunks_is_read_up_to_the_limit(keyed: KeyedService) -> None:
    head = make_head(
        "POST", "/v1/conversations", f"Authorization: Bearer {keyed.keys.ada}", JSON, "Transfer-Encoding: chunked"
    )
    small = b"2\r\n{}\r\n0\r\n\r\n"
    assert status_of(keyed.running.send(head + small)) == 200
    with keyed.running.connect() as connection:
        connection.sendall(head)
        sent = 0
        try:
            while sent < 64 * 2**20:
                connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert sent < 32 * 2**20
        answer = read_all(connection)
        assert status_of(answer) in (0, 413)  # 0: the connection was reset while we sent


def test_a_body_without_a_key_is_not_read(keyed: KeyedService) -> None:
    head = make_head("POST", "/v1/conversations", JSON, "Content-Length: 1000000", "Expect: 100-continue")
    answer = keyed.running.send(head)
    assert status_of(answer) == 401
    assert b"100 Continue" not in answer


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 2", "Transfer-Encoding: chunked"),
        ("Content-Length: 2", "Content-Length: 3"),
        ("Content-Length: -2",),
        ("Content-Length: +2",),
        ("Transfer-Encoding: chunked, gzip",),
        ("Content-Length : 2",),
        ("X: a\x00b",),
        ("X: a\n b",),
    ],
    ids=str,
)
def test_a_head_with_two_meanings_is_refused_or_has_one(keyed: KeyedService, headers: tuple[str, ...]) -> None:
    """A proxy and a service must not differ about where a request ends."""
    head = make_head("POST", "/v1/conversations", f"Authorization: Bearer {keyed.keys.ada}", JSON, *headers)
    answer = keyed.running.send(head + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert 400 <= status_of(answer) < 500 or status_of(answer) == 501
    assert answer.count(b"HTTP/1.1 ") == 1


# --- bodies that nobody reads ---


def make_kept_head(method: str, path: str, *headers: str, host: str = "127.0.0.1") -> bytes:
    """Return a head that does not ask to close the connection."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize(
    ("path", "how", "status"),
    [
        ("/v1/conversations", {}, 401),
        ("/v1/conversations", {"host": "evil.example.org"}, 421),
        ("/v1/conversations", {"origin": "https://evil.example.org"}, 403),
        ("/v1/conversations", {"key": "ada", "type": "text/plain"}, 415),
        ("/v1/files", {}, 404),
        ("/healthz", {}, 405),
    ],
    ids=str,
)
def test_a_connection_is_closed_if_its_body_does_not_come_after_the_answer(
    keyed: KeyedService, path: str, how: dict[str, str], status: int, size: int
) -> None:
    headers = [f"Content-Length: {size}", f"Content-Type: {how.get('type', 'application/json')}"]
    if "origin" in how:
        headers.append(f"Origin: {how['origin']}")
    if "key" in how:
        headers.append(f"Authorization: Bearer {keyed.keys.ada}")
    with keyed.running.connect() as connection:
        connection.sendall(make_kept_head("POST", path, *headers, host=how.get("host", "127.0.0.1")) + b"x")
        answer = read_all(connection)  # without an end, this fails after a minute
    assert status_of(answer) == status
    assert b"\r\nconnection: close\r\n" in answer


def test_after_a_refusal_nothing_more_is_taken(keyed: KeyedService) -> None:
    sent = 0
    with keyed.running.connect() as connection:
        connection.sendall(make_kept_head("POST", "/v1/conversations", JSON, "Transfer-Encoding: chunked"))
        try:
            while sent < 64 * 2**20:
                connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
    assert sent < 32 * 2**20  # the buffers of the two sockets hold some


def test_a_small_body_that_was_refused_does_not_cost_the_connection(keyed: KeyedService) -> None:
    refused = make_kept_head("POST", "/v1/conversations", JSON, "Content-Length: 2")
    answer = keyed.running.send(refused + b"{}" + refused + b"{}" + make_head("GET", "/healthz"))
    assert (answer.count(b"HTTP/1.1 401"), answer.count(b"HTTP/1.1 200")) == (2, 1)
    with keyed.running.connect() as connection:
        connection.sendall(refused)
        connection.sendall(b"{}")
        connection.sendall(make_head("GET", "/healthz"))
        answer = read_all(connection)
    assert (answer.count(b"HTTP/1.1 401"), answer.count(b"HTTP/1.1 200")) == (1, 1)


# --- slow clients and floods ---


def test_a_client_that_sends_no_whole_head_is_cut_off(keyed: KeyedService) -> None:
    for beginning in (b"", b"GET / HT", make_head("GET", "/healthz")[:-2]):
        begun = time.monotonic()
        assert keyed.running.send(beginning) == b""
        assert time.monotonic() - begun < 60


def test_a_client_that_sends_its_head_byte_by_byte_is_cut_off(keyed: KeyedService) -> None:
    head, sent = make_head("GET", "/healthz", "X: " + "x" * 200), 0
    with keyed.running.connect() as connection:
        try:
            for byte in head:
                connection.sendall(bytes([byte]))
                sent += 1
                connection.settimeout(0.1)
                try:
                    assert connection.recv(1) == b""
                    break
                except TimeoutError:
                    pass
        except OSError:
            pass
    assert sent < len(head)


def test_a_second_head_on_a_connection_must_come_in_time_too(keyed: KeyedService) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for second in (b"GET /hea", b""):
        answer = keyed.running.send(first + second)
        assert answer.count(b"HTTP/1.1 200") == 1


def test_a_client_that_sends_no_whole_body_is_told_so(keyed: KeyedService) -> None:
    head = make_head("POST", "/v1/conversations", f"Authorization: Bearer {keyed.keys.ada}", JSON, "Content-Length: 9")
    answer = keyed.running.send(head + b"{")
    assert status_of(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize(
    "headers",
    [["X: " + "x" * 200_000], [f"X-{number}: y" for number in range(20_000)], ["x" * 200_000 + ": y"]],
    ids=["long value", "many", "long name"],
)
def test_a_flood_of_headers_is_refused(keyed: KeyedService, headers: list[str]) -> None:
    assert status_of(keyed.running.send(make_head("GET", "/healthz", *headers))) in (0, 400, 431)
    assert keyed.running.ask("GET", "/healthz").status_code == 200


def test_many_slow_clients_do_not_stop_a_quick_one(keyed: KeyedService) -> None:
    slow = [keyed.running.connect() for _ in range(200)]
    for connection in slow:
        connection.sendall(b"POST /v1/conv")
    assert keyed.running.ask("GET", "/v1/conversations", key=keyed.keys.ada).status_code == 200
    for connection in slow:
        connection.close()


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_what_is_no_http_is_refused(keyed: KeyedService, data: bytes) -> None:
    assert status_of(keyed.running.send(data)) in (0, 400)


# --- paths and methods ---


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "//v1/conversations",
        "/v1//conversations",
        "/v1/conversations/",
        "/V1/conversations",
        "/v1/conversations/../conversations",
        "/v1/../healthz",
        "/v1/%2e%2e/healthz",
        "/v1/conversations;x",
        "/v1/conversations%00",
        "/v1/conversations/a/b",
        "/v1/conversations/a%2Fb",
        "/v1/files",
        "/v1/responses",
        "/docs",
        "/metrics/",
        "/metrics/x",
        "/openapi.json/",
        "/openapi.yaml",
        "/static/..%2f..%2fetc/passwd",
        "/etc/passwd",
        "*",
    ],
)
def test_every_other_path_does_not_exist(keyed: KeyedService, path: str) -> None:
    for method in ("GET", "POST"):
        answer = keyed.running.send(make_head(method, path, f"Authorization: Bearer {keyed.keys.ada}"))
        assert status_of(answer) == 404, answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_found"


@pytest.mark.parametrize("id", ["%00", "%ff", "%F0%9F%98%80", "..", "%2e%2e", "a" * 5000, "%0d%0aX:y", "'%22--", "%"])
def test_an_odd_id_is_only_an_id_that_does_not_exist(keyed: KeyedService, id: str) -> None:
    for method in ("GET", "DELETE"):
        head = make_head(method, f"/v1/conversations/{id}", f"Authorization: Bearer {keyed.keys.ada}")
        assert status_of(keyed.running.send(head)) == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "DEBUG", "get", "X" * 1000])
def test_other_methods_are_refused(keyed: KeyedService, method: str) -> None:
    answer = keyed.running.send(make_head(method, "/v1/conversations", f"Authorization: Bearer {keyed.keys.ada}"))
    assert status_of(answer) in (400, 405)


def test_a_path_says_which_methods_it_has(keyed: KeyedService) -> None:
    answer = keyed.running.ask("DELETE", "/v1/conversations", key=keyed.keys.ada)
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD", "POST"})


def test_a_request_id_is_kept_if_it_is_one(keyed: KeyedService) -> None:
    ask = keyed.running.ask
    assert ask("GET", "/healthz", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for odd in ("a b", "<script>", "x" * 200, "ä"):
        answer = ask("GET", "/v1/nothing", headers={"X-Request-Id": odd.encode("latin-1")})  # type: ignore[dict-item]
        assert answer.headers["x-request-id"].startswith("req_")


def test_answers_are_not_kept_or_guessed_by_browsers(keyed: KeyedService) -> None:
    for path in ("/healthz", "/v1/conversations", "/nothing"):
        headers = keyed.running.ask("GET", path, key=keyed.keys.ada).headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
        assert "server" not in headers
        assert "set-cookie" not in headers


# --- speed ---


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, list[str]]]:
    """Yield a service that serves five requests a minute of each key, and two keys."""
    from convstore import Store

    url = f"sqlite:///{tmp_path_factory.mktemp('limited')}/chat.db"
    with Store(url) as store:
        secrets = [store.create_key().secret for _ in range(2)]
    with serving(url, "--rate", "5") as running:
        yield running, secrets


def test_a_key_has_a_number_of_requests_a_minute(limited: tuple[RunningService, list[str]]) -> None:
    running, (first, second) = limited
    answers = [running.ask("GET", "/v1/conversations", key=first) for _ in range(12)]
    # They are counted by the minute: at most one new minute begins meanwhile.
    assert [answer.status_code for answer in answers].count(200) in (5, 10)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert running.ask("GET", "/v1/conversations", key=second).status_code == 200
    assert running.ask("GET", "/healthz").status_code == 200


def test_wrong_keys_at_speed_are_refused_and_lock_nobody_out(limited: tuple[RunningService, list[str]]) -> None:
    running, (_, good) = limited
    with httpx.Client(base_url=running.url, timeout=PATIENCE, trust_env=False, verify=False) as client:
        answers = [
            client.get("/v1/models", headers={"Authorization": f"Bearer cs_{number:043}"}).status_code
            for number in range(150)
        ]
    assert set(answers) == {401, 429}
    assert answers.count(429) > 20
    assert running.ask("GET", "/v1/conversations", key=good).status_code in (200, 429)
