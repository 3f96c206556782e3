"""Define the argument REF and the options -c and --expected-head."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.error_hints import NoConversationYet
from convstore.cli.options.chosen_settings import find_chosen_conversation
from convstore.cli.options.completed_words import Completer, complete_reference
from convstore.cli.render.conversation_picker import can_pick, pick_conversation
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.output_streams import write_terminal_note
from convstore.errors import AmbiguousReference

if TYPE_CHECKING:
    from convstore.cli.render.conversation_picker import ReadMessages
    from convstore.store.find_methods import FindMethods
    from convstore.values.results import Conversation

_MAX_PICKED = 1000
_PREVIEWED = 4  # messages

conversation_option = click.option(
    "-c",
    "--conversation",
    "ref",
    metavar="REF",
    shell_complete=complete_reference,
    help="Conversation.  [default: the one used last]",
)

expected_head_option = click.option(
    "--expected-head",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Seq that the head must have; else exit with 5.",
)


def ref_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add REF and `-c REF` to a command; it receives `ref`, or None if neither is given."""
    return _add_reference(command, "REF", is_required=False)


def required_ref_argument(
    metavar: str, complete: Completer = complete_reference
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds REF and `-c REF` to a command, which needs one of them.

    Args:
        metavar: the name of the argument in the help.
        complete: completes REF for the shell.
    """
    return lambda command: _add_reference(command, metavar, is_required=True, complete=complete)


def _add_reference(
    command: Callable[..., Any], metavar: str, *, is_required: bool, complete: Completer = complete_reference
) -> Callable[..., Any]:
    @wraps(command)
    def run(*, ref: str | None, conversation: str | None, **others: Any) -> None:
        if None not in (ref, conversation) and ref != conversation:
            raise click.UsageError(f"{metavar} is '{ref}' and -c is '{conversation}': give one of them.")
        chosen = ref if ref is not None else conversation
        if chosen is None and is_required and not can_pick():
            raise click.UsageError(f"{metavar} is missing: name the conversation.")
        command(ref=chosen, **others)

    option = click.option(
        "-c",
        "--conversation",
        metavar=metavar,
        shell_complete=complete,
        help=f"Conversation, instead of {metavar}.",
    )
    shown = None if metavar == "REF" else metavar
    return click.argument("ref", required=False, metavar=shown, shell_complete=complete)(option(run))


def find_conversation(store: FindMethods, reference: str | None) -> Conversation:
    """Return the conversation that REF names.

    The default is CONVSTORE_CONVERSATION, else the project file's, else the conversation used last. On a
    terminal, a note on stderr names the conversation used last.

    If the ids of several conversations begin with REF, the user chooses one of them on the terminal.

    Raises:
        ConversationNotFound: no conversation has this name or id, or there is no conversation.
        AmbiguousReference: the ids of several conversations begin with REF, and there is no terminal to ask on.
        click.Abort: the user left without a choice.
    """
    if reference is None:
        reference = find_chosen_conversation()
    # An empty reference does not mean the default. If ID is unset, `-c "$ID"` must not write to another conversation.
    if reference is not None:
        return _get_or_pick(store, reference)
    latest = store.list(limit=1)
    if not latest:
        raise NoConversationYet("there is no conversation yet")
    write_terminal_note(f"({describe_conversation(latest[0])})")
    return latest[0]


def find_deleted(store: FindMethods, reference: str | None) -> Conversation:
    """Return the deleted conversation that REF names; without REF, let the user choose one.

    Raises:
        ConversationNotFound: no deleted conversation has this name or id.
        AmbiguousReference: several have it, and there is no terminal to ask on.
        click.Abort: the user left without a choice.
    """
    return _get_or_pick(store, reference, deleted=True) if reference is not None else pick_listed(store, deleted=True)


def _get_or_pick(store: FindMethods, reference: str, *, deleted: bool = False) -> Conversation:
    try:
        return store.get(reference, deleted=deleted)
    except AmbiguousReference as error:
        if not can_pick():
            raise
        if deleted:
            return pick_conversation(error.candidates, None, f"Several deleted conversations match {reference}:")
        return pick_conversation(error.candidates, _get_reader(store), f"Several ids begin with {reference}:")


def pick_listed(store: FindMethods, *, archived: bool = False, deleted: bool = False) -> Conversation:
    """Let the user choose one of the listed, archived or deleted conversations.

    Raises:
        NoConversationYet: there is no such conversation.
        click.Abort: the user left without a choice.
    """
    found = store.list(limit=_MAX_PICKED, archived=archived, deleted=deleted)
    if not found:
        kind = "archived " if archived else "deleted " if deleted else ""
        raise NoConversationYet(f"there is no {kind}conversation{'' if kind else ' yet'}")
    return pick_conversation(found, None if deleted else _get_reader(store), "Which conversation?")


def find_or_pick(store: FindMethods, reference: str | None, *, archived: bool = False) -> Conversation:
    """Return the conversation that REF names; without REF, let the user choose one.

    It is for commands that need a REF; `required_ref_argument` has checked that there is one, or a terminal.
    """
    return find_conversation(store, reference) if reference is not None else pick_listed(store, archived=archived)


def _get_reader(store: FindMethods) -> ReadMessages | None:
    """Return what reads the messages of a preview; None if the store only finds."""
    read = getattr(store, "messages", None)
    return (lambda id: read(id, limit=_PREVIEWED)) if read is not None else None
