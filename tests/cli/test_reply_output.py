"""Test how the pieces of a reply are written."""

import io
import json
import re
import sys

import pytest

from convstore import Store
from convstore.cli.render.reply_output import print_reply
from convstore.testing import ChatServer, Raw, Reply
from tests.cli.program import Program


class CountingScreen(io.StringIO):
    """A terminal that counts how often something is written."""

    encoding = "utf-8"
    written = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written += 1
        return super().write(text)


def make_stream(pieces: list[str]) -> bytes:
    """Return the body of a streamed answer."""
    deltas: list[dict[str, object]] = [{"index": 0, "delta": {"content": piece}} for piece in pieces]
    events = [{"id": "x", "model": "m", "choices": [choice]} for choice in deltas]
    end = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (*events, end)) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("is_plain", [True, False])
def test_pieces_that_arrive_together_are_written_together(
    sqlite_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch, is_plain: bool
) -> None:
    pieces = [f"word{number} " for number in range(500)]
    chat_server.script(Raw(body=make_stream(pieces), content_type="text/event-stream"))
    screen = CountingScreen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        id = store.new().id
        turn = print_reply(
            lambda: store.stream(id, "hi"),
            lambda: store.say(id, "hi"),
            as_stream=True,
            as_json=False,
            is_plain=is_plain,
        )
    assert screen.getvalue().split() == turn.text.split() == [piece.strip() for piece in pieces]
    assert screen.written < 50


def test_say_and_show_render_markdown_on_a_terminal_and_nowhere_else(program: Program, chat_server: ChatServer) -> None:
    text = "# Title\n\n- **one**\n- `two`\n"
    chat_server.otherwise = lambda _: Reply(text)
    program("new")
    said = program("say", "**hi**", terminal=True).out
    assert re.sub("\x1b\\[[0-9;]*m", "", said) == "Title\n\n• one\n• two\n"
    assert program("say", "hi", "--no-stream", terminal=True).out == said
    assert program("retry", terminal=True).out == said
    shown = program("show", "-n", "2", terminal=True).out
    assert said in shown
    shown = program("show", terminal=True).out
    assert "**hi**" in shown  # what a person wrote is shown as it was typed
    for mode in ([], ["--no-stream"]):
        assert program("say", "hi", *mode).out == text + ("\n" if mode else "")
        assert text in program("say", "hi", "--plain", *mode, terminal=True).out
    assert text in program("show").out
    assert text in program("show", "--plain", terminal=True).out
    assert program("show", "--raw", terminal=True).out == text + "\n"
    program.set(TERM="dumb")
    assert program("say", "hi", terminal=True).out == text
    program.set(TERM="xterm", NO_COLOR="1")
    styled = "\x1b[1;4mTitle\x1b[0m\n\n\x1b[2m• \x1b[0m\x1b[1mone\x1b[0m\n\x1b[2m• \x1b[0m`two`\n"
    assert program("say", "hi", terminal=True).out == styled
