"""Test that the Markdown of an export reads well, and comes back exactly."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.transfer.imported import ImportedConversation, Problem
from convstore.transfer.markdown_transcript import read_markdown_transcript
from convstore.transfer.reading import open_conversations
from convstore.transfer.writers.markdown_writer import write_markdown
from convstore.values.exported import ExportedConversation
from convstore.values.results import TurnStatus
from tests.pure.round_trip import is_same_json
from tests.transfer.damage import check_damaged, check_whole, read_all
from tests.transfer.exported import (
    BEGIN,
    CALL,
    HELLO,
    HI,
    PHOTO,
    RESULT,
    any_tree,
    join,
    keep_path,
    list_read,
    list_written,
    make_exported,
    make_path,
    read_crosswoz,
    read_mt_bench,
)


def read(data: bytes) -> list[ImportedConversation]:
    return read_all(read_markdown_transcript(io.BytesIO(data)))


def round_trip(*exported: ExportedConversation) -> list[ImportedConversation]:
    return read(join(write_markdown(exported)))


def check_same(exported: ExportedConversation, found: ImportedConversation) -> None:
    assert is_same_json(list_read(found), list_written(exported))
    on_path = [str(one.record.seq) for one in exported.messages if one.on_path]
    assert found.id == exported.conversation.id
    assert found.title == (exported.conversation.given_title or None)
    if on_path:
        assert (found.head, found.notes) == (on_path[-1], [])
    else:
        assert found.notes == ["its path is empty; its last message is the head now"]


def test_a_chat_reads_well() -> None:
    exported = make_exported(
        [(0, HELLO), (1, HI), (1, {"role": "assistant", "content": "Hello!"}), (2, CALL), (4, RESULT)],
        models={2: "gpt-4o", 3: "gpt-4o"},
        ratings={2: "good"},
        statuses={2: TurnStatus.COMPLETED, 3: TurnStatus.INTERRUPTED},
        title='The "sky" <b>',
        name="sky",
        tags=("blue", "old"),
        metadata={"a": 1},
    )

    text = join(write_markdown([exported])).decode()

    assert text == (
        """---
convstore: 1
id: "chat"
title: "The \\"sky\\" <b\\u003e"
name: "sky"
tags: ["blue", "old"]
metadata: {"a": 1}
created_at: 2026-01-02T03:04:05.678901+00:00
---

# The "sky" <b>

<!-- convstore: {"message": 1, "role": "user", "created_at": "2026-01-02T03:05:05.678901+00:00"} -->
## User

Hello

<!-- convstore: {"message": 2, "role": "assistant", "model": "gpt-4o", "rating": "good", "note": "so it is", """
        """"created_at": "2026-01-02T03:06:05.678901+00:00"} -->
## Assistant · gpt-4o · rated good

Hi

<!-- convstore: {"message": 4, "role": "assistant", "preview": true, "fields": {"tool_calls": [{"id": "c1", """
        """"type": "function", "function": {"name": "look", "arguments": "{\\"at\\": \\"sky\\"}"}}], """
        """"content": null}, "created_at": "2026-01-02T03:08:05.678901+00:00"} -->
## Assistant

calls `look({"at": "sky"})`

<!-- convstore: {"message": 5, "role": "tool", "fields": {"tool_call_id": "c1"}, """
        """"created_at": "2026-01-02T03:09:05.678901+00:00"} -->
## Tool

blue

<!-- convstore: other branches -->
# Other branches

<!-- convstore: {"message": 3, "parent": 1, "role": "assistant", "model": "gpt-4o", "status": "interrupted", """
        """"created_at": "2026-01-02T03:07:05.678901+00:00"} -->
## Assistant · gpt-4o · interrupted

Hello!

