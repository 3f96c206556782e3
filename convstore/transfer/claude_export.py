"""Read the export of claude.ai: a zip, a folder or a `conversations.json`.

Anthropic does not describe the format. It was read in public programs that read real exports, and in their samples:

- github.com/Sinity/polylogue, `docs/providers/claude-ai.md`: the files, and the blocks of a message;
- github.com/jmorenobl/claude-conversation-extractor and github.com/davidteren/claude_desktop_export_browser;
- messages of exports of 2026, word for word, in public notes: `parent_message_uuid` and its value for a first message,
  `files`, the fields of `tool_use` and `tool_result`, and pasted texts as attachments without a name.

`current_leaf_message_uuid` is in what the web application loads, and in files that browser extensions save; the
official export lacks it, and the newest message is taken.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from convstore.transfer.export_files import ExportFiles
from convstore.transfer.export_values import (
    count_notes,
    join_texts,
    keep_raw,
    keep_small,
    make_id,
    to_id,
    to_kept,
    to_label,
    to_list,
    to_object,
    to_text,
    to_time,
)
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.json_stream import Item, ItemForm, read_export
from convstore.transfer.message_tree import TreeNode, arrange_tree
from convstore.transfer.reply_pieces import ReplyPiece, ReplyText, ToolCall, ToolResult, split_reply

NO_PARENT = "00000000-0000-4000-8000-000000000000"
"""The `parent_message_uuid` of a first message."""

_NIL = "00000000-0000-0000-0000-000000000000"
_FILE_NAME = re.compile(r"conversations([-_]\d+)?\.json")


def is_claude_conversation(value: Any) -> bool:
    """Return True if a JSON value looks like a conversation of this export."""
    return isinstance(value, dict) and isinstance(value.get("chat_messages"), list)


_FORM = ItemForm("conversation", is_claude_conversation, wrappers=("conversations", "data"))


def read_claude_export(files: ExportFiles) -> Iterator[ImportedConversation | Problem]:
    """Return the conversations of an export, and a problem for each bad one."""
    return read_export(files, _FILE_NAME, _FORM, "it has no `conversations.json`", _read_conversation)


def _read_conversation(item: Item, seen: set[str]) -> ImportedConversation | Problem:
    value = item.value
    if not is_claude_conversation(value):
        return Problem(item.place, "it is not a conversation: it has no `chat_messages`")
    id_ = to_id(value.get("uuid")) or make_id(to_text(value.get("name")), to_text(value.get("created_at")))
    if id_ in seen:
        return Problem(item.place, f'the conversation "{id_}" is in the export twice; the first one is taken')
    left_out: Counter[str] = Counter()
    nodes = _read_nodes(value["chat_messages"], left_out)
    tree = arrange_tree(nodes, to_id(value.get("current_leaf_message_uuid")))
    if not tree.messages:
        return Problem(item.place, "it has no messages")
    seen.add(id_)
    return ImportedConversation(
        id=id_,
        messages=tree.messages,
        head=tree.head,
        title=to_label(value.get("name")),
        created_at=to_time(value.get("created_at")),
        model=to_label(value.get("model")),
        metadata=keep_small(
            {
                "starred": value.get("is_starred") or None,
                "project_id": value.get("project_uuid") or to_object(value.get("project")).get("uuid"),
                "project": to_object(value.get("project")).get("name"),
            }
        ),
        notes=[*tree.notes, *count_notes(left_out, "left out")],
    )


def _read_nodes(messages: list[Any], left_out: Counter[str]) -> dict[str, TreeNode]:
    """Return the nodes by id.

    A message without the field of its parent, as in old exports, follows the one before it.
    """
    nodes: dict[str, TreeNode] = {}
    before: str | None = None
    for number, given in enumerate(messages, 1):
        message = to_object(given)
        role = {"human": "user", "assistant": "assistant"}.get(to_text(message.get("sender")))
        if role is None:
            left_out["messages that are neither a human's nor an assistant's"] += 1
        id_ = to_id(message.get("uuid")) or make_id(number, to_text(message.get("text")))
        if id_ in nodes:
            left_out["messages with an id that another has"] += 1
            continue
        parent = to_id(message.get("parent_message_uuid")) if "parent_message_uuid" in message else before
        nodes[id_] = TreeNode(
            id=id_,
            parent=None if parent in (NO_PARENT, _NIL) else parent,
            messages=() if role is None else _read_message(message, role, id_, left_out),
            created_at=to_time(message.get("created_at")),
        )
        before = id_
    return nodes


def _read_message(message: dict[str, Any], role: str, id_: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    blocks = [block for block in to_list(message.get("content")) if isinstance(block, dict)]
    odd: list[dict[str, Any]] = []
    pieces = [piece for block in blocks if (piece := _read_block(block, odd)) is not None]
    if not any(isinstance(piece, ReplyText) and piece.kind == "text" and piece.text.strip() for piece in pieces):
        # Exports of 2023 and 2024 have the text here only; later ones repeat here what the blocks say.
        is_repeated = any(isinstance(piece, (ToolCall, ToolResult)) for piece in pieces)
        pieces += [] if is_repeated else [ReplyText(to_text(message.get("text")))]
    pieces += [ReplyText(text) for text in _read_attachments(message, left_out)]
    if role == "assistant":
        read = split_reply(pieces, id_)
    else:
        text = join_texts(piece.text for piece in pieces if isinstance(piece, (ReplyText, ToolResult)))
        read = [{"role": role, "content": text}] if text else []
    if read and odd:
        read[-1] = {**read[-1], **keep_raw({"content": odd})}
    return read


def _read_block(block: dict[str, Any], odd: list[dict[str, Any]]) -> ReplyPiece | None:
    """Return the piece of a block. A block of an unknown type is added to `odd`."""
    kind = to_text(block.get("type"))
    name = to_label(block.get("name")) or ""
    match kind:
        case "text":
            return ReplyText(to_text(block.get("text")))
        case "thinking":
            return ReplyText(to_text(block.get("thinking")), "reasoning")
        case "tool_use":
            return ToolCall(name, block.get("input"), to_id(block.get("id")))
        case "tool_result":
            return ToolResult(_read_result(block.get("content")), name, to_id(block.get("tool_use_id")))
        case "token_budget" | "flag":
            return None  # no part of what was said
        case _:
            odd.append(block)
            return ReplyText(join_texts([f"[{to_label(kind) or 'unknown content'}]", to_text(block.get("text"))], "\n"))


def _read_result(content: Any) -> str:
    """Return the text of a tool's result: its text blocks, and other blocks as JSON."""
    if isinstance(content, str):
        return content
    texts = []
    for block in to_list(content):
        text = to_object(block).get("text")
        texts.append(text if isinstance(text, str) else json.dumps(to_kept(block), ensure_ascii=False))
    return join_texts(texts, "\n")


def _read_attachments(message: dict[str, Any], left_out: Counter[str]) -> list[str]:
    """Return the text of each attachment, and the names of missing files."""
    texts = []
    shown: set[str] = set()
    for attachment in map(to_object, to_list(message.get("attachments"))):
        name = to_label(attachment.get("file_name"))
        content = to_text(attachment.get("extracted_content"))
        if name is not None:
            shown.add(name)
        if content.strip():
            # A long text that was pasted is an attachment without a name.
            texts.append(f"[attachment {name}]\n{content}" if name else content)
        else:
            texts.append(f"[attachment {name}]" if name else "[attachment]")
            left_out["attachments without their text"] += 1
    for key in ("files", "files_v2"):
        for file in map(to_object, to_list(message.get(key))):
            name = to_label(file.get("file_name")) or to_label(file.get("file_uuid"))
            if name is None or name in shown:
                continue
            shown.add(name)
            texts.append(f"[file {name}]")
            left_out["files that the export does not have"] += 1
    return texts
