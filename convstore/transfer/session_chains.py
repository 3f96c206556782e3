"""Build the messages of one Claude Code conversation out of records that name their parents.

A reply is written as one record for each of its blocks, and the results of its tool calls may come in between:

    reply, call 1 ← result 1                      reply (calls 1 and 2) ← result 1 ← result 2
                  ↖ reply, call 2 ← result 2  →

A Chat Completions API wants the reply whole and its results after it, which is the form on the right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from convstore.transfer.anthropic_blocks import make_reply
from convstore.transfer.imported import ImportedMessage


@dataclass(slots=True, eq=False)
class Node:
    """A message, and the records that it was made of."""

    parent: Node | None
    base_id: str
    line: int
    """The line of its last record: a reply grows while records of it are added."""
    message: Mapping[str, Any] | None = None
    created_at: datetime | None = None
    model: str | None = None
    reply_key: str | None = None
    """A reply's `message.id`."""
    blocks: list[Mapping[str, Any]] = field(default_factory=list)
    reply: Node | None = None
    """The reply that this tool result answers."""
    results_end: Node | None = None
    """A reply's last tool result."""
    answered: set[str] = field(default_factory=set)
    """The tool calls of a reply that have results."""
    grown: Node | None = None
    """The ancestor that got its last record latest."""
    id: str = ""


class Chain:
    """The messages of one conversation: a session's own, or an agent's."""

    def __init__(self, key: str) -> None:
        self.key = key
        """The agent, "" for the session itself."""
        self.losses: Counter[str] = Counter()
        """What could not be carried over, and how often."""
        self.nodes: list[Node] = []

    @property
    def last(self) -> Node | None:
        """The message that was added last."""
        return self.nodes[-1] if self.nodes else None

    def add(self, node: Node) -> Node:
        """Add a message that is not a tool result."""
        node.parent = _end_of_results(node.parent)
        self.nodes.append(node)
        return node

    def add_result(self, node: Node, call_id: str) -> Node:
        """Add a tool result: after the other results of its reply, unless the call has a result there already."""
        reply = node.parent.reply or node.parent if node.parent is not None else None
        if reply is not None and reply.reply_key is not None:
            node.reply = reply
            if call_id in reply.answered:  # the call was made again: a branch
                reply.answered.clear()
                node.parent = reply
            else:
                node.parent = reply.results_end if reply.answered else reply
            reply.answered.add(call_id)
            reply.results_end = node
        self.nodes.append(node)
        return node

    def find_reply(self, key: str | None, parent: Node | None) -> Node | None:
        """Return the reply that a record goes on with, or None if it begins one."""
        if key is None or parent is None:
            return None
        reply = parent.reply or parent
        return reply if reply.reply_key == key else None

    def list_messages(self) -> list[ImportedMessage]:
        """Return the messages; parents come first.

        A message's id is the `uuid` of its last record. A message that was added before a reply above it was complete
        has the reply's id in its own: an earlier version of the file had it after another, shorter reply.
        """
        messages: list[ImportedMessage] = []
        for node in self.nodes:
            if node.reply_key is not None:
                node.message = make_reply(node.blocks, self.losses)
            parent = node.parent
            node.grown = parent.grown if parent is not None else None
            if parent is not None and (node.grown is None or parent.line > node.grown.line):
                node.grown = parent
            is_late = node.grown is not None and node.grown.line > node.line
            node.id = f"{node.base_id}+{node.grown.base_id}" if is_late and node.grown else node.base_id
            if node.message is None:  # nothing was said: what follows it follows its parent
                node.id = parent.id if parent is not None else ""
                continue
            messages.append(
                ImportedMessage(
                    node.id,
                    (parent.id or None) if parent is not None else None,
                    node.message,
                    node.created_at,
                    node.model,
                )
            )
        return messages


def _end_of_results(parent: Node | None) -> Node | None:
    """Return the last result, if the parent is a reply with results or one of its newest results.

    A record can follow a reply's record by way of one that is left out, such as the progress of a tool.
    """
    reply = parent.reply or parent if parent is not None else None
    if reply is None or reply.results_end is None:
        return parent
    node: Node | None = reply.results_end
    while node is not None and node is not reply:
        if node is parent:
            return reply.results_end
        node = node.parent
    return reply.results_end if parent is reply else parent
