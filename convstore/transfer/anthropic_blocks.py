"""Turn content blocks of Anthropic's Messages API into Chat Completions messages.

The blocks are those of Anthropic's API reference ("Messages"), as Claude Code stores them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from convstore.transfer.data_urls import MAX_ATTACHMENT_BYTES, join_parts, make_image_part, make_part_of_base64
from convstore.transfer.source_lines import describe_limit

TOO_LARGE = f"an attachment is larger than {describe_limit(MAX_ATTACHMENT_BYTES)}"


def list_blocks(content: Any) -> list[Mapping[str, Any]] | None:
    """Return the blocks of a message's content, or None if it is not content."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        return None
    return [block for block in content if isinstance(block, dict)]


def make_call(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tool call of a `tool_use` block."""
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    function = {"name": str(block.get("name") or "unknown"), "arguments": arguments}
    return {"id": str(block.get("id") or ""), "type": "function", "function": function}


def make_result(block: Mapping[str, Any], losses: Counter[str]) -> dict[str, Any]:
    """Return the tool message of a `tool_result` block; images stay parts of it."""
    parts = make_parts(list_blocks(block.get("content")) or [], losses)
    texts = [part["text"] for part in parts if part["type"] == "text"]
    content = "\n".join(texts) if len(texts) == len(parts) else parts
    return {"role": "tool", "tool_call_id": str(block.get("tool_use_id") or ""), "content": content}


def make_user_message(blocks: list[Mapping[str, Any]], losses: Counter[str]) -> dict[str, Any] | None:
    """Return the user message of blocks that are no tool results, or None if they hold nothing."""
    parts = make_parts(blocks, losses)
    return {"role": "user", "content": join_parts(parts)} if parts else None


def make_reply(blocks: list[Mapping[str, Any]], losses: Counter[str]) -> dict[str, Any] | None:
    """Return the assistant's message of blocks, or None if they hold nothing; thinking is its `reasoning_content`."""
    calls: dict[str, dict[str, Any]] = {}
    thoughts: list[str] = []
    rest: list[Mapping[str, Any]] = []
    for block in blocks:
        match block.get("type"):
            case "tool_use":
                call = make_call(block)
                calls.setdefault(call["id"], call)
            case "thinking":
                if isinstance(thought := block.get("thinking"), str) and thought:
                    thoughts.append(thought)
            case "redacted_thinking":
                pass  # encrypted, for Anthropic's servers only
            case _:
                rest.append(block)
    parts = make_parts(rest, losses)
    content = join_parts(parts) if parts else None
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thoughts:
        message["reasoning_content"] = "\n\n".join(thoughts)
    if calls:
        message["tool_calls"] = list(calls.values())
    return message if content or calls else None


def make_parts(blocks: list[Mapping[str, Any]], losses: Counter[str]) -> list[dict[str, Any]]:
    """Return the content parts of text, images and documents; other blocks become a text with their name."""
    parts: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            if isinstance(text := block.get("text"), str) and text:
                parts.append({"type": "text", "text": text})
        elif kind in ("image", "document"):
            part = _make_file_part(block)
            if part is None:
                losses[TOO_LARGE] += 1
                part = {"type": "text", "text": f"[{kind}]"}
            parts.append(part)
        else:
            text = json.dumps(block, ensure_ascii=False)
            if len(text) > MAX_ATTACHMENT_BYTES:
                losses[TOO_LARGE] += 1
                text = ""
            parts.append({"type": "text", "text": f"[{kind}] {text}".rstrip()})
    return parts


def _make_file_part(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the part of an image or a document, or None if it is too large."""
    source = block.get("source")
    kind = block["type"]
    if isinstance(source, dict):
        name = block.get("title")
        match source.get("type"), source.get("data"), source.get("url"):
            case "base64", str(data), _:
                media_type = str(source.get("media_type") or "application/octet-stream")
                return make_part_of_base64(media_type, data, name if isinstance(name, str) else None)
            case "text", str(data), _:
                return {"type": "text", "text": data}
            case "url", _, str(url) if kind == "image":
                return make_image_part(url)
            case "url", _, str(url):
                return {"type": "text", "text": f"[{kind}] {url}"}
    return {"type": "text", "text": f"[{kind}]"}
