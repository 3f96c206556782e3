"""Test that each failure of a call prints one line and loses nothing."""

import json
from pathlib import Path

import pytest

from convstore.testing import ChatServer, Drop, Failure, Raw, Reply, Response
from tests.cli.program import Program, Rows

MODES: list[list[str]] = [[], ["--no-stream"], ["--json"]]
NOT_GENERATED = (429, 503)
"""With these statuses, nothing was generated. So the call is repeated."""
TRIES = 3


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


def check_conversation_goes_on(program: Program, server: ChatServer, rows: Rows, *before: str) -> None:
    """Assert that a failed message is stored, shown as unanswered and not sent later."""
    assert ("lost?",) in rows("SELECT content FROM convstore_messages")
    shown = program("show")
    assert shown.out.partition("\n")[2].count("lost?") == 1  # the first line has the title
    assert "not answered" in shown.out
    [turn] = program("show", "--json").json["unanswered"]
    assert turn["messages"] == [{"role": "user", "content": "lost?"}]
    assert turn["error"]["message"]
    assert program("say", "again").code == 0
    assert read_sent_contents(server) == [*before, "again"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Failure(401), ["401", "Incorrect API key"]),
        (Failure(404), ["404", "model does not exist"]),
        (Failure(429, retry_after=0), ["429", "Rate limit"]),
        (Failure(500), ["500", "server had an error"]),
        (Failure(400, "A message\nof two lines\x1b[2J"), ["400", "A message of two lines"]),
        (Failure(503, "", retry_after=0), ["503"]),
        (Drop(), ["connection", "failed"]),
        (Reply(choices=[]), []),
        (Raw('{"error": {"message": "out of credit"}}'), []),
        (Raw("<html>a proxy</html>", content_type="text/html"), []),
        (Raw("<html>a proxy</html>"), []),
        (Raw("<html>a proxy</html>", status=502, content_type="text/html"), ["502"]),
        (Raw(""), []),
        (Raw("null"), []),
        (Raw("[1, 2]"), []),
        (Raw('{"choices": [{"index": 0}]}'), []),
        (Raw(b"\xff\xfe\x00"), []),
    ],
    ids=lambda value: (
        f"{type(value).__name__}-{getattr(value, 'status', '')}" if not isinstance(value, list) else "words"
    ),
)
def test_a_failed_call_is_stored_and_not_sent_later(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str], response: Response, words: list[str]
) -> None:
    identity = program("new", "--system", "Be brief.").out.strip()
    calls = TRIES if getattr(response, "status", None) in NOT_GENERATED else 1
    chat_server.script(*[response] * calls)
    ran = program("say", "lost?", *mode)
    assert ran.code == 6
    ran.one_line(f"conversation '{identity}', turn 1", "stored without a reply", *words)
    if mode == ["--json"]:
        assert (ran.json["status"], ran.json["message"]) == ("failed", None)
        assert ran.json["error"]["message"]
    else:
        assert ran.out == ""
    assert len(chat_server.requests) == calls
    [turn] = program("turns", "--json").json
    assert len(turn["attempts"]) == calls - 1  # each repeated call is stored as an attempt
    [(status, error)] = rows.turns
    assert status == "failed"
    assert {"type", "message"} <= error.keys()
    check_conversation_goes_on(program, chat_server, rows, "Be brief.")


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_a_refused_connection_is_stored_as_a_failed_turn(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str]
) -> None:
    program("new")
    closed = ChatServer()
    closed.close()
    program("say", "lost?", "--base-url", closed.url, *mode).failed(6, "Connection")
    assert [status for status, _ in rows.turns] == ["failed"]
    [turn] = program("turns", "--json").json
    assert [attempt["error"]["type"] for attempt in turn["attempts"]] == ["APIConnectionError"] * (TRIES - 1)
    check_conversation_goes_on(program, chat_server, rows)


