"""Start a conversation with its first message, and leave no empty one behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convstore.cli.render.output_streams import make_one_line
from convstore.errors import ConvstoreError

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import Conversation

_MAX_TITLE_CHARACTERS = 60  # of a title that is made of the names of files


@dataclass(frozen=True, slots=True)
class NewConversation:
    """What a new conversation is to have."""

    title: str | None = None
    """None: the first message makes one."""
    name: str | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    """Completion parameters and window options, which the conversation keeps."""


def start_conversation(
    store: Store, new: NewConversation, content: str | list[dict[str, Any]], **once: Any
) -> Conversation:
    """Start the conversation that a first message will be said in, and return it.

    Everything that could be refused is checked first, so that a mistake leaves no empty conversation.

    Args:
        content: the content of the first message.
        once: what the first call is given besides, and the conversation does not keep.

    Raises:
        InvalidInput: the message, a parameter, the name or the title is refused.
        NotConfigured: neither a key nor a server is named.
    """
    kept = new.parameters or {}
    store.preview(None, content, system=new.system, **kept, **once)
    _ = store.client
    return store.new(new.title, name=new.name, system=new.system, **kept)


def delete_unused(store: Store, target: str) -> bool:
    """Delete a new conversation if no message of it was stored, so that the one before it is used again.

    Return True if it was deleted.
    """
    with suppress(ConvstoreError):  # the first error is the one to report
        if not store.turns(target, limit=1):
            store.delete(target)
            return True
    return False


def shorten_title(text: str) -> str:
    """Return a title of one line that is not too long."""
    title = make_one_line(text)
    return title if len(title) <= _MAX_TITLE_CHARACTERS else title[: _MAX_TITLE_CHARACTERS - 1].rstrip() + "…"
