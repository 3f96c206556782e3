"""Read the session files of Claude Code: JSON Lines in `~/.claude/projects/<project>/<session>.jsonl`.

Anthropic documents where they are, and not what is in them. The form was read in public descriptions and samples:
the test data and notes of github.com/daaain/claude-code-log (messages, branches, compaction, `subagents/`),
`session_format_specification.md` of github.com/microsoft/amplifier (the tree, `logicalParentUuid`, summaries),
`docs/jsonl-format.md` of github.com/ticpu/claude-conversation-search-mcp (agents' files, API errors).

- A session is a conversation. Each agent that it started is another; its metadata names the session.
- A compacted session goes on after its summary, which is a message.
- What the program put into the user's mouth for the model (`isMeta`) is kept; records of the program itself (hooks,
  snapshots, notices, injected attachments) are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convstore.transfer.anthropic_blocks import list_blocks, make_result, make_user_message
from convstore.transfer.checked_json import parse_line
from convstore.transfer.file_times import read_time
from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.losses import list_losses
from convstore.transfer.session_chains import Chain, Node
from convstore.transfer.source_lines import INCOMPLETE_LINE, Line, Source, name_source, read_lines

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_DESCRIPTIONS = {"cwd": "cwd", "gitBranch": "git_branch", "version": "program_version"}
_MAX_TITLE_CHARACTERS = 500


def read_claude_code_sessions(source: Source) -> Iterator[ImportedConversation | Problem]:
    """Yield the conversations of a session file, or of all session files in a folder."""
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        for path in list_session_files(Path(source)):
            yield from _read_file(path)
    else:
        yield from _read_file(source)


def list_session_files(folder: Path) -> list[Path]:
    """Return the session files in a folder."""
    return sorted(folder.rglob("*.jsonl"))


def _read_file(source: Source) -> Iterator[ImportedConversation | Problem]:
    session = _Session(name_source(source))
    for line in read_lines(source):
        if isinstance(line, Problem):
            yield line
        elif (problem := session.add(line)) is not None:
            yield problem
    yield from session.list_conversations()


class _Session:
    """The records of one file."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._chains: dict[str, Chain] = {"": Chain("")}  # "" is the session's own, the others are the agents'
        self._places: dict[str, tuple[Chain, Node | None]] = {}  # a record's uuid, its chain and its message
        self._sessions: dict[str, str] = {}  # a chain, and the id of the session that its last record names
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._titles: dict[str, str] = {}  # a kind of title, and the last one of it
        self._summaries: list[tuple[str, str]] = []
        self._agent_calls: dict[str, str] = {}  # an agent, and the tool call that started it
        self._is_cut = False

    def add(self, line: Line) -> Problem | None:
        """Add a line; return the problem if it cannot be read."""
        place = f"{self._name}, line {line.number}"
        record = parse_line(self._name, line)
        if isinstance(record, Problem):
            if not line.is_complete and line.content is not None:
                self._is_cut = True  # the program is writing it
                return None
            return record
        if not isinstance(record, dict):
            return Problem(place, "is not a record of Claude Code")
        match record.get("type"):
            case "user" | "assistant" | "attachment" | "system" | "progress" as kind:
                return self._add_record(kind, record, line.number, place)
            case "summary":
                if isinstance(text := record.get("summary"), str) and text:
                    self._summaries.append((str(record.get("leafUuid")), text))
            case "ai-title" | "custom-title" as kind:
                title = record.get("customTitle" if kind == "custom-title" else "aiTitle")
                if isinstance(title, str) and title:
                    self._titles[kind] = title
            case str():
                pass  # snapshots, modes, queues: the program's own
            case _:
                return Problem(place, "is not a record of Claude Code")
        return None

    def _add_record(self, kind: str, record: Mapping[str, Any], line: int, place: str) -> Problem | None:
        uuid = record.get("uuid")
        if not isinstance(uuid, str) or not uuid:
            # Attachments of some releases have none; a message without one could not be found again.
            return Problem(place, "has no uuid") if kind in ("user", "assistant") else None
        if uuid in self._places:
            return None  # a session that was resumed holds copies
        chain, parent = self._find_parent(record, uuid)
        self._describe(chain.key, record)
        node = parent
        problem = None
        if kind == "user":
            node, problem = self._add_user(chain, parent, record, (uuid, line, place))
        elif kind == "assistant":
            node, problem = self._add_reply(chain, parent, record, (uuid, line, place))
        elif kind == "attachment":
            node = self._add_attachment(chain, parent, record, (uuid, line))
        self._places[uuid] = chain, node
        return problem

    def _find_parent(self, record: Mapping[str, Any], uuid: str) -> tuple[Chain, Node | None]:
        """Return the chain of a record, and the message that it follows."""
        parent_id = record.get("parentUuid")
        place = self._places.get(parent_id) if isinstance(parent_id, str) else None
        chain = self._find_chain(record, uuid, place[0] if place is not None else None)
        if place is not None and place[0] is chain:
            return chain, place[1]
        if isinstance(parent_id, str) and parent_id and chain.last is not None:
            chain.losses["a message follows one that the file does not have, and was put after the one before it"] += 1
            return chain, chain.last
        if record.get("subtype") == "compact_boundary":
            logical = record.get("logicalParentUuid")
            found = self._places.get(logical) if isinstance(logical, str) else None
            return chain, found[1] if found is not None and found[0] is chain else chain.last
        if record.get("type") == "assistant" or "toolUseResult" in record:
            return chain, chain.last  # neither can begin a conversation
        return chain, None

    def _find_chain(self, record: Mapping[str, Any], uuid: str, parents: Chain | None) -> Chain:
        if record.get("isSidechain") is not True:
            return self._chains[""]
        if parents is not None and parents.key:
            return parents
        agent = record.get("agentId")
        key = agent if isinstance(agent, str) and agent else uuid
        return self._chains.setdefault(key, Chain(key))

    def _add_user(
        self, chain: Chain, parent: Node | None, record: Mapping[str, Any], at: tuple[str, int, str]
    ) -> tuple[Node | None, Problem | None]:
        uuid, line, place = at
        message = record.get("message")
        blocks = list_blocks(message.get("content")) if isinstance(message, dict) else None
        if blocks is None:
            return parent, Problem(place, "its message has no content")
        moment = read_time(record.get("timestamp"))
        results = [block for block in blocks if block.get("type") == "tool_result"]
        said = make_user_message([block for block in blocks if block.get("type") != "tool_result"], chain.losses)
        self._note_agent(record, results)
        node = parent
        for number, block in enumerate(results, 1):
            is_last = number == len(results) and said is None
            node = Node(node, uuid if is_last else f"{uuid}#{number}", line, make_result(block, chain.losses), moment)
            node = chain.add_result(node, node.message["tool_call_id"] if node.message else "")
        if said is not None:
            node = chain.add(Node(node, uuid, line, said, moment))
        return node, None

    def _add_reply(
        self, chain: Chain, parent: Node | None, record: Mapping[str, Any], at: tuple[str, int, str]
    ) -> tuple[Node | None, Problem | None]:
        uuid, line, place = at
        message = record.get("message")
        blocks = list_blocks(message.get("content")) if isinstance(message, dict) else None
        if blocks is None or not isinstance(message, dict):
            return parent, Problem(place, "its message has no content")
        model = message.get("model")
        if model == "<synthetic>" or record.get("isApiErrorMessage") is True:
            chain.losses["a notice of the program, such as an API error, is left out"] += 1
            return parent, None
        key = message.get("id")
        found = chain.find_reply(key if isinstance(key, str) else None, parent)
        if found is not None:
            found.blocks += blocks
            found.base_id, found.line = uuid, line
            # What the record follows is still the result that came before it.
            return (parent if parent is not None and parent.reply is found else found), None
        node = Node(parent, uuid, line, created_at=read_time(record.get("timestamp")))
        node.model = model if isinstance(model, str) else None
        node.reply_key, node.blocks = (key if isinstance(key, str) else uuid), list(blocks)
        return chain.add(node), None

    def _add_attachment(
        self, chain: Chain, parent: Node | None, record: Mapping[str, Any], at: tuple[str, int]
    ) -> Node | None:
        """Add a prompt that the user typed while the model worked; other attachments are the program's own."""
        attachment = record.get("attachment")
        if not isinstance(attachment, dict) or attachment.get("type") != "queued_command":
            return parent
        if attachment.get("commandMode") not in ("prompt", None):
            return parent
        said = make_user_message(list_blocks(attachment.get("prompt")) or [], chain.losses)
        if said is None:
            return parent
        return chain.add(Node(parent, at[0], at[1], said, read_time(record.get("timestamp"))))

    def _note_agent(self, record: Mapping[str, Any], results: list[Mapping[str, Any]]) -> None:
        outcome = record.get("toolUseResult")
        agent = outcome.get("agentId") if isinstance(outcome, dict) else None
        if agent is None and record.get("isSidechain") is not True:
            agent = record.get("agentId")
        if isinstance(agent, str) and len(results) == 1:
            self._agent_calls[agent] = str(results[0].get("tool_use_id"))

    def _describe(self, key: str, record: Mapping[str, Any]) -> None:
        if isinstance(session := record.get("sessionId"), str) and session:
            self._sessions[key] = session
        known = self._descriptions.setdefault(key, {})
        for field, name in _DESCRIPTIONS.items():
            if isinstance(value := record.get(field), str) and value:
                known[name] = value

    def list_conversations(self) -> Iterator[ImportedConversation]:
        """Yield the session's conversation, then those of its agents."""
        stem = Path(self._name).stem
        own = stem if _UUID.fullmatch(stem) else self._sessions.get("", stem)
        for key, chain in self._chains.items():
            messages = chain.list_messages()
            if not messages:
                continue
            session = self._sessions.get(key, own) if key else own
            metadata = dict(self._descriptions.get(key, {}))
            if key:
                metadata |= {"agent": key, "agent_of": session}
                if key in self._agent_calls:
                    metadata["agent_of_call"] = self._agent_calls[key]
            models = [message.model for message in messages if message.model]
            yield ImportedConversation(
                f"{session}/{key}" if key else own,
                messages,
                (chain.last.id or None) if chain.last is not None else None,
                title=None if key else self._find_title(),
                created_at=next((message.created_at for message in messages if message.created_at), None),
                model=models[-1] if models else None,
                metadata=metadata,
                notes=[*list_losses(chain.losses), *([INCOMPLETE_LINE] if self._is_cut else [])],
            )

    def _find_title(self) -> str | None:
        # A summary may name the last message of another session. This session then goes on from that one.
        own = [text for leaf, text in self._summaries if leaf in self._places]
        summaries = own or [text for _, text in self._summaries]
        title = self._titles.get("custom-title") or self._titles.get("ai-title") or "".join(summaries[-1:])
        return title[:_MAX_TITLE_CHARACTERS] or None