def test_an_unreachable_server_is_named_with_what_to_check(program: Program, chat_server: ChatServer) -> None:
    program("new")
    closed = ChatServer()
    closed.close()
    address = closed.url.removeprefix("http://")
    ran = program("say", "lost?", "--base-url", f"http://ann:pa55@{address}").failed(
        6,
        f"the connection to http://{address} failed: ",
        "refused; check that the server runs, and the base URL that was given.",
    )
    assert "pa55" not in ran.err
    assert "Errno" not in ran.err
    ran = program("say", "lost?", "--base-url", "http://no-such-host.invalid/v1")
    ran.failed(
        6, "the connection to http://no-such-host.invalid/v1 failed: ", "check the host in the base URL that was"
    )


def test_an_unreachable_server_is_blamed_on_what_named_it(
    program: Program, chat_server: ChatServer, tmp_path: Path
) -> None:
    program("new", "-m", "m")
    path = tmp_path / "home" / "config" / "convstore" / "config.toml"
    path.parent.mkdir(parents=True)
    closed = ChatServer()
    closed.close()
    path.write_text(f'base-url = "{closed.url}"\n[profiles.work]\nbase-url = "{closed.url}"\n')
    path.chmod(0o600)
    program.set(OPENAI_BASE_URL=closed.url)
    program("say", "lost?").failed(6, "check that the server runs, and the base URL (OPENAI_BASE_URL).")
    program("say", "lost?", "--profile", "work").failed(
        6, "check that the server runs, and the base URL (profile work)."
    )
    program.set(OPENAI_BASE_URL=None)
    program("say", "lost?").failed(6, "check that the server runs, and the base URL (config.toml).")


@pytest.mark.parametrize(
    ("failure", "path", "words"),
    [
        (Failure(401), "", ["set OPENAI_API_KEY"]),
        (Failure(429, retry_after=0), "", ["wait before you ask again"]),
        (Failure(429, code="insufficient_quota"), "", ["add credit"]),
        (Failure(404), "", ["name a model that this server has", "`convstore retry -m MODEL`"]),
        (Failure(404, "page not found", code="not_found"), "", []),
        (Failure(500), "", []),
        (None, "without /v1", ["the base URL has no /v1: try {root}/v1"]),
    ],
    ids=["401", "429", "quota", "model", "404", "500", "no /v1"],
)
def test_a_providers_error_names_the_server_and_what_to_do_next(
    program: Program, chat_server: ChatServer, failure: Failure | None, path: str, words: list[str]
) -> None:
    program("new")
    root = chat_server.url.removesuffix("/v1")
    url = root if path else chat_server.url
    if failure is not None:
        chat_server.script(*[failure] * TRIES)
    ran = program("say", "lost?", "--base-url", url)
    ran.failed(6, f"Error from {url}: ", " The message is stored without a reply. Later calls leave it out; `convstore")
    ran.one_line(*(word.format(root=root) for word in words))
    if not words:
        assert ran.err.count(";") == 1  # no advice


def test_the_advice_about_a_wrong_key_names_its_variable(program: Program, chat_server: ChatServer) -> None:
    program.set(OPENAI_API_KEY="sk-wrong")
    program("new")
    chat_server.script(Failure(401))
    program("say", "lost?").failed(6, f"check OPENAI_API_KEY, the key for {chat_server.url}. The message is stored")


def test_a_call_refused_before_generation_is_repeated(program: Program, chat_server: ChatServer) -> None:
    program("new")
    chat_server.script(Failure(429, retry_after=0), Failure(503, retry_after=0))
    ran = program("say", "hi")
    assert (ran.code, ran.out, ran.err) == (0, "You said: hi\n", "")
    [turn] = program("turns", "--json").json
    assert [attempt["error"]["status"] for attempt in turn["attempts"]] == [429, 503]
    assert (turn["status"], turn["error"]) == ("completed", None)


