"""Test the commands that put conversations in order: archive, tag, rate, title; and `list` and `search` by these."""

from __future__ import annotations

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program


def list_titles(program: Program, *options: str) -> list[str]:
    return [found["title"] for found in program("list", "--json", *options).json]


@pytest.fixture
def games(program: Program, chat_server: ChatServer) -> str:
    """Return the id of a conversation with one reply; another conversation is older."""
    program("new", "Other", "--meta", "topic=work")
    id = program("new", "Olympics", "--name", "games").out.strip()
    chat_server.script(Reply("In Beijing."))
    program("say", "Where were the games?")
    return id


def test_a_conversation_is_archived_and_brought_back(program: Program, games: str) -> None:
    assert program("archive", "games", "--json").json["archived_at"] is not None
    assert list_titles(program) == ["Other"]
    assert list_titles(program, "--archived") == ["Olympics"]
    program("list", "--archived", "--deleted").failed(2, "--archived or --deleted")
    assert program("search", "beijing", "--json").json == []
    assert [hit["conversation"] for hit in program("search", "beijing", "--archived", "--json").json] == [games]
    assert program("show", "games").out.endswith("In Beijing.\n")
    assert program("unarchive", "-c", "games").code == 0
    assert list_titles(program) == ["Olympics", "Other"]
    program("archive").failed(2, "REF is missing")
    program("archive", "nothing").failed(3)
    assert "no archived conversations" in program("list", "--archived").err


def test_tags_are_added_listed_and_removed(program: Program, games: str) -> None:
    assert "no tags yet" in program("tags").err
    assert program("tag", "games", "sport", "work", "--json").json["tags"] == ["sport", "work"]
    assert program("tags").out == "sport      1\nwork       1\n"
    assert program("tags", "--json").json[0] == {"tag": "sport", "conversations": 1}
    assert program("list").out.splitlines()[0].endswith("games · Olympics · #sport · #work")
    assert list_titles(program, "--tag", "sport", "--tag", "work") == ["Olympics"]
    assert "no such conversations" in program("list", "--tag", "none").err
    assert [hit["seq"] for hit in program("search", "beijing", "--tag", "work", "--json").json] == [2]
    assert program("untag", games, "work", "--json").json["tags"] == ["sport"]
    program("tag", "games", "two words").failed(2, "a tag is 1 to 64 letters")
    program("tag", "games").failed(2, "NAME")


def test_a_reply_is_rated_and_the_rating_is_shown(program: Program, games: str) -> None:
    rated = program("rate", "2", "bad", "--note", "too short", "-c", games, "--json").json
    assert (rated["seq"], rated["rating"], rated["note"]) == (2, "bad", "too short")
    assert "2 assistant (rated bad)" in program("show").out
    assert program("show", "--json").json["messages"][1]["rating"]["rating"] == "bad"
    assert [hit["seq"] for hit in program("search", "beijing", "--rated", "bad", "--json").json] == [2]
    assert program("search", "beijing", "--rated", "good", "--json").json == []
    assert program("rate", "2", "none", "--json").out == "null\n"
    assert "rating" not in program("show", "--json").json["messages"][1]
    program("rate", "1", "good").failed(2, "not a reply")
    program("rate", "2", "great").failed(2, "good")
    program("rate", "2", "none", "--note", "x").failed(2, "--note")


def test_a_title_is_given_or_written_by_the_model(program: Program, games: str, chat_server: ChatServer) -> None:
    assert program("title", "games", "Olympic games", "--json").json["title"] == "Olympic games"
    chat_server.script(Reply("Games of Beijing"))
    assert program("title", "games", "--auto", "-m", "m", "--json").json["title"] == "Games of Beijing"
    assert program("turns", "games", "--json").json[-1]["purpose"] == "title"
    assert "(title for the messages up to seq 2)" in program("turns", "games").out
    chat_server.script(Failure(400, "no"))
    program("title", "games", "--auto", "-m", "m").failed(6, "no title was written", "title --auto")
    program("title", "games").failed(2, "TITLE, or --auto")
    program("title", "games", "x", "--auto").failed(2, "TITLE, or --auto")
    program("title", "games", "x", "-m", "m").failed(2, "--model")


def test_the_list_is_narrowed_and_goes_on_from_a_cursor(program: Program, games: str) -> None:
    assert list_titles(program, "OLYMP") == list_titles(program, "--since", "1h", "game") == ["Olympics"]
    assert list_titles(program, "--meta", "topic=work") == ["Other"]
    assert list_titles(program, "--until", "1h") == list_titles(program, "--source", "chatgpt") == []
    assert list_titles(program, "-m", "none") == []
    first = program("list", "--limit", "1", "--json").json
    assert [one["id"] for one in first] == [games]
    assert list_titles(program, "--limit", "1", "--before", first[0]["cursor"]) == ["Other"]
    program("list", "--before", "x").failed(2, "not the beginning of a page")


def test_show_raw_prints_the_text_of_the_last_reply_alone(program: Program, games: str) -> None:
    program("tag", games, "x")
    assert program("show", "--raw").out == "In Beijing.\n"
    assert [program("append", "x").code] == [2]
    program("show", "--raw", "--json").failed(2, "--raw")
    program("show", "other", "--raw").failed(3)
    program("new", "Empty")
    program("show", "--raw").failed(2, "no reply yet")
