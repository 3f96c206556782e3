"""Test that `compact` replaces older messages only in requests."""

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows
from tests.cli.terminal import is_tame

WILD = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md"


def read_sent_contents(server: ChatServer) -> list[str]:
    return [message["content"] for message in server.requests[-1].body["messages"]]


def make_turn_contents(*words: str) -> list[str]:
    return [text for word in words for text in (word, f"You said: {word}")]


@pytest.fixture
def talk(on_each: Program) -> Program:
    """Return the command line with a conversation of four turns."""
    on_each("new", "--name", "games", "--system", "Be brief.")
    for word in ("one", "two", "three", "four"):
        on_each("say", word)
    return on_each


def test_the_summary_is_printed_and_sent_instead_of_its_messages(talk: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("They counted to two."))
    ran = talk("compact", "games")
    assert (ran.code, ran.out) == (0, "They counted to two.\n")
    ran.one_line("the first 5 messages", "convstore compact --drop")
    [line] = [line for line in talk("show", "--tree").out.splitlines() if line.endswith("(summarised up to here)")]
    assert line.split()[1] == "5"
    ran = talk("say", "five", "--dry-run")
    assert "the summary of turn 5 replaces older messages" in ran.err
    talk("say", "five")
    first, _, *rest = read_sent_contents(chat_server)
    assert (first, rest) == ("Be brief.", ["They counted to two.", *make_turn_contents("three", "four"), "five"])
    assert len(talk("show", "--json").json["messages"]) == 11  # the path still has all messages
    summary = talk("turns", "--json").json[4]
    assert (summary["turn"], summary["purpose"], summary["status"]) == (5, "summary", "completed")
    assert summary["usage"]["total_tokens"] > 0
    [line] = [line for line in talk("turns").out.splitlines() if line.split()[0] == "5"]
    assert line.endswith("(summary for the messages up to seq 5)")


def test_after_a_drop_the_earlier_summary_is_used_again(talk: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("First summary."), Reply("Second summary."))
    talk("compact", "--keep-last", "3")
    talk("compact", "--keep-last", "1")
    ran = talk("compact", "--drop")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line("dropped", "the first 3 messages")
    talk("say", "five")
    assert read_sent_contents(chat_server)[2:] == [
        "First summary.",
        *make_turn_contents("two", "three", "four"),
        "five",
    ]
    talk("compact", "--drop").one_line("dropped; the messages are sent again")
    talk("say", "six")
    assert len(read_sent_contents(chat_server)) == 12
    ran = talk("compact", "--drop")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line("no summary to drop")


def test_with_nothing_to_summarise_the_model_is_not_called(talk: Program, chat_server: ChatServer) -> None:
    ran = talk("compact", "--keep-last", "4")
    assert (ran.code, ran.out) == (0, "")
    ran.one_line("nothing to summarise")
    assert talk("compact", "--keep-last", "9", "--json").json["summaries"] == []
    talk("new", "--name", "empty")
    talk("compact").one_line("nothing to summarise")
    assert len(chat_server.requests) == 4


def test_json_has_the_summaries(talk: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply("They counted."))
    made = talk("compact", "-m", "small-model", "--json").json
    assert chat_server.requests[-1].body["model"] == "small-model"
    [summary] = made["summaries"]
    assert list(summary) == ["turn", "up_to_position", "up_to_seq", "tokens", "text", "created_at"]
    assert (made["conversation"], summary["turn"], summary["up_to_position"], summary["text"]) == (
        *(talk("show", "--json").json["id"], 5, 5, "They counted."),
    )
    assert talk("compact", "--drop", "--json").json == {
        "conversation": made["conversation"],
        "dropped": summary,
        "summary": None,
    }
    assert talk("compact", "--drop", "--json").json["dropped"] is None


def test_a_failed_summary_is_stored_as_a_turn_and_changes_nothing(talk: Program, chat_server: ChatServer) -> None:
    chat_server.script(Failure(400, "no such model"))
    talk("compact").failed(6, "no summary", "no such model")
    assert [(turn["purpose"], turn["status"]) for turn in talk("turns", "--json").json][-1] == ("summary", "failed")
    assert "      no such model" in talk("turns").out
    talk("say", "five")
    assert len(read_sent_contents(chat_server)) == 10
    talk.set(CONVSTORE_MODEL=None)
    talk("compact").failed(2, "no model is named")
    talk.set(OPENAI_BASE_URL=None, CONVSTORE_MODEL="m")
    talk("compact").failed(2, "OPENAI_API_KEY")
    talk("compact", "--drop", "--keep-last", "2").failed(2, "--drop")
    talk("compact", "--drop", "-m", "x").failed(2, "--drop")
    talk("compact", "--keep-last", "-1").failed(2, "--keep-last")
    talk("compact", "nope").failed(3, "nope")


def test_a_conversation_with_compact_at_is_summarised_automatically(
    program: Program, chat_server: ChatServer, rows: Rows
) -> None:
    program("new", "--compact-at", "150", "--keep-last", "1")
    for word in ("one", "two", "three"):
        program("say", word + " word" * 40)
    purposes = [turn["purpose"] for turn in program("turns", "--json").json]
    assert "summary" in purposes
    assert rows("SELECT count(*) FROM convstore_summaries")[0][0] >= 1
    before = len(chat_server.requests)
    ran = program("say", "next")
    assert ran.code == 0
    assert len(chat_server.requests) - before >= 1


def test_a_summary_does_not_drive_the_terminal(program: Program, chat_server: ChatServer) -> None:
    program("new", WILD)
    for _ in range(3):
        program("say", WILD)
    chat_server.script(Reply(WILD, model=WILD))
    for arguments in (["compact"], ["compact", "--drop", "--json"], ["compact", "--drop"], ["turns"]):
        ran = program(*arguments, terminal=True)
        assert ran.code == 0
        assert is_tame((ran.out + ran.err).replace("\t", ""))
