"""Define the argument REF and the options -c and --expected-head."""

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
    """Return the conversation that REF names.

    The default is CONVSTORE_CONVERSATION, else the conversation used last. On a terminal, a note on stderr names the
    conversation used last.

    Raises:
        ConversationNotFound: no conversation has this name or id, or there is no conversation.
        AmbiguousReference: the ids of several conversations begin with REF.
    """
    if reference is None:
        reference = os.environ.get("CONVSTORE_CONVERSATION") or None
    # An empty reference does not mean the default. If ID is unset, `-c "$ID"` must not write to another conversation.
    if reference is not None:
        return store.get(reference)
    latest = store.list(limit=1)
    if not latest:
        raise NoConversationYet("there is no conversation yet")
    write_terminal_note(f"({describe_conversation(latest[0])})")
    return latest[0]
