"""Write a conversation as a session file of Claude Code: `projects/<folder>/<session>.jsonl`, below `~/.claude`.

The form is what `claude_code_sessions` reads. What Claude Code needs to go on with a file of others was read in
public notes ("Claude Code Session Seeding"; issues 41616, 62851 and 63904 of github.com/anthropics/claude-code): the
session's id is a UUID, it is the file's name and in each record, each record names the one before it, and the first
record is a message.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from convstore.messages.message import Message
from convstore.transfer.losses import list_losses
from convstore.transfer.writers.session_file import (
    AUDIO_LOSS,
    EMPTY_LOSS,
    NO_RESULT,
    REASONING_LOSS,
    UNANSWERED_LOSS,
    SessionFile,
    count_lost_fields,
    format_time,
    list_content_parts,
    make_record_id,
    make_session_id,
    read_text,
    to_line,
)
from convstore.values.results import Conversation, MessageRecord

# The release that the form is of. Claude Code reads the files of older releases.
_FORM_VERSION = "2.1.0"
_NO_USAGE = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^;,]*)*;base64,(.*)", re.DOTALL)
_NOT_IN_FOLDER = re.compile("[^a-zA-Z0-9]")
_NOT_IN_CALL_ID = re.compile("[^a-zA-Z0-9_-]")

_SYSTEM_LOSS = "a system message is carried as a reminder to the model: a session has no system messages"
_ARGUMENTS_LOSS = "the arguments of a tool call, which are not a JSON object, are carried as the text `arguments`"
_RESULT_LOSS = "the result of a tool call that is not before it is carried as a user's message"
_OPENING_LOSS = "the conversation begins with a reply; a line of the user was put before it"
_OPENING = "(The conversation begins with a reply.)"


def name_project_folder(folder: str) -> str:
    """Return the name that Claude Code gives to the sessions of a project's folder."""
    return _NOT_IN_FOLDER.sub("-", folder)


def write_claude_code_session(conversation: Conversation, records: Sequence[MessageRecord], folder: str) -> SessionFile:
    """Return the session file in which Claude Code goes on with a conversation.

    Args:
        records: the messages of the path, at least one.
        folder: the absolute path of the project's folder.
    """
    session = make_session_id("claude", conversation, records, folder)
    writer = _Writer(session, folder, conversation.model)
    for record in records:
        writer.add(record)
    writer.finish(records[-1])
    lines = writer.lines
    if conversation.given_title is not None:  # last: the first record must be a message
        lines.append(to_line({"type": "custom-title", "customTitle": conversation.given_title, "sessionId": session}))
    path = f"projects/{name_project_folder(folder)}/{session}.jsonl"
    return SessionFile(session, path, lines, list_losses(writer.losses))


