"""`convstore say`."""

from __future__ import annotations

import stat
import sys
from os import fstat
from select import select
from typing import TYPE_CHECKING, Any

import click

from convstore.cli import output, style
from convstore.cli.target import find_conversation, open_store
from convstore.errors import ConvstoreError, LeaseLost, ReplyNotStored, TurnFailed

if TYPE_CHECKING:
    from convstore.records import Turn
    from convstore.store import Store

_PATIENCE = 3.0  # seconds of silence before a waiting person is told for what
_LONGEST_TITLE = 60  # characters of a message that begin to make a title
_UNUSUAL_ENDS = {
    "length": "the reply was cut off at its length limit (max_tokens, or the model's own)",
    "content_filter": "the provider's content filter cut the reply",
    "tool_calls": "the reply asks for tools to be called",
    "function_call": "the reply asks for a function to be called",
}


@click.command(
    epilog=style.example(
        'convstore say "Where were the 2008 games held?"',
        'git diff | convstore say "Review this change" -c review',
        'convstore say --new "Tell me a joke" -m gpt-4o-mini',
        'convstore say "And in 2012?" --dry-run',
    )
)
@click.argument("message", required=False)
@click.option("-c", "--conversation", "ref", metavar="REF", help="The conversation.  [default: the one used last]")
@click.option("--new", "begin_new", is_flag=True, help="Begin a new conversation, which keeps the parameters given.")
@click.option("--sender", metavar="NAME", help="The sender's name, for the model to see.")
@click.option("--system", metavar="TEXT|@FILE", help="A system message to put before this one.")
@style.parameter_options
@click.option("--no-stream", is_flag=True, help="Print the reply when it is complete.")
@click.option("--no-history", is_flag=True, help="Send this message alone.")
@click.option("--dry-run", is_flag=True, help="Print the request that would be sent, as JSON; store and send nothing.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    help="How long to wait while another turn runs.  [default: 30]",
)
@click.option("--base-url", metavar="URL", help="The model's server.  [default: OPENAI_BASE_URL, else OpenAI]")
@style.json_option
@style.store_options
def say(
    message: str | None,
    ref: str | None,
    begin_new: bool,
    sender: str | None,
    system: str | None,
    no_stream: bool,
    no_history: bool,
    dry_run: bool,
    wait: float,
    base_url: str | None,
    as_json: bool,
    db: str | None,
    owner: str,
    **given: Any,
) -> None:
    """Say something and print the model's reply.

    MESSAGE missing, or -, is read from standard input; where both are given, they are joined: MESSAGE, an empty
    line, and what was read. A message that begins with a dash comes after --.

    The conversation is REF (its name, its id, or the beginning of its id), else the one used last.
    """
    if begin_new and ref is not None:
        raise click.UsageError("give -c or --new, not both.")
    text = _message(message)
    how: dict[str, Any] = {"system": style.text_or_file(system), "name": sender, "history": not no_history}
    parameters = style.kept_parameters(**given) if begin_new else style.parameters(**given)
    stream = not (no_stream or as_json)
    with open_store(db, owner, base_url) as store:
        if dry_run:
            target = None if begin_new else find_conversation(store, ref).id
            output.write_json(store.preview(target, text, stream=stream, **how, **parameters), indent=2)
            return
        if begin_new:
            target, how, parameters = _begin(store, text, how, parameters)
        else:
            target = find_conversation(store, ref).id
        try:
            if stream:
                turn = _stream(store, target, text, wait=wait, **how, **parameters)
            else:
                turn = _whole(store, target, text, wait=wait, **how, **parameters)
        except (TurnFailed, LeaseLost, ReplyNotStored) as error:
            if not stream:
                _save(error, as_json=as_json)
            raise
    if as_json:
        _write_turn(turn)
        return
    if not stream and turn.text:
        output.answer(turn.text)
    _remark(turn)


def _message(argument: str | None) -> str:
    if argument is None or argument == "-":
        if sys.stdin.isatty():
            output.note_on_terminal("(type the message; end it with Ctrl-D on a line of its own)")
        return style.read_input()
    if _is_redirected():
        piped = style.read_input()
        if piped.strip():
            return f"{argument}\n\n{piped}"
    return argument


def _is_redirected() -> bool:
    """Whether a file or a pipe stands at standard input: a terminal, or no input at all, has nothing to add."""
    try:
        mode = fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)  # some programs' pipes are sockets
    if is_pipe and not select([sys.stdin], [], [], _PATIENCE)[0]:
        # A pipe that nobody writes to nor closes, such as some programs leave to their children.
        output.note("convstore: waiting for standard input to join to MESSAGE; `< /dev/null` says there is none")
    return is_pipe or stat.S_ISREG(mode)


def _begin(
    store: Store, text: str, how: dict[str, Any], parameters: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Begin a conversation for `text`, after everything that could refuse it has been asked."""
    store.preview(None, text, **how, **parameters)
    _ = store.client
    title = output.one_line(text)
    title = title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1].rstrip() + "…"
    conversation = store.new(title, system=how["system"], **parameters)
    output.note_on_terminal(f"({conversation.id})")
    return conversation.id, {**how, "system": None}, {}


def _stream(store: Store, target: str, text: str, **how: Any) -> Turn:
    reply = store.stream(target, text, **how)
    try:
        with reply:
            for piece in reply:
                output.answer(piece, newline=False)
    except SystemExit:
        _end_line(reply.text)
        _note_stop(reply.text)
        raise
    except ConvstoreError:
        _end_line(reply.text)
        raise
    _end_line(reply.text)
    if not reply.text and reply.turn.text:  # a refusal does not come as pieces of text
        output.answer(reply.turn.text)
    return reply.turn


def _whole(store: Store, target: str, text: str, **how: Any) -> Turn:
    try:
        return store.say(target, text, **how)
    except SystemExit:
        _note_stop("")
        raise


def _note_stop(text: str) -> None:
    output.note("convstore: stopped" + ("; what came is kept" if text else " before anything came"))


def _end_line(text: str) -> None:
    if text and not text.endswith("\n"):
        output.answer("")


def _save(error: TurnFailed | LeaseLost | ReplyNotStored, *, as_json: bool) -> None:
    """Print what an error carries: the turn, for scripts; and a whole reply that is on no path, or stored nowhere."""
    from convstore.cli import forms
    from convstore.messages import text_of

    if as_json:
        form = (
            forms.completion_form(error.completion)
            if isinstance(error, ReplyNotStored)
            else forms.turn_form(error.turn)
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
    from convstore.cli.forms import turn_form

    output.write_json(turn_form(turn))
