"""Test `convstore chat` on a real terminal: the prompt, replies as they arrive, Ctrl-C, pastes, sizes."""

import os
import re
import signal
import threading
from pathlib import Path

import pytest

from convstore import Store
from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows
from tests.cli.screen import CTRL_C, CTRL_D, CTRL_R, ENTER, ESCAPE, TAB, UP, ScreenTerminal


def sent(chat_server: ChatServer, number: int = -1) -> list[str]:
    return [message["content"] for message in chat_server.requests[number].body["messages"]]


def until_prompt(terminal: ScreenTerminal) -> str:
    """Read until the chat waits for keys: the cursor is behind the prompt, and the status line is there."""
    return terminal.until_true(lambda: terminal.is_at_prompt, "prompt")


@pytest.fixture
def wide(program: Program) -> Program:
    """Return the program, on a terminal that says its size and can show colours."""
    program.set(COLUMNS=None, LINES=None, TERM="xterm-256color")
    return program


# --- talking ---


def test_a_person_talks_and_comes_back(wide: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("The **bold** one.\n\n- first\n- second\n"))
    with ScreenTerminal("chat", columns=60, lines=20) as terminal:
        until_prompt(terminal)
        assert "new conversation · test-model" in terminal.lines[-1]
        terminal.type_line("hello there")
        terminal.until("• second")
        until_prompt(terminal)
        assert re.match(r"hello there · test-model · \d+ tokens", terminal.lines[-1])
        assert terminal.find_looks("bold") == {"bold"}
        terminal.type_line("again")
        terminal.until("You said: again")
        until_prompt(terminal)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        assert terminal.is_sane
        [identity] = re.findall(r"\(convstore chat (\w+) comes back\)", terminal.text)
        assert "**" not in terminal.text
    with ScreenTerminal("chat", identity, columns=60, lines=20) as terminal:
        terminal.until("You said: again")  # the last messages are shown
        until_prompt(terminal)
        terminal.type_line("third")
        terminal.until("You said: third")
        terminal.press(CTRL_D)
        terminal.end()
    assert sent(chat_server)[::2] == ["hello there", "again", "third"]


