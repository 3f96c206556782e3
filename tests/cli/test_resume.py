"""Test `resume`: a conversation goes on in Claude Code or Codex."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import Program

CHAT = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Beijing."}]


@pytest.fixture
def chat(program: Program, tmp_path: Path) -> Program:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(CHAT))
    program("import", str(path))
    program.set(CLAUDE_CONFIG_DIR=str(tmp_path / "claude"), CODEX_HOME=str(tmp_path / "codex"))
    return program


@pytest.mark.parametrize(("name", "command"), [("claude", "claude --resume"), ("codex", "codex resume")])
def test_resume_writes_a_session_that_can_be_brought_in_again(
    chat: Program, tmp_path: Path, name: str, command: str
) -> None:
    project = tmp_path / "a project"
    project.mkdir()
    ran = chat("resume", "--in", name, "--folder", str(project))
    path = Path(ran.out.removesuffix("\n"))
    assert path.is_relative_to(tmp_path / name)
    assert path.stat().st_mode & 0o777 == 0o600
    assert ran.err == f"convstore: to go on: cd '{project}' && {command} {path.stem[-36:]}\n"
    assert "1 new" in chat("import", str(path)).out
    assert [one["message"] for one in chat("show", "--json").json["messages"]] == CHAT


def test_resume_twice_keeps_the_file_until_something_new_is_said(chat: Program) -> None:
    path = Path(chat("resume", "--in", "claude").out.removesuffix("\n"))
    with path.open("a") as file:
        file.write("{}\n")  # it went on there
    before = path.read_bytes()
    again = chat("resume", "--in", "claude", "--json")
    assert (again.json["path"], again.json["new"], again.json["not_carried"]) == (str(path), False, [])
    assert path.read_bytes() == before
    assert "is kept as it is" in chat("resume", "--in", "claude").err
    chat("say", "And then?")
    assert chat("resume", "--in", "claude", "--json").json["new"] is True


def test_resume_of_what_cannot_go_on_is_one_line(chat: Program, tmp_path: Path) -> None:
    chat("resume", "nobody", "--in", "codex").failed(3, "no conversation")
    chat("resume", "--in", "claude", "--folder", str(tmp_path / "nowhere")).failed(2, "does not exist")
    chat("resume", "--in", "emacs").failed(2, "emacs")
    empty = chat("new").out.strip()
    chat("resume", empty, "--in", "codex").failed(2, "no messages")
    chat.set(CODEX_HOME="/dev/null")
    full = next(one["id"] for one in chat("list", "--json").json if one["messages"])
    chat("resume", full, "--in", "codex").failed(2, "/dev/null")
