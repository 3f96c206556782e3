"""Read the sessions of `aichat`: a YAML file for each.

The form is that of github.com/sigoden/aichat: `Session` in `src/config/session.rs` (`compressed_messages` are those
that a summary replaced), `Message` in `src/client/message.rs`, `ToolResult` and `ToolCall` in `src/function.rs`.

YAML is read by PyYAML, if it is installed.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convstore.transfer.checked_json import is_too_deep
from convstore.transfer.derived_ids import DerivedTree, derive_conversation_id
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.listed_messages import NotMessages, add_path, find_fault
from convstore.transfer.source_lines import (
    Source,
    UnreadableSource,
    describe_limit,
    describe_read_error,
    name_source,
    open_source,
)

MAX_SESSION_BYTES = 16 * 2**20  # PyYAML needs many times its size


def read_aichat_sessions(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversation of a session file, or of all in a folder."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        sources: list[Source] = [*sorted(Path(source).rglob("*.yaml"))]
    else:
        sources = [source]
    for one in sources:
        name = name_source(one)
        try:
            conversation = _build(name, _load(_read(one)))
        except (UnreadableSource, NotMessages) as error:
            yield Problem(name, str(error))
            continue
        if conversation is not None:
            yield conversation


def _read(source: Source) -> bytes:
    with open_source(source) as stream:
        try:
            data = stream.read(MAX_SESSION_BYTES + 1)
        except Exception as error:
            raise UnreadableSource(describe_read_error(error)) from None
    if len(data) > MAX_SESSION_BYTES:
        raise UnreadableSource(f"is larger than {describe_limit(MAX_SESSION_BYTES)}")
    return data


def _load(data: bytes) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise UnreadableSource("is YAML; install `pyyaml` to read it") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # An alias repeats a value; with enough of them, a small file becomes a huge one. aichat writes none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(data, Loader=loader)):
            raise UnreadableSource("holds an alias of YAML, which aichat does not write")
        found = yaml.load(data, Loader=loader)
    except UnreadableSource:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError, TypeError, AttributeError) as error:
        raise UnreadableSource(f"is not YAML: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
    return found


def _build(name: str, session: Any) -> ImportedConversation | None:
    if not isinstance(session, dict) or not isinstance(session.get("messages"), list):
        raise NotMessages("is no session of aichat")
    before = session.get("compressed_messages")
    listed = [*(before if isinstance(before, list) else []), *session["messages"]]
    messages: list[dict[str, Any]] = []
    calls = 0
    for number, message in enumerate(listed, 1):
        for made in _make_messages(message, calls):
            if is_too_deep(made) or not _is_json(made):
                raise NotMessages(f"message {number} has values that JSON does not have")
            if (reason := find_fault(made)) is not None:
                raise NotMessages(f"message {number} {reason}")
            messages.append(made)
            calls += len(made.get("tool_calls", ()))
    if not messages:
        return None
    tree = DerivedTree()
    head = add_path(tree, None, messages)
    model, role = session.get("model"), session.get("role_name")
    title = Path(name).stem
    found = tree.list_messages()
    return ImportedConversation(
        derive_conversation_id(title, found),
        found,
        head,
        title=title,
        model=model if isinstance(model, str) and model else None,
        metadata={"role": role} if isinstance(role, str) and role else {},
    )


def _make_messages(message: Any, calls_before: int) -> list[dict[str, Any]]:
    if not isinstance(message, dict):
        raise NotMessages("has a message that is not an object")
    content = message.get("content")
    if not isinstance(content, dict):
        return [{"role": message.get("role"), "content": content}]
    results = content.get("tool_results")
    if not isinstance(results, list) or not all(_is_result(result) for result in results):
        raise NotMessages("has a message with content of an unknown kind")
    text = content.get("text")
    calls = [_make_call(result["call"], calls_before + number) for number, result in enumerate(results, 1)]
    reply = {"role": "assistant", "content": text if isinstance(text, str) and text else None, "tool_calls": calls}
    return [
        reply,
        *(
            {"role": "tool", "tool_call_id": call["id"], "content": _to_text(result.get("output"))}
            for call, result in zip(calls, results, strict=True)
        ),
    ]


def _is_result(result: Any) -> bool:
    call = result.get("call") if isinstance(result, dict) else None
    return isinstance(call, dict) and isinstance(call.get("name"), str)


def _make_call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    id = call.get("id")
    return {
        "id": id if isinstance(id, str) and id else f"call_{number}",
        "type": "function",
        "function": {"name": call["name"], "arguments": _to_text(call.get("arguments") or {})},
    }


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if is_too_deep(value) or not _is_json(value):
        raise NotMessages("has values that JSON does not have")
    return json.dumps(value, ensure_ascii=False)


def _is_json(value: Any) -> bool:
    """Return True if the value has only what JSON has: YAML has dates, bytes and other keys, too."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, bool)) or (isinstance(value, int) and value.bit_length() < 14_284)
