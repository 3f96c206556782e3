"""How a model's reply reaches people and scripts: what `say`, `retry` and `edit` share."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGINT
from typing import TYPE_CHECKING, TypeVar

import click

from convstore.cli.render import output
from convstore.errors import ConvstoreError, LeaseLost, ReplyNotStored, TurnFailed

if TYPE_CHECKING:
    from typing import Any

    from convstore.store.reply_stream import ReplyStream
    from convstore.values.results import Turn

F = TypeVar("F", bound="Callable[..., Any]")

_UNUSUAL_ENDS = {
    "length": "the reply was cut off at its length limit (max_tokens, or the model's own)",
    "content_filter": "the provider's content filter cut the reply",
    "tool_calls": "the reply asks for tools to be called; `convstore tool-result` takes what they return",
    "function_call": "the reply asks for a function to be called",
}


def call_options(command: F) -> F:
    """How a model is asked, and how its reply is printed."""
    for option in (
        click.option("--base-url", metavar="URL", help="The model's server.  [default: OPENAI_BASE_URL, else OpenAI]"),
        click.option("--no-wait", is_flag=True, help="Do not wait: exit with 5 while another turn runs."),
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            default=30.0,
            metavar="SECONDS",
            help="How long to wait while another turn runs.  [default: 30]",
        ),
        click.option("--no-stream", is_flag=True, help="Print the reply when it is complete."),
    ):
        command = option(command)
    return command


def print_reply(
    *, stream: Callable[[], ReplyStream], whole: Callable[[], Turn], as_it_comes: bool, as_json: bool
) -> None:
    """Ask, and print the reply: as it comes, or when it is complete, or as JSON.

    Args:
        stream: asks for a reply that comes in pieces.
        whole: asks for a reply that comes whole.
    """
    try:
        turn = _stream(stream()) if as_it_comes else _whole(whole)
    except (TurnFailed, LeaseLost, ReplyNotStored) as error:
        if not as_it_comes:
            _save(error, as_json=as_json)
        raise
    if as_json:
        _write_turn(turn)
        return
    if not as_it_comes and turn.text:
        output.answer(turn.text)
    _remark(turn)


def _stream(reply: ReplyStream) -> Turn:
    try:
        with reply:
            for piece in reply:
                output.answer(piece, newline=False)
    except SystemExit:
        output.end_line(reply.text)
        _note_stop(reply.text)
        raise
    except ConvstoreError:
        output.end_line(reply.text)
        raise
    output.end_line(reply.text)
    if reply.turn.status.value == "interrupted":  # by `convstore stop`, which is another way to press Ctrl-C
        _note_stop(reply.text, "from elsewhere")
        raise SystemExit(128 + SIGINT)
    if not reply.text and reply.turn.text:  # a refusal does not come as pieces of text
        output.answer(reply.turn.text)
    return reply.turn


def _whole(ask: Callable[[], Turn]) -> Turn:
    try:
        return ask()
    except SystemExit:
        _note_stop("")
        raise


def _note_stop(text: str, whence: str = "") -> None:
    output.note(f"convstore: stopped {whence}".rstrip() + ("; what came is kept" if text else " before anything came"))


def _save(error: TurnFailed | LeaseLost | ReplyNotStored, *, as_json: bool) -> None:
    """Print what an error carries: the turn, for scripts; and a whole reply that is on no path, or stored nowhere."""
    from convstore.cli.render import json_forms
    from convstore.messages.codec import text_of

    if as_json:
        form = (
            json_forms.completion_form(error.completion)
            if isinstance(error, ReplyNotStored)
            else json_forms.turn_form(error.turn)
        )
        output.write_json(form)
    elif isinstance(error, ReplyNotStored):
        output.answer(text_of(error.completion.messages[0]))
    elif isinstance(error, LeaseLost):
        output.answer(error.turn.text)


def _remark(turn: Turn) -> None:
    """Say on stderr what the text alone does not: an empty reply, or an unusual end."""
    remark = _UNUSUAL_ENDS.get(turn.finish_reason or "")
    if remark is None and not turn.text:
        remark = "the reply has no text"
    if remark is not None:
        output.note(f"convstore: {remark} (turn {turn.seq}; `convstore show` has all of it)")


def _write_turn(turn: Turn) -> None:
    from convstore.cli.render.json_forms import turn_form

    output.write_json(turn_form(turn))