def test_failures_are_the_same_on_each_database(on_each: Program, chat_server: ChatServer) -> None:
    on_each("new")
    for response in (Failure(500), Drop(), Reply("cut in", finish_reason=None)):
        chat_server.script(response)
        assert on_each("say", "lost?").code == 6
    shown = on_each("show", "--json").json
    assert [turn["status"] for turn in shown["unanswered"]] == ["failed", "failed", "interrupted"]
    assert shown["messages"] == []
    on_each("say", "again")
    assert read_sent_contents(chat_server) == ["again"]
    assert on_each("show", "--json").json["unanswered"] == []


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_an_error_with_status_200_is_reported(program: Program, chat_server: ChatServer, mode: list[str]) -> None:
    program("new")
    chat_server.script(Raw('{"error": {"message": "out of credit"}}'))
    program("say", "lost?", *mode).failed(6, "out of credit")


# --- a partial reply ---


@pytest.mark.parametrize(
    ("response", "came"),
    [
        (Reply("Hello wor", finish_reason=None), "Hello wor"),
        (Reply("Hello wor", finish_reason=None, done=False), "Hello wor"),
        (Reply("Hello world", pieces=["Hel", "lo world"], error_event={"message": "overloaded"}, error_after=1), "Hel"),
        (Reply("Hello world", pieces=["Hel", "lo world"], garbage="{not json", garbage_after=1), "Hel"),
    ],
    ids=["no finish", "no finish, no done", "error event", "garbage"],
)
def test_an_interrupted_stream_is_printed_and_kept_but_not_sent_later(
    program: Program, chat_server: ChatServer, rows: Rows, response: Reply, came: str
) -> None:
    program("new")
    chat_server.script(response)
    ran = program("say", "lost?")
    assert (ran.code, ran.out) == (6, came + "\n")
    ran.one_line(
        "the reply was cut off",
        "The partial reply is stored with the turn. Later calls leave it out; `convstore retry`",
    )
    [(status, _)] = rows.turns
    assert status == "interrupted"
    shown = program("show")
    assert f"partial reply)\n{came}\n" in shown.out
    [turn] = program("show", "--json").json["unanswered"]
    assert turn["reply"]["content"] == came
    check_conversation_goes_on(program, chat_server, rows)


@pytest.mark.parametrize("clean", [True, False])
def test_a_stream_that_is_cut_anywhere_is_never_complete(
    program: Program, chat_server: ChatServer, rows: Rows, clean: bool
) -> None:
    program("new")
    whole = Reply("Hello world", usage=None)
    for cut in range(0, 900, 60):
        chat_server.script(Reply("Hello world", usage=None, cut_after=cut, clean_cut=clean))
        ran = program("say", "lost?")
        assert ran.code in (0, 6)
        if ran.code == 0:  # the stream was cut after the finish_reason
            assert ran.out == "Hello world\n"
        else:
            assert "Hello world\n".startswith(ran.out.rstrip("\n"))
            ran.one_line()
    statuses = {status for status, _ in rows.turns}
    assert {"failed", "interrupted"} <= statuses
    completed = rows("SELECT finish_reason FROM convstore_turns WHERE status = 'completed'")
    assert {reason for (reason,) in completed} <= {"stop"}
    chat_server.script(whole)
    assert program("say", "again").out == "Hello world\n"


