"""Make the conversations that writers of exports are given: from lists, from data sets, at random."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from convstore.messages.completion import Usage
from convstore.transfer.imported import ImportedConversation
from convstore.values.exported import ExportedConversation, ExportedMessage
from convstore.values.identifiers import Position, Seq, TurnNumber
from convstore.values.results import (
    Conversation,
    MessageRecord,
    Rating,
    RatingValue,
    Turn,
    TurnStatus,
)
from tests.pure.strategies import any_message

BEGIN = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)

HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi"}
CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "blue"}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PHOTO = {
    "role": "user",
    "content": [{"type": "text", "text": "What is on it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
}


def make_conversation(id: str = "chat", length: int = 0, head: int = 0, **fields: Any) -> Conversation:
    given: dict[str, Any] = {
        "id": id,
        "owner": "",
        "name": None,
        "title": "A chat",
        "settings": {},
        "metadata": {},
        "window": {},
        "pins": (),
        "forked_from": None,
        "forked_at": None,
        "length": length,
        "head_seq": Seq(head),
        "model": None,
        "created_at": BEGIN,
        "updated_at": BEGIN + timedelta(hours=1),
    }
    return Conversation(**given | fields)


def make_turn(number: int, output: int | None = None, status: TurnStatus = TurnStatus.COMPLETED, **fields: Any) -> Turn:
    given: dict[str, Any] = {
        "conversation_id": "chat",
        "seq": TurnNumber(number),
        "status": status,
        "base_seq": Seq(0),
        "first_input_seq": None,
        "last_input_seq": None,
        "output_seq": output,
        "purpose": None,
        "request": {"model": "gpt-4o"},
        "window": None,
        "estimated_tokens": None,
        "message": None,
        "finish_reason": "stop",
        "model": "gpt-4o-2024",
        "response_id": "r",
        "system_fingerprint": None,
        "usage": Usage({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}),
        "cost": 0.25,
        "latency": 1.5,
        "time_to_first_token": None,
        "error": None,
        "attempts": (),
        "idempotency_key": None,
        "started_at": BEGIN,
        "ended_at": BEGIN + timedelta(seconds=2),
    }
    return Turn(**given | fields)


def make_exported(
    messages: Sequence[tuple[int, Mapping[str, Any]]],
    head: int | None = None,
    *,
    ratings: Mapping[int, str] | None = None,
    statuses: Mapping[int, TurnStatus] | None = None,
    models: Mapping[int, str] | None = None,
    turns: Sequence[Turn] = (),
    **fields: Any,
) -> ExportedConversation:
    """Return a conversation with the messages of a tree: the `seq` of the parent and the message, for each."""
    head = len(messages) if head is None else head
    path: set[int] = set()
    at = head
    while at:
        path.add(at)
        at = messages[at - 1][0]
    positions = {0: 0}
    made = []
    for seq, (parent, message) in enumerate(messages, 1):
        positions[seq] = positions[parent] + 1
        record = MessageRecord(
            Position(positions[seq]),
            Seq(seq),
            Seq(parent),
            None,
            BEGIN + timedelta(minutes=seq),
            dict(message),
            b"\0" * 16,
            Seq(0),
            tokens=7,
        )
        value = (ratings or {}).get(seq)
        rating = Rating(Seq(seq), RatingValue(value), "so it is", BEGIN) if value else None
        made.append(ExportedMessage(record, seq in path, (statuses or {}).get(seq), (models or {}).get(seq), rating))
    return ExportedConversation(make_conversation(length=len(path), head=head, **fields), made, turns)


def make_path(*messages: Mapping[str, Any], **fields: Any) -> ExportedConversation:
    """Return a conversation without branches."""
    return make_exported(list(enumerate(messages)), **fields)


def keep_path(exported: ExportedConversation) -> ExportedConversation:
    """Return the conversation as it is exported if only its path is asked for."""
    return ExportedConversation(
        exported.conversation, [one for one in exported.messages if one.on_path], exported.turns
    )


def read_crosswoz(folder: Path) -> Iterator[ExportedConversation]:
    with (folder / "crosswoz_val.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            dialogue = json.loads(line)
            yield make_path(*dialogue["messages"], id=dialogue["id"])


def read_mt_bench(folder: Path) -> Iterator[ExportedConversation]:
    """Yield the questions with their reference answers, if they have any, as replies."""
    with (folder / "mt_bench_questions.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            question = json.loads(line)
            answers = question.get("reference") or ["No answer is known."] * len(question["turns"])
            said: list[dict[str, Any]] = []
            for asked, answer in zip(question["turns"], answers, strict=True):
                said += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer or "?"}]
            yield make_path(*said, id=f"mt-{question['question_id']}")


@st.composite
def any_tree(draw: st.DrawFn, message: st.SearchStrategy[dict[str, Any]] = any_message) -> ExportedConversation:
    """Draw a conversation with messages that form any tree, and its head anywhere."""
    messages = draw(st.lists(message, min_size=1, max_size=8))
    parents = [draw(st.integers(0, number)) for number in range(len(messages))]
    head = draw(st.integers(0, len(messages)))
    return make_exported(list(zip(parents, messages, strict=True)), head)


def list_read(conversation: ImportedConversation) -> dict[str, list[Any]]:
    """Return the parent and the message of each id."""
    return {one.id: [one.parent, one.message] for one in conversation.messages}


def list_written(exported: ExportedConversation) -> dict[str, list[Any]]:
    """Return the parent and the message of each `seq`, as a reader should give them."""
    return {
        str(one.record.seq): [str(one.record.parent_seq) if one.record.parent_seq else None, one.record.message]
        for one in exported.messages
    }


def join(pieces: Iterable[bytes]) -> bytes:
    return b"".join(pieces)
