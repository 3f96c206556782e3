"""Read Open WebUI's export of chats: a JSON list.

The format was read in public sources:

- github.com/open-webui/open-webui: `src/lib/components/chat/Settings/DataControls.svelte` writes the file, and reads
  rows and the older chats without a row; `backend/open_webui/utils/misc.py` follows `parentId`, and turns a stored
  reply into messages of Chat Completions again;
- github.com/danny-avila/LibreChat, `api/server/utils/import/__data__/openwebui-export.json`: an export of 2026, with
  `output`, the items of a reply in the form of the Responses API;
- exports in public repositories: reasoning and tool calls as `<details>` in the text of a reply, as written before.

Old lists have `chat.messages` alone, one path.
"""

from __future__ import annotations

import html
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

MAX_IMAGE_CHARACTERS = 28 * 2**20
"""The length of a data URL of an image; 20 MiB of bytes."""

_FILE_NAME = re.compile(r".*\.json", re.IGNORECASE)
_IMAGE_URL = re.compile(r"data:image/[a-z0-9.+-]{1,30};base64,", re.IGNORECASE)
_ATTRIBUTE = re.compile(r'([a-z_]{1,30})="([^"]*)"')
_SUMMARY = re.compile(r"\s*<summary>[^<]*</summary>\s*")
_SYSTEM_NODE = "system-prompt"


def is_open_webui_chat(value: Any) -> bool:
    """Return True if a JSON value looks like a chat of this export."""
    chat = _get_chat(value)
    return isinstance(to_object(chat.get("history")).get("messages"), dict) or (
        isinstance(value, dict) and isinstance(value.get("chat"), dict) and isinstance(chat.get("messages"), list)
    )


_FORM = ItemForm("chat", is_open_webui_chat, wrappers=("chats", "data"))


def _get_chat(value: Any) -> dict[str, Any]:
    """Return the chat of a row, or the row itself, as the oldest exports have it."""
    row = to_object(value)
    return to_object(row.get("chat")) or row


def read_open_webui_export(files: ExportFiles) -> Iterator[ImportedConversation | Problem]:
    """Return the chats of an export, and a problem for each bad one."""
    return read_export(files, _FILE_NAME, _FORM, "it has no JSON file", _read_chat)


def _read_chat(item: Item, seen: set[str]) -> ImportedConversation | Problem:
    row = to_object(item.value)
    chat = _get_chat(row)
    history = to_object(chat.get("history"))
    if not isinstance(history.get("messages"), dict) and not isinstance(chat.get("messages"), list):
        return Problem(item.place, "it is not a chat: it has no `history.messages` and no `messages`")
    title = to_label(row.get("title")) or to_label(chat.get("title"))
    id_ = to_id(row.get("id")) or to_id(chat.get("id")) or make_id(title, str(to_time(row.get("created_at"))))
    if id_ in seen:
        return Problem(item.place, f'the chat "{id_}" is in the export twice; the first one is taken')
    left_out: Counter[str] = Counter()
    nodes = _read_nodes(chat, left_out)
    tree = arrange_tree(nodes, to_id(history.get("currentId")))
    if not any(message.id != _SYSTEM_NODE for message in tree.messages):
        return Problem(item.place, "it has no messages")
    seen.add(id_)
    models = [model for given in to_list(chat.get("models")) if (model := to_label(given)) is not None]
    return ImportedConversation(
        id=id_,
        messages=tree.messages,
        head=tree.head,
        title=title,
        created_at=to_time(row.get("created_at")) or to_time(chat.get("timestamp")),
        model=models[0] if models else None,
        metadata=keep_small(
            {
                "archived": row.get("archived") or None,
                "pinned": row.get("pinned") or None,
                "folder_id": row.get("folder_id"),
                "tags": to_list(to_object(row.get("meta")).get("tags")) or to_list(chat.get("tags")),
                "models": models if len(models) > 1 else None,
            }
        ),
        notes=[*tree.notes, *count_notes(left_out, "left out")],
    )


def _read_nodes(chat: dict[str, Any], left_out: Counter[str]) -> dict[str, TreeNode]:
    history = to_object(to_object(chat.get("history")).get("messages"))
    nodes: dict[str, TreeNode] = {}
    system = to_text(to_object(chat.get("params")).get("system")) or to_text(chat.get("system"))
    root = None
    if system.strip():
        root = _SYSTEM_NODE
        nodes[root] = TreeNode(root, None, ({"role": "system", "content": system},))
    if history:
        for key, given in history.items():
            id_ = to_id(key)
            if id_ is not None:
                message = to_object(given)
                nodes[id_] = _read_node(id_, to_id(message.get("parentId")) or root, message, left_out)
        return nodes
    before = root
    for number, given in enumerate(to_list(chat.get("messages")), 1):
        message = to_object(given)
        id_ = to_id(message.get("id")) or make_id(number, to_text(message.get("role")), to_text(message.get("content")))
        if id_ in nodes:
            left_out["messages with an id that another has"] += 1
            continue
        # Lists of chats with branches exist too, with `parentId`.
        parent = (to_id(message["parentId"]) or root) if "parentId" in message else before
        nodes[id_] = _read_node(id_, parent, message, left_out)
        before = id_
    return nodes


