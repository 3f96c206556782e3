"""Test that `undo`, `redo`, `checkout`, `fork`, `pin` and `delete` lose nothing."""

import threading
import time
from collections.abc import Iterator

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Rows, Running
from tests.cli.terminal import is_tame

WILD = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x08e\rf\x7fg\nh"


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


def read_path_contents(program: Program, *arguments: str) -> list[str]:
    return [record["message"]["content"] for record in program("show", *arguments, "--json").json["messages"]]


@pytest.fixture
def talk(on_each: Program) -> Program:
    """Return the command line with a conversation of three turns."""
    on_each("new", "Games", "--name", "games", "--system", "Be brief.")
    for word in ("one", "two", "three"):
        on_each("say", word)
    return on_each


# --- undo and redo ---


def test_undo_removes_turns_from_the_path_and_redo_adds_them_again(talk: Program, chat_server: ChatServer) -> None:
    for arguments, length in ((["undo"], 5), (["undo", "games", "-n", "2"], 1), (["redo"], 5), (["redo", "games"], 7)):
        ran = talk(*arguments)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        assert len(read_path_contents(talk)) == length
    talk("undo", "-n", "2")
    talk("say", "instead")
    assert read_sent_contents(chat_server) == ["Be brief.", "one", "You said: one", "instead"]
    talk("redo").failed(2, "on another branch", "seq 7", "`checkout`")
    assert talk("checkout", "7").code == 0
    assert read_path_contents(talk)[-1] == "You said: three"
    talk("undo", "-n", "4").failed(2, "only 3 turns to undo")
    talk("undo", "-n", "0").failed(2, "-n")
    assert len(read_path_contents(talk)) == 7


def test_a_terminal_shows_what_was_undone_and_where_the_head_is(talk: Program) -> None:
    ran = talk("undo", "games", terminal=True)
    assert (ran.code, ran.out) == (0, "")
    first, second = ran.err.splitlines()
    assert 'undid 1 turn, from "three"; `convstore redo`' in first
    assert "the head is at 5 assistant: You said: two" in second
    assert all(line.startswith("\x1b[2m") for line in (first, second))
    ran = talk("undo", "games", "-n", "2", terminal=True)
    assert 'undid 2 turns, from "one";' in ran.err
    assert "the head is at 1 system: Be brief." in ran.err
    assert "the head is at 5 assistant: You said: two" in talk("redo", "games", terminal=True).err
    assert "the head is before the first message" in talk("checkout", "0", "-c", "games", terminal=True).err


def test_a_terminal_shows_the_first_message_of_many_undone_turns(program: Program) -> None:
    from convstore import Store

    identity = program("new").out.strip()
    with Store() as store:
        for number in range(40):
            store.append(identity, f"q{number}", {"role": "assistant", "content": "a"})
            store.append(identity, *[{"role": "assistant", "content": "more"}] * 3)
    assert 'undid 30 turns, from "q10";' in program("undo", identity, "-n", "30", terminal=True).err


def test_commands_that_move_the_head_print_the_conversation_as_json(talk: Program) -> None:
    for arguments, head in ((["undo"], 5), (["redo"], 7), (["checkout", "3"], 3), (["checkout", "0"], 0)):
        ran = talk(*arguments, "--json")
        assert (ran.code, ran.err) == (0, "")
        assert (ran.json["name"], ran.json["head_seq"], ran.json["length"]) == ("games", head, head)
    assert talk("undo", "--json").failed(2, "no turn to undo")


def test_the_message_at_the_head_does_not_drive_the_terminal(program: Program, chat_server: ChatServer) -> None:
    chat_server.otherwise = lambda _: Reply(message={"role": "assistant", "content": WILD})
    program("new", WILD)
    for _ in range(3):
        program("say", WILD)
    for arguments in (["undo"], ["redo"], ["undo", "-n", "2"], ["checkout", "3"], ["pin", "2"], ["unpin", "2"]):
        ran = program(*arguments, terminal=True)
        assert ran.code == 0
        assert "owned" in ran.err
        assert is_tame(ran.out + ran.err)


