"""Test that `edit` gives a message a new text and sends it on a new branch."""

import sys
from pathlib import Path

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows
from tests.cli.terminal import Terminal, is_tame

MODES: list[list[str]] = [[], ["--no-stream"], ["--json"]]


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


@pytest.fixture
def talk(program: Program) -> Program:
    program("new", "--name", "games", "--system", "Be brief.")
    program("say", "one")
    program("say", "two")
    return program


def set_editor(program: Program, tmp_path: Path, code: str) -> Path:
    """Make a script the editor, and return the file in which it stores the old text.

    The script runs `code` with the variables `old`, the old text, and `file`, the file to change.
    """
    seen = tmp_path / "seen"
    script = tmp_path / "my editor.py"
    script.write_text(
        f"import pathlib, sys\nfile = pathlib.Path(sys.argv[-1])\nold = file.read_text()\n"
        f"pathlib.Path({str(seen)!r}).write_text(old)\n{code}\n"
    )
    program.set(EDITOR=f"'{sys.executable}' '{script}'", VISUAL=None)
    return seen


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_edited_message_is_sent_and_the_old_messages_are_kept(
    on_each: Program, chat_server: ChatServer, mode: list[str]
) -> None:
    on_each("new", "--system", "Be brief.")
    on_each("say", "one")
    on_each("say", "two")
    chat_server.script(Reply("Eins."))
    ran = on_each("edit", "2", "uno", "--temperature", "1", *mode)
    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["message"]["content"] if "--json" in mode else ran.out.strip()) == "Eins."
    assert read_sent_contents(chat_server) == ["Be brief.", "uno"]
    assert chat_server.requests[-1].body["temperature"] == 1
    shown = on_each("show", "--json").json["messages"]
    assert [record["message"]["content"] for record in shown] == ["Be brief.", "uno", "Eins."]
    assert len(on_each("show", "--tree", "--json").json["tree"]) == 7


def test_after_an_edit_of_a_system_message_the_next_user_message_is_sent_again(
    talk: Program, chat_server: ChatServer
) -> None:
    assert talk("edit", "1", "Be long.", "-c", "games", "--last", "0").out == "You said: one\n"
    assert read_sent_contents(chat_server) == ["Be long.", "one"]


def test_the_text_is_read_from_standard_input_unless_it_is_a_terminal(talk: Program, chat_server: ChatServer) -> None:
    assert talk("edit", "2", stdin="  uno\n二\n".encode()).code == 0
    assert read_sent_contents(chat_server)[-1] == "  uno\n二"
    assert talk("edit", "2", "-", stdin=b"dos").code == 0
    assert read_sent_contents(chat_server)[-1] == "dos"
    asked = len(chat_server.requests)
    talk("edit", "2").failed(2, "empty")
    talk("edit", "2", stdin=b"\xff").failed(2, "not UTF-8")
    assert len(chat_server.requests) == asked


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["3", "mine"], 2, ["message 3 is the model's own", "retry", "checkout"]),
        (["99", "x"], 2, ["no message at position 99"]),
        (["0", "x"], 2, ["POSITION"]),
        (["two", "x"], 2, ["'two'"]),
        (["2", "x", "-c", "nope"], 3, ["nope"]),
        (["2", "x", "--temperature", "3"], 2, ["0 to 2"]),
        (["2", "x", "-o", "position", "1"], 2, ["position", "POSITION"]),
        (["2", "x", "--expected-head", "1"], 5, ["head"]),
        (["2", ""], 2, ["empty"]),
    ],
    ids=str,
)
def test_an_impossible_edit_is_refused_and_nothing_is_stored(
    talk: Program, chat_server: ChatServer, rows: Rows, arguments: list[str], code: int, words: list[str]
) -> None:
    talk("edit", *arguments).failed(code, *words)
    assert (len(chat_server.requests), rows.count) == (2, 5)


def test_a_failed_edit_keeps_the_old_path_and_stores_the_new_message(talk: Program, chat_server: ChatServer) -> None:
    chat_server.script(Failure(500))
    ran = talk("edit", "4", "dos", "--json")
    assert (ran.code, ran.json["status"]) == (6, "failed")
    shown = talk("show", "--json").json
    assert [record["message"]["content"] for record in shown["messages"]][-2:] == ["two", "You said: two"]
    assert talk("retry").out == "You said: dos\n"
    assert read_sent_contents(chat_server) == ["Be brief.", "one", "You said: one", "dos"]


