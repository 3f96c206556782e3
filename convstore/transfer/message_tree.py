"""Arrange the messages of a file as a tree, even if its links are damaged.

Links may form a cycle, lead nowhere, or lead to nodes without a message. Every message is kept, after its parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from convstore.transfer.imported import ImportedMessage

_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class TreeNode(NamedTuple):  # made for each message, and a dataclass takes three times as long to make
    """A node of a file's tree."""

    id: str
    parent: str | None
    messages: Sequence[Mapping[str, Any]] = ()
    """The messages of the node, one after another. None: the nodes after it follow its parent."""
    created_at: datetime | None = None
    model: str | None = None
    children: Sequence[str] = ()
    """The order of the nodes after it, if the file says so."""


@dataclass(frozen=True, slots=True)
class MessageTree:
    """The messages of a conversation, parents first, and the end of its current path."""

    messages: list[ImportedMessage]
    head: str | None
    notes: list[str]


def arrange_tree(nodes: Mapping[str, TreeNode], current: str | None) -> MessageTree:
    """Return the messages of the nodes, each after the message that it follows.

    A node with one message gives it the node's id. The messages before the last of a node have `/1`, `/2` … after it.

    Args:
        nodes: by id, in the order of the file.
        current: the id of the node that the current path ends with. If it is None or unknown, the path with the newest
            message is the current one.
    """
    notes: list[str] = []
    nodes = _adopt(nodes)
    children = _link(nodes, notes)
    last: dict[str, str | None] = {}
    messages: list[ImportedMessage] = []
    for node in _walk(nodes, children, notes):
        parent = last.get(node.parent) if node.parent is not None else None
        for number, message in enumerate(node.messages, 1):
            id_ = node.id if number == len(node.messages) else _name_part(node.id, number, nodes)
            model = node.model if message.get("role") == "assistant" else None
            messages.append(ImportedMessage(id_, parent, message, node.created_at, model))
            parent = id_
        last[node.id] = parent
    if current is not None and current not in nodes:
        notes.append("the end of the current path is not in the file; the newest message is taken")
    head = last.get(current) if current is not None else None
    return MessageTree(messages, head or _find_newest_leaf(messages), notes)


def _name_part(id_: str, number: int, nodes: Mapping[str, TreeNode]) -> str:
    name = f"{id_}/{number}"
    return _name_part(f"{id_}/", number, nodes) if name in nodes else name


def _adopt(nodes: Mapping[str, TreeNode]) -> Mapping[str, TreeNode]:
    """Return the nodes; one without a parent gets the one that lists it."""
    roots = {id_ for id_, node in nodes.items() if node.parent is None}
    if len(roots) < 2:  # nearly always
        return nodes
    found = {child: node.id for node in nodes.values() for child in node.children if child in roots}
    return {id_: node._replace(parent=found[id_]) if id_ in found else node for id_, node in nodes.items()}


def _link(nodes: Mapping[str, TreeNode], notes: list[str]) -> dict[str | None, list[str]]:
    """Return the ids of the nodes after each node, in order.

    The nodes after None begin a path.
    """
    children: dict[str | None, list[str]] = {None: []}
    listed: set[str] = set()
    for node in nodes.values():
        own = [id_ for id_ in dict.fromkeys(node.children) if id_ in nodes and nodes[id_].parent == node.id]
        if own:
            children[node.id] = own
            listed.update(own)
    dangling = 0
    for node in nodes.values():
        if node.id in listed:
            continue
        is_dangling = node.parent is not None and node.parent not in nodes
        dangling += is_dangling and bool(node.messages)
        children.setdefault(None if is_dangling else node.parent, []).append(node.id)
    if dangling:
        notes.append(f"{dangling} messages follow a message that is not in the file; each begins a path")
    return children


def _walk(
    nodes: Mapping[str, TreeNode], children: Mapping[str | None, Sequence[str]], notes: list[str]
) -> list[TreeNode]:
    """Return the nodes, each after its parent.

    A cycle is cut before its first node in the file.
    """
    ordered: list[TreeNode] = []
    seen: set[str] = set()
    cycles = 0
    for start in [*children[None], *nodes]:
        if start in seen:
            continue
        cycles += start not in children[None]
        waiting = [start]
        while waiting:
            id_ = waiting.pop()
            if id_ not in seen:
                seen.add(id_)
                ordered.append(nodes[id_])
                waiting.extend(reversed(children.get(id_, ())))
    if cycles:
        notes.append(f"{cycles} cycles of messages that follow each other were cut")
    return ordered


def _find_newest_leaf(messages: Sequence[ImportedMessage]) -> str | None:
    """Return the id of the newest message that no other follows; the last of several."""
    parents = {message.parent for message in messages}
    leaves = [message for message in messages if message.id not in parents]
    if not leaves:
        return None
    return max(enumerate(leaves), key=lambda item: (item[1].created_at or _LONG_AGO, item[0]))[1].id
