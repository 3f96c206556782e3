"""How a command is told which conversation: the argument REF, `-c REF`, and --expected-head."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from convstore.cli.error_hints import NoConversationYet
from convstore.cli.render.conversation_text import describe_conversation
from convstore.cli.render.output_streams import write_terminal_note

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation

ref_argument = click.argument("ref", required=False)

conversation_option = click.option(
    "-c", "--conversation", "ref", metavar="REF", help="Conversation.  [default: the one used last]"
)

expected_head_option = click.option(
    "--expected-head",
    type=click.IntRange(min=0),
    metavar="SEQ",
    help="Seq that the head must have; else exit with 5.",
)


def find_conversation(store: Store, reference: str | None) -> Conversation:
    """Return the conversation that REF names; the default is CONVSTORE_CONVERSATION, else the one used last.

    The one used last is named on stderr, on a terminal.

    Raises:
        ConversationNotFound: no conversation has this name or id.
        AmbiguousReference: the ids of several begin so.
    """
    if reference is None:
        reference = os.environ.get("CONVSTORE_CONVERSATION") or None
    # An empty reference is not "no reference": `-c "$ID"` with ID unset must not speak into another conversation.
    if reference is not None:
        return store.get(reference)
    latest = store.list(limit=1)
    if not latest:
        raise NoConversationYet("there is no conversation yet")
    write_terminal_note(f"({describe_conversation(latest[0])})")
    return latest[0]