<!-- convstore: end, 5 messages -->
"""
    )
    (found,) = read(text.encode())
    check_same(exported, found)
    assert found.metadata == {"name": "sky", "tags": ["blue", "old"], "a": 1}
    assert found.created_at == BEGIN
    assert [one.created_at for one in found.messages] == [
        exported.messages[seq - 1].record.created_at for seq in (1, 2, 4, 5, 3)
    ]
    assert [one.model for one in found.messages] == [None, "gpt-4o", None, None, "gpt-4o"]


TEXTS = [
    "",
    "\n",
    "\n\na\n\n\n",
    "  a  \n\tb \n ",
    "a\r\nb\rc",
    "a\0b",
    "half \ud83d of it",
    "\x1b[2J\x9b",
    "---\nconvstore: 1\nid: x\n---\n",
    "---",
    "\\convstore: 1\nconvstore: 2",
    '<!-- convstore: {"message": 1, "role": "user"} -->\n## User\n\nNo.',
    "\\<!-- convstore: end, 1 message -->\n\\\\<!-- convstore: x",
    "<!-- convstore: fields -->\n```json\n{}\n```",
    "## User\n\n## Assistant",
    "```python\nprint(1)",
    "```\na\n~~~\nb",
    "````\n```\n",
    "~~~~ text\n```\n~~~",
    "<!-- open",
    "<details>",
    "\u2028\u0085\v\f\ufeff",
    "中文，😀",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("extra", [{}, {"x": "long " * 100}])
def test_every_text_comes_back_exactly(text: str, extra: dict[str, Any]) -> None:
    exported = make_path(
        {"role": "user", "content": text, **extra}, {"role": "assistant", "content": text, **extra}, HI
    )

    (found,) = round_trip(exported)

    check_same(exported, found)


def test_a_block_of_code_that_a_text_leaves_open_does_not_swallow_what_follows() -> None:
    data = join(write_markdown([make_path({"role": "user", "content": "````sh\n```\nls"}, HI)]))

    assert b"\n```\nls\n````\n\n<!--" in data


def test_no_message_drives_a_terminal() -> None:
    odd = "\x1b[2J\x9b\x7f\0\r"
    data = join(
        write_markdown([make_path({"role": odd, "name": odd, "content": odd, odd: odd}, title=odd, id=odd)])
    ).decode()

    assert [one for one in data if one != "\n" and (ord(one) < 32 or 127 <= ord(one) < 160)] == []


@settings(max_examples=60, deadline=None)
@given(st.lists(any_tree(), min_size=1, max_size=3))
def test_random_trees_of_any_messages_come_back_exactly(exported: list[ExportedConversation]) -> None:
    found = round_trip(*exported)

    assert len(found) == len(exported)
    for one, other in zip(exported, found, strict=True):
        check_same(one, other)


@settings(max_examples=30, deadline=None)
@given(any_tree(), st.text(), st.text(min_size=1))
def test_the_path_alone_comes_back_with_any_title_and_id(tree: ExportedConversation, title: str, id: str) -> None:
    path = keep_path(tree)
    exported = replace(path, conversation=replace(path.conversation, title=title, id=id))
    if exported.messages:
        (found,) = round_trip(exported)
        check_same(exported, found)
    else:
        (problem,) = read_markdown_transcript(io.BytesIO(join(write_markdown([exported]))))
        assert isinstance(problem, Problem)
        assert problem.reason == "has no messages"


def test_the_data_sets_come_back_equal(shared_data: Path) -> None:
    exported = [*read_crosswoz(shared_data), *read_mt_bench(shared_data)]

    found = round_trip(*exported)

    assert len(found) == len(exported) == 580
    for one, other in zip(exported, found, strict=True):
        check_same(one, other)


def test_a_file_is_recognised_and_read_by_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "chats"
    path.write_bytes(join(write_markdown([make_path(HELLO, HI), make_path(HELLO, PHOTO, id="other")])))

    with open_conversations(path) as opened:
        found = read_all(opened.conversations)

    assert opened.kind == "markdown"
    assert [(one.id, len(one.messages)) for one in found] == [("chat", 2), ("other", 2)]


def test_what_a_person_changed_is_read_as_it_stands() -> None:
    text = """---
tags:
  - blue
  - old
title: Of the sky: a chat
convstore: 1
---
# Anything

Words above the first message are not read.

<!-- convstore: {"role": "user"} -->
Is it blue?
<!-- convstore: {"role": "assistant", "message": 7} -->
## Anyone

