"""What `pin` and `unpin` print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from convstore.cli import output
from convstore.cli.standing import words

if TYPE_CHECKING:
    from convstore.records import Conversation
    from convstore.store import Store


def print_pinned(store: Store, conversation: Conversation, position: int, how: str, *, as_json: bool) -> None:
    """Print the conversation for scripts; and tell a person which message is pinned, or no more."""
    if as_json:
        from convstore.cli.forms import conversation_form

        output.write_json(conversation_form(conversation))
    elif sys.stderr.isatty():
        output.note_on_terminal(f"{how}: {position} {words(store.at(conversation.id, position).message)}")
