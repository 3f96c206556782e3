"""Test that any text is sent, stored and printed unchanged."""

from pathlib import Path

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Rows
from tests.cli.terminal import Terminal

TEXTS = {
    "cjk": "2008年奥运会是在哪里举行的？",
    "emoji": "👩‍👩‍👧 and 🇨🇳 and 🫠",
    "right to left": "مرحبا بالعالم \u202eabc\u202c שלום",
    "combining": "e\u0301 \u0928\u093f",
    "nul": "a\0b",
    "controls": "\x1b]0;title\x07 \x1b[2J \x9b31m \x08\r\n\tend",
    "separators": "a\u2028b\u2029c\x85d\x1ce",
    "noncharacters": "a\ufeff\uffff\U0010ffff",
    "json": '{"a": "\\u0000"}',
    "shell": "$(rm) `x` 'y' \"z\" %s {} \\n",
    "percent": "100% :name %(x)s",
}


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
@pytest.mark.parametrize("kind", TEXTS)
def test_any_text_is_sent_and_printed_unchanged(
    on_each: Program, chat_server: ChatServer, kind: str, mode: list[str]
) -> None:
    text = TEXTS[kind]
    chat_server.script(Reply(text))
    on_each("new")
    ran = on_each("say", *mode, stdin=text.encode())
    assert (ran.code, ran.out, ran.err) == (0, text + "\n", "")
    assert chat_server.requests[-1].body["messages"] == [{"role": "user", "content": text}]
    on_each("say", "next", *mode)
    assert [message["content"] for message in chat_server.requests[-1].body["messages"]] == [text, text, "next"]
    shown = on_each("show", "--json").json["messages"]
    assert [record["message"]["content"] for record in shown[:2]] == [text, text]
    assert on_each("show").out.count(text + "\n") >= 2


@pytest.mark.parametrize("mode", [[], ["--no-stream"], ["--json"]])
def test_half_a_character_in_a_reply_is_printed_and_sent_again(
    on_each: Program, chat_server: ChatServer, mode: list[str]
) -> None:
    chat_server.script(Reply("a\ud83db"))
    on_each("new")
    ran = on_each("say", "hi", *mode)
    assert (ran.code, ran.err) == (0, "")
    if mode == ["--json"]:
        assert ran.json["message"]["content"] == "a\ud83db"  # JSON can escape half a character, so the text is exact
    else:
        assert ran.out == "a?b\n"
    assert on_each("show", "--json").json["messages"][1]["message"]["content"] == "a\ud83db"
    assert "a?b" in on_each("show").out
    assert on_each("say", "next").code == 0
    assert chat_server.requests[-1].body["messages"][1]["content"] == "a\ufffdb"


def test_a_character_cut_in_two_by_the_stream_arrives_whole(program: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("a😀b", pieces=["a\ud83d", "\ude00b"]))
    program("new")
    assert program("say", "hi").out == "a😀b\n"


def test_titles_names_and_metadata_take_any_text(on_each: Program) -> None:
    on_each("new", "年 😀 \x1b[31m", "--meta", "k\x1b=v\u202e", "--name", "年")
    [found] = on_each("list", "--json").json
    assert (found["title"], found["name"]) == ("年 😀 \x1b[31m", "年")
    assert on_each("show", "年", "--json").json["metadata"] == {"k\x1b": "v\u202e"}


@pytest.mark.parametrize("mode", [[], ["--no-stream"]])
def test_five_megabytes_are_sent_and_printed_unchanged(
    program: Program, chat_server: ChatServer, rows: Rows, mode: list[str]
) -> None:
    text = "0123456789 二〇〇八 " * 220_000
    assert len(text.encode()) > 5_000_000
    chat_server.otherwise = lambda body: Reply(body["messages"][-1]["content"])
    program("new")
    ran = program.real("say", *mode, stdin=text.encode())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == text + "\n"
    assert rows("SELECT count(*) FROM convstore_messages WHERE length(content) = " + str(len(text))) == [(2,)]
    assert program("list", "--json").json[0]["messages"] == 2


