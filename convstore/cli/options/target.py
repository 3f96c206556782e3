"""Which store, and which conversation in it, a command is about."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from convstore.cli.render import output
from convstore.errors import ConversationNotFound

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation


def open_store(db: str | None, owner: str, base_url: str | None = None) -> Store:
    """Return the store that a command's options name."""
    from convstore.store.store import Store

    return Store(db, owner=owner, base_url=base_url)


def find_conversation(store: Store, reference: str | None) -> Conversation:
    """Return the conversation that REF names: of none, CONVSTORE_CONVERSATION's, else the one used last.

    Where nobody named it, it is named on stderr, on a terminal.

    Raises:
        ConversationNotFound, AmbiguousReference: it names none, or several.
    """
    if reference is None:
        reference = os.environ.get("CONVSTORE_CONVERSATION") or None
    if reference is not None:  # also `-c "$ID"` where nothing set ID: not a reason to speak into another conversation
        return store.get(reference)
    latest = store.list(limit=1)
    if not latest:
        raise ConversationNotFound(
            "there is no conversation yet; begin one with `convstore new`, or with `convstore say --new`"
        )
    output.note_on_terminal(f"({describe(latest[0])})")
    return latest[0]


def describe(conversation: Conversation) -> str:
    """Return how people are told which conversation is meant."""
    return " ".join(part for part in (conversation.id, conversation.name, conversation.title) if part)
