"""Test that `usage` prints a table or JSON, with `?` for unknown costs."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program, Rows, run_python, start
from tests.cli.terminal import is_tame

TOKENS = {
    "prompt_tokens": 1500,
    "completion_tokens": 200,
    "prompt_tokens_details": {"cached_tokens": 500},
    "completion_tokens_details": {"reasoning_tokens": 50},
}
PRICES = """
[models."gpt-priced*"]
prompt = 10
completion = 100
"""


@pytest.fixture
def priced(program: Program, tmp_path: Path) -> Program:
    """Return the command line with a price for one model."""
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    program.set(CONVSTORE_PRICES=str(path))
    return program


def make_reply(model: str = "gpt-priced-2026", **options: Any) -> Reply:
    return Reply("Yes.", usage=TOKENS, model=model, **options)


def ask(program: Program, server: ChatServer, *replies: Reply | Failure) -> None:
    server.script(*replies)
    for _ in replies:
        program("say", "Hi", "--no-stream")


def set_times(rows: Rows) -> None:
    """Set the latency of every turn to two seconds, and its start to the same day."""
    rows.change("UPDATE convstore_turns SET latency_ms = 2000, started_at = '2026-11-20 10:00:00.000000'")


def test_the_table_has_a_line_for_each_row_and_the_total(priced: Program, chat_server: ChatServer, rows: Rows) -> None:
    priced("new")
    ask(priced, chat_server, make_reply(), make_reply(), make_reply("unpriced"), Failure(400))
    set_times(rows)
    ran = priced("usage", "--by", "model")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "model            turns  failed  prompt  cached  completion  reasoning  cost USD  median   p95",
        "gpt-priced-2026      2       0   3,000   1,000         400        100    0.0700    2.0s  2.0s",
        "unpriced             1       0   1,500     500         200         50         ?    2.0s  2.0s",
        "test-model           1       1       ?       ?           ?          ?         ?       -     -",
        "total                4       1   4,500   1,500         600        150  ≥ 0.0700    2.0s  2.0s",
    ]
    assert ran.err == "convstore: 1 of 4 turns have a model without a price; see `convstore usage --help`\n"
    assert priced("usage").out.splitlines() == [
        "       turns  failed  prompt  cached  completion  reasoning  cost USD  median   p95",
        "total      4       1   4,500   1,500         600        150  ≥ 0.0700    2.0s  2.0s",
    ]
    by_day = priced("usage", "--by", "day").out.splitlines()
    assert by_day[1].startswith("2026-11-20      4 ")


def test_json_has_the_totals_and_the_rows(priced: Program, chat_server: ChatServer, rows: Rows) -> None:
    id = priced("new", "Games", "--name", "games").out.strip()
    ask(priced, chat_server, make_reply())
    set_times(rows)
    ran = priced("usage", "--by", "conversation", "--since", "2026-11-01", "--json")
    numbers = {
        "turns": 1,
        "failed": 0,
        "interrupted": 0,
        "prompt_tokens": 1500,
        "cached_tokens": 500,
        "completion_tokens": 200,
        "reasoning_tokens": 50,
        "turns_without_usage": 0,
        "cost": 0.035,
        "turns_without_price": 0,
        "latency_median": 2.0,
        "latency_p95": 2.0,
    }
    assert (ran.code, ran.err) == (0, "")
    assert ran.json == {
        "by": "conversation",
        "since": "2026-11-01T00:00:00+00:00",
        "until": None,
        "currency": "USD",
        "total": numbers,
        "rows": [{"conversation": id, "label": "games", **numbers}],
    }


def test_the_json_of_a_turn_has_its_cost(priced: Program, chat_server: ChatServer) -> None:
    priced("new")
    chat_server.script(make_reply(), make_reply("unpriced"))
    assert priced("say", "Hi", "--json").json["cost"] == 0.035
    assert priced("say", "Hi", "--json").json["cost"] is None
    assert [turn["cost"] for turn in priced("turns", "--json").json] == [0.035, None]


def test_without_ref_usage_counts_all_conversations_and_with_ref_only_one(
    priced: Program, chat_server: ChatServer
) -> None:
    priced("new", "--name", "one")
    ask(priced, chat_server, make_reply(), make_reply())
    priced("new", "--name", "two")
    ask(priced, chat_server, make_reply())
    assert priced("usage", "--json").json["total"]["turns"] == 3
    priced.set(CONVSTORE_CONVERSATION="two")
    assert priced("usage", "--json").json["total"]["turns"] == 3
    assert priced("usage", "one", "--json").json["total"]["turns"] == 2
    priced("usage", "three").failed(3, "no conversation 'three'")
    priced("usage", "").failed(3, "no conversation ''")
    assert [row["label"] for row in priced("usage", "--by", "conversation", "--json").json["rows"]] == ["one", "two"]


def test_an_owner_sees_its_own_usage_and_the_administrator_every_owner(
    priced: Program, chat_server: ChatServer
) -> None:
    for owner, count in (("", 1), ("ann", 2)):
        priced("new", "--owner", owner)
        chat_server.script(*(make_reply() for _ in range(count)))
        for _ in range(count):
            priced("say", "Hi", "--owner", owner)
    assert priced("usage", "--owner", "ann", "--json").json["total"]["turns"] == 2
    table = priced("usage", "--by", "owner").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["ann", "2"], ["(none)", "1"], ["total", "3"]]
    assert [row["owner"] for row in priced("usage", "--by", "owner", "--json").json["rows"]] == ["ann", ""]
    priced("usage", "--by", "owner", "--owner", "ann").failed(2, "owner 'ann' may not see")
    assert "give REF or --by owner" in priced("usage", "games", "--by", "owner").failed(2).err


def test_usage_without_turns_prints_a_note(priced: Program, chat_server: ChatServer) -> None:
    for words, arguments in (
        ("no turns", []),
        ("no turns in this period", ["--since", "7d"]),
    ):
        ran = priced("usage", *arguments)
        assert (ran.code, ran.out, ran.err) == (0, "", f"convstore: {words}\n")
    assert priced("usage", "--json").json["total"]["cost"] == 0
    priced("new")
    ask(priced, chat_server, make_reply())
    assert priced("usage", "--until", "2020-01-01").err == "convstore: no turns in this period\n"


@pytest.mark.parametrize(
    ("since", "until", "turns"),
    [
        ("2026-11-20", None, 1),
        ("2026-11-21", None, 0),
        (None, "2026-11-20", 0),
        (None, "2026-11-21", 1),
        ("2026-11-20T10:00", None, 1),
        ("2026-11-20T10:00:01", None, 0),
        ("2026-11-20T12:00+02:00", None, 1),
        ("2026-11-20T11:59:59+02:00", "2026-11-20T12:00:00+02:00", 0),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00.000001Z", 1),
    ],
)
def test_times_are_utc_and_the_end_of_the_period_is_not_included(
    priced: Program, chat_server: ChatServer, rows: Rows, since: str | None, until: str | None, turns: int
) -> None:
    priced("new")
    ask(priced, chat_server, make_reply())
    set_times(rows)
    arguments = [*(["--since", since] if since else []), *(["--until", until] if until else [])]
    assert priced("usage", *arguments, "--json").json["total"]["turns"] == turns


@pytest.mark.parametrize(("ago", "hours"), [("24h", 24), ("7d", 168), ("2w", 336), ("0h", 0)])
def test_a_time_ago_is_counted_from_now(priced: Program, ago: str, hours: int) -> None:
    before = datetime.now(UTC)
    since = datetime.fromisoformat(priced("usage", "--since", ago, "--json").json["since"])
    assert before <= since + timedelta(hours=hours) <= datetime.now(UTC)


@pytest.mark.parametrize("when", ["", "yesterday", "7", "7m", "-7d", "2026-13-01", "9" * 30 + "d", "99999999w", "٣x"])
def test_any_other_time_is_refused(priced: Program, when: str) -> None:
    for option in ("--since", "--until"):
        priced("usage", option, when).failed(2, "is not a day (2026-11-01)", option)


def test_the_error_for_a_wrong_price_names_the_file_and_the_key(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[models."gpt-4o"]\nprompt = "cheap"\ncompletion = 1\n')
    program.set(CONVSTORE_PRICES=str(path))
    program("new")
    for arguments in (["usage"], ["say", "Hi"], ["say", "Hi", "--no-stream"]):
        ran = program(*arguments).failed(2, str(path), 'models."gpt-4o".prompt must be the price of a million tokens')
        assert "not 'cheap'" in ran.err


def test_no_name_in_the_table_drives_the_terminal(priced: Program, chat_server: ChatServer, tmp_path: Path) -> None:
    wild = "a\x1b]0;owned\x07b\x9b2J"
    (tmp_path / "prices.toml").write_text(PRICES)
    priced("new", wild)
    ask(priced, chat_server, make_reply(wild))
    for by in ("model", "conversation"):
        ran = priced("usage", "--by", by, terminal=True)
        assert "owned" in ran.out
        assert is_tame(ran.out)
        assert is_tame(priced("usage", "--by", by, "--json").out)


def test_usage_imports_neither_openai_nor_alembic(priced: Program, chat_server: ChatServer) -> None:
    priced("new")
    ask(priced, chat_server, make_reply())
    code = (
        "import sys\n"
        "from convstore.cli import convstore\n"
        "convstore(['usage', '--by', 'model'], standalone_mode=False)\n"
        "print(sorted({'openai', 'alembic', 'pydantic'} & set(sys.modules)))"
    )
    assert run_python(code).splitlines()[-1] == "[]"


def test_the_table_comes_before_the_notes_about_it(priced: Program, chat_server: ChatServer) -> None:
    """A user may send stdout and stderr to one file and read both there in order."""
    priced("new")
    ask(priced, chat_server, make_reply("unpriced"))
    with start("usage", stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        out, _ = process.communicate()
    assert (
        out.decode().splitlines()[-1]
        == "convstore: 1 of 1 turns have a model without a price; see `convstore usage --help`"
    )
