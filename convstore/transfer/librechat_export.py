"""Read LibreChat's export of a conversation: a JSON file, or many of them.

The format was read in github.com/danny-avila/LibreChat:

- `client/src/hooks/Conversations/useExportConversation.ts` writes it;
- `api/server/utils/import/importers.js` reads it;
- `api/server/utils/import/__data__/librechat-*.json`: exports, flat and recursive, with several first messages;
- `packages/data-provider/src/types/assistants.ts`: the parts of a message's content.

In a recursive export, each message is inside of the one before it. Python's parser reads some 450 of them.
"""

from __future__ import annotations

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

NO_PARENT = "00000000-0000-0000-0000-000000000000"
"""The `parentMessageId` of a first message."""
_FILE_NAME = re.compile(r".*\.json", re.IGNORECASE)
_SYSTEM_NODE = "system-prompt"


def is_librechat_conversation(value: Any) -> bool:
    """Return True if a JSON value looks like a conversation of this export."""
    return (
        isinstance(value, dict)
        and "conversationId" in value
        and isinstance(value.get("messagesTree") or value.get("messages"), (list, dict))
    )


_FORM = ItemForm("conversation", is_librechat_conversation, wrappers=("conversations",))


def read_librechat_export(files: ExportFiles) -> Iterator[ImportedConversation | Problem]:
    """Return the conversations of an export, and a problem for each bad one."""
    return read_export(files, _FILE_NAME, _FORM, "it has no JSON file", _read_conversation)


def _read_conversation(item: Item, seen: set[str]) -> ImportedConversation | Problem:
    value = item.value
    if not is_librechat_conversation(value):
        return Problem(item.place, "it is not a conversation: it has no `conversationId` or no `messages`")
    id_ = to_id(value.get("conversationId")) or make_id(to_text(value.get("title")), to_text(value.get("exportAt")))
    if id_ in seen:
        return Problem(item.place, f'the conversation "{id_}" is in the export twice; the first one is taken')
    options = to_object(value.get("options"))
    left_out: Counter[str] = Counter()
    nodes = _read_nodes(value.get("messagesTree") or value.get("messages"), options, left_out)
    tree = arrange_tree(nodes, None)
    if not any(message.id != _SYSTEM_NODE for message in tree.messages):
        return Problem(item.place, "it has no messages")
    seen.add(id_)
    return ImportedConversation(
        id=id_,
        messages=tree.messages,
        head=tree.head,
        title=to_label(value.get("title")),
        created_at=min((message.created_at for message in tree.messages if message.created_at), default=None),
        model=to_label(options.get("model")),
        metadata=keep_small({"endpoint": value.get("endpoint"), "tags": to_list(value.get("tags"))}),
        notes=[*tree.notes, *count_notes(left_out, "left out")],
    )


def _read_nodes(given: Any, options: dict[str, Any], left_out: Counter[str]) -> dict[str, TreeNode]:
    nodes: dict[str, TreeNode] = {}
    root = None
    prompt = to_text(options.get("promptPrefix"))
    if prompt.strip():
        root = _SYSTEM_NODE
        nodes[root] = TreeNode(root, None, ({"role": "system", "content": prompt},))
    for number, (message, outer) in enumerate(_walk(given), 1):
        id_ = to_id(message.get("messageId")) or make_id(number, to_text(message.get("text")))
        if id_ in nodes:
            left_out["messages with an id that another has"] += 1
            continue
        parent = outer or to_id(message.get("parentMessageId"))
        by_user = message.get("isCreatedByUser") is True or message.get("sender") == "User"
        messages = _read_question(message, left_out) if by_user else _read_reply(message, id_, left_out)
        nodes[id_] = TreeNode(
            id=id_,
            parent=root if parent in (None, NO_PARENT) else parent,
            messages=messages,
            created_at=to_time(message.get("createdAt")),
            model=to_label(message.get("model")),
        )
    return nodes


