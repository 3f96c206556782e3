"""Read plain lists of Chat Completions messages: `[{"role": …, "content": …}, …]`.

The messages are those of OpenAI's API reference ("Chat Completions"). A file is one list, JSON Lines of messages (one
conversation), JSON Lines or a list of lists, or an object with `messages`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from convstore.transfer.derived_ids import DerivedTree, derive_conversation_id
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.json_items import read_items
from convstore.transfer.listed_messages import NotMessages, add_path, check_messages, find_fault, keep_tools
from convstore.transfer.source_lines import Source


def read_plain_messages(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of a file; messages that are in no list of their own are one conversation."""
    loose: list[dict[str, Any]] = []
    loose_list: int | None = None
    lost = 0
    number = 0
    for item in read_items(source):
        if isinstance(item, Problem):
            lost += 1
            yield item
            continue
        value = item.value
        if isinstance(value, dict) and "messages" not in value:
            if item.list_number != loose_list and loose:
                number += 1
                yield _build(number, loose, lost)
                loose, lost = [], 0
            loose_list = item.list_number
            if (reason := find_fault(value)) is None:
                loose.append(value)
            else:
                lost += 1
                yield Problem(item.place, f"the message {reason}")
            continue
        number += 1
        notes: list[str] = []
        try:
            messages = check_messages(value["messages"] if isinstance(value, dict) else value)
        except NotMessages as error:
            yield Problem(item.place, str(error))
            continue
        metadata = keep_tools(value, notes) if isinstance(value, dict) else {}
        tree = DerivedTree()
        head = add_path(tree, None, messages)
        found = tree.list_messages()
        yield ImportedConversation(derive_conversation_id(number, found), found, head, metadata=metadata, notes=notes)
    if loose:
        yield _build(number + 1, loose, lost)


def _build(number: int, messages: list[dict[str, Any]], lost: int) -> ImportedConversation:
    tree = DerivedTree()
    head = add_path(tree, None, messages)
    notes = [f"{lost} of its messages could not be read"] if lost else []
    found = tree.list_messages()
    return ImportedConversation(derive_conversation_id(number, found), found, head, notes=notes)