@pytest.mark.parametrize("data", [b"\xff\xfe", b"caf\xe9", b"abc\xed\xa0\x80", "é".encode("utf-16")])
def test_standard_input_that_is_not_utf8_is_refused(
    program: Program, chat_server: ChatServer, rows: Rows, data: bytes
) -> None:
    program("new")
    program("say", stdin=data).failed(2, "standard input is not UTF-8", "byte 0x")
    program("say", "joined", stdin=data).failed(2, "standard input is not UTF-8")
    assert (chat_server.requests, rows.turns, rows.count) == ([], [], 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["say", b"caf\xe9"],
        ["say", "hi", "-c", b"\xff"],
        ["say", "hi", "--system", b"\xff"],
        ["new", b"\xff"],
        ["new", "-o", "user", b"\xff"],
        ["new", "--meta", b"a=\xff"],
    ],
    ids=str,
)
def test_an_argument_that_is_not_utf8_is_refused(
    program: Program, chat_server: ChatServer, rows: Rows, arguments: list[str | bytes]
) -> None:
    program("new")
    program.set(PYTHONUTF8="1")
    program.real(*arguments).failed(2, f"argument {len(arguments)} is not UTF-8")
    assert (chat_server.requests, rows.count) == ([], 0)
    assert len(program("list", "--json").json) == 1


def test_a_files_name_may_be_any_bytes(program: Program, tmp_path: Path) -> None:
    program.set(PYTHONUTF8="1")
    name = bytes(tmp_path) + b"/caf\xe9"
    with open(name, "wb") as file:  # noqa: PTH123 (a path of bytes)
        file.write(b"Be brief.")
    assert program.real("new", "--system", b"@" + name).code == 0
    assert program("show", "--json").json["messages"][0]["message"]["content"] == "Be brief."


def test_an_encoding_without_the_characters_gets_question_marks(program: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("北京 OK"))
    program("new")
    program.set(PYTHONIOENCODING="ascii")
    ran = program.real("say", "hi")
    assert (ran.code, ran.out) == (0, "?? OK\n")


def test_a_locale_that_is_not_utf8_is_named(program: Program, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply("北京 OK")
    program("new")
    program.set(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    advice = "the locale is C (ascii); set PYTHONUTF8=1 or LC_ALL=C.UTF-8"
    program.real("say", "héé").failed(2, f"argument 2 is not UTF-8: {advice}")
    ran = program.real("say", "hi")
    assert (ran.code, ran.out) == (0, "?? OK\n")
    assert ran.err == f"convstore: some characters were written as `?`: {advice}\n"
    ran = program.real("say", "hi", "--json")
    assert (ran.json["message"]["content"], ran.err) == ("北京 OK", "")
    program.set(PYTHONUTF8="1")
    ran = program.real("say", "héé")
    assert (ran.out, ran.err) == ("北京 OK\n", "")


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (b"one\r\ntwo\r\n", "one\r\ntwo"),
        (b"one\n", "one"),
        (b"one\n\n", "one\n"),
        (b"one\r", "one\r"),
        (b"\r\n", ""),
        (b"\xef\xbb\xbfone\r\n", "one"),
        (b"one\xef\xbb\xbftwo", "one\ufefftwo"),
    ],
)
def test_the_last_line_end_and_a_byte_order_mark_are_not_part_of_the_text(
    program: Program, chat_server: ChatServer, data: bytes, sent: str
) -> None:
    program("new")
    program("say", "--allow-empty" if not sent else "-", stdin=data)
    if sent:
        assert chat_server.requests[-1].body["messages"][-1]["content"] == sent


def test_a_file_with_a_byte_order_mark_is_read_without_it(program: Program, tmp_path: Path) -> None:
    (tmp_path / "rules.txt").write_bytes(b"\xef\xbb\xbfBe brief.\r\n")
    program("new", "--system", f"@{tmp_path / 'rules.txt'}")
    assert program("show", "--json").json["messages"][0]["message"]["content"] == "Be brief.\r\n"


def test_a_name_is_found_however_its_accents_are_typed(on_each: Program) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    id = on_each("new", "--name", decomposed).out.strip()
    for typed in (composed, decomposed):
        assert on_each("fork", typed, "--json").json["forked_from"] == id
    assert on_each("list", "--json").json[-1]["name"] == composed
    on_each("new", "--name", composed).failed(5, "is taken")


def test_bidirectional_overrides_are_visible_on_a_terminal_and_in_json(
    program: Program, chat_server: ChatServer
) -> None:
    text = "pay \u202e001\u202c euros\u2066!\u2069"
    chat_server.otherwise = lambda _: Reply(text)
    program("new")
    assert program("say", "hi").out == text + "\n"
    ran = program.real("show", "--json")
    assert "\\u202e001\\u202c" in ran.out
    with Terminal("show") as terminal:
        assert terminal.end() == 0
    assert "pay �001� euros�!�" in terminal.screen
    assert "\u202e" not in terminal.screen