@pytest.mark.parametrize(
    "arguments", [["undo"], ["redo"], ["checkout", "1"], ["fork"], ["retry"], ["say", "x"], ["edit", "2", "x"]], ids=str
)
def test_an_unexpected_head_is_a_conflict_and_nothing_changes(
    talk: Program, chat_server: ChatServer, arguments: list[str]
) -> None:
    talk("undo")
    asked = len(chat_server.requests)
    talk(*arguments, "--expected-head", "7").failed(5, "head")
    assert (talk("show", "--json").json["head_seq"], len(chat_server.requests)) == (5, asked)
    assert len(talk("list", "--json").json) == 1
    assert talk(*arguments, "--expected-head", "5").code == 0


def test_checkout_moves_the_head_to_any_message_and_the_next_message_follows_it(
    talk: Program, chat_server: ChatServer
) -> None:
    talk("edit", "2", "uno")
    talk("checkout", "5")
    talk("say", "and then?")
    assert read_sent_contents(chat_server) == ["Be brief.", "one", "You said: one", "two", "You said: two", "and then?"]
    talk("checkout", "99").failed(2, "no message with seq 99")
    talk("checkout", "-1").failed(2)
    talk("checkout", "three").failed(2, "'three'")
    talk("checkout").failed(2, "SEQ")
    talk("checkout", "1", "-c", "nope").failed(3, "nope")


@pytest.mark.parametrize("command", ["undo", "redo", "fork", "compact"])
def test_without_ref_a_command_uses_the_conversation_of_the_environment_or_the_last_used_one(
    program: Program, command: str
) -> None:
    program(command).failed(3, "no conversation yet")
    for name in ("first", "second"):
        program("new", "--name", name)
        program("say", name)
        program("say", "more")
        program("undo", name)
    program.set(CONVSTORE_CONVERSATION="first")
    ran = program(command, "--json")
    assert ran.code == 0
    about = ran.json.get("name") or ran.json.get("forked_from") or ran.json["conversation"]
    assert about in ("first", program("show", "first", "--json").json["id"])
    program.set(CONVSTORE_CONVERSATION="nope")
    program(command).failed(3, "nope")


@pytest.fixture
def go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_while_a_turn_runs_the_head_cannot_be_moved(
    program: Program, chat_server: ChatServer, rows: Rows, go: threading.Event
) -> None:
    program("new")
    program("say", "one")
    chat_server.script(Reply("first second", pieces=["first", " second"], hold=go, hold_after=1))
    with Running("say", "two") as other:
        other.until("first")
        began = time.monotonic()
        for arguments in (["undo"], ["redo"], ["checkout", "1"], ["pin", "1"], ["delete", "{}"]):
            identity = program("show", "--json").json["id"]
            ran = program(*(argument.format(identity) for argument in arguments))
            ran.failed(5, identity, "busy", "turn 2")
        assert program.real("undo").code == 5
        assert time.monotonic() - began < 10
        go.set()
        assert other.end().out == "first second\n"
    assert read_path_contents(program)[-1] == "first second"
    assert len(rows.turns) == 2


# --- forks ---


def test_fork_prints_the_id_of_a_conversation_that_shares_the_messages(talk: Program, chat_server: ChatServer) -> None:
    origin = talk("show", "--json").json["id"]
    ran = talk("fork", "--at", "3", "--name", "branch", "--title", "Other games")
    assert (ran.code, ran.err) == (0, "")
    identity = ran.out.removesuffix("\n")
    assert talk("show", "--json").json["id"] == identity  # the conversation that was used last
    talk("say", "deux")
    assert read_sent_contents(chat_server) == ["Be brief.", "one", "You said: one", "deux"]
    talk("say", "four", "-c", "games")
    assert read_sent_contents(chat_server)[-2:] == ["You said: three", "four"]
    shown = talk("show", identity, "--json").json
    assert (shown["name"], shown["title"], shown["forked_from"], shown["forked_at"]) == (
        *("branch", "Other games", origin, 3),
    )
    made = talk("fork", "games", "--id", "mine", "--json").json
    assert (made["id"], made["title"], made["forked_from"], made["length"]) == ("mine", "Games", origin, 9)
    assert len(read_path_contents(talk, "mine")) == 9