def test_an_error_event_before_the_first_piece_is_a_failure(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    program("new")
    chat_server.script(Reply("never", error_event={"message": "overloaded"}, error_after=0))
    program("say", "lost?").failed(6, "overloaded")
    check_conversation_goes_on(program, chat_server, rows)


def test_a_reply_without_a_finish_reason_is_not_complete(program: Program, chat_server: ChatServer, rows: Rows) -> None:
    program("new")
    chat_server.script(Reply("Hello wor", finish_reason=None))
    ran = program("say", "lost?", "--json")
    assert (ran.code, ran.json["status"], ran.json["message"]["content"]) == (6, "interrupted", "Hello wor")
    ran.one_line("finish_reason")
    check_conversation_goes_on(program, chat_server, rows)


# --- complete replies with an unusual end ---


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
@pytest.mark.parametrize(
    ("reply", "out", "word"),
    [
        (Reply("As long as", finish_reason="length"), "As long as\n", "length limit"),
        (Reply("I wou", finish_reason="content_filter"), "I wou\n", "content filter"),
        (Reply("", finish_reason="content_filter"), "", "content filter"),
        (Reply(None), "", "no text"),
        (Reply(""), "", "no text"),
    ],
    ids=["length", "content_filter", "content_filter, empty", "null", "empty"],
)
def test_an_unusual_finish_reason_is_noted_on_stderr_and_stored(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str], reply: Reply, out: str, word: str
) -> None:
    program("new")
    chat_server.script(reply)
    ran = program("say", "well?", *mode)
    assert (ran.code, ran.out) == (0, out)
    ran.one_line(word, "turn 1")
    assert rows("SELECT status, finish_reason FROM convstore_turns") == [("completed", reply.finish_reason)]
    program("say", "go on")
    assert read_sent_contents(chat_server) == ["well?", reply.text or "(no text)", "go on"]


# --- no message, no key, no model ---


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_message_is_refused(program: Program, chat_server: ChatServer, rows: Rows, text: str) -> None:
    program("new")
    program("say", text).failed(2, "the message is empty")
    program("say", stdin=text.encode()).failed(2, "the message is empty")
    assert (chat_server.requests, rows.turns, rows.count) == ([], [], 0)


def test_without_a_key_and_a_server_the_error_names_three_ways_to_set_them(program: Program, rows: Rows) -> None:
    program("new")
    program.set(OPENAI_BASE_URL=None)
    program("say", "hi").failed(2, "OPENAI_API_KEY", "OPENAI_BASE_URL", "--base-url")
    program.set(OPENAI_BASE_URL="", OPENAI_API_KEY="")
    program("say", "hi", "--no-stream").failed(2, "OPENAI_API_KEY", "OPENAI_BASE_URL", "--base-url")
    assert (rows.turns, rows.count) == ([], 0)


def test_without_a_model_the_error_names_three_ways_to_set_it(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    program("new")
    for empty in (None, ""):
        program.set(CONVSTORE_MODEL=empty)
        program("say", "hi").failed(2, "no model is named", "-m", "convstore set -m", "CONVSTORE_MODEL")
        program("say", "hi", "--dry-run").failed(2, "no model is named")
    assert (chat_server.requests, rows.turns, rows.count) == ([], [], 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "2.1"], ["temperature", "0 to 2"]),
        (["--temperature", "1", "--top-p", "1"], ["not both"]),
        (["--max-tokens", "0"], ["max_tokens"]),
        (["--sender", "two words"], ["name must be"]),
        (["--sender", "a" * 65], ["name must be"]),
        (["--sender", ""], ["name must be"]),
        (["--system", ""], ["empty"]),
        (["-o", "messages", "[]"], ["messages"]),
        (["-o", "history", "false"], ["--no-history"]),
        (["-o", "wait", "0"], ["--wait"]),
        (["-o", "conversation_id", "x"], ["REF"]),
        (["-o", "message", "x"], ["MESSAGE"]),
        (["--wait", "-1"], ["--wait"]),
        (["more"], ["more"]),
    ],
)
def test_an_invalid_say_is_refused_before_anything_is_stored_or_sent(
    program: Program, chat_server: ChatServer, rows: Rows, arguments: list[str], words: list[str]
) -> None:
    program("new")
    program("say", "hi", *arguments).failed(2, *words)
    assert (chat_server.requests, rows.turns, rows.count) == ([], [], 0)


# --- the database, after the model has answered ---


