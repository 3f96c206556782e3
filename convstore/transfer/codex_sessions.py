"""Read the session files of Codex: JSON Lines in `~/.codex/sessions/YYYY/MM/DD/rollout-*.jsonl`, also `.jsonl.zst`.

The form is that of github.com/openai/codex: `RolloutItem` and `SessionMeta` in `codex-rs/protocol/src/protocol.rs`
and later `codex-rs/history`, what is stored in `codex-rs/rollout/src/policy.rs`, compression in
`codex-rs/rollout/src/compression.rs`. The bare form, before September 2025, was read in public descriptions of old
files (a first line `{"id", "timestamp", "instructions", "git"}`, then bare items and `{"record_type": "state"}`).

- The conversation is the `response_item` lines: the events repeat them for the screen. A prompt is taken from its
  event only if there is no other line with one. Instructions of the program itself are left out.
- A compacted session goes on after its summary. A turn that was rolled back is a branch.
- Codex's SQLite files are an index, made from these files (`codex-rs/state/migrations`); a session's name is in
  `session_index.jsonl`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from convstore.transfer.checked_json import parse_line
from convstore.transfer.derived_ids import DerivedTree, derive_conversation_id
from convstore.transfer.file_times import read_time
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.losses import list_losses
from convstore.transfer.response_items import ItemPath
from convstore.transfer.source_lines import INCOMPLETE_LINE, SQLITE_MAGIC, Line, Source, name_source, read_lines

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ENDINGS = (".jsonl", ".jsonl.zst", ".jsonl.gz")
_INDEX = "session_index.jsonl"

# Texts of the role "user" that the program writes: they begin no turn (`is_user_turn_boundary` in
# `codex-rs/core/src/context_manager`).
_CONTEXT = re.compile(
    r"\s*(<(environment_context|user_instructions|user_shell_command|skill|turn_aborted|subagent_notification)>"
    r"|# AGENTS\.md instructions)",
    re.IGNORECASE,
)

# What the model writes. A tuple, because a damaged file may have any value in the place of a name, and a set takes none
# that cannot be hashed.
_SPOKEN = ("message", "reasoning", "function_call", "custom_tool_call", "local_shell_call", "tool_search_call")

_DESCRIPTIONS = {
    "cwd": "cwd",
    "cli_version": "program_version",
    "originator": "originator",
    "forked_from_id": "forked_from",
}
_STATE_ROWS = frozenset(
    {"turn_context", "world_state", "inter_agent_communication_metadata", "security_risk_score", "token_usage_record"}
)


def read_codex_sessions(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversation of a session file, or of all session files in a folder."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        folder = Path(source)
        names = _read_names(folder / _INDEX) | _read_names(folder.parent / _INDEX)
        for path in list_session_files(folder):
            yield from _read_file(path, names)
    else:
        yield from _read_file(source, _find_names(Path(name_source(source))))


def list_session_files(folder: Path) -> list[Path]:
    """Return the session files in a folder, each once."""
    found = sorted(folder.rglob("rollout-*"))
    return [path for path in found if path.name.endswith(_ENDINGS) and not _has_plain_sibling(path)]


def _has_plain_sibling(path: Path) -> bool:
    """Return True if the file is a compressed copy, beside the plain file that Codex itself reads then."""
    return path.suffix in (".zst", ".gz") and path.with_suffix("").exists()


def _find_names(file: Path) -> dict[str, str]:
    """Return the names that are kept above a session file, which lies in `sessions/YYYY/MM/DD`."""
    return next((_read_names(folder / _INDEX) for folder in file.parents[:5] if (folder / _INDEX).is_file()), {})


def _read_names(index: Path) -> dict[str, str]:
    """Return the sessions' names by their ids; the last one counts."""
    names: dict[str, str] = {}
    if index.is_file():
        for line in read_lines(index):
            record = parse_line(str(index), line) if isinstance(line, Line) else None
            if isinstance(record, dict) and isinstance(name := record.get("thread_name"), str) and name:
                names[str(record.get("id"))] = name
    return names


def _read_file(source: Source, names: Mapping[str, str]) -> Iterator[ImportedConversation | Problem]:
    session = _Session(name_source(source))
    for line in read_lines(source):
        if isinstance(line, Line) and line.number == 1 and (line.content or b"").startswith(SQLITE_MAGIC):
            reason = "is a database; Codex keeps conversations in files, in the folder `sessions` beside it"
            yield Problem(name_source(source), reason)
            return
        if isinstance(line, Problem):
            yield line
        elif (problem := session.add(line)) is not None:
            yield problem
    if (conversation := session.build(names)) is not None:
        yield conversation