def _walk(given: Any) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield each message and the id of the message around it, outer ones first."""
    waiting: list[tuple[Any, str | None]] = [(given, None)]
    while waiting:
        value, outer = waiting.pop()
        if isinstance(value, list):
            waiting.extend((item, outer) for item in reversed(value))
        elif isinstance(value, dict):
            # The root that the program makes around the first messages is no message.
            if "isCreatedByUser" in value or "text" in value or "content" in value:
                yield value, outer
                outer = to_id(value.get("messageId"))
            waiting.append((value.get("children"), outer))


def _read_question(message: dict[str, Any], left_out: Counter[str]) -> list[dict[str, Any]]:
    odd: list[Any] = []
    pieces = [piece for piece in _read_pieces(message, odd) if isinstance(piece, ReplyText)]
    texts = [*(piece.text for piece in pieces), *_name_files(message, left_out)]
    text = join_texts(texts)
    return [{"role": "user", "content": text, **(keep_raw({"content": odd}) if odd else {})}] if text else []


def _read_reply(message: dict[str, Any], id_: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    odd: list[Any] = []
    pieces: list[ReplyPiece] = list(_read_pieces(message, odd))
    if message.get("error") is True:
        pieces.insert(0, ReplyText("[error]"))
    pieces += [ReplyText(name) for name in _name_files(message, left_out)]
    read = split_reply(pieces, id_)
    if read and odd:
        read[-1] = {**read[-1], **keep_raw({"content": odd})}
    return read


def _read_pieces(message: dict[str, Any], odd: list[Any]) -> Iterator[ReplyPiece]:
    """Yield the pieces of a message. An unknown part is added to `odd`."""
    parts = [part for part in to_list(message.get("content")) if isinstance(part, dict)]
    if not parts:
        content = message.get("content")
        yield ReplyText(to_text(message.get("text")) or to_text(content))
    for part in parts:
        kind = to_text(part.get("type"))
        match kind:
            case "text":
                yield ReplyText(_read_value(part.get("text")))
            case "think":
                yield ReplyText(_read_value(part.get("think")), "reasoning")
            case "error":
                yield ReplyText(join_texts(["[error]", _read_value(part.get("text") or part.get("error"))], "\n"))
            case "tool_call":
                yield from _read_call(to_object(part.get("tool_call")))
            case "image_file":
                odd.append(part)
                name = to_label(to_object(part.get("image_file")).get("filename"))
                yield ReplyText(f"[image {name}]" if name else "[image]")
            case _:
                odd.append(part)
                yield ReplyText(f"[{to_label(kind) or 'unknown content'}]")


def _read_value(value: Any) -> str:
    """Return a text, which may be in an object, as assistants have it."""
    return value if isinstance(value, str) else to_text(to_object(value).get("value"))


def _read_call(call: dict[str, Any]) -> Iterator[ReplyPiece]:
    """Yield a tool call, in the form of agents or of assistants, and its result."""
    kind = to_text(call.get("type"))
    inner = to_object(call.get(kind)) if kind else {}
    name = to_text(call.get("name")) or to_text(inner.get("name")) or kind
    arguments = next(
        (value for value in (call.get("args"), inner.get("arguments"), inner.get("input")) if value is not None), ""
    )
    id_ = to_id(call.get("id"))
    yield ToolCall(name, arguments, id_)
    output = call.get("output", inner.get("output"))
    if isinstance(output, str):
        yield ToolResult(output, name, id_)


def _name_files(message: dict[str, Any], left_out: Counter[str]) -> list[str]:
    """Return the names of the files of a message, which the export does not have."""
    names = []
    for key in ("files", "attachments"):
        for file in map(to_object, to_list(message.get(key))):
            name = to_label(file.get("filename")) or to_label(file.get("file_id"))
            if name is not None:
                kind = "image" if to_text(file.get("type")).startswith("image/") else "file"
                names.append(f"[{kind} {name}]")
                left_out["files that the export does not have"] += 1
    return names