def test_fork_refuses_unknown_positions_and_taken_names(talk: Program) -> None:
    talk("fork", "--at", "8").failed(2, "no message at position 8")
    talk("fork", "--at", "-1").failed(2, "--at")
    talk("fork", "--name", "games").failed(5, "'games'")
    talk("fork", "--name", "two words").failed(2, "a name is")
    talk("fork", "nope").failed(3, "nope")
    assert len(talk("list", "--json").json) == 1


# --- pins ---


def test_a_pinned_message_is_always_sent_and_show_marks_it(talk: Program, chat_server: ChatServer) -> None:
    for arguments in (["pin", "2"], ["pin", "2", "-c", "games"]):
        ran = talk(*arguments)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
    talk("say", "four", "--last", "1")
    assert read_sent_contents(chat_server) == ["Be brief.", "one", "three", "You said: three", "four"]
    assert "\n2 user (pinned)\none\n" in talk("show").out
    assert talk("show", "--json").json["pins"] == [2]
    assert "pinned: 3 assistant: You said: one" in talk("pin", "3", "-c", "games", terminal=True).err
    assert "unpinned: 2 user: one" in talk("unpin", "2", "-c", "games", terminal=True).err
    assert talk("unpin", "3", "--json").json["pins"] == []
    talk("say", "five", "--last", "1")
    assert read_sent_contents(chat_server) == ["Be brief.", "four", "You said: four", "five"]
    for command in ("pin", "unpin"):
        talk(command, "99").failed(2, "no message at position 99")
        talk(command, "0").failed(2, "POSITION")
        talk(command).failed(2, "POSITION")


# --- delete and restore ---


def test_a_deleted_conversation_is_not_found_and_can_be_restored(talk: Program) -> None:
    identity = talk("show", "--json").json["id"]
    talk("new", "other")
    ran = talk("delete", "games")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line(identity, "Games", f"convstore restore {identity}")
    assert [found["title"] for found in talk("list", "--json").json] == ["other"]
    for arguments in (["show", identity], ["say", "x", "-c", identity], ["delete", identity], ["delete", "games"]):
        talk(*arguments).failed(3)
    ran = talk("restore", identity)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert len(read_path_contents(talk, "games")) == 7
    talk("restore", identity).failed(3, "no deleted conversation")
    talk("delete", "games")
    assert talk("restore", identity, "--json").json["name"] == "games"


def test_restore_takes_a_name_or_the_beginning_of_an_id_that_one_deleted_conversation_has(on_each: Program) -> None:
    on_each("db", "upgrade")
    on_each("new", "First", "--id", "k3x1", "--name", "games")
    on_each("delete", "games")
    on_each("restore", "other").failed(3, "no deleted conversation 'other'", "list --deleted")
    assert on_each("restore", "games", "--json").json["id"] == "k3x1"
    on_each("restore", "games").failed(3, "no deleted conversation 'games'")  # it is not deleted any more
    on_each("delete", "games")
    assert on_each("restore", "k3").code == 0
    on_each("delete", "games")
    on_each("new", "Second", "--id", "k3x2", "--name", "games")
    on_each("restore", "games").failed(5, "name")  # another one has it now
    on_each("delete", "games")
    ran = on_each("restore", "games")
    assert (ran.code, ran.out) == (4, "")
    assert "'games' matches k3x2, k3x1" in ran.err  # the latest deleted one first
    assert on_each("restore", "k3x1", "--json").json["title"] == "First"


def test_delete_needs_a_ref(program: Program) -> None:
    program("new", "--id", "abc1")
    program("new", "--id", "abc2")
    program("delete").failed(2, "REF")
    program("delete", "").failed(3)
    program.set(CONVSTORE_CONVERSATION="abc1")
    program("delete").failed(2, "REF")
    assert program("delete", "abc").code == 4
    assert len(program("list", "--json").json) == 2


def test_restoring_a_conversation_with_a_taken_name_is_a_conflict(program: Program) -> None:
    identity = program("new", "--name", "games").out.strip()
    program("delete", "games")
    program("new", "--name", "games")
    program("restore", identity).failed(5, identity, "name")