class _Session:
    """The lines of one file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tree = DerivedTree()
        self._losses: Counter[str] = Counter()
        self._path = ItemPath(self._tree, self._losses)
        self._meta: Mapping[str, Any] | None = None
        self._started_at: datetime | None = None
        self._has_prompt = False  # since the model spoke last
        self._typed: tuple[str, datetime | None] | None = None  # a prompt; only its event was seen
        self._is_cut = False

    def add(self, line: Line) -> Problem | None:
        """Add a line; return the problem if it cannot be read."""
        record = parse_line(self._name, line)
        if isinstance(record, Problem):
            if not line.is_complete and line.content is not None:
                self._is_cut = True  # the program is writing it
                return None
            return record
        reason = self._add_record(record) if isinstance(record, dict) else "is not a line of a Codex session"
        return Problem(f"{self._name}, line {line.number}", reason) if reason else None

    def _add_record(self, record: Mapping[str, Any]) -> str | None:
        kind, payload = record.get("type"), record.get("payload")
        if "payload" in record:
            moment = read_time(record.get("timestamp"))
            return self._add_line(kind, payload, moment) if isinstance(payload, dict) else "has no payload"
        if isinstance(kind, str):  # a bare item
            return self._add_item(record, None)
        if "record_type" in record:
            return None
        if isinstance(record.get("id"), str):
            self._add_meta(record)
            return None
        return "is not a line of a Codex session"

    def _add_line(self, kind: Any, payload: Mapping[str, Any], moment: datetime | None) -> str | None:
        match kind:
            case "session_meta":
                self._add_meta(payload)
            case "response_item":
                return self._add_item(payload, moment)
            case "turn_context":
                if isinstance(model := payload.get("model"), str) and model:
                    self._path.model = model
            case "compacted":
                self._add_summary(payload, moment)
            case "event_msg":
                return self._add_event(payload, moment)
            case "inter_agent_communication":
                self._losses["a message between agents is left out"] += 1
            case str():
                if kind not in _STATE_ROWS:
                    self._losses[f"a line of the kind {kind[:40]} is left out"] += 1
            case _:
                return "is not a line of a Codex session"
        return None

    def _add_event(self, payload: Mapping[str, Any], moment: datetime | None) -> str | None:
        match payload.get("type"):
            case "user_message" if not self._has_prompt:
                text = payload.get("message")
                self._typed = (text, moment) if isinstance(text, str) and text else None
            case "thread_rolled_back":
                count = payload.get("num_turns")
                if not isinstance(count, int):
                    return "does not say how many turns were rolled back"
                self._path.roll_back(max(count, 0))
        return None

    def _add_meta(self, payload: Mapping[str, Any]) -> None:
        # A fork begins with its own first line. Then it repeats the session that it was made from, with the first line.
        if self._meta is None:
            self._meta = payload
            self._started_at = read_time(payload.get("timestamp"))

    def _add_item(self, item: Mapping[str, Any], moment: datetime | None) -> str | None:
        kind, role = item.get("type"), item.get("role")
        is_prompt = kind == "message" and role == "user" and not _is_context(item.get("content"))
        if is_prompt:
            self._has_prompt, self._typed = True, None
        elif kind in _SPOKEN and (kind != "message" or role == "assistant"):
            if self._typed is not None:  # some files have a prompt only as the event
                text, typed_at = self._typed
                self._path.add({"type": "message", "role": "user", "content": text}, typed_at, begins_turn=True)
            self._has_prompt, self._typed = False, None
        return self._path.add(item, moment, begins_turn=is_prompt)

    def _add_summary(self, payload: Mapping[str, Any], moment: datetime | None) -> None:
        text = payload.get("message")
        if isinstance(text, str) and text:
            # As in Codex's conversion of a `CompactedItem`.
            self._path.finish()
            self._path.add({"type": "message", "role": "assistant", "content": text}, moment)
            self._path.finish()
        else:
            self._losses["a summary that only OpenAI's servers can read is left out"] += 1

    def build(self, names: Mapping[str, str]) -> ImportedConversation | None:
        """Return the conversation; None if it has no messages."""
        head = self._path.finish()
        messages = self._tree.list_messages()
        if not messages:
            return None
        meta = self._meta or {}
        found = _UUID.search(Path(self._name).name)
        id = meta.get("id") or meta.get("session_id") or (found[0].lower() if found else None)
        if not isinstance(id, str):
            id = derive_conversation_id(1, messages)
        return ImportedConversation(
            id,
            messages,
            head,
            title=names.get(id),
            created_at=self._started_at or messages[0].created_at,
            model=self._path.model,
            metadata=_describe(meta),
            notes=[*list_losses(self._losses), *([INCOMPLETE_LINE] if self._is_cut else [])],
        )


def _is_context(content: Any) -> bool:
    """Return True if the program wrote all texts of a user's message."""
    texts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else [content]
    return all(isinstance(text, str) and _CONTEXT.match(text) for text in texts)


def _describe(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the first line says that is worth keeping."""
    described = {name: meta[field] for field, name in _DESCRIPTIONS.items() if isinstance(meta.get(field), str)}
    git = meta.get("git")
    if isinstance(git, dict) and isinstance(branch := git.get("branch"), str):
        described["git_branch"] = branch
    spawn: Any = meta
    for field in ("source", "subagent", "thread_spawn"):
        spawn = spawn.get(field) if isinstance(spawn, dict) else None
    parent = meta.get("parent_thread_id") or (spawn.get("parent_thread_id") if isinstance(spawn, dict) else None)
    if isinstance(parent, str) and parent:
        described["agent_of"] = parent
        nickname = meta.get("agent_nickname")
        described["agent"] = nickname if isinstance(nickname, str) and nickname else str(meta.get("id"))
    return described
