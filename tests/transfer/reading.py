"""Read samples, draw what was read, and damage them."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from convstore.messages.codec import encode
from convstore.messages.message import to_message
from convstore.messages.sendable import Outgoing, make_sendable
from convstore.transfer.export_files import ExportFiles, open_export_files
from convstore.transfer.imported import ImportedConversation, Problem
from tests.pure.strict_request import find_faults

Read = Callable[[ExportFiles], Iterator[ImportedConversation | Problem]]

ODD_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1e300,
    10**400,
    "",
    "x",
    "\0",
    "\ud800",
    [],
    [None],
    {},
    {"a": [1, {"b": None}]},
    "00000000-0000-4000-8000-000000000000",
]


def read_bytes(read: Read, data: bytes) -> list[ImportedConversation | Problem]:
    with open_export_files(io.BytesIO(data), "sample") as files:
        return list(read(files))


def read_json(read: Read, value: Any) -> list[ImportedConversation | Problem]:
    return read_bytes(read, json.dumps(value).encode())


def read_one(read: Read, value: Any) -> ImportedConversation:
    (conversation,) = read_json(read, value)
    assert isinstance(conversation, ImportedConversation), conversation
    check_whole(conversation)
    return conversation


def make_zip(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return made.getvalue()


def draw(conversation: ImportedConversation) -> list[tuple[str, str | None, str, Any]]:
    """Return the id, the parent, the role and the content of each message."""
    return [(m.id, m.parent, m.message["role"], m.message["content"]) for m in conversation.messages]


def check_whole(read: ImportedConversation) -> None:
    """Check that a conversation is a tree of messages that can be stored."""
    known: set[str] = set()
    assert read.id
    assert read.messages
    for message in read.messages:
        assert message.id not in known
        assert message.parent is None or message.parent in known
        known.add(message.id)
        exact = to_message(message.message)
        assert exact == message.message
        encode(exact)
        assert exact["role"] in ("system", "user", "assistant", "tool")
        assert _has_tz(message.created_at)
    assert read.head in known
    assert _has_tz(read.created_at)
    assert len(json.dumps(dict(read.metadata))) < 10_000
    assert all("\n" not in note for note in read.notes)
    assert read.title is None or (read.title and "\n" not in read.title)
    _check_calls(read)
    _check_sending(read)


def _has_tz(time: datetime | None) -> bool:
    return time is None or time.tzinfo is not None


def _check_calls(read: ImportedConversation) -> None:
    """Check that the results of a reply's calls follow it, in the order of the calls."""
    expected: dict[str, list[str]] = {}  # the calls that wait for a result after each message
    for message in read.messages:
        waiting = expected.get(message.parent, []) if message.parent is not None else []
        if message.message["role"] == "tool":
            assert waiting[:1] == [message.message["tool_call_id"]]
            waiting = waiting[1:]
        else:
            assert not waiting
            waiting = [call["id"] for call in message.message.get("tool_calls", [])]
        if waiting:
            expected[message.id] = waiting
    parents = {message.parent for message in read.messages}
    assert set(expected) <= parents


def _check_sending(read: ImportedConversation) -> None:
    """Check that the strictest server accepts the messages of every path."""
    by_id = {message.id: message for message in read.messages}
    parents = {message.parent for message in read.messages}
    for leaf in read.messages:
        path: list[Outgoing] = []
        at: str | None = leaf.id if leaf.id not in parents else None
        while at is not None:
            message = by_id[at]
            role = message.message["role"]
            path.append(Outgoing(dict(message.message), len(path) + 1, is_reply=role == "assistant"))
            at = message.parent
        faults = find_faults(make_sendable(path[::-1]).messages)
        # People do write twice before they are answered.
        assert [fault for fault in faults if "two messages of a user in a row" not in fault] == []


def check_problem(problem: Problem) -> None:
    assert problem.place
    assert problem.reason
    assert "\n" not in problem.reason
    assert not problem.reason.endswith(".")


def check_damaged(read: Read, data: bytes, seed: int, times: int = 300) -> None:
    """Check that damaged bytes give only problems and whole conversations."""
    dice = random.Random(seed)
    for _ in range(times):
        for result in read_bytes(read, damage_bytes(data, dice)):
            if isinstance(result, Problem):
                check_problem(result)
            else:
                check_whole(result)


def check_odd_values(read: Read, value: Any, seed: int, times: int = 300) -> None:
    """Check that values of other types give only problems and conversations."""
    dice = random.Random(seed)
    for _ in range(times):
        for result in read_json(read, damage_value(value, dice)):
            if isinstance(result, Problem):
                check_problem(result)
            else:
                check_whole(result)


def damage_bytes(data: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 3, 20))):
        at = dice.randrange(len(damaged)) if damaged else 0
        match dice.randrange(5):
            case 0:
                del damaged[at:]
            case 1:
                del damaged[at : at + dice.randrange(1, 40)]
            case 2 if damaged:
                damaged[at] ^= 1 << dice.randrange(8)
            case 3:
                damaged[at:at] = dice.randbytes(dice.randrange(1, 8))
            case 4:
                damaged[at : at + 1] = dice.choice((b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\0", b"1e999", b"NaN"))
    return bytes(damaged)


def damage_value(value: Any, dice: random.Random) -> Any:
    damaged = copy.deepcopy(value)
    for _ in range(dice.choice((1, 1, 2, 5))):
        places = list(_list_places(damaged))
        if not places:
            break
        holder, key = dice.choice(places)
        match dice.randrange(4):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1:
                other, other_key = dice.choice(places)
                holder[key] = copy.deepcopy(other[other_key])
            case _:
                holder[key] = copy.deepcopy(dice.choice(ODD_VALUES))
    return damaged


def _list_places(value: Any) -> Iterable[tuple[Any, Any]]:
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys: Iterable[Any] = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])