class _Writer:
    """Writes the messages of one path."""

    def __init__(self, session: str, folder: str, model: str | None) -> None:
        self._session = session
        self._folder = folder
        self._model = model
        self._last: str | None = None
        self._open_calls: dict[str, str] = {}
        """The tool calls without a result so far, and the ids that they are written with."""
        self._function_call: str | None = None
        """The id of a call in the old form, which had none."""
        self.lines: list[str] = []
        self.losses: Counter[str] = Counter()

    def add(self, record: MessageRecord) -> None:
        """Write a message."""
        message = record.message
        role = message["role"]
        count_lost_fields(message, self.losses)
        if role in ("tool", "function"):
            self._add_result(record)
            return
        self._answer_open_calls(record)
        if role == "assistant":
            self._add_reply(record)
        elif role == "user":
            self._add_user(record, self._make_blocks(message))
        else:
            self.losses[_SYSTEM_LOSS] += 1
            text = f"<system-reminder>\n{read_text(message)}\n</system-reminder>"
            self._add_user(record, [_make_text(text)], isMeta=True)

    def finish(self, last: MessageRecord) -> None:
        """Answer the tool calls that have no result."""
        self._answer_open_calls(last)

    def _add_user(self, record: MessageRecord, blocks: list[dict[str, Any]], **fields: Any) -> None:
        if not blocks:
            self.losses[EMPTY_LOSS] += 1
            return
        is_text = len(blocks) == 1 and blocks[0]["type"] == "text"
        content = blocks[0]["text"] if is_text else blocks
        self._add_record("user", record, {"role": "user", "content": content}, **fields)

    def _add_reply(self, record: MessageRecord) -> None:
        message = record.message
        if message.get("reasoning_content") or message.get("reasoning"):
            self.losses[REASONING_LOSS] += 1
        blocks = self._make_blocks(message)
        if not blocks and isinstance(refusal := message.get("refusal"), str) and refusal:
            blocks = [_make_text(refusal)]
        calls = message.get("tool_calls")
        blocks += [
            self._make_call(call) for call in (calls if isinstance(calls, list) else []) if isinstance(call, dict)
        ]
        if isinstance(call := message.get("function_call"), dict):
            self._function_call = f"call_{record.seq}"
            blocks.append(self._make_call({"id": self._function_call, "function": call}))
        if not blocks:
            self.losses[EMPTY_LOSS] += 1
            return
        if self._last is None:
            self.losses[_OPENING_LOSS] += 1
            self._add_user(record, [_make_text(_OPENING)], isMeta=True)
        is_call = blocks[-1]["type"] == "tool_use"
        reply = {
            "id": f"msg_{make_record_id(self._session, record.seq).replace('-', '')[:24]}",
            "type": "message",
            "role": "assistant",
            "model": self._model or "unknown",
            "content": blocks,
            "stop_reason": "tool_use" if is_call else "end_turn",
            "stop_sequence": None,
            "usage": _NO_USAGE,
        }
        self._add_record("assistant", record, reply)

    def _make_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        bodies = (call.get(kind) for kind in ("function", "custom"))
        body: Mapping[str, Any] = next((found for found in bodies if isinstance(found, dict)), {})
        given = str(call.get("id") or f"call_{len(self.lines)}_{len(self._open_calls)}")
        written = _NOT_IN_CALL_ID.sub("_", given)
        self._open_calls[given] = written
        return {
            "type": "tool_use",
            "id": written,
            "name": str(body.get("name") or "unknown"),
            "input": self._read_arguments(body.get("arguments", body.get("input"))),
        }

    def _read_arguments(self, arguments: Any) -> dict[str, Any]:
        if isinstance(arguments, str):
            try:
                found = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                return found
        self.losses[_ARGUMENTS_LOSS] += 1
        return {"arguments": arguments}

    def _add_result(self, record: MessageRecord) -> None:
        message = record.message
        given = message.get("tool_call_id") if message["role"] == "tool" else self._function_call
        call = self._open_calls.pop(given, None) if isinstance(given, str) else None
        blocks = self._make_blocks(message)
        if call is None:
            self.losses[_RESULT_LOSS] += 1
            self._answer_open_calls(record)
            self._add_user(record, blocks)
            return
        is_text = all(block["type"] == "text" for block in blocks)
        content = "\n".join(block["text"] for block in blocks) if is_text else blocks
        self._add_results(record, [{"type": "tool_result", "tool_use_id": call, "content": content}])

    def _answer_open_calls(self, record: MessageRecord) -> None:
        """Give a result to each call that has none, because the API refuses such a history."""
        for call in self._open_calls.values():
            self.losses[UNANSWERED_LOSS] += 1
            self._add_results(
                record, [{"type": "tool_result", "tool_use_id": call, "content": NO_RESULT, "is_error": True}]
            )
        self._open_calls.clear()

    def _add_results(self, record: MessageRecord, blocks: list[dict[str, Any]]) -> None:
        self._add_record("user", record, {"role": "user", "content": blocks})

    def _add_record(self, kind: str, record: MessageRecord, message: Message, **fields: Any) -> None:
        uuid = make_record_id(self._session, len(self.lines) + 1_000_000)
        line = {
            "parentUuid": self._last,
            "isSidechain": False,
            "userType": "external",
            "cwd": self._folder,
            "sessionId": self._session,
            "version": _FORM_VERSION,
            "gitBranch": "",
            "type": kind,
            "message": message,
            "uuid": uuid,
            "timestamp": format_time(record.created_at),
            **fields,
        }
        self.lines.append(to_line(line))
        self._last = uuid

    def _make_blocks(self, message: Message) -> list[dict[str, Any]]:
        blocks = [self._make_block(part) for part in list_content_parts(message)]
        if isinstance(audio := message.get("audio"), dict):
            self.losses[AUDIO_LOSS] += 1
            blocks.append(_make_text(audio["transcript"]) if audio.get("transcript") else None)
        return [block for block in blocks if block is not None]

    def _make_block(self, part: Mapping[str, Any]) -> dict[str, Any] | None:
        kind = part.get("type")
        value = part.get(kind) if isinstance(kind, str) else None
        match kind, value:
            case (("text" | "refusal"), str(text)):
                return _make_text(text)
            case "image_url", {"url": str(url)}:
                return {"type": "image", "source": _make_source(url)}
            case "file", {"file_data": str(url)} if (source := _make_source(url))["type"] == "base64":
                name = part["file"].get("filename")
                return {"type": "document", "source": source, **({"title": name} if isinstance(name, str) else {})}
            case _:
                self.losses[f"content of the kind `{kind!s:.40}` is left out"] += 1
                return None


def _make_text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _make_source(url: str) -> dict[str, Any]:
    found = _DATA_URL.fullmatch(url)
    if found is None:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": found[1] or "text/plain", "data": found[2]}
