"""What `pin` and `unpin` print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from convstore.cli.render import output
from convstore.cli.render.head import words

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation


def print_pinned(store: Store, conversation: Conversation, position: int, how: str, *, as_json: bool) -> None:
    """Print the conversation for scripts; and tell a person which message is pinned, or no more."""
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(conversation_form(conversation))
    elif sys.stderr.isatty():
        output.note_on_terminal(f"{how}: {position} {words(store.at(conversation.id, position).message)}")