def test_replies_alone_go_to_stdout(wide: Program, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, ScreenTerminal("chat", stdout=out.fileno()) as terminal:
        until_prompt(terminal)
        terminal.type_line("a *starred* one")
        terminal.until_true(lambda: (tmp_path / "out").read_bytes().endswith(b"\n"))
        until_prompt(terminal)
        terminal.press(CTRL_D)
        terminal.end()
    assert (tmp_path / "out").read_text() == "You said: a *starred* one\n"


def test_several_lines_are_one_message(wide: Program, chat_server: ChatServer) -> None:
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.press(f"one{ESCAPE}{ENTER}two\\{ENTER}three{ENTER}")
        terminal.until("You said")
        until_prompt(terminal)
        terminal.paste("def f():\r\treturn 1\r\r# end\r")
        terminal.until("# end")
        assert len(chat_server.requests) == 1  # a paste sends nothing
        terminal.press(ENTER)
        until_prompt(terminal)
        terminal.until_true(lambda: len(chat_server.requests) == 2)
        terminal.press(CTRL_D)
    assert sent(chat_server, 0) == ["one\ntwo\nthree"]
    assert sent(chat_server, 1)[-1].rstrip("\n") == "def f():\n\treturn 1\n\n# end"


def test_the_editor_writes_the_message(wide: Program, chat_server: ChatServer, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf \'%s, edited\' "$(cat "$1")" > "$1"\n')
    editor.chmod(0o700)
    wide.set(EDITOR=str(editor), VISUAL=None)
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.press("draft\x18\x05")
        terminal.until("draft, edited")
        terminal.press(ENTER)
        terminal.until("You said: draft, edited")
        terminal.press(CTRL_D)
    assert sent(chat_server) == ["draft, edited"]


@pytest.mark.parametrize("keys", ["\x18\x05", f"{ESCAPE}v"])
def test_an_editor_that_fails_is_told_and_the_message_stays(
    wide: Program, chat_server: ChatServer, tmp_path: Path, keys: str
) -> None:
    if keys != "\x18\x05":
        (tmp_path / "inputrc").write_text("set editing-mode vi\n")
        wide.set(INPUTRC=str(tmp_path / "inputrc"))
    wide.set(EDITOR="false", VISUAL=None)
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.press("draft")
        terminal.until("draft")
        terminal.press(keys)
        terminal.until("convstore: the editor 'false' (EDITOR) ended with an error")
        terminal.press(ENTER)
        terminal.until("You said: draft")
        terminal.press(CTRL_D)


def test_the_keys_are_those_of_inputrc(wide: Program, chat_server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "inputrc").write_text("set editing-mode vi\n")
    wide.set(INPUTRC=str(tmp_path / "inputrc"))
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.press(f"wrong word{ESCAPE}")
        terminal.press("0Cright word")
        terminal.until("right word")
        terminal.press(ENTER)
        terminal.until("You said: right word")
        terminal.press(CTRL_D)


def test_what_is_typed_while_a_reply_arrives_is_the_next_message(wide: Program, chat_server: ChatServer) -> None:
    go = threading.Event()
    chat_server.script(Reply(pieces=["one ", "two"], hold=go, hold_after=1))
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.type_line("hi")
        terminal.until("one")
        terminal.type_line("second")
        go.set()
        terminal.until("You said: second")
        until_prompt(terminal)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        assert "one two" in terminal.lines  # it was not shown in the reply


# --- history ---


def test_ctrl_r_and_up_find_what_was_said_in_all_conversations_newest_first(
    wide: Program, chat_server: ChatServer
) -> None:
    with Store(os.environ["CONVSTORE_DB"]) as store:
        first, second = store.new().id, store.new().id
        store.append(first, "where is the gold", {"role": "assistant", "content": "gold of the model"})
        store.append(second, "the gold rush")
        store.append(first, "silver")
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.press(UP)
        terminal.until("> silver")
        terminal.press(CTRL_C)
        until_prompt(terminal)
        terminal.press(CTRL_R)
        terminal.press("gold")
        terminal.until("the gold rush")
        terminal.press(CTRL_R)
        terminal.until("where is the gold")
        terminal.press(ENTER)  # takes what was found
        terminal.press(ENTER)
        terminal.until("You said: where is the gold")
        terminal.press(CTRL_D)
    assert sent(chat_server) == ["where is the gold"]


def test_the_history_forgets_a_text_that_was_removed_for_good(wide: Program, chat_server: ChatServer) -> None:
    with ScreenTerminal("chat", lines=12) as terminal:
        until_prompt(terminal)
        terminal.type_line("harmless")
        terminal.until("You said: harmless")
        until_prompt(terminal)
        terminal.type_line("hunter2")
        terminal.until("You said: hunter2")
        until_prompt(terminal)
        terminal.type_line("/redact 3 4 --match hunter2 --yes")
        terminal.until("redacted a part of message 4")
        until_prompt(terminal)
        terminal.type_line("/turns")
        terminal.until("STATUS")
        until_prompt(terminal)
        terminal.press(f"{UP}{UP}")
        terminal.until("> [redacted]")
        terminal.press(f"{UP}")
        terminal.until_true(lambda: "> harmless" in terminal.lines)
        terminal.press(CTRL_C)
        until_prompt(terminal)
        terminal.press(CTRL_D)
        assert terminal.end() == 0


# --- Ctrl-C ---


def hold(pieces: list[str], after: int) -> tuple[Reply, threading.Event]:
    """Return a reply that is held after some pieces, and the event that it has begun."""
    started = threading.Event()
    return Reply("".join(pieces), pieces=pieces, hold=threading.Event(), hold_after=after, started=started), started


MOMENTS = {
    "before the answer": (["one ", "two "], 0, ""),
    "after the first word": (["one ", "two "], 1, "one"),
    "in a word": (["begin", "ning "], 1, ""),
    "in a bold word": (["so **bo", "ld** "], 1, "so"),
    "in a code block": (["text\n\n```python\nx = 1\n", "y = 2\n```\n"], 1, "x = 1"),
    "in a table": (["| a | b |\n|---|---|\n| 1 | 2 |\n", "| 3 | 4 |\n"], 1, ""),
    "in a heading": (["before\n\n# Head", "ing\n"], 1, "before"),
    "in a link": (["see [the ", "page](http://x)\n"], 1, "see"),
    "in a list": (["- item one\n- item ", "two\n"], 1, "item one"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_stops_the_reply_and_keeps_the_chat_and_the_part_that_came(
    wide: Program, chat_server: ChatServer, rows: Rows, moment: str
) -> None:
    pieces, after, shown = MOMENTS[moment]
    reply, started = hold(pieces, after)
    chat_server.script(reply)
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.type_line("hi")
        assert started.wait(30)
        if shown:
            terminal.until(shown)
        elif after:
            terminal.until_true(lambda: count_deltas(rows) > 0)
        terminal.interrupt()
        terminal.until("the partial reply is kept" if after else "your message is kept")
        until_prompt(terminal)
        assert terminal.cursor_style == "default"  # no style goes on
        terminal.type_line("next")
        terminal.until("You said: next")
        until_prompt(terminal)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        assert terminal.is_sane
        assert "Traceback" not in terminal.text
    assert [status for status, _ in rows.turns] == ["interrupted", "completed"]
    came = "".join(pieces[:after])
    assert sent(chat_server) == (["hi", came, "next"] if after else ["next"])
    if after:
        for word in re.findall(r"\w+", came):
            assert word in terminal.text


def count_deltas(rows: Rows) -> int:
    [(count,)] = rows("SELECT count(*) FROM convstore_deltas")
    return int(count)


def test_ctrl_c_at_the_prompt_clears_it_and_says_how_to_leave(wide: Program, chat_server: ChatServer) -> None:
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.press("half a mess")
        terminal.until("half a mess")
        terminal.press(CTRL_C)
        terminal.until("(Ctrl-D leaves the chat)")
        until_prompt(terminal)
        terminal.process.send_signal(signal.SIGINT)  # from another program
        terminal.until_true(lambda: terminal.text.count("(Ctrl-D leaves the chat)") == 2)
        until_prompt(terminal)
        terminal.type_line("whole")
        terminal.until("You said: whole")
        terminal.press(CTRL_D)
        assert terminal.end() == 0
    assert sent(chat_server) == ["whole"]


def test_ctrl_c_while_another_turn_is_awaited_gives_up(wide: Program, chat_server: ChatServer, rows: Rows) -> None:
    reply, started = hold(["one ", "two"], 1)
    chat_server.script(reply)
    wide("new", "--id", "shared")
    with ScreenTerminal("chat", "shared") as first, ScreenTerminal("chat", "shared") as second:
        until_prompt(first)
        until_prompt(second)
        first.type_line("hi")
        assert started.wait(30)
        first.until("one")
        second.type_line("me too")
        second.until("waiting for a running turn")
        second.interrupt()
        second.until("nothing was stored")
        until_prompt(second)
        first.interrupt()
        first.until("the partial reply is kept")
        second.type_line("")
        second.until("went on with this conversation")
        second.until("one")
        for terminal in (first, second):
            terminal.press(CTRL_D)
            terminal.end()
    assert [status for status, _ in rows.turns] == ["interrupted"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["at the prompt", "in a reply"])
def test_a_signal_that_ends_the_program_leaves_the_terminal_as_it_was(
    wide: Program, chat_server: ChatServer, rows: Rows, number: signal.Signals, when: str
) -> None:
    reply, _ = hold(["one ", "two"], 1)
    chat_server.script(reply)
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        if when == "in a reply":
            terminal.type_line("hi")
            terminal.until("one")
        terminal.process.send_signal(number)
        assert terminal.end() == 128 + number
        assert terminal.is_sane
        assert "Traceback" not in terminal.text
    assert [status for status, _ in rows.turns] == (["interrupted"] if when == "in a reply" else [])


# --- several chats ---


def test_two_chats_on_one_conversation_see_each_others_turns(wide: Program, chat_server: ChatServer) -> None:
    wide("new", "--id", "shared")
    with ScreenTerminal("chat", "shared") as first, ScreenTerminal("chat", "shared") as second:
        until_prompt(first)
        until_prompt(second)
        first.type_line("the code is 4821")
        first.until("You said: the code is 4821")
        second.type_line("what is it")
        second.until("You said: what is it")
        assert "went on with this conversation" in second.text
        assert second.text.index("You said: the code is 4821") < second.text.index("You said: what is it")
        first.type_line("/undo")
        first.until("undid 1 turn")
        until_prompt(first)
        assert "what is it" in first.text  # what it undid was said by the other
        second.type_line("")
        second.until("moved the head to position 2")
        for terminal in (first, second):
            terminal.press(CTRL_D)
            assert terminal.end() == 0
    assert sent(chat_server) == ["the code is 4821", "You said: the code is 4821", "what is it"]


# --- commands ---


def test_tab_completes_commands_with_their_help_models_and_options(wide: Program, chat_server: ChatServer) -> None:
    with ScreenTerminal("chat", columns=90, lines=24) as terminal:
        until_prompt(terminal)
        terminal.press(f"/un{TAB}")
        terminal.until("Undo the last turn.")
        assert "Stop always sending a message." in terminal.text
        terminal.press(f"{CTRL_C}")
        until_prompt(terminal)
        terminal.press(f"/mod{TAB}")
        terminal.until("> /model")
        terminal.press(f"test{TAB}")
        terminal.until("> /model test-model")
        terminal.press(CTRL_C)
        until_prompt(terminal)
        terminal.press(f"/retry --temp{TAB}")
        terminal.until("> /retry --temperature")
        terminal.press(CTRL_C)
        until_prompt(terminal)
        terminal.press(f"not a command /un{TAB}x{ENTER}")
        terminal.until("You said: not a command /unx")
        terminal.press(CTRL_D)


def test_an_error_is_one_line_and_the_prompt_comes_back(wide: Program, chat_server: ChatServer) -> None:
    chat_server.script(Failure(500, "broken\nin two lines"))
    with ScreenTerminal("chat", columns=100) as terminal:
        until_prompt(terminal)
        terminal.type_line("hi")
        terminal.until("broken in two lines")
        until_prompt(terminal)
        terminal.type_line("/nope")
        terminal.until("no command '/nope'")
        until_prompt(terminal)
        terminal.type_line("/retry")
        terminal.until("You said: hi")
        until_prompt(terminal)
        terminal.press(CTRL_D)
        assert terminal.end() == 0


# --- the screen ---


def test_a_narrow_terminal_shows_everything(wide: Program, chat_server: ChatServer) -> None:
    table = "| " + " | ".join("abcdefgh") + " |\n" + "|---" * 8 + "|\n" + "| " + " | ".join("12345678") + " |\n"
    chat_server.script(
        Reply(
            f"A line of text that is longer than forty columns of it.\n\n{table}\n\n- an item that is longer than it\n"
        )
    )
    with ScreenTerminal("chat", columns=40, lines=30) as terminal:
        until_prompt(terminal)
        terminal.type_line("a message that is longer than the forty columns that are here")
        terminal.until("• an item")
        until_prompt(terminal)
        terminal.type_line("/help")
        terminal.until("//")
        until_prompt(terminal)
        assert "A line of text that is longer than forty\ncolumns of it." in terminal.text
        assert "a: 1\nb: 2" in terminal.text
        assert len(terminal.lines[-1]) <= 40
        terminal.press(CTRL_D)
        assert terminal.end() == 0


def test_the_size_may_change_at_the_prompt_and_in_a_reply(wide: Program, chat_server: ChatServer) -> None:
    go = threading.Event()
    words = [f"word{number} " for number in range(60)]
    chat_server.script(Reply(pieces=words, hold=go, hold_after=20))
    with ScreenTerminal("chat", columns=80, lines=24) as terminal:
        until_prompt(terminal)
        terminal.press("a message")
        terminal.resize(50, 20)
        terminal.press(f" goes on{ENTER}")
        terminal.until("word18")
        terminal.resize(100, 30)
        go.set()
        terminal.until("word59")
        until_prompt(terminal)
        assert max(map(len, terminal.lines)) > 80
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        shown = re.findall(r"word\d+", terminal.text)
    assert sent(chat_server) == ["a message goes on"]
    assert [word for word in words if word.strip() not in shown] == []


def test_a_reply_that_is_longer_than_the_screen_scrolls_and_is_whole(wide: Program, chat_server: ChatServer) -> None:
    text = "".join(f"Line {number} has **bold** words.\n\n```\ncode {number}\n```\n\n" for number in range(40))
    chat_server.script(Reply(pieces=[text[start : start + 7] for start in range(0, len(text), 7)]))
    with ScreenTerminal("chat", columns=60, lines=12) as terminal:
        until_prompt(terminal)
        terminal.type_line("go")
        terminal.until("code 39")
        until_prompt(terminal)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        for number in range(40):
            assert terminal.text.count(f"Line {number} has bold words.") == 1
            assert len(re.findall(rf"code {number}\b", terminal.text)) == 1


def while_streaming(terminal: ScreenTerminal, go: threading.Event) -> bytes:
    """Return what the program writes between the message and the end of the reply."""
    begin = len(terminal.raw)
    terminal.until("first")
    go.set()
    terminal.until("last word.")
    return terminal.raw[begin : terminal.raw.index(b"last", begin)]


def test_nothing_is_repainted_while_a_reply_arrives(wide: Program, chat_server: ChatServer) -> None:
    go = threading.Event()
    pieces = ["first ", "**word** ", "`code` ", "\n\n- item\n", "\n| a |\n|---|\n| b |\n\n", "last word."]
    chat_server.script(Reply(pieces=pieces, hold=go, hold_after=1))
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.type_line("hi")
        written = while_streaming(terminal, go)
        terminal.press(CTRL_D)
    after = written[written.index(b"first") :]
    assert set(re.findall(rb"\x1b\[[0-9;?]*([A-Za-z])", after)) <= {b"m"}
    assert b"\r" not in after.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("arguments", "environment"), [(("--plain",), {}), ((), {"TERM": "dumb"})], ids=["--plain", "TERM=dumb"]
)
def test_where_nothing_may_be_redrawn_only_text_is_written(
    wide: Program, chat_server: ChatServer, arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    started, go = threading.Event(), threading.Event()
    chat_server.script(Reply("A **bold** reply", hold=go, started=started))
    wide.set(**environment)
    with ScreenTerminal("chat", *arguments) as terminal:
        terminal.until(">")
        terminal.type_line("one\\")
        terminal.type_line("two")
        assert started.wait(30)
        go.set()
        terminal.until("A **bold** reply")
        terminal.type_line("/status")
        terminal.until("test-model ·")
        chat_server.script(Reply("Another **bold** reply"))
        terminal.type_line("/retry")
        terminal.until("Another **bold** reply")
        terminal.type_line("/show")
        terminal.until_true(lambda: terminal.text.count("Another **bold** reply") == 2)
        terminal.press(CTRL_D)
        assert terminal.end() == 0
        assert re.sub(rb"\x1b\[[012]m", b"", terminal.raw).count(b"\x1b") == 0  # notes are dim, headings bold
    assert [sent(chat_server, number) for number in (0, 1)] == [["one\ntwo"]] * 2


def test_no_color_has_no_colours(wide: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("A **bold** `code`\n\n```python\nimport os\n```\n"))
    wide.set(NO_COLOR="1")
    with ScreenTerminal("chat") as terminal:
        until_prompt(terminal)
        terminal.type_line("hi")
        terminal.until("import os")
        until_prompt(terminal)
        terminal.press(CTRL_D)
        terminal.end()
        codes = {code for group in re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw) for code in group.split(b";")}
        assert not [code for code in codes if code and 30 <= int(code) <= 49 and code != b"39"]
        assert terminal.find_looks("bold") == {"bold"}


def test_no_text_drives_the_terminal_of_a_chat(wide: Program, chat_server: ChatServer) -> None:
    wild = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\"
    chat_server.script(Reply(f"# {wild}\n\n[{wild}](http://x/{wild})\n\n```\n{wild}\n```\n"), Failure(500, wild))
    with Store(os.environ["CONVSTORE_DB"]) as store:
        store.append(store.new(wild, id="wild").id, {"role": "user", "content": wild})
    with ScreenTerminal("chat", "wild", columns=200) as terminal:
        until_prompt(terminal)
        terminal.type_line("one")
        until_prompt(terminal)
        terminal.until_true(lambda: len(chat_server.requests) == 1)
        terminal.type_line("two")
        terminal.until("`/retry`")
        terminal.press(UP)
        terminal.press(UP)
        terminal.press(UP)
        terminal.press(CTRL_C)
        terminal.press(CTRL_D)
        terminal.end()
        assert b"\x1b]" not in terminal.raw
        assert b"\x1b[31m" not in terminal.raw
        assert "\x9b" not in terminal.raw.decode()
        assert "owned" in terminal.text


def test_a_sign_moves_while_the_model_is_awaited_and_is_gone_afterwards(wide: Program, chat_server: ChatServer) -> None:
    started, go = threading.Event(), threading.Event()
    stopped, begun = hold(["never "], 0)
    chat_server.script(Reply("ok", hold=go, started=started), stopped)
    with ScreenTerminal("chat") as terminal:

        def until_sign() -> None:
            terminal.until_true(lambda: any(re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] [0-9] s", line) for line in terminal.lines))

        until_prompt(terminal)
        terminal.type_line("hi")
        assert started.wait(30)
        until_sign()
        go.set()
        until_prompt(terminal)
        assert "ok" in terminal.lines  # nothing of the sign is behind it
        terminal.type_line("again")
        assert begun.wait(30)
        until_sign()
        terminal.interrupt()
        terminal.until("your message is kept")
        until_prompt(terminal)
        assert not re.search("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", terminal.text)
        terminal.press(CTRL_D)


def test_a_chat_names_its_conversation_once(wide: Program, chat_server: ChatServer) -> None:
    wide("new", "Olympics", "--name", "games")
    for arguments in (["games"], ["--latest"]):
        with ScreenTerminal("chat", *arguments) as terminal:
            until_prompt(terminal)
            assert terminal.text.count("games Olympics") == 1
            terminal.press(CTRL_D)
            terminal.end()
