"""Test `import --watch`: new messages come in while it runs, and little can end it."""

from __future__ import annotations

import json
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from convstore import DatabaseUnavailable, ImportReport, Store
from convstore.store.import_watch import watch_source
from tests.cli.program import Program, Running
from tests.transfer.test_claude_code_sessions import SESSION, record, user

OTHER = SESSION.replace("5b0e", "6c1f")


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """Return the folder of a session of Claude Code with one message."""
    folder = tmp_path / "projects" / "-home-ann-project"
    folder.mkdir(parents=True)
    write(folder, user("u1", None, "Where were the games?"))
    return folder


def write(folder: Path, *records: Any, session: str = SESSION, end: str = "\n") -> None:
    with (folder / f"{session}.jsonl").open("a") as file:
        file.write("\n".join(map(json.dumps, records)) + end)


def watch(folder: Path, *options: str) -> Running:
    return Running("import", str(folder), "--watch", "--every", "0.1", *options)


def test_watch_brings_in_what_is_written_while_it_runs_and_ends_with_ctrl_c(program: Program, sessions: Path) -> None:
    with watch(sessions.parent) as running:
        running.until("1 new, 0 changed, 0 unchanged; 1 messages added\n")
        write(sessions, user("u2", "u1", "And then?"))
        running.until("0 new, 1 changed, 0 unchanged; 1 messages added\n")
        write(sessions, user("v1", None, "Another."), user("v2", "v1", "One more."), session=OTHER)
        running.until("1 new, 0 changed, 0 unchanged; 2 messages added\n")
        running.process.send_signal(signal.SIGINT)
        ran = running.end()
    assert (ran.code, ran.out.count("\n"), ran.err) == (130, 3, "")
    assert sorted(one["messages"] for one in program("list", "--json").json) == [2, 2]


def test_watch_brings_in_a_line_when_it_is_complete_and_says_a_problem_once(program: Program, sessions: Path) -> None:
    line = json.dumps(user("u2", "u1", "A long question?"))
    with watch(sessions.parent, "--json") as running:
        running.until("\n")
        with (sessions / f"{SESSION}.jsonl").open("a") as file:
            file.write("[]\n" + line[:40])
        write(sessions, user("v1", None, "Other."), user("v2", "v1", "One more."), session=OTHER)
        running.until('"messages": 2')
        with (sessions / f"{SESSION}.jsonl").open("a") as file:
            file.write(line[40:] + "\n")
        running.until('"changed": 1')
        running.process.send_signal(signal.SIGTERM)
        ran = running.end()
    assert ran.code == 128 + signal.SIGTERM
    assert [json.loads(one)["messages"] for one in ran.out.splitlines()] == [1, 2, 1]
    assert ran.err == f"convstore: {sessions / SESSION}.jsonl, line 2: is not a record of Claude Code\n"


def test_watch_goes_on_when_the_database_was_away(
    sqlite_url: str, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(sqlite_url) as store:
        passes = watch_source(store, sessions.parent, None, 0.01)
        assert next(passes).report.new == 1
        write(sessions, user("u2", "u1", "And then?"))
        failures = iter([DatabaseUnavailable("away"), DatabaseUnavailable("still away")])
        bring = store.import_

        def fail_twice(*args: Any, **options: Any) -> ImportReport:
            if (failure := next(failures, None)) is not None:
                raise failure
            return bring(*args, **options)

        monkeypatch.setattr(store, "import_", fail_twice)
        assert [(done.outage, done.report.changed) for done in islice(passes, 2)] == [("away", 0), (None, 1)]
    with Store("sqlite:////nowhere/chat.db") as store, pytest.raises(DatabaseUnavailable):
        next(watch_source(store, sessions.parent, None, 0.01))


def test_watch_of_a_file_reads_it_when_it_was_written(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"role": "user", "content": "Hello?"}]))
    with watch(path) as running:
        running.until("messages: conversations: 1 new")
        path.write_text(json.dumps([{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]))
        running.until("; 2 messages added")
        running.process.send_signal(signal.SIGINT)
        assert running.end().err == ""


def test_watch_waits_for_the_first_file_of_an_empty_folder(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "projects"
    folder.mkdir()
    with watch(folder) as running:
        (folder / "a").mkdir()
        write(folder / "a", record("system", "s1", None), user("u1", None, "Where?"))
        running.until("claude-code: conversations: 1 new")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-", "--watch"], "takes a file or a folder"),
        ([".", "--watch", "--dry-run"], "without --dry-run"),
        ([".", "--every", "2"], "add --watch"),
        (["nowhere", "--watch"], "no such file"),
    ],
)
def test_watch_with_what_it_cannot_do_is_one_line(program: Program, arguments: list[str], words: str) -> None:
    program("import", *arguments).failed(2, words)
