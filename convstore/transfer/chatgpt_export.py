"""Read ChatGPT's export of all conversations: a zip, a folder or a JSON file.

OpenAI does not describe the format. It was read in public programs that read real exports, and in their samples:

- github.com/mitkury/chatgpt-export-parser, `docs/chatgpt-data-export-format.md`: the files, the fields, the tree;
- github.com/danny-avila/LibreChat, `api/server/utils/import/__data__/chatgpt-modern-export.json`: an export of 2025;
- github.com/jamesmoore/chatgpt-export, `ChatGPTExport/Models/Conversations.cs`: the fields of each type of content, and
  how an asset pointer finds a file; github.com/jack-driscoll/chatgpt-dataexport: `.dat` files that are images;
- github.com/pionxzh/chatgpt-exporter, `src/api.ts`: the older types of content (`tether_quote`), and files of its own
  with a data URL as the pointer of an image.

Since 2026 the conversations are in `conversations-000.json`, `conversations-001.json` …, each a list as before.
"""

from __future__ import annotations

import base64
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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

MAX_IMAGE_BYTES = 20 * 2**20
"""The size of one image; a larger one is left out, with a note."""
MAX_IMAGES_BYTES = 64 * 2**20
"""The size of the images of one conversation, which is in memory as a whole."""

_FILE_NAME = re.compile(r"conversations([-_]\d+)?\.json")
_POINTER = re.compile(r"(?:[a-z-]+://|(?=file[-_]))([A-Za-z0-9_-]{6,100})(?:[#?.].*)?", re.DOTALL)
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,30};base64,")
_IMAGE_TYPES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)
_FENCE_LANGUAGE = re.compile(r"[A-Za-z0-9_+#.-]{1,30}")
# The content of these types is text that the model or a tool wrote, in these fields.
_TEXT_FIELDS = {
    "execution_output": ("text",),
    "tether_browsing_display": ("summary", "result"),
    "tether_quote": ("title", "url", "text"),
    "system_error": ("name", "text"),
    "sonic_webpage": ("title", "url", "text"),
    "reasoning_recap": ("content",),
}


def is_chatgpt_conversation(value: Any) -> bool:
    """Return True if a JSON value looks like a conversation of this export."""
    return isinstance(value, dict) and isinstance(value.get("mapping"), dict)


_FORM = ItemForm("conversation", is_chatgpt_conversation, wrappers=("conversations", "items", "data"))


def read_chatgpt_export(files: ExportFiles) -> Iterator[ImportedConversation | Problem]:
    """Return the conversations of an export, and a problem for each bad one."""
    assets = _Assets(files)
    return read_export(
        files,
        _FILE_NAME,
        _FORM,
        "it has no `conversations.json` and no `conversations-000.json`",
        lambda item, seen: _read_conversation(item, assets, seen),
    )


def _read_conversation(item: Item, assets: _Assets, seen: set[str]) -> ImportedConversation | Problem:
    value = item.value
    if not is_chatgpt_conversation(value):
        return Problem(item.place, "it is not a conversation: it has no `mapping`")
    mapping: dict[str, Any] = value["mapping"]
    id_ = to_id(value.get("conversation_id")) or to_id(value.get("id"))
    id_ = id_ or make_id(to_text(value.get("title")), next(iter(mapping), None))
    if id_ in seen:
        return Problem(item.place, f'the conversation "{id_}" is in the export twice; the first one is taken')
    reader = _NodeReader(assets)
    nodes = {node.id: node for node in reader.read_nodes(mapping)}
    tree = arrange_tree(nodes, to_id(value.get("current_node")))
    if not tree.messages:
        return Problem(item.place, "it has no messages")
    seen.add(id_)
    return ImportedConversation(
        id=id_,
        messages=tree.messages,
        head=tree.head,
        title=to_label(value.get("title")),
        created_at=to_time(value.get("create_time")),
        model=None if value.get("default_model_slug") == "auto" else to_label(value.get("default_model_slug")),
        metadata=keep_small(
            {
                "archived": value.get("is_archived") or None,
                "starred": value.get("is_starred") or None,
                "gizmo_id": value.get("gizmo_id"),
                "project_id": value.get("conversation_template_id"),
                "origin": value.get("conversation_origin"),
            }
        ),
        notes=[*tree.notes, *reader.list_notes()],
    )


