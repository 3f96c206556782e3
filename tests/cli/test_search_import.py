"""Test `search`, `import` and `db reindex` as a person and a script use them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from convstore.cli.render.progress import Progress
from convstore.conversations import import_run
from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Rows, start
from tests.cli.terminal import is_tame, read_screen
from tests.processes import PATIENCE

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
    assert re.fullmatch(rf"{moment} · assistant · Olympics  convstore chat games\n  »In« Peking\.", first)
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
    found = re.fullmatch(r"convstore: there are more: --before (\S+)\n", ran.err)
    assert found is not None
    rest = program("search", "word", "--before", found[1], "--json")
    assert ([hit["conversation"] for hit in rest.json], rest.err) == (["one"], "")
    nothing = program("search", "nowhere")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "convstore: nothing found\n")


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


def test_ctrl_c_leaves_whole_conversations_and_the_next_import_goes_on(
    program: Program, rows: Rows, tmp_path: Path
) -> None:
    lines = [{"messages": [{**CHAT[0], "content": f"Question {number}?"}, CHAT[1]]} for number in range(1_250)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    process = start("import", "-", "--from", "fine-tuning", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(path.read_bytes())
    process.stdin.flush()
    deadline = time.monotonic() + PATIENCE
    while rows.count == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)  # it waits for more lines
    _, err = process.communicate(timeout=PATIENCE)
    assert process.wait() == 130
    assert err.decode().startswith("convstore: stopped; ")
    sizes = [messages for (messages,) in rows("SELECT count(*) FROM convstore_messages GROUP BY conversation_id")]
    assert (set(sizes), len(sizes)) in [({2}, 500), ({2}, 1_000)]
    ran = program("import", str(path), "--from", "fine-tuning", "--json")
    assert (ran.json["new"], ran.json["unchanged"]) == (1_250 - len(sizes), len(sizes))


def test_a_large_import_says_how_much_is_left_to_be_indexed(
    program: Program, chat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_run, "MOST_INDEXED_AT_ONCE", 1)
    assert program("import", chat).out == (
        "messages: conversations: 1 new, 0 changed, 0 unchanged; 2 messages added; "
        "2 not in the search index yet: `convstore db reindex` adds them\n"
    )
    assert program("db", "reindex").out == "2 added to the search index\n"
    assert program("search", "beijing", "--json").json[0]["position"] == 2


def test_progress_has_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    moments = iter([0.0, 100.0, 100.1, 200.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("messages") as progress:
        progress.show(2_000, 0.5)
        progress.show(2_001, 0.6)  # too soon
        progress.show(4_000, None)
    shown = capsys.readouterr().err
    assert shown == ("\r2,000 messages, 20 a second, 1 min 40 s left\033[K\r4,000 messages, 20 a second\033[K\r\033[K")
