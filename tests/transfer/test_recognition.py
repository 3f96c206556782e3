"""Test that each kind of file is recognised by its contents, whatever its name."""

import gzip
import json
import random
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import pytest

from convstore.errors import InvalidInput
from convstore.transfer.recognition import KINDS, SNIFFED_BYTES, recognise_kind
from tests.transfer.damage import change_values, damage

DATA = Path(__file__).parent / "data"
LONG = "x" * (SNIFFED_BYTES * 2)

HELLO = {"role": "user", "content": "Hello"}
NODE: dict[str, Any] = {
    "id": "n",
    "message": {"author": {"role": "user"}, "content": {"parts": ["Hi"]}},
    "parent": None,
    "children": [],
}
CHATGPT = {"title": "Hi", "create_time": 1.5, "mapping": {"n": NODE}, "current_node": "n"}
CLAUDE = {"uuid": "u", "name": "Hi", "account": {"uuid": "a"}, "chat_messages": [{"sender": "human", "text": "Hi"}]}
OPEN_WEBUI = {"id": "i", "title": "Hi", "chat": {"models": [], "history": {"messages": {}, "currentId": None}}}
LIBRECHAT = {"conversationId": "c", "endpoint": "openAI", "title": "Hi", "messages": [{"messageId": "m", "text": "Hi"}]}
SHAREGPT = {"id": "a", "conversations": [{"from": "human", "value": "Hi"}]}
CLAUDE_CODE = {"parentUuid": None, "sessionId": "s", "type": "user", "uuid": "u", "message": HELLO}
CODEX = {"timestamp": "2026-01-02T03:04:05Z", "type": "session_meta", "payload": {"id": "c"}}
BARE_CODEX = {"id": "c", "timestamp": "2025-08-18T01:16:13.522Z", "instructions": None}
PREFERENCE = {"input": {"messages": [HELLO]}, "preferred_output": [HELLO], "non_preferred_output": [HELLO]}


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


SAMPLES: list[tuple[str, str]] = [
    ("convstore", lines({"convstore": 1}, {"conversation": {}})),
    ("chatgpt", json.dumps([CHATGPT])),
    ("chatgpt", json.dumps(CHATGPT, indent=2)),
    ("chatgpt", json.dumps([CHATGPT | {"mapping": {"n": NODE, "m": LONG}}])),
    ("claude", json.dumps([CLAUDE])),
    ("claude", json.dumps([CLAUDE | {"chat_messages": [{"text": LONG}]}], indent=1)),
    ("open-webui", json.dumps([OPEN_WEBUI])),
    ("open-webui", json.dumps(OPEN_WEBUI["chat"], indent=4)),
    ("librechat", json.dumps(LIBRECHAT, indent=2)),
    ("librechat", json.dumps(LIBRECHAT | {"messages": None, "messagesTree": []})),
    ("claude-code", lines(CLAUDE_CODE)),
    ("claude-code", lines({"type": "summary", "summary": "Hi", "leafUuid": "u"}, CLAUDE_CODE)),
    ("claude-code", lines({"type": "file-history-snapshot", "snapshot": {}}, CLAUDE_CODE)),
    ("claude-code", lines(CLAUDE_CODE | {"message": LONG})),
    ("codex", lines(CODEX)),
    ("codex", lines(CODEX | {"payload": {"id": "c", "base_instructions": {"text": LONG}}})),
    ("codex", lines(BARE_CODEX, {"record_type": "state"}, {"type": "message", **HELLO})),
    ("codex", lines({"type": "message", "role": "user", "content": []})),
    ("sharegpt", json.dumps([SHAREGPT])),
    ("sharegpt", lines(SHAREGPT, SHAREGPT)),
    ("sharegpt", json.dumps([{"items": [{"from": "human", "value": LONG}]}], indent=2)),
    ("fine-tuning", lines({"messages": [HELLO]})),
    ("fine-tuning", lines({"messages": [HELLO]}, {"messages": [HELLO]})),
    ("fine-tuning", lines({"messages": [HELLO | {"content": LONG}]})),
    ("fine-tuning", lines(PREFERENCE)),
    ("fine-tuning", lines({"prompt": [HELLO], "chosen": [HELLO], "rejected": [HELLO]})),
    ("fine-tuning", lines({"prompt": [HELLO], "chosen": [HELLO | {"content": LONG}]})),
    ("messages", json.dumps([HELLO])),
    ("messages", json.dumps([HELLO], indent=2)),
    ("messages", json.dumps([[HELLO], [HELLO]])),
    ("messages", lines(HELLO, HELLO)),
    ("messages", lines([HELLO], [HELLO])),
    ("messages", json.dumps([HELLO | {"content": LONG}])),
    ("messages", json.dumps({"model": "gpt", "messages": [HELLO]}, indent=2)),
    ("markdown", "---\nconvstore: 1\ntitle: Hi\n---\n\n# Hi\n"),
    ("claude-code", "{broken\n" + lines(CLAUDE_CODE)),
    ("codex", '{"timestamp": "2026\n' + lines(CODEX)),
]


