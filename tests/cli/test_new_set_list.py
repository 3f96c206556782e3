"""Test `convstore new`, `set` and `list`."""

from pathlib import Path

import pytest

from convstore.testing import ChatServer
from tests.cli.program import Program, Rows


def test_new_prints_the_id_alone_on_stdout(on_each: Program) -> None:
    ran = on_each("new", "Olympics")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == ran.out.strip() + "\n"
    assert on_each("list", "--json").json[0]["id"] == ran.out.strip()


def test_new_stores_everything_that_it_is_given(on_each: Program, tmp_path: Path) -> None:
    (tmp_path / "expert.txt").write_text("You know sports.\n第二行", encoding="utf-8")
    identity = on_each(
        *("new", "Olympics", "--name", "games", "--system", f"@{tmp_path}/expert.txt", "-m", "gpt-x"),
        *(
            "--temperature",
            "0.2",
            "--max-tokens",
            "50",
            "-o",
            "seed",
            "7",
            "-o",
            "stop",
            '["END"]',
            "-o",
            "user",
            "ann",
        ),
        *("--meta", "project=atlas", "--meta", "note=a=b"),
    ).out.strip()
    shown = on_each("show", "games", "--json").json
    assert list(shown) == [
        *("id", "name", "title", "settings", "window", "metadata", "pins", "forked_from", "forked_at", "length"),
        *("head_seq", "tags", "created_at", "updated_at", "archived_at", "messages", "unanswered"),
    ]
    assert (shown["id"], shown["name"], shown["title"]) == (identity, "games", "Olympics")
    assert shown["settings"] == {
        "model": "gpt-x",
        "temperature": 0.2,
        "max_tokens": 50,
        "seed": 7,
        "stop": ["END"],
        "user": "ann",
    }
    assert shown["metadata"] == {"project": "atlas", "note": "a=b"}
    [message] = shown["messages"]
    assert list(message) == ["position", "seq", "turn", "created_at", "message"]
    assert (message["position"], message["seq"], message["turn"]) == (1, 1, None)
    assert message["message"] == {"role": "system", "content": "You know sports.\n第二行"}


def test_new_json_is_the_conversation(program: Program) -> None:
    made = program("new", "T", "--id", "my-id", "--top-p", "0.5", "--json").json
    assert (made["id"], made["title"], made["settings"]) == ("my-id", "T", {"top_p": 0.5})


