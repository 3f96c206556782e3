"""`convstore say`."""

from __future__ import annotations

import stat
import sys
from functools import partial
from os import fstat
from select import select
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import attach, shared_options, window_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output
from convstore.cli.render.reply_output import call_options, print_reply

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Request

_PATIENCE = 3.0  # seconds of silence before a waiting person is told for what
_LONGEST_TITLE = 60  # characters of a message that begin to make a title


@click.command(
    epilog=shared_options.example(
        'convstore say "Where were the 2008 games held?"',
        'git diff | convstore say "Review this change" -c review',
        'convstore say --new "Tell me a joke" -m gpt-4o-mini',
        'convstore say "What is on this photo?" -a photo.jpg',
        'convstore say "And in 2012?" --last 4 --dry-run',
        "convstore say --continue",
    )
)
@click.argument("message", required=False)
@shared_options.conversation_option
@attach.attach_option
@click.option("--new", "begin_new", is_flag=True, help="Begin a new conversation, which keeps the parameters given.")
@click.option("--continue", "go_on", is_flag=True, help="Let the model go on without a message: after a tool's result.")
@click.option("--sender", metavar="NAME", help="The sender's name, for the model to see.")
@click.option("--system", metavar="TEXT|@FILE", help="A system message to put before this one.")
@shared_options.parameter_options
@window_options.options
@click.option("--dry-run", is_flag=True, help="Print the request that would be sent, as JSON; store and send nothing.")
@click.option(
    "--key",
    metavar="KEY",
    help="An idempotency key: said again with it, the model is not asked again; its stored reply is printed.",
)
@shared_options.head_option
@call_options
@shared_options.json_option
@shared_options.store_options
def say(
    message: str | None,
    ref: str | None,
    attached: tuple[str, ...],
    begin_new: bool,
    go_on: bool,
    sender: str | None,
    system: str | None,
    dry_run: bool,
    key: str | None,
    expected_head: int | None,
    no_stream: bool,
    wait: float,
    no_wait: bool,
    base_url: str | None,
    as_json: bool,
    db: str | None,
    owner: str,
    **given: Any,
) -> None:
    """Say something and print the model's reply.

    MESSAGE missing, or -, is read from standard input; where both are given, they are joined: MESSAGE, an empty
    line, and what was read. A message that begins with a dash comes after --. What is attached (-a) may go alone.

    The conversation is REF (its name, its id, or the beginning of its id), else the one used last.
    """
    if begin_new and ref is not None:
        raise click.UsageError("give -c or --new, not both.")
    if begin_new and key is not None:
        raise click.UsageError("give --key or --new, not both: a key is good for one conversation.")
    if begin_new and expected_head is not None:
        raise click.UsageError("give --expected-head or --new, not both: a new conversation has none.")
    if go_on:
        _check_nothing_said(
            {"MESSAGE": message, "-a": attached, "--new": begin_new, "--sender": sender, "--system": system}
        )
    options = window_options.taken(given)
    history = options.pop("history", None)
    parameters = shared_options.kept_parameters(**given) if begin_new else shared_options.parameters(**given)
    parameters |= options
    said, title = (None, "") if go_on else _said(message, attached)
    how: dict[str, Any] = {"system": shared_options.text_or_file(system), "name": sender, "history": history}
    stream = not (no_stream or as_json)
    with open_store(db, owner, base_url) as store:
        if dry_run:
            target = None if begin_new else find_conversation(store, ref).id
            how |= {"stream": stream, "expected_head": expected_head}
            if target is not None and said is None:
                _print_request(store.preview_complete(target, **_given(how), **parameters))
            else:
                _print_request(store.preview(target, said, **how, **parameters))
            return
        if begin_new:
            target, how, parameters = _begin(store, said, title, how, parameters)
        else:
            target = find_conversation(store, ref).id
        how |= {"wait": 0.0 if no_wait else wait, "idempotency_key": key, "expected_head": expected_head}
        if go_on:
            asked = _given(how) | parameters
            ways = partial(store.complete_stream, target, **asked), partial(store.complete, target, **asked)
        else:
            asked = how | parameters
            ways = partial(store.stream, target, said, **asked), partial(store.say, target, said, **asked)
        print_reply(stream=ways[0], whole=ways[1], as_it_comes=stream, as_json=as_json)


def _check_nothing_said(given: dict[str, object]) -> None:
    for name, value in given.items():
        if value not in (None, False, ()):
            raise click.UsageError(f"give {name} or --continue, not both: it goes on from what is there.")


def _given(how: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in how.items() if value is not None}


def _said(message: str | None, attached: tuple[str, ...]) -> tuple[str | list[dict[str, Any]], str]:
    """Return what is to be said, and what to call it."""
    parts = attach.parts(attached)
    text = _message(message, may_be_missing=bool(parts))
    return attach.with_text(text, parts), text.strip() or attach.names(attached)


def _print_request(request: Request) -> None:
    """Print the request for programs, and on stderr what of the conversation it leaves out."""
    output.write_json(request, indent=2)
    note = output.note if window_options.is_partial(request.window.to_json_object()) else output.note_on_terminal
    for line in window_options.explained(request.window.to_json_object()):
        note(f"convstore: {line}")


def _message(argument: str | None, *, may_be_missing: bool) -> str:
    if argument is None and may_be_missing:
        return shared_options.read_input() if _is_redirected() else ""
    if argument is None or argument == "-":
        return shared_options.read_typed()
    if _is_redirected():
        piped = shared_options.read_input()
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
    store: Store, said: object, title: str, how: dict[str, Any], parameters: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Begin a conversation for what is `said`, after everything that could refuse it has been asked."""
    store.preview(None, said, **how, **parameters)
    _ = store.client
    title = output.one_line(title)
    title = title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1].rstrip() + "…"
    conversation = store.new(title, system=how["system"], **parameters)
    output.note_on_terminal(f"({conversation.id})")
    return conversation.id, {**how, "system": None}, {}
