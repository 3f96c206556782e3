"""Test the real program with a real model and a real database."""

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from convstore import Store, TurnFailed
from convstore.context.window import SUMMARY_REQUEST
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
def test_a_conversation_that_a_real_model_compacted_goes_on_from_its_summary(database_url: str) -> None:
    with Store(database_url, model="smollm2") as store:
        id = store.new(
            system="Answer briefly.",
            temperature=0,
            messages=[
                {"role": "user", "content": "My name is Ada. The secret code is 4821. Please remember it."},
                {"role": "assistant", "content": "I will remember: the secret code is 4821."},
                {"role": "user", "content": "What is the capital of France?"},
                {"role": "assistant", "content": "Paris."},
                {"role": "user", "content": "What is 2 + 2?"},
                {"role": "assistant", "content": "4"},
            ],
        ).id
        whole = store.preview(id, SECOND)
        (summary,) = store.compact(id, keep_last=1, temperature=0, max_tokens=60)
        request = store.preview(id, SECOND)
        reply = store.say(id, SECOND, max_tokens=20)
        written, asked = store.turns(id)

        # The text of so small a model differs from machine to machine; the request does not.
        assert summary.text.strip()
        assert [message["content"] for message in request["messages"]] == [
            "Answer briefly.",
            SUMMARY_REQUEST,
            summary.text,
            "What is 2 + 2?",
            "4",
            SECOND,
        ]
        assert len(whole["messages"]) == 8
        assert (written.purpose, asked.purpose) == ("summary", None)
        assert written.usage is not None
        assert written.usage.completion_tokens
        assert reply.text
        assert reply.window is not None
        assert reply.window.summary == written.seq
        assert len(store.history(id)) == 9, "history keeps every message"


@pytest.mark.usefixtures("_model")
def test_a_request_that_a_real_server_refuses_as_too_long_is_trimmed(database_url: str) -> None:
    with Store(database_url, model="smollm2") as store:
        id = store.new(temperature=0, max_tokens=8).id
        long = "word " * 6000
        store.append(id, {"role": "user", "content": long}, {"role": "assistant", "content": "Yes."})
        with pytest.raises(TurnFailed, match="context size"):
            store.say(id, "Hello!")
        turn = store.say(id, "Hello!", on_overflow="trim")

        assert turn.text
        assert len(turn.attempts) == 1
        assert turn.window is not None
        assert (turn.window.history, turn.window.left_out) == (0, 2)


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
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    conversation = convstore("new", "A test", "--system", "Answer briefly.", "--temperature", "0").strip()
    convstore("say", FIRST, "-c", conversation)

    assert "4821" in convstore("say", SECOND)
    assert SECOND in convstore("show", conversation)
    assert conversation in convstore("list", "--json")