def test_a_system_text_that_begins_with_an_at_sign_is_written_with_two(program: Program) -> None:
    program("new", "--system", "@@home")
    assert program("show", "--json").json["messages"][0]["message"]["content"] == "@home"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "2.5"], ["temperature", "0 to 2"]),
        (["-o", "temperature", "3"], ["temperature", "0 to 2"]),
        (["--temperature", "-0.1"], ["temperature", "0 to 2"]),
        (["--temperature", "nan"], ["temperature"]),
        (["--temperature", "warm"], ["--temperature", "'warm'"]),
        (["--temperature", "1", "--top-p", "1"], ["temperature or top_p, not both"]),
        (["--temperature", "1", "-o", "temperature", "1"], ["'temperature' is given twice"]),
        (["-o", "seed", "1", "-o", "seed", "2"], ["'seed' is given twice"]),
        (["--max-tokens", "0"], ["max_tokens", "at least 1"]),
        (["-o", "max_tokens", "1.5"], ["max_tokens"]),
        (["-m", ""], ["model"]),
        (["-o", "", "3"], ["KEY", "empty"]),
        (["-o", "messages", "x"], ["'messages' is not a completion parameter", "history"]),
        (["-o", "stream", "true"], ["'stream' is not a completion parameter", "--no-stream"]),
        (["-o", "name", "x"], ["'name' is not a completion parameter", "--name"]),
        (["-o", "id", "x"], ["'id' is not a completion parameter", "--id"]),
        (["-o", "title", "x"], ["'title' is not a completion parameter"]),
        (["-o", "tools", "@missing"], ["'@missing' cannot be read"]),
        (["-o", "tools", "@/dev/null"], ["'@/dev/null' is empty"]),
        (["-o", "system", "x"], ["'system' is not a completion parameter", "--system"]),
        (["-o", "metadata", "{}"], ["metadata", "--meta"]),
        (["-o", "timeout", "3"], ["timeout", "cannot be kept"]),
        (["-o", "extra_headers", '{"Authorization": "x"}'], ["extra_headers", "cannot be kept"]),
        (["-o", "seed", "NaN"], ["seed"]),
        (["-o", "seed"], ["-o needs 2 values"]),
        (["--meta", "x"], ["--meta takes KEY=VALUE", "'x'"]),
        (["--meta", "=x"], ["--meta takes KEY=VALUE"]),
        (["--name", "two words"], ["a name is"]),
        (["--name", ""], ["a name is"]),
        (["--id", ""], ["an id is"]),
        (["--system", ""], ["empty"]),
        (["--system", "@missing"], ["'@missing' cannot be read", "No such file"]),
        (["--system", "@"], ["'@' cannot be read"]),
        (["one", "two"], ["two"]),
        (["--nope"], ["--nope", "convstore new --help"]),
    ],
)
def test_new_refuses_invalid_options(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program("new", *arguments).failed(2, *words)
    assert program("list", "--json").json == []


def test_a_system_file_that_is_not_utf8_is_refused(program: Program, tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    program("new", "--system", f"@{tmp_path}/latin1").failed(2, "not UTF-8", "0xe9 at 3")


@pytest.mark.parametrize("option", ["--name", "--id"])
def test_a_name_or_an_id_that_is_taken_is_a_conflict(on_each: Program, option: str) -> None:
    first = on_each("new", option, "games").out.strip()
    on_each("new", "other", option, "games").failed(5, "'games'")
    on_each("new", option, "games", "-o", "seed", "1").failed(5, "'games'")
    assert [found["id"] for found in on_each("list", "--json").json] == [first]
    assert on_each("show", first, "--json").json["title"] is None


def test_the_same_id_with_the_same_content_is_the_same_conversation(on_each: Program) -> None:
    made = on_each("new", "Olympics", "--id", "games", "--system", "Be brief.", "-m", "gpt-x", "--meta", "a=1")
    on_each("say", "hi", "-c", "games")
    on_each("set", "games", "--title", "changed since")
    again = on_each("new", "Olympics", "--id", "games", "--system", "Be brief.", "-m", "gpt-x", "--meta", "a=1")
    assert (again.code, again.out, again.err) == (0, made.out, "")
    [found] = on_each("list", "--json").json
    assert (found["title"], found["messages"]) == ("changed since", 3)


def test_set_changes_only_what_it_is_given(on_each: Program) -> None:
    identity = on_each("new", "Old", "--name", "n", "-m", "gpt-x", "--temperature", "1", "--meta", "a=1").out.strip()
    ran = on_each("set", "n", "--title", "New", "--top-p", "0.3", "--meta", "b=2", "--unset", "name")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    shown = on_each("show", identity, "--json").json
    assert (shown["title"], shown["name"]) == ("New", None)
    assert shown["settings"] == {"model": "gpt-x", "top_p": 0.3}  # top_p replaces the temperature
    assert shown["metadata"] == {"a": "1", "b": "2"}


def test_set_removes_parameters_and_metadata(program: Program) -> None:
    program("new", "T", "--temperature", "1", "-o", "seed", "7", "--meta", "a=1")
    changed = program("set", "--unset", "temperature", "--unset", "title", "--unset", "metadata", "--json").json
    assert (changed["settings"], changed["title"], changed["metadata"]) == ({"seed": 7}, None, {})
    program("set", "--meta", "a=1")
    assert program("set", "--unset", "metadata", "--meta", "b=2", "--json").json["metadata"] == {"b": "2"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to change"]),
        (["--unset", "seed", "-o", "seed", "1"], ["'seed' is both set and unset"]),
        (["--unset", "messages"], ["'messages' is not a completion parameter"]),
        (["--unset", "conversation_id"], ["'conversation_id' is not a completion parameter"]),
        (["--unset", ""], ["empty"]),
        (["--name", "a b"], ["a name is"]),
        (["--temperature", "3"], ["0 to 2"]),
        (["--meta", "x"], ["KEY=VALUE"]),
    ],
)
def test_set_refuses_invalid_options(program: Program, arguments: list[str], words: list[str]) -> None:
    program("new", "T", "-o", "seed", "7")
    program("set", *arguments).failed(2, *words)
    assert program("show", "--json").json["settings"] == {"seed": 7}


def test_set_to_a_name_that_is_taken_is_a_conflict(on_each: Program) -> None:
    on_each("new", "--name", "taken")
    on_each("new", "--name", "mine")
    on_each("set", "mine", "--name", "taken").failed(5, "'taken'")
    assert {found["name"] for found in on_each("list", "--json").json} == {"taken", "mine"}


def test_list_has_the_latest_activity_first(on_each: Program) -> None:
    first, second = on_each("new", "first", "-m", "gpt-x").out.strip(), on_each("new", "second").out.strip()
    on_each("say", "hello", "-c", first)
    found = on_each("list", "--json").json
    assert [conversation["id"] for conversation in found] == [first, second]
    assert list(found[0]) == ["id", "name", "title", "messages", "model", "tags", "updated_at", "cursor"]
    assert (found[0]["title"], found[0]["messages"], found[0]["model"]) == ("first", 2, "gpt-x")
    assert (found[1]["messages"], found[1]["model"]) == (0, None)
    lines = on_each("list").out.splitlines()
    assert [line.split()[0] for line in lines] == [first, second]
    assert lines[0].endswith("first")


def test_list_shows_the_last_model_if_the_conversation_keeps_none(program: Program) -> None:
    program("new")
    program("say", "hello", "-m", "gpt-once")
    assert program("list", "--json").json[0]["model"] == "gpt-once"


def test_list_shows_20_conversations_by_default(program: Program) -> None:
    for number in range(22):
        program("new", str(number))
    assert len(program("list").out.splitlines()) == 20
    assert [found["title"] for found in program("list", "--limit", "2", "--json").json] == ["21", "20"]
    assert len(program("list", "--limit", "0", "--json").json) == 22
    program("list", "--limit", "-1").failed(2, "--limit")


def test_an_empty_list_says_how_to_start(on_each: Program) -> None:
    ran = on_each("list")
    assert (ran.code, ran.out) == (0, "")
    assert "convstore new" in ran.err
    assert on_each("list", "--json").out == "[]\n"


def test_owners_do_not_see_each_other(on_each: Program) -> None:
    identity = on_each("new", "hers", "--owner", "ann").out.strip()
    assert on_each("list", "--json").json == []
    on_each("show", identity, "--owner", "bob").failed(3, identity)
    on_each.set(CONVSTORE_OWNER="ann")
    assert on_each("show", "--json").json["id"] == identity
    on_each("new", "--owner", "a\nb").failed(2, "an owner is")


def test_an_option_names_another_database(program: Program, tmp_path: Path, chat_server: ChatServer) -> None:
    other = tmp_path / "other.db"
    program("new", "there", "--db", str(other))
    assert program("list", "--json").json == []
    rows = Rows(f"sqlite:///{other}")
    assert rows("SELECT title FROM convstore_conversations") == [("there",)]
    rows.close()
    assert other.stat().st_mode & 0o777 == 0o600
