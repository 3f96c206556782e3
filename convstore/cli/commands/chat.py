"""`convstore chat`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.call_options import CallOptions, chat_call_options
from convstore.cli.options.chosen_settings import find_chosen_conversation
from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.history_options import window_options
from convstore.cli.options.parameter_options import check_stored_parameters, parameter_options
from convstore.cli.options.store_options import StoreChoice, open_store, share_store, store_options
from convstore.cli.options.text_input import read_text_or_file

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation


@click.command(
    epilog=format_examples(
        "convstore chat",
        "convstore chat games",
        "convstore chat --latest",
        'convstore chat -m gpt-4o-mini -s "Answer briefly."',
        r"printf 'one\ntwo\n' | convstore chat",
    )
)
@ref_argument
@click.option("--latest", "is_latest", is_flag=True, help="The conversation used last.")
@click.option("--new", "is_new", is_flag=True, help="New conversation, even if CONVSTORE_CONVERSATION is set.")
@click.option("--name", metavar="HANDLE", help="Short name of the new conversation.")
@click.option("--title", metavar="TITLE", help="Title of the new conversation.  [default: the first message]")
@click.option("-s", "--system", metavar="TEXT|@FILE", help="System message before the first message.")
@parameter_options
@window_options
@chat_call_options
@store_options
def chat(
    ref: str | None,
    is_latest: bool,
    is_new: bool,
    name: str | None,
    title: str | None,
    system: str | None,
    parameters: dict[str, Any],
    window: dict[str, Any],
    call: CallOptions,
    store_choice: StoreChoice,
) -> None:
    """Talk with a model at a prompt.

    Without REF, the conversation is CONVSTORE_CONVERSATION, else a new one, which begins with the first message and
    keeps the parameters of this command. REF is a name, an id or the beginning of an id.

    Enter sends a message, Alt-Enter begins a new line, Ctrl-C stops a reply, Ctrl-D leaves. A line that begins with /
    is a command: /help lists them. If standard input is not a terminal, each of its lines is a message.
    """
    _check_choice(ref, is_latest=is_latest, is_new=is_new)
    from convstore.cli.chat.chat_session import ChatSession
    from convstore.cli.chat.conversation_loop import run_chat
    from convstore.cli.chat.first_message import NewConversation
    from convstore.cli.chat.prompt_choice import open_prompt
    from convstore.cli.chat.slash_actions import show_place

    check_stored_parameters(parameters)
    text = read_text_or_file(system) if system is not None else None
    options = {**parameters, **window}
    with open_store(store_choice, call.base_url) as store, share_store(store_choice, call.base_url, store):
        conversation = None if is_new else _find_conversation(store, ref, is_latest=is_latest)
        if conversation is not None and (name is not None or title is not None):
            raise click.UsageError("--name and --title are for a new conversation; `/set` changes this one.")
        new = NewConversation(title, name, text, options)
        session = ChatSession(store, store_choice, call, new, options)
        if conversation is not None:
            session.open(conversation)
            session.next.system = text
            show_place(session, is_named=is_latest and not os.environ.get("CONVSTORE_CONVERSATION"))
        with open_prompt(session) as prompt:
            code = run_chat(session, prompt)
    if code:
        raise SystemExit(code)


def _check_choice(ref: str | None, *, is_latest: bool, is_new: bool) -> None:
    """Check that only one conversation is chosen.

    Raises:
        click.UsageError: several are.
    """
    if sum((ref is not None, is_latest, is_new)) > 1:
        raise click.UsageError("give REF, --latest or --new.")


def _find_conversation(store: Store, ref: str | None, *, is_latest: bool) -> Conversation | None:
    """Return the conversation to go on with; None: a new one."""
    if ref is None and not is_latest and find_chosen_conversation() is None:
        return None
    return find_conversation(store, ref)
