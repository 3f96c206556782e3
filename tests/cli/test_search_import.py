"""Test `search`, `import` and `db reindex` as a person and a script use them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convstore.testing import ChatServer, Reply
from tests.cli.program import Program
from tests.cli.terminal import is_tame, read_screen

CHAT = [{"role": "user", "content": "Where were the 2008 games held?"}, {"role": "assistant", "content": "In Beijing."}]


@pytest.fixture
def chat(tmp_path: Path) -> str:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(CHAT))
    return str(path)


def test_search_prints_each_hit_with_the_command_that_goes_on(program: Program, chat_server: ChatServer) -> None:
    program("new", "Olympics", "--id", "games", "-m", "m")
    chat_server.script(Reply("In Beijing."), Reply("In Peking."))
    program("say", "Where?")
    program("retry")
    first, second = program("search", "in").out.split("\n\n")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"{moment} · assistant · Olympics  convstore fork games --at 2\n  »In« Peking\.", first)
    assert re.match(rf"{moment} · assistant · Olympics · off the path  convstore checkout 2 -c games\n", second)
    title = program("search", "olympics").out
    assert re.match(rf"{moment} · title · Olympics  convstore show games\n  »Olympics«\n", title)
    for line in (first, second, title):
        command = line.splitlines()[0].split("  ")[1].split()[1:]
        assert program(*command).code == 0, command


def test_search_prints_json_and_says_what_comes_next(program: Program) -> None:
    program("new", "--id", "one", "--system", "a word")
    program("new", "--id", "two", "--system", "the word")
    ran = program("search", "word", "--limit", "1", "--json")
    (hit,) = ran.json
    assert {**hit, "created_at": None} == {
        "conversation": "two",
        "title": None,
        "position": 1,
        "seq": 1,
        "role": "system",
        "on_path": True,
        "status": None,
        "snippet": "the word",
        "marks": [[4, 8]],
        "created_at": None,
    }
    found = re.fullmatch(r"there are more: --before (\S+)\n", ran.err)
    assert found is not None
    rest = program("search", "word", "--before", found[1], "--json")
    assert ([hit["conversation"] for hit in rest.json], rest.err) == (["one"], "")
    nothing = program("search", "nowhere")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing found\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", ""], 2, "query is empty"),
        (["search", "a", "--before", "x"], 2, "not the beginning of a page"),
        (["search", "a", "-c", "nobody"], 3, "no conversation"),
        (["search", "x" * 1_001], 2, "at most 1,000"),
        (["import", "nothing.json"], 2, "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(program: Program, arguments: list[str], code: int, words: str) -> None:
    program("new")
    program(*arguments).failed(code, words)


def test_search_shows_wild_text_tamely(program: Program) -> None:
    program("new", "--id", "wild", "--system", "wild \x1b[2J\x1b]0;owned\x07 text")
    screen = read_screen("search", "wild")
    assert is_tame(screen)
    assert "wild" in screen


def test_import_brings_in_a_file_and_a_stream_once(program: Program, chat: str) -> None:
    trial = program("import", chat, "--dry-run")
    assert trial.out == "messages: conversations: 1 new, 0 changed, 0 unchanged; 2 messages would be added\n"
    assert program("import", chat).out.endswith("1 new, 0 changed, 0 unchanged; 2 messages added\n")
    again = program("import", "-", "--json", stdin=Path(chat).read_bytes())
    assert again.json["problems"] == []
    assert program("list", "--json").json[0]["messages"] == 2
    assert "In Beijing." in program("show").out
    assert program("search", "beijing", "--json").json[0]["position"] == 2


def test_import_reports_what_is_bad_and_strict_makes_it_an_error(program: Program, tmp_path: Path) -> None:
    lines: list[Any] = [{"messages": CHAT}, {"messages": [{"content": "no role"}]}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    ran = program("import", str(path), "--from", "fine-tuning")
    assert (ran.code, ran.out.count("1 new")) == (0, 1)
    assert ran.err.count("\n") == 1
    assert "line 2" in ran.err
    assert program("import", str(path), "--from", "fine-tuning", "--strict").code == 1


def test_reindex_says_how_much_it_added(program: Program) -> None:
    program("new", "--system", "a word")
    assert program("db", "reindex").out == "0 added to the search index\n"
    assert program("db", "reindex", "--all", "--json").json == {"added": 0}
