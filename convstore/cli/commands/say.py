"""`convstore say`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.chat.first_message import NewConversation, delete_unused, shorten_title, start_conversation
from convstore.cli.options.attach_option import (
    attach_option,
    join_text_and_parts,
    list_file_names,
    read_attachments,
)
from convstore.cli.options.call_options import CallOptions, call_options
from convstore.cli.options.conversation_option import conversation_option, find_conversation
from convstore.cli.options.help_text import SectionedCommand, format_examples
from convstore.cli.options.history_options import window_options
from convstore.cli.options.parameter_options import check_stored_parameters, parameter_options
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.options.text_input import read_message, read_text_or_file
from convstore.cli.render.output_streams import write_json, write_terminal_note
from convstore.cli.render.reply_output import print_reply
from convstore.cli.render.window_text import print_window

if TYPE_CHECKING:
    from convstore.store.store import Store


@dataclass(frozen=True, slots=True)
class _Saying:
    """The arguments of `say`: the message, and everything that belongs to it."""

    content: str | list[dict[str, Any]]
    title: str | None
    """The title of a new conversation; without a text, the names of the attachments; None: the text makes one."""
    name: str | None
    """The name of a new conversation."""
    system: str | None
    sender: str | None
    key: str | None
    parameters: dict[str, Any]
    """Completion parameters and window options."""

    @property
    def preview_arguments(self) -> dict[str, Any]:
        return {"system": self.system, "name": self.sender, **self.parameters}


@click.command(
    cls=SectionedCommand,
    epilog=format_examples(
        'convstore say "Where were the 2008 games held?"',
        'git diff | convstore say "Review this change" -c review',
        'convstore say --new "Tell me a joke" -m gpt-4o-mini',
        'convstore say "What is on this photo?" -a photo.jpg',
        'convstore say "And in 2012?" --last 4 --dry-run',
        "convstore say --continue",
    ),
)
@click.argument("message", required=False)
@conversation_option
@attach_option
@click.option("--new", "is_new", is_flag=True, help="New conversation; it keeps the parameters of this command.")
@click.option("--name", metavar="HANDLE", help="Short name of the new conversation.")
@click.option("--title", metavar="TITLE", help="Title of the new conversation.  [default: the message]")
@click.option("--continue", "is_continued", is_flag=True, help="Reply without a new message, as after a tool's result.")
@click.option("--sender", metavar="NAME", help="Name of the sender, which the model sees.")
@click.option("-s", "--system", metavar="TEXT|@FILE", help="System message before this message.")
@parameter_options
@window_options
@click.option("--dry-run", "is_dry_run", is_flag=True, help="The request as JSON; nothing is stored or sent.")
@click.option(
    "--key",
    metavar="KEY",
    help="Idempotency key: a second `say` with it prints the stored reply and calls no model.",
)
@call_options
@store_options
def say(
    message: str | None,
    ref: str | None,
    attached: tuple[str, ...],
    is_new: bool,
    name: str | None,
    title: str | None,
    is_continued: bool,
    sender: str | None,
    system: str | None,
    parameters: dict[str, Any],
    window: dict[str, Any],
    is_dry_run: bool,
    key: str | None,
    call: CallOptions,
    store_choice: StoreChoice,
) -> None:
    """Say something and print the reply.

    Without MESSAGE, or with -, the text is read from standard input. If there is a MESSAGE and a redirected input, an
    empty line joins them. Write -- before a MESSAGE that begins with a dash. Attachments (-a) need no MESSAGE.

    The conversation (-c) is a name, an id or the beginning of an id; the default is the conversation used last.
    """
    if is_new:
        _check_not_given("--new", {"-c": ref, "--key": key, "--expected-head": call.expected_head})
        check_stored_parameters(parameters)
    else:
        _check_new_given({"--name": name, "--title": title})
    if is_continued:
        given: dict[str, object] = {
            "MESSAGE": message,
            "-a": attached,
            "--new": is_new,
            "--sender": sender,
            "--system": system,
        }
        _check_not_given("--continue", given)
        with open_store(store_choice, call.base_url) as store:
            target = find_conversation(store, ref).id
            if is_dry_run:
                _preview_continuation(store, target, {**parameters, **window}, call)
            else:
                _continue(store, target, {"idempotency_key": key, **parameters, **window}, call)
        return
    parts = read_attachments(attached)
    text = read_message(message, may_be_missing=bool(parts))
    saying = _Saying(
        content=join_text_and_parts(text, parts),
        title=title if title is not None or text.strip() else shorten_title(list_file_names(attached)),
        name=name,
        system=read_text_or_file(system) if system is not None else None,
        sender=sender,
        key=key,
        parameters={**parameters, **window},
    )
    with open_store(store_choice, call.base_url) as store:
        if is_dry_run:
            _preview(store, None if is_new else find_conversation(store, ref).id, saying, call)
        elif is_new:
            _say_in_new_conversation(store, saying, call)
        else:
            _say(store, find_conversation(store, ref).id, saying, call)


def _check_not_given(option: str, others: dict[str, object]) -> None:
    """Check that no other argument is given that an option excludes.

    Raises:
        click.UsageError: such an argument is given.
    """
    for name, value in others.items():
        if value not in (None, False, ()):
            raise click.UsageError(f"give {name} or {option}, not both.")


def _check_new_given(others: dict[str, object]) -> None:
    """Check that no option is given that describes a new conversation.

    Raises:
        click.UsageError: such an option is given.
    """
    for name, value in others.items():
        if value is not None:
            raise click.UsageError(f"{name} needs --new; `convstore set {name}` changes a conversation.")


def _say(store: Store, target: str, saying: _Saying, call: CallOptions) -> None:
    arguments = {"idempotency_key": saying.key, **saying.preview_arguments, **call.store_arguments}
    print_reply(
        partial(store.stream, target, saying.content, **arguments),
        partial(store.say, target, saying.content, **arguments),
        as_stream=call.as_stream,
        as_json=call.as_json,
        is_plain=call.is_plain,
    )


def _continue(store: Store, target: str, parameters: dict[str, Any], call: CallOptions) -> None:
    arguments = {**parameters, **call.store_arguments}
    print_reply(
        partial(store.complete_stream, target, **arguments),
        partial(store.complete, target, **arguments),
        as_stream=call.as_stream,
        as_json=call.as_json,
        is_plain=call.is_plain,
    )


def _say_in_new_conversation(store: Store, saying: _Saying, call: CallOptions) -> None:
    # --no-history applies to this message only, so the conversation does not keep it.
    kept = {name: value for name, value in saying.parameters.items() if name != "history"}
    once = {name: value for name, value in saying.parameters.items() if name == "history"}
    new = NewConversation(saying.title, saying.name, saying.system, kept)
    conversation = start_conversation(store, new, saying.content, name=saying.sender, **once)
    write_terminal_note(f"({conversation.id})")
    try:
        _say(store, conversation.id, replace(saying, system=None, parameters=once), call)
    except BaseException:
        delete_unused(store, conversation.id)
        raise


def _preview(store: Store, target: str | None, saying: _Saying, call: CallOptions) -> None:
    request = store.preview(
        target, saying.content, stream=call.as_stream, expected_head=call.expected_head, **saying.preview_arguments
    )
    write_json(request, indent=2)
    print_window(request.window)


def _preview_continuation(store: Store, target: str, parameters: dict[str, Any], call: CallOptions) -> None:
    request = store.preview_complete(target, stream=call.as_stream, expected_head=call.expected_head, **parameters)
    write_json(request, indent=2)
    print_window(request.window)
