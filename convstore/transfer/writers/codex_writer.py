"""Write a conversation as a session file of Codex: `sessions/YYYY/MM/DD/rollout-<time>-<session>.jsonl`.

The form is what `codex_sessions` reads. `codex resume <session>` finds a file that is not in Codex's index by its name,
and adds it to the index (`find_thread_path_by_id_str` in `codex-rs/rollout/src/list.rs` of github.com/openai/codex).
Times must be text (issue 16 of github.com/Dicklesworthstone/cross_agent_session_resumer).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC
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
    make_session_id,
    read_text,
    to_line,
)
from convstore.values.results import Conversation, MessageRecord

_RESULT_LOSS = "the result of a tool call that is not before it is left out"
_SYSTEM_LOSS = "a system message is carried as a developer message: Codex sends no system messages"
_TITLE_LOSS = "the title is left out: Codex keeps titles elsewhere"


def write_codex_session(conversation: Conversation, records: Sequence[MessageRecord], folder: str) -> SessionFile:
    """Return the session file in which Codex goes on with a conversation.

    Args:
        records: the messages of the path, at least one.
        folder: the absolute path of the project's folder.
    """
    session = make_session_id("codex", conversation, records, folder)
    moment = records[-1].created_at.astimezone(UTC)
    writer = _Writer()
    writer.add_line(
        records[-1],
        "session_meta",
        {
            "id": session,
            "session_id": session,
            "timestamp": format_time(moment),
            "cwd": folder,
            "originator": "convstore",
            "cli_version": "0.0.0",
            "source": "cli",
        },
    )
    for record in records:
        writer.add(record)
    writer.answer_open_calls(records[-1])
    if conversation.given_title is not None:
        writer.losses[_TITLE_LOSS] += 1
    path = f"sessions/{moment:%Y/%m/%d}/rollout-{moment:%Y-%m-%dT%H-%M-%S}-{session}.jsonl"
    return SessionFile(session, path, writer.lines, list_losses(writer.losses))


class _Writer:
    """Writes the messages of one path."""

    def __init__(self) -> None:
        self._open_calls: dict[str, str] = {}
        """The kinds of the tool calls without a result so far, by their ids."""
        self._function_call: str | None = None
        """The id of a call in the old form, which had none."""
        self.lines: list[str] = []
        self.losses: Counter[str] = Counter()

    def add(self, record: MessageRecord) -> None:
        """Write a message, and the event that shows it on the screen."""
        message = record.message
        role = message["role"]
        count_lost_fields(message, self.losses)
        if role in ("tool", "function"):
            self._add_result(record)
            return
        self.answer_open_calls(record)
        parts = self._make_parts(message)
        if role == "assistant":
            if message.get("reasoning_content") or message.get("reasoning"):
                self.losses[REASONING_LOSS] += 1
            self._add_reply(record, parts)
        elif not parts:
            self.losses[EMPTY_LOSS] += 1
        else:
            if role == "system":  # Codex 0.171 leaves system messages out when a session goes on
                self.losses[_SYSTEM_LOSS] += 1
            kept = "developer" if role == "system" else role
            self._add_item(record, {"type": "message", "role": kept, "content": parts})
            if role == "user" and (text := read_text(message)):
                self.add_line(record, "event_msg", {"type": "user_message", "message": text, "images": []})

    def _add_reply(self, record: MessageRecord, parts: list[dict[str, Any]]) -> None:
        message = record.message
        if not parts and isinstance(refusal := message.get("refusal"), str) and refusal:
            parts = [{"type": "output_text", "text": refusal}]
        found = message.get("tool_calls")
        calls = [call for call in found if isinstance(call, dict)] if isinstance(found, list) else []
        if isinstance(call := message.get("function_call"), dict):
            self._function_call = f"call_{record.seq}"
            calls.append({"id": self._function_call, "type": "function", "function": call})
        if not parts and not calls:
            self.losses[EMPTY_LOSS] += 1
        if parts:
            self._add_item(record, {"type": "message", "role": "assistant", "content": parts})
            text = "\n".join(part["text"] for part in parts)
            self.add_line(record, "event_msg", {"type": "agent_message", "message": text})
        for number, one in enumerate(calls):
            self._add_item(record, self._make_call(one, f"call_{record.seq}_{number}"))

    def _make_call(self, call: Mapping[str, Any], made_id: str) -> dict[str, Any]:
        id, custom, function = str(call.get("id") or made_id), call.get("custom"), call.get("function")
        if isinstance(custom, dict):
            self._open_calls[id] = "custom_tool"
            made = {"name": str(custom.get("name") or "unknown"), "input": str(custom.get("input") or "")}
            return {"type": "custom_tool_call", "status": "completed", "call_id": id, **made}
        self._open_calls[id] = "function"
        body = function if isinstance(function, dict) else {}
        made = {"name": str(body.get("name") or "unknown"), "arguments": str(body.get("arguments") or "")}
        return {"type": "function_call", **made, "call_id": id}

    def _add_result(self, record: MessageRecord) -> None:
        message = record.message
        id = message.get("tool_call_id") if message["role"] == "tool" else self._function_call
        kind = self._open_calls.pop(id, None) if isinstance(id, str) else None
        if kind is None:
            self.losses[_RESULT_LOSS] += 1
            return
        content = message.get("content")
        output = content if isinstance(content, str) else self._make_parts(message)
        self._add_item(record, {"type": f"{kind}_call_output", "call_id": id, "output": output})

    def answer_open_calls(self, record: MessageRecord) -> None:
        """Give a result to each call that has none, because the API refuses such a history."""
        for id, kind in self._open_calls.items():
            self.losses[UNANSWERED_LOSS] += 1
            self._add_item(record, {"type": f"{kind}_call_output", "call_id": id, "output": NO_RESULT})
        self._open_calls.clear()

    def _make_parts(self, message: Message) -> list[dict[str, Any]]:
        kind = "output_text" if message["role"] == "assistant" else "input_text"
        parts = [self._make_part(part, kind) for part in list_content_parts(message)]
        if isinstance(audio := message.get("audio"), dict):
            self.losses[AUDIO_LOSS] += 1
            parts.append({"type": kind, "text": audio["transcript"]} if audio.get("transcript") else None)
        return [part for part in parts if part is not None]

    def _make_part(self, part: Mapping[str, Any], text_kind: str) -> dict[str, Any] | None:
        kind = part.get("type")
        match kind, part.get(kind) if isinstance(kind, str) else None:
            case (("text" | "refusal"), str(text)):
                return {"type": text_kind, "text": text}
            case "image_url", {"url": str(url)} if text_kind == "input_text":
                return {"type": "input_image", "image_url": url}
            case _:
                self.losses[f"content of the kind `{kind!s:.40}` is left out"] += 1
                return None

    def _add_item(self, record: MessageRecord, item: dict[str, Any]) -> None:
        self.add_line(record, "response_item", item)

    def add_line(self, record: MessageRecord, kind: str, payload: Mapping[str, Any]) -> None:
        """Write a line."""
        self.lines.append(to_line({"timestamp": format_time(record.created_at), "type": kind, "payload": payload}))