# --- in an editor ---


def test_an_editor_opens_with_the_old_text_and_the_saved_text_is_sent(
    talk: Program, chat_server: ChatServer, tmp_path: Path
) -> None:
    seen = set_editor(talk, tmp_path, "file.write_text(old.replace('two', 'deux') + 'trois\\n')")
    with Terminal("edit", "4", feed="") as terminal:
        assert terminal.end() == 0
        assert "You said: deux\ntrois\n" in terminal.screen
    assert seen.read_text() == "two\n"
    assert read_sent_contents(chat_server) == ["Be brief.", "one", "You said: one", "deux\ntrois"]


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        ("", 2, ["message 4 was not changed", "nothing is sent"]),
        ("file.write_text(old)", 2, ["message 4 was not changed"]),
        ("file.write_text('')", 2, ["the text is empty"]),
        ("file.write_text(' \\n\\n')", 2, ["the text is empty"]),
        ("file.write_bytes(b'caf\\xe9')", 1, ["not UTF-8"]),
        ("file.write_text('new'); sys.exit(1)", 1, ["ended with an error", "nothing is sent"]),
    ],
    ids=["not saved", "saved as it was", "emptied", "blank", "latin 1", "given up"],
)
def test_an_unchanged_or_unusable_text_from_the_editor_is_refused(
    talk: Program, chat_server: ChatServer, rows: Rows, tmp_path: Path, code: str, exit_code: int, words: list[str]
) -> None:
    seen = set_editor(talk, tmp_path, code)
    talk("edit", "4", keyboard=True).failed(exit_code, *words)
    assert seen.exists()
    assert (len(chat_server.requests), rows.count) == (2, 5)


@pytest.mark.parametrize("text", ["a\r\nb", "half \ud83d", "end\n", "二\x1b[2J"], ids=ascii)
def test_a_text_that_was_only_saved_counts_as_unchanged(
    program: Program, tmp_path: Path, rows: Rows, text: str
) -> None:
    from convstore import Store

    identity = program("new").out.strip()
    with Store() as store:
        store.append(identity, text)
    set_editor(program, tmp_path, "file.write_bytes(file.read_bytes())")
    program("edit", "1", keyboard=True).failed(2, "was not changed")
    assert rows.count == 1


def test_a_missing_editor_is_an_error(talk: Program, rows: Rows) -> None:
    talk.set(VISUAL="/nowhere/editor")
    talk("edit", "4", keyboard=True).failed(
        1, "'/nowhere/editor' (VISUAL) cannot be started: No such file", "nothing is sent"
    )
    talk.set(VISUAL="false")
    talk("edit", "4", keyboard=True).failed(1, "'false' (VISUAL) ended with an error; nothing is sent")
    talk.set(VISUAL="a 'b")
    talk("edit", "4", keyboard=True).failed(1, "open quotation mark")
    assert rows.count == 5


def test_the_editor_does_not_open_if_the_text_could_not_be_sent(talk: Program, tmp_path: Path) -> None:
    seen = set_editor(talk, tmp_path, "")
    talk("edit", "3", keyboard=True).failed(2, "the model's own")
    talk("edit", "9", keyboard=True).failed(2, "no message at position 9")
    talk.set(OPENAI_BASE_URL=None)
    talk("edit", "2", keyboard=True).failed(2, "OPENAI_API_KEY")
    assert not seen.exists()


def test_an_unsent_text_is_printed_if_the_head_moved_while_it_was_written(
    talk: Program, chat_server: ChatServer, rows: Rows, tmp_path: Path
) -> None:
    move = "import subprocess; subprocess.run([sys.executable, '-m', 'convstore', 'edit', '2', 'dos'], check=True)"
    set_editor(talk, tmp_path, f"{move}; file.write_text('long work\\x1b[2J')")
    ran = talk("edit", "2", keyboard=True, terminal=True)
    assert ran.code == 5
    assert "another message is at position 2 now" in ran.err
    assert "this is your text:\nlong work" in ran.err
    assert is_tame(ran.err)
    assert (len(chat_server.requests), rows.count) == (3, 7)
    set_editor(talk, tmp_path, "file.write_text('more work')")
    ran = talk("edit", "2", "--expected-head", "1", keyboard=True)
    assert ran.code == 5
    assert "this is your text:\nmore work\n" in ran.err
