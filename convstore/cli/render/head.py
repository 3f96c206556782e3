"""Where a conversation stands after its head was moved: what `undo`, `redo` and `checkout` print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from convstore.cli.render import message_text, output

if TYPE_CHECKING:
    from convstore.messages.codec import Message
    from convstore.store.store import Store
    from convstore.values.results import Conversation, MessageRecord

WIDTH = 60
_PAGE = 20


def print_head(store: Store, conversation: Conversation, *, as_json: bool) -> None:
    """Print the conversation for scripts; and tell a person which message is now its last."""
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(conversation_form(conversation))
    elif sys.stderr.isatty():
        found = store.messages(conversation.id, limit=1)
        where = f"at {found[0].position} {words(found[0].message)}" if found else "before the first message"
        output.note_on_terminal(f"now {where}")


def words(message: Message) -> str:
    """Return whose a message is, and how it begins."""
    return f"{message['role']}: {message_text.first_words(message, WIDTH)}"


def first_asked(store: Store, conversation: Conversation, page: list[MessageRecord], after: int) -> str:
    """Return how the turns begin that come after a position of a path.

    Args:
        page: the end of that path, as it was before the conversation's head moved back to that position.
    """
    while page and page[0].position > after + 1:
        page = [*store.messages(conversation.id, before=page[0].seq, limit=max(_PAGE, len(page))), *page]
    asked = [record for record in page if record.position > after and record.message["role"] == "user"]
    return message_text.first_words(asked[0].message, WIDTH) if asked else ""
