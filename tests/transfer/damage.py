"""Damage files at random, and check what readers make of them."""

import copy
import json
import random
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from convstore.messages.message import to_message
from convstore.transfer.imported import ImportedConversation, Problem

TIMES = 300


def damage(data: bytes, seed: int) -> bytes:
    """Return the bytes with one to five pieces changed, cut out, doubled or put elsewhere."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 5)):
        if not data:
            return data
        at = chance.randrange(len(data))
        size = chance.choice([1, 1, 2, 10, 100, len(data)])
        piece = data[at : at + size]
        match chance.randrange(6):
            case 0:
                data = data[:at] + bytes(chance.randrange(256) for _ in piece[:100]) + data[at + size :]
            case 1:
                data = data[:at] + data[at + size :]
            case 2:
                data = data[:at] + piece[:1000] * 2 + data[at + size :]
            case 3:
                other = chance.randrange(len(data))
                data = data[:other] + piece[:1000] + data[other:]
            case 4:
                words = [b"null", b"0", b'""', b"[]", b"{}", b"\n", b'"', b"[[[[", b"1e999", b"NaN", b"\\ud800", b"\0"]
                data = data[:at] + chance.choice(words) + data[at:]
            case _:
                data = data[:at]
    return data


def overwrite(data: bytes, seed: int) -> bytes:
    """Return the bytes with some of them changed, and sometimes cut: a database with damaged pages."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.choice([1, 10, 100])):
        at = chance.randrange(100, len(changed))
        size = chance.choice([1, 4, 100])
        changed[at : at + size] = bytes(chance.randrange(256) for _ in changed[at : at + size])
    return bytes(changed[: chance.randrange(len(changed))] if seed % 10 == 0 else changed)


def check_whole(results: Iterable[ImportedConversation | Problem]) -> Iterator[ImportedConversation | Problem]:
    """Yield the results; fail if one is not a problem in one line or a whole conversation."""
    for result in results:
        if isinstance(result, Problem):
            assert result.place
            assert result.reason
            assert "\n" not in result.reason
        else:
            check_conversation(result)
        yield result


def check_conversation(conversation: ImportedConversation) -> None:
    """Fail if ids repeat, a parent does not come first, or a message is not one."""
    seen: set[str] = set()
    assert conversation.id
    assert conversation.messages
    for message in conversation.messages:
        assert message.id
        assert message.id not in seen
        assert message.parent is None or message.parent in seen
        assert to_message(message.message) == message.message
        assert message.created_at is None or isinstance(message.created_at, datetime)
        assert message.created_at is None or message.created_at.tzinfo is not None
        assert message.model is None or isinstance(message.model, str)
        seen.add(message.id)
    assert conversation.head is None or conversation.head in seen
    assert conversation.title is None or isinstance(conversation.title, str)
    assert all(isinstance(note, str) and "\n" not in note for note in conversation.notes)


def check_damaged(
    path: Path,
    data: bytes,
    read: Callable[[Path], Iterable[ImportedConversation | Problem]],
    change: Callable[[bytes, int], bytes] = damage,
) -> tuple[int, int]:
    """Read the file damaged in many ways; return how many problems and conversations came of it."""
    problems = conversations = 0
    for seed in range(TIMES):
        path.write_bytes(change(data, seed))
        for result in check_whole(read(path)):
            problems += isinstance(result, Problem)
            conversations += isinstance(result, ImportedConversation)
    return problems, conversations


def read_all(results: Iterable[ImportedConversation | Problem]) -> list[ImportedConversation]:
    """Return the conversations; fail if there is a problem."""
    found = []
    for result in check_whole(results):
        assert isinstance(result, ImportedConversation), result
        found.append(result)
    return found


def list_rows(conversation: ImportedConversation) -> list[tuple[str, str | None, object]]:
    """Return each message as its id, its parent and the message."""
    return [(message.id, message.parent, message.message) for message in conversation.messages]


def change_values(data: bytes, seed: int) -> bytes:
    """Return JSON Lines with some of their values replaced by ones of other types, or left out."""
    chance = random.Random(seed)
    lines = [json.loads(line) for line in data.splitlines() if line.strip()]
    for _ in range(chance.randint(1, 4)):
        at: Any = lines
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = chance.choice(keys)
            if not isinstance(at[key], (dict, list)) or not at[key] or (at is not lines and chance.random() < 0.3):
                if chance.random() < 0.2:
                    del at[key]
                else:
                    at[key] = copy.deepcopy(chance.choice(_VALUES))
                break
            at = at[key]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


_VALUES: list[Any] = [None, True, 0, -1.5, 10**40, "", "text", "\ud800", "\0", [], {}, [[]], [{}], {"a": []}, ["text"]]