class _Assets:
    """Finds the files that a conversation points to."""

    def __init__(self, files: ExportFiles) -> None:
        self._files = files
        self._names = sorted((file.base_name, name) for name, file in files.files.items())

    def find(self, file_id: str) -> str | None:
        """Return the name of the file that has this id at the beginning of its name."""
        for base_name, name in self._names[bisect_left(self._names, (file_id, "")) :]:
            if not base_name.startswith(file_id):
                return None
            if not base_name[len(file_id) : len(file_id) + 1].isalnum():
                return name
        return None

    def read_image(self, name: str, limit: int) -> tuple[str, bytes] | None:
        """Return the type and the bytes of an image, or None if it cannot be used."""
        data = self._files.read_bytes(name, limit)
        if data is None:
            return None
        return next(((kind, data) for beginning, kind in _IMAGE_TYPES if beginning.match(data)), None)


@dataclass(slots=True)
class _NodeReader:
    """Reads the nodes of one conversation, and counts what could not be carried over."""

    assets: _Assets
    hidden: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    image_bytes: int = 0

    def list_notes(self) -> list[str]:
        """Return what could not be carried over, one line each."""
        return [
            *count_notes(self.hidden, "hidden messages were left out"),
            *count_notes(self.unread, "nodes that cannot be read were left out"),
            *count_notes(self.missing, "files were left out"),
        ]

    def read_nodes(self, mapping: dict[str, Any]) -> Iterator[TreeNode]:
        """Yield the nodes of a `mapping`, in its order."""
        for key, node in mapping.items():
            id_ = to_id(key)
            if id_ is not None:
                yield self._read_node(id_, to_object(node))

    def _read_node(self, id_: str, node: dict[str, Any]) -> TreeNode:
        given = node.get("message")
        parent = to_id(node.get("parent"))
        children = [child for given_id in to_list(node.get("children")) if (child := to_id(given_id)) is not None]
        if not isinstance(given, dict):
            self.unread["not an object"] += given is not None
            return TreeNode(id_, parent, children=children)
        metadata = to_object(given.get("metadata"))
        message = self._read_message(given, metadata)
        return TreeNode(
            id=id_,
            parent=parent,
            messages=() if message is None else (message,),
            created_at=to_time(given.get("create_time")),
            model=to_label(metadata.get("model_slug")),
            children=children,
        )

    def _read_message(self, message: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any] | None:
        author = to_object(message.get("author"))
        role = to_text(author.get("role"))
        given = to_object(message.get("content"))
        if metadata.get("is_visually_hidden_from_conversation") is True or message.get("weight") == 0:
            self.hidden[role or "unknown"] += _has_content(given)
            return None
        parts, raw = self._read_content(given)
        parts += self._name_attachments(metadata, parts)
        if not parts:
            return None
        if role not in ("user", "assistant", "system", "tool"):
            self.unread[f"of the role {role[:40]!r}" if role else "without a role"] += 1
            return None
        if role == "tool":
            # Chat Completions knows a tool's message only as the answer to a call with an id, which the export lacks.
            parts = [f"[tool {name}]" if (name := to_label(author.get("name"))) else "[tool]", *parts]
            role = "assistant"
        elif role == "assistant" and (recipient := to_label(message.get("recipient"))) not in (None, "all"):
            parts = [f"[to {recipient}]", *parts]
        has_image = any(isinstance(part, dict) for part in parts)
        content = [_to_part(part) for part in parts] if has_image else join_texts(map(str, parts), "\n")
        return {"role": role, "content": content, **raw}

    def _read_content(self, content: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the texts and images of a content, and the field with the rest."""
        kind = to_text(content.get("content_type"))
        if kind in ("text", "multimodal_text"):
            return self._read_parts(to_list(content.get("parts")))
        if kind == "code":
            return _read_code(content), {}
        if kind == "thoughts":
            reasoning = _read_thoughts(content)
            return ["[thoughts]"], {**({"reasoning_content": reasoning} if reasoning else {}), **keep_raw(content)}
        if kind in _TEXT_FIELDS:
            text = join_texts((to_text(content.get(name)) for name in _TEXT_FIELDS[kind]), "\n")
            if not text:
                return [], {}
            return [f"[{kind}]", text], {} if kind == "execution_output" else keep_raw(content)
        if not content:
            return [], {}
        text = to_text(content.get("text"))
        return [f"[{to_label(kind) or 'unknown content'}]", *([text] if text.strip() else [])], keep_raw(content)

    def _read_parts(self, parts: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        read: list[Any] = []
        odd: list[Any] = []
        for part in parts:
            if isinstance(part, str):
                read += [part] if part.strip() else []
            elif isinstance(part, dict):
                shown = self._read_part(part)
                read += shown
                if not _shows_all(part, shown):
                    odd.append(part)
            elif part is not None:
                odd.append(part)
        return read, keep_raw({"parts": odd}) if odd else {}

    def _read_part(self, part: dict[str, Any]) -> list[Any]:
        kind = to_text(part.get("content_type"))
        text = to_text(part.get("text"))
        if kind == "image_asset_pointer":
            return [self._read_image(part)]
        if kind == "real_time_user_audio_video_asset_pointer":
            sound = to_object(part.get("audio_asset_pointer"))
            return [_name_asset("audio", sound if sound else part)]
        if kind.endswith("_asset_pointer"):
            return [_name_asset(kind.removesuffix("_asset_pointer").replace("_", " "), part)]
        if kind in ("audio_transcription", "text") or (text and not kind):
            return [text] if text.strip() else []
        return [f"[{to_label(kind) or 'unknown content'}]", *([text] if text.strip() else [])]

    def _read_image(self, part: dict[str, Any]) -> Any:
        """Return the image as a content part, or a text that names it."""
        pointer = to_text(part.get("asset_pointer"))
        if _DATA_URL.match(pointer) and len(pointer) <= MAX_IMAGE_BYTES * 4 // 3:
            return {"type": "image_url", "image_url": {"url": pointer}}
        file_id = _to_file_id(pointer)
        name = self.assets.find(file_id) if file_id else None
        if name is None:
            self.missing["images that the export does not have"] += 1
            return _name_asset("image", part)
        limit = min(MAX_IMAGE_BYTES, MAX_IMAGES_BYTES - self.image_bytes)
        image = self.assets.read_image(name, limit)
        if image is None:
            sizes = f"{MAX_IMAGE_BYTES // 2**20} MiB, or {MAX_IMAGES_BYTES // 2**20} MiB in a conversation"
            self.missing[f"images that are damaged or larger than {sizes}"] += 1
            return _name_asset("image", part)
        kind, data = image
        self.image_bytes += len(data)
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}

    def _name_attachments(self, metadata: dict[str, Any], parts: list[Any]) -> list[str]:
        """Return the names of attached files, except images, which are in the parts."""
        names: list[str] = []
        if not metadata.get("attachments"):
            return names
        images = sum(isinstance(part, dict) or str(part).startswith("[image") for part in parts)
        for attachment in map(to_object, to_list(metadata.get("attachments"))):
            name = to_label(attachment.get("name")) or to_label(attachment.get("id"))
            if name is None or (images and to_text(attachment.get("mime_type")).startswith("image/")):
                continue
            if images and not attachment.get("mime_type") and re.search(r"\.(png|jpe?g|gif|webp)$", name.lower()):
                continue
            names.append(f"[file {name}]")
            self.missing["files that messages name"] += 1
        return names


def _has_content(content: dict[str, Any]) -> bool:
    return any(value not in (None, "", [], [""], {}) for key, value in content.items() if key != "content_type")


def _shows_all(part: dict[str, Any], shown: list[Any]) -> bool:
    """Return True if nothing of a part needs to be kept besides what is shown of it."""
    if any(isinstance(item, dict) for item in shown):
        return not to_object(to_object(part.get("metadata")).get("dalle"))  # the prompt of a generated image
    return part.get("content_type") in ("audio_transcription", "text", None) and isinstance(part.get("text"), str)


def _to_part(part: Any) -> dict[str, Any]:
    return part if isinstance(part, dict) else {"type": "text", "text": part}


def _to_file_id(pointer: str) -> str:
    """Return the id of `file-service://file-abc` or `sediment://file_abc#…`, or ""."""
    found = _POINTER.fullmatch(pointer)
    return found[1] if found else ""


def _name_asset(kind: str, part: dict[str, Any]) -> str:
    pointer = to_text(part.get("asset_pointer"))
    name = _to_file_id(pointer) or to_label(pointer[:100])
    return f"[{kind} {name}]" if name else f"[{kind}]"


def _read_code(content: dict[str, Any]) -> list[str]:
    text = to_text(content.get("text"))
    if not text.strip():
        return []
    language = to_text(content.get("language"))
    if language == "unknown" or not _FENCE_LANGUAGE.fullmatch(language):
        language = ""
    return [f"```{language}\n{text}\n```"]


def _read_thoughts(content: dict[str, Any]) -> str:
    thoughts = map(to_object, to_list(content.get("thoughts")))
    return join_texts(
        join_texts((to_text(thought.get("summary")), to_text(thought.get("content"))), "\n") for thought in thoughts
    ) or join_texts(map(to_text, to_list(content.get("parts"))))