@pytest.mark.parametrize("mode", MODES)
def test_a_reply_that_cannot_be_stored_is_printed(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str]
) -> None:
    program("new")

    def answer(_: object) -> Reply:
        rows.change("ALTER TABLE convstore_turns RENAME TO elsewhere")
        return Reply("paid for")

    chat_server.otherwise = answer
    ran = program("say", "hi", *mode)
    assert ran.code == 7
    ran.one_line("the model answered", "could not be stored")
    answered = ran.json["message"]["content"] + "\n" if mode == ["--json"] else ran.out
    assert answered == "paid for\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_reply_is_printed_even_if_another_caller_took_the_conversation(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str]
) -> None:
    program("new")

    def answer(_: object) -> Reply:
        rows.change("UPDATE convstore_conversations SET lease_token = 'another'")
        return Reply("late")

    chat_server.otherwise = answer
    ran = program("say", "hi", *mode)
    assert ran.code == 5
    ran.one_line("another caller took the conversation")
    assert (ran.json["message"]["content"] + "\n" if mode == ["--json"] else ran.out) == "late\n"


# --- the key ---

KEY = "sk-secret-0123456789abcdef"


@pytest.mark.parametrize("mode", [*MODES, ["--dry-run"]])
def test_the_api_key_is_never_printed_or_stored(
    program: Program, chat_server: ChatServer, tmp_path: Path, mode: list[str]
) -> None:
    program.set(OPENAI_API_KEY=KEY, CONVSTORE_DEBUG="1")
    program("new")
    echo = f"Incorrect API key provided: {KEY}. Yours was '{KEY}'."
    responses: list[Response] = [
        *(Failure(401, echo), Raw(echo, status=500, content_type="text/plain"), Raw(echo)),
        Raw(json.dumps({"error": {"message": echo, "code": KEY}})),
        Failure(429, echo, code=KEY, retry_after=0),
        Reply("Hello", error_event={"message": echo}, error_after=1),
    ]
    shown = []
    for response in responses:
        if mode != ["--dry-run"]:
            chat_server.script(*[response] * (TRIES if getattr(response, "status", None) == 429 else 1))
        shown.append(program("say", "hi", *mode))
    shown += [program("show"), program("show", "--json"), program("list", "--json")]
    shown += [program("turns"), program("turns", "--json")]
    if mode != ["--dry-run"]:
        assert chat_server.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert [ran.code for ran in shown[:5]] == [6] * 5  # the last response fails only as a stream
        assert len(chat_server.requests) == len(responses) + TRIES - 1
    assert not any(KEY in ran.out + ran.err for ran in shown)
    for file in tmp_path.glob("chat.db*"):
        assert KEY.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    "key",
    [
        "sk-secret-0123\n",
        " sk-secret-0123",
        "sk-secret-0123é",
        "sk-secret-0123\x1b[2J",
    ],
)
def test_an_api_key_that_is_no_valid_header_is_not_printed(program: Program, tmp_path: Path, key: str) -> None:
    program.set(OPENAI_API_KEY=key, CONVSTORE_DEBUG="1")
    program("new")
    shown = [program("say", "hi"), program("say", "hi", "--json"), program("show"), program("show", "--json")]
    assert shown[0].code in (0, 2, 6)
    if shown[0].code:
        shown[0].one_line()
    assert not any("sk-secret" in ran.out + ran.err for ran in shown)
    for file in tmp_path.glob("chat.db*"):
        assert b"sk-secret" not in file.read_bytes()


def test_the_real_program_also_reports_errors_as_one_line(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    program("new")
    chat_server.script(Failure(500))
    program.real("say", "lost?").failed(6, "500")
    program.real("say", "hi", "-c", "nope").failed(3, "nope")
    program.real("say", "hi", "--temperature", "3").failed(2, "0 to 2")
    check_conversation_goes_on(program, chat_server, rows)


def test_a_message_that_failed_three_times_is_sent_once_later(program: Program, chat_server: ChatServer) -> None:
    program("new")
    for _ in range(3):
        chat_server.script(Failure(500))
        assert program("say", "same").code == 6
    program("say", "same")
    assert read_sent_contents(chat_server) == ["same"]
