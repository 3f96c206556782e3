"""A real model, the real program, a real database: what convstore is for, end to end."""

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from convstore import Store
from demo.model import local_model

FIRST = "The secret code is 4821. Please remember it."
SECOND = "What is the secret code?"


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with local_model() as url:
        yield url


@pytest.fixture
def _model(monkeypatch: pytest.MonkeyPatch, base_url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)


@pytest.mark.usefixtures("_model")
def test_the_library_replays_the_stored_history_to_a_real_model(database_url: str) -> None:
    with Store(database_url) as store:
        conversation = store.new(system="Answer briefly.", model="smollm2", temperature=0)
        store.say(conversation.id, FIRST)
        reply = store.say(conversation.id, SECOND)

    assert "4821" in reply.text
    assert reply.finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.prompt_tokens
    assert reply.usage.completion_tokens


@pytest.mark.usefixtures("_model")
def test_the_command_line_replays_the_stored_history_to_a_real_model(sqlite_url: str, tmp_path: Path) -> None:
    def convstore(*arguments: str) -> str:
        done = subprocess.run(
            [Path(sysconfig.get_path("scripts"), "convstore"), *arguments],
            env=os.environ | {"CONVSTORE_DB": sqlite_url, "CONVSTORE_MODEL": "smollm2"},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    conversation = convstore("new", "A test", "--system", "Answer briefly.", "--temperature", "0").strip()
    convstore("say", FIRST, "-c", conversation)

    assert "4821" in convstore("say", SECOND)
    assert SECOND in convstore("show", conversation)
    assert conversation in convstore("list", "--json")