def _read_node(id_: str, parent: str | None, message: dict[str, Any], left_out: Counter[str]) -> TreeNode:
    role = to_text(message.get("role"))
    if role == "assistant":
        messages = _read_reply(message, id_)
    elif role in ("user", "system"):
        messages = _read_question(message, role, left_out)
    else:
        messages = []
        left_out["messages of an unknown role"] += bool(message)
    return TreeNode(
        id=id_,
        parent=parent,
        messages=messages,
        created_at=to_time(message.get("timestamp")),
        model=to_label(message.get("model")),
        children=[child for given in to_list(message.get("childrenIds")) if (child := to_id(given)) is not None],
    )


def _read_question(message: dict[str, Any], role: str, left_out: Counter[str]) -> list[dict[str, Any]]:
    parts: list[Any] = []
    content = message.get("content")
    if isinstance(content, str):
        parts += [content] if content.strip() else []
    for part in map(to_object, to_list(content)):
        text = to_text(part.get("text"))
        image = _read_image(to_text(to_object(part.get("image_url")).get("url")))
        parts += [image] if image is not None else [text] if text.strip() else []
    for file in map(to_object, to_list(message.get("files"))):
        image = _read_image(to_text(file.get("url"))) if file.get("type") == "image" else None
        if image is not None:
            parts.append(image)
            continue
        name = to_label(file.get("name")) or to_label(to_object(file.get("file")).get("filename"))
        kind = "image" if file.get("type") == "image" else "file"
        parts.append(f"[{kind} {name}]" if name else f"[{kind}]")
        left_out["files that the export does not have"] += 1
    if not parts:
        return []
    if not any(isinstance(part, dict) for part in parts):
        return [{"role": role, "content": join_texts(parts, "\n")}]
    return [
        {
            "role": role,
            "content": [part if isinstance(part, dict) else {"type": "text", "text": part} for part in parts],
        }
    ]


def _read_image(url: str) -> dict[str, Any] | None:
    """Return the content part of an image that is in the export itself, or None."""
    if not _IMAGE_URL.match(url) or len(url) > MAX_IMAGE_CHARACTERS:
        return None
    return {"type": "image_url", "image_url": {"url": url}}


def _read_reply(message: dict[str, Any], id_: str) -> list[dict[str, Any]]:
    odd: list[Any] = []
    pieces = list(_read_output(to_list(message.get("output")), odd))
    if not pieces:
        pieces = list(_read_details(to_text(message.get("content"))))
    error = message.get("error")
    if error:
        text = error if isinstance(error, str) else to_text(to_object(error).get("content"))
        pieces.append(ReplyText(join_texts(["[error]", text], "\n")))
    read = split_reply(pieces, id_, separator="\n")
    if read and odd:
        read[-1] = {**read[-1], **keep_raw({"output": odd})}
    return read


def _read_output(items: list[Any], odd: list[Any]) -> Iterator[ReplyPiece]:
    """Yield the pieces of an `output`. An unknown item is added to `odd`."""
    for item in map(to_object, items):
        kind = to_text(item.get("type"))
        match kind:
            case "message":
                yield ReplyText(_join_parts(item.get("content")))
            case "reasoning":
                yield ReplyText(_join_parts(item.get("content")) or _join_parts(item.get("summary")), "reasoning")
            case "function_call":
                yield ToolCall(to_text(item.get("name")), item.get("arguments"), to_id(item.get("call_id")))
            case "function_call_output":
                yield ToolResult(_join_parts(item.get("output")), "", to_id(item.get("call_id")))
            case _:
                odd.append(item)
                yield ReplyText(f"[{to_label(kind) or 'unknown content'}]")


def _join_parts(parts: Any) -> str:
    if isinstance(parts, str):
        return parts
    return join_texts((to_text(to_object(part).get("text")) for part in to_list(parts)), "\n")


def _read_details(content: str) -> Iterator[ReplyPiece]:
    """Yield the pieces of a text that has reasoning and calls as `<details>`."""
    text_from = searched_from = 0
    while True:
        start = content.find("<details ", searched_from)
        body = content.find(">", start) + 1
        end = content.find("</details>", body)
        if start < 0 or body == 0 or end < 0:
            break
        searched_from = end + len("</details>")
        attributes = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(content[start:body])}
        pieces = _read_detail(attributes, content[body:end])
        if pieces:
            yield ReplyText(content[text_from:start].strip())
            yield from pieces
            text_from = searched_from
    yield ReplyText(content[text_from:].strip() if text_from else content)


def _read_detail(attributes: dict[str, str], body: str) -> list[ReplyPiece]:
    """Return the pieces of one `<details>`; none if it is a part of the text."""
    inner = html.unescape(_SUMMARY.sub("", body, count=1)).strip()
    if attributes.get("type") == "reasoning":
        return [
            ReplyText("\n".join(line.removeprefix(">").removeprefix(" ") for line in inner.split("\n")), "reasoning")
        ]
    name = attributes.get("name")
    if attributes.get("type") != "tool_calls" or not name:
        return []
    id_ = attributes.get("id") or None
    call = ToolCall(name, _decode_twice(attributes.get("arguments", "")), id_)
    if attributes.get("done") == "false":
        return [call]
    return [call, ToolResult(str(_decode_twice(attributes.get("result") or inner)), name, id_)]


def _decode_twice(text: str) -> str:
    """Return the text that a JSON string holds, or the text itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) else text