It is. I added this.

<!-- convstore: {"role": "user", "message": 7} -->

Copied.

<!-- convstore: end, 9 messages -->
"""
    for data in (text, text.replace("\n", "\r\n")):
        (found,) = read(data.encode())
        assert (found.title, found.metadata) == ("Of the sky: a chat", {"tags": ["blue", "old"]})
        assert [one.message["content"] for one in found.messages] == ["Is it blue?", "It is. I added this.", "Copied."]
        assert [one.parent for one in found.messages] == [None, found.messages[0].id, "7"]
        assert found.notes == ["it has 3 messages, and its end says 9: it was changed or damaged"]


WHOLE = join(write_markdown([make_path(HELLO, HI), make_path(HELLO, HI, id="second")])).decode()


@pytest.mark.parametrize(
    ("old", "new", "problems"),
    [
        ("<!-- convstore: end, 2 messages -->", "", [("line 1", "the conversation has no end; the file may be cut")]),
        (
            '{"message": 1, "role": "user"',
            '{"message": 1',
            [("line 10", "its comment does not name the role")],
        ),
        ('{"message": 1,', "{{", [("line 10", "its comment is not JSON")]),
        ("convstore: 1", "convstore: 2", [("line 1", "is written in form 2; this release reads form 1")]),
        ('"role": "user"', '"parent": 5, "role": "user"', [("line 10", "it follows message 5, which does not come")]),
        ("\nHello", "\n<!-- convstore: fields -->\n```json\n{", [("line 10", "the block of its other fields is not")]),
        (
            '"role": "user"',
            '"role": "user", "fields": {"role": "x"}',
            [("line 10", "its text or its role is given")],
        ),
        ("---\nconvstore", "Dear\n---\nconvstore", [("line 1", "it is in no conversation that convstore wrote")]),
    ],
)
def test_what_is_damaged_is_a_problem_and_the_rest_is_read(old: str, new: str, problems: list[tuple[str, str]]) -> None:
    results = list(check_whole(read_markdown_transcript(io.BytesIO(WHOLE.replace(old, new, 1).encode()))))

    found = [one for one in results if isinstance(one, Problem)]
    assert [one.place for one in found] == [f"standard input, {place}" for place, _ in problems]
    assert all(one.reason.startswith(reason) for one, (_, reason) in zip(found, problems, strict=True)), found
    read_whole = [one.id for one in results if isinstance(one, ImportedConversation)]
    assert read_whole[-1:] == ["second"]


def test_what_is_not_utf_8_is_a_problem_with_its_line() -> None:
    results = list(read_markdown_transcript(io.BytesIO(WHOLE.encode().replace(b"Hello", b"Hel\xfflo", 1))))

    assert results[0] == Problem("standard input, line 13", "is not UTF-8 at byte 4")
    assert isinstance(results[1], ImportedConversation)


def test_damaged_files_give_problems_and_whole_conversations(tmp_path: Path) -> None:
    long = {"role": "assistant", "content": "text", "x": {"y": ["z" * 50] * 20}}
    tree = make_exported([(0, HELLO), (1, long), (1, HI), (3, PHOTO)], ratings={2: "bad"})
    data = join(write_markdown([tree, make_path(HELLO, CALL, RESULT, HI, id="second"), make_path(HELLO, HI, id="3")]))

    problems, conversations = check_damaged(tmp_path / "chat.md", data, read_markdown_transcript)

    assert problems > 100
    assert conversations > 200


def test_a_conversation_that_is_too_long_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convstore.transfer.markdown_transcript.MAX_CONVERSATION_BYTES", 2**16)
    long = make_path({"role": "user", "content": "x" * 100 + "\n" + "y\n" * 2**16})
    one_line = make_path({"role": "user", "content": "z" * 3 * 2**16})

    results = list(
        read_markdown_transcript(io.BytesIO(join(write_markdown([long, one_line, make_path(HELLO, id="last")]))))
    )

    assert [one.reason if isinstance(one, Problem) else one.id for one in results] == [
        "the conversation is longer than 0 MB",
        "the conversation is longer than 0 MB",
        "last",
    ]