@pytest.mark.parametrize(("kind", "text"), SAMPLES)
def test_a_text_is_recognised_as_a_file_as_a_stream_and_compressed(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(text.encode()))

    assert recognise_kind(path) == kind
    assert recognise_kind(str(path)) == kind
    assert recognise_kind(text.encode()[:SNIFFED_BYTES]) == kind
    assert recognise_kind("\ufeff".encode() + text.encode()[:SNIFFED_BYTES]) == kind
    assert recognise_kind(packed) == kind
    assert recognise_kind(packed.read_bytes()[:SNIFFED_BYTES]) == kind


@pytest.mark.parametrize("name", ["llm-0.31", "llm-0.36", "llm-upgraded"])
def test_a_database_of_llm_is_recognised(name: str, tmp_path: Path) -> None:
    path = tmp_path / "any"
    path.write_bytes(gzip.decompress((DATA / f"{name}.db.gz").read_bytes()))

    assert recognise_kind(path) == "llm"
    with pytest.raises(InvalidInput, match="give the file itself, not a stream"):
        recognise_kind(path.read_bytes()[:SNIFFED_BYTES])


def test_other_databases_are_recognised_by_their_tables(tmp_path: Path) -> None:
    tables = {"convstore": "convstore_conversations (id)", "codex": "threads (id, rollout_path)"}
    for kind, table in tables.items():
        path = tmp_path / kind
        with sqlite3.connect(path) as connection:
            connection.execute(f"create table {table}")
        assert recognise_kind(path) == kind


def test_archives_are_recognised_by_the_conversations_in_them(tmp_path: Path) -> None:
    for kind, name, value in [
        ("chatgpt", "conversations.json", [CHATGPT]),
        ("chatgpt", "export/conversations-000.json", [CHATGPT]),
        ("claude", "conversations.json", [CLAUDE]),
    ]:
        path = tmp_path / "export.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("chat.html", "<html>")
            archive.writestr("a.json", json.dumps({"id": "user"}))
            archive.writestr(name, json.dumps(value))
        assert recognise_kind(path) == kind


def test_folders_are_recognised_by_the_files_in_them(tmp_path: Path) -> None:
    for kind, name, text in [
        ("claude-code", "projects/-home/5b0e.jsonl", lines(CLAUDE_CODE)),
        ("codex", "sessions/2026/01/02/rollout-1.jsonl", lines(CODEX)),
        ("chatgpt", "conversations.json", json.dumps([CHATGPT])),
    ]:
        folder = tmp_path / kind
        (folder / name).parent.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
        (folder / name).write_text(text)
        assert recognise_kind(folder) == kind


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"Dear diary,",
        b"[]",
        b"{}",
        b"[1, 2]",
        b'{"id": 1}',
        b"---\ntitle: Hi\n---\nconvstore: no\n",
        b"PK\x03\x04",
        b"SQLite format 3\0",
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xff\xd8\xff",
    ],
)
def test_what_no_kind_fits_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(InvalidInput) as caught:
            recognise_kind(source)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.json' cannot be opened: No such file or directory$"):
        recognise_kind(tmp_path / "none.json")
    with pytest.raises(InvalidInput, match="is of no kind that can be imported"):
        recognise_kind(tmp_path)
    assert {kind for kind, _ in SAMPLES} | {"llm", "aichat", "mods"} == set(KINDS)


def try_to_recognise(source: bytes | Path) -> bool:
    try:
        return recognise_kind(source) in KINDS
    except InvalidInput as error:
        return "\n" in str(error) and pytest.fail(f"more than a line: {error}")


def test_damaged_files_are_recognised_or_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writing:
        writing.writestr("conversations.json", json.dumps([CHATGPT]))
    files = [text.encode() for _, text in SAMPLES if len(text) < SNIFFED_BYTES]
    files += [archive.read_bytes(), gzip.compress(files[0]), (DATA / "llm-0.31.db.gz").read_bytes()]
    files += [gzip.decompress(files[-1])]
    path = tmp_path / "file"
    chance = random.Random(3)
    recognised = 0
    for seed in range(600):
        data = damage(chance.choice(files), seed)
        path.write_bytes(data)
        for source in (data[:SNIFFED_BYTES], path):
            recognised += try_to_recognise(source)
    assert recognised > 200


def test_json_with_values_of_other_types_is_recognised_or_refused() -> None:
    texts = [text for _, text in SAMPLES if len(text) < SNIFFED_BYTES]
    whole = [text.encode() for text in texts if all(map(is_json, text.splitlines()))]
    assert len(whole) > 10
    for seed in range(900):
        try_to_recognise(change_values(whole[seed % len(whole)], seed))


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
