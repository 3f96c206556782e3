"""Test the reader of ChatGPT's export with samples in its form."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from convstore.transfer.chatgpt_export import MAX_IMAGE_BYTES, read_chatgpt_export
from convstore.transfer.export_files import open_export_files
from convstore.transfer.imported import ImportedConversation, Problem
from tests.transfer.reading import (
    check_damaged,
    check_odd_values,
    check_whole,
    draw,
    make_zip,
    read_bytes,
    read_json,
    read_one,
)

START = 1_756_000_000.5
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
JPEG = b"\xff\xd8\xff\xe0" + bytes(20)


def text(*parts: Any) -> dict[str, Any]:
    return {"content_type": "text", "parts": list(parts)}


def message(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    author = {"role": role, "name": fields.pop("name", None), "metadata": {}}
    return {
        "id": "not the node's",
        "author": author,
        "create_time": START,
        "update_time": None,
        "content": content,
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": {},
        "recipient": "all",
        **fields,
    }


def make(nodes: dict[str, tuple[str | None, Any]], current: str | None, **fields: Any) -> dict[str, Any]:
    """Return a conversation; each node has a parent and a message."""
    mapping = {
        id_: {
            "id": id_,
            "message": said,
            "parent": parent,
            "children": [other for other, (above, _) in nodes.items() if above == id_],
        }
        for id_, (parent, said) in nodes.items()
    }
    return {
        "title": "Sample",
        "create_time": START,
        "update_time": START + 60,
        "mapping": mapping,
        "moderation_results": [],
        "current_node": current,
        "conversation_id": "c1",
        "default_model_slug": "gpt-4o",
        "is_archived": False,
        "id": "c1",
        **fields,
    }


def branched() -> dict[str, Any]:
    return make(
        {
            "root": (None, None),
            "sys": ("root", message("system", text(""), weight=0.0)),
            "ctx": (
                "sys",
                message(
                    "user",
                    {"content_type": "user_editable_context", "user_profile": "An SRE.", "user_instructions": "Short."},
                    metadata={"is_visually_hidden_from_conversation": True},
                ),
            ),
            "u1": ("ctx", message("user", text("Hello"))),
            "a1": ("u1", message("assistant", text("Hi."), metadata={"model_slug": "gpt-4o"})),
            "a1b": ("u1", message("assistant", text("Hey."), metadata={"model_slug": "o3"}, create_time=START + 1)),
            "u2": ("a1b", message("user", text("More", " please"))),
            "u2b": ("a1", message("user", text("Less"))),
            "a2": ("u2", message("assistant", text("More."))),
        },
        "a2",
    )


def odd_contents() -> dict[str, Any]:
    return make(
        {
            "u": (None, message("user", text("Search it"))),
            "th": (
                "u",
                message(
                    "assistant",
                    {
                        "content_type": "thoughts",
                        "thoughts": [{"summary": "Plan", "content": "I look it up.", "chunks": [], "finished": True}],
                        "source_analysis_msg_id": "x",
                    },
                ),
            ),
            "call": (
                "th",
                message(
                    "assistant", {"content_type": "code", "language": "python", "text": "1 + 1"}, recipient="python"
                ),
            ),
            "out": ("call", message("tool", {"content_type": "execution_output", "text": "2"}, name="python")),
            "web": (
                "out",
                message(
                    "tool",
                    {"content_type": "tether_browsing_display", "result": "L1: news", "summary": "", "assets": None},
                    name="browser",
                ),
            ),
            "quote": (
                "web",
                message(
                    "tool",
                    {
                        "content_type": "tether_quote",
                        "url": "https://example.com",
                        "domain": "example.com",
                        "text": "A quote",
                        "title": "Example",
                    },
                    name="browser",
                ),
            ),
            "err": ("quote", message("tool", {"content_type": "system_error", "name": "E", "text": "failed"})),
            "new": ("err", message("assistant", {"content_type": "hologram", "beams": 3})),
            "recap": ("new", message("assistant", {"content_type": "reasoning_recap", "content": "Thought for 14s"})),
            "a": ("recap", message("assistant", text("Two."))),
        },
        "a",
    )


def pictures(pointer: str = "file-service://file-AbC1") -> dict[str, Any]:
    parts = [{"content_type": "image_asset_pointer", "asset_pointer": pointer, "width": 1, "height": 1}, "What is it?"]
    attachments = [
        {"id": "file-AbC1", "name": "cat.png", "mime_type": "image/png"},
        {"id": "file-9", "name": "notes.pdf", "mime_type": "application/pdf"},
    ]
    voice = [
        {"content_type": "audio_transcription", "text": "Say it", "direction": "in"},
        {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://file_0001", "format": "wav"},
        {
            "content_type": "real_time_user_audio_video_asset_pointer",
            "frames_asset_pointers": [],
            "audio_asset_pointer": {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://file_0002"},
        },
    ]
    return make(
        {
            "u": (
                None,
                message(
                    "user", {"content_type": "multimodal_text", "parts": parts}, metadata={"attachments": attachments}
                ),
            ),
            "a": ("u", message("assistant", text("A cat."))),
            "v": ("a", message("user", {"content_type": "multimodal_text", "parts": voice})),
        },
        "v",
    )


def test_the_tree_follows_parents_and_keeps_every_branch() -> None:
    read = read_one(read_chatgpt_export, [branched()])

    assert draw(read) == [
        ("u1", None, "user", "Hello"),
        ("a1", "u1", "assistant", "Hi."),
        ("u2b", "a1", "user", "Less"),
        ("a1b", "u1", "assistant", "Hey."),
        ("u2", "a1b", "user", "More\n please"),
        ("a2", "u2", "assistant", "More."),
    ]
    assert (read.id, read.head, read.title, read.model) == ("c1", "a2", "Sample", "gpt-4o")
    assert [said.model for said in read.messages if said.model] == ["gpt-4o", "o3"]
    assert read.created_at == datetime(2025, 8, 24, 1, 46, 40, 500_000, UTC)
    assert read.notes == ["hidden messages were left out: 1 user"]


def test_odd_contents_are_shown_by_name_and_kept_raw() -> None:
    read = read_one(read_chatgpt_export, [odd_contents()])

    assert [(said.id, said.message["content"]) for said in read.messages] == [
        ("u", "Search it"),
        ("th", "[thoughts]"),
        ("call", "[to python]\n```python\n1 + 1\n```"),
        ("out", "[tool python]\n[execution_output]\n2"),
        ("web", "[tool browser]\n[tether_browsing_display]\nL1: news"),
        ("quote", "[tool browser]\n[tether_quote]\nExample\nhttps://example.com\nA quote"),
        ("err", "[tool]\n[system_error]\nE\nfailed"),
        ("new", "[hologram]"),
        ("recap", "[reasoning_recap]\nThought for 14s"),
        ("a", "Two."),
    ]
    kept = {
        said.id: said.message["convstore_imported"] for said in read.messages if "convstore_imported" in said.message
    }
    assert set(kept) == {"th", "web", "quote", "err", "new", "recap"}
    assert kept["new"] == {"content_type": "hologram", "beams": 3}
    assert read.messages[1].message["reasoning_content"] == "Plan\nI look it up."
    assert {said.message["role"] for said in read.messages} == {"user", "assistant"}


@pytest.mark.parametrize(
    ("pointer", "name"),
    [
        ("file-service://file-AbC1", "file-AbC1-cat.png"),
        ("file-service://file-AbC1", "user-x/file-AbC1.dat"),
        ("sediment://file_00ab", "file_00ab-sanitized.png"),
        ("sediment://file_00ab#page", "dalle-generations/file_00ab-1234.webp.png"),
    ],
)
def test_an_image_of_the_zip_becomes_a_data_url(pointer: str, name: str) -> None:
    files = {
        "conversations.json": json.dumps([pictures(pointer)]).encode(),
        "file-AbC12-other.png": JPEG,
        "file_00abc.png": JPEG,
        name: PNG,
    }

    (read,) = read_bytes(read_chatgpt_export, make_zip(files))

    assert isinstance(read, ImportedConversation)
    check_whole(read)
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert read.messages[0].message == {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "What is it?"},
            {"type": "text", "text": "[file notes.pdf]"},
        ],
    }
    assert read.messages[2].message["content"] == "Say it\n[audio file_0001]\n[audio file_0002]"
    assert read.notes == ["files were left out: 1 files that messages name"]


def test_an_image_that_is_a_data_url_already_is_taken() -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()

    first, *_ = read_one(read_chatgpt_export, [pictures(url)]).messages

    assert first.message["content"][0] == {"type": "image_url", "image_url": {"url": url}}


def test_an_image_that_is_missing_too_large_or_damaged_is_named() -> None:
    (missing,) = read_json(read_chatgpt_export, [pictures()])
    large = {"conversations.json": json.dumps([pictures()]).encode(), "file-AbC1.png": PNG + bytes(MAX_IMAGE_BYTES)}
    (too_large,) = read_bytes(read_chatgpt_export, make_zip(large, compression=0))

    assert isinstance(missing, ImportedConversation)
    assert isinstance(too_large, ImportedConversation)
    assert missing.messages[0].message["content"] == "[image file-AbC1]\nWhat is it?\n[file notes.pdf]"
    assert too_large.messages[0].message["content"] == "[image file-AbC1]\nWhat is it?\n[file notes.pdf]"
    assert "1 images that the export does not have" in missing.notes[0]
    assert "larger than 20 MiB, or 64 MiB in a conversation" in too_large.notes[0]


def test_a_folder_and_shards_are_read_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        sample = {**branched(), "conversation_id": f"c{number}", "id": f"c{number}"}
        (tmp_path / f"conversations-00{number}.json").write_text(json.dumps([sample]))
    (tmp_path / "shared_conversations.json").write_text("[{}]")
    (tmp_path / "user.json").write_text("{}")

    with open_export_files(tmp_path) as files:
        read = list(read_chatgpt_export(files))

    assert [result.id for result in read if isinstance(result, ImportedConversation)] == ["c0", "c1"]
    assert len(read) == 2


def test_one_conversation_alone_and_a_list_in_an_object_are_read_too() -> None:
    assert read_one(read_chatgpt_export, branched()).id == "c1"
    assert read_one(read_chatgpt_export, {"meta": {}, "conversations": [branched()]}).id == "c1"


@pytest.mark.parametrize("time", [START, START * 1000, None, "2025-08-24T01:46:40.500Z"])
def test_times_are_seconds_milliseconds_or_missing(time: Any) -> None:
    sample = make({"u": (None, message("user", text("Hi"), create_time=time))}, "u", create_time=time)

    read = read_one(read_chatgpt_export, [sample])

    expected = None if time is None else datetime(2025, 8, 24, 1, 46, 40, 500_000, UTC)
    assert (read.created_at, read.messages[0].created_at) == (expected, expected)


def test_cycles_dangling_parents_and_null_nodes_are_survived() -> None:
    sample = make(
        {
            "a": ("b", message("user", text("in a cycle"))),
            "b": ("a", message("assistant", text("in it too"))),
            "lost": ("nowhere", message("user", text("dangling"))),
            "self": ("self", message("user", text("its own parent"))),
        },
        "gone",
    )
    sample["mapping"]["null"] = None

    read = read_one(read_chatgpt_export, [sample])

    assert draw(read) == [
        ("lost", None, "user", "dangling"),
        ("a", None, "user", "in a cycle"),
        ("b", "a", "assistant", "in it too"),
        ("self", None, "user", "its own parent"),
    ]
    assert read.notes == [
        "1 messages follow a message that is not in the file; each begins a path",
        "2 cycles of messages that follow each other were cut",
        "the end of the current path is not in the file; the newest message is taken",
    ]


def test_a_current_node_without_a_message_leads_to_the_one_before_it() -> None:
    sample = make({"u": (None, message("user", text("Hi"))), "end": ("u", None)}, "end")

    assert read_one(read_chatgpt_export, [sample]).head == "u"


def test_a_bad_conversation_is_a_problem_and_the_others_are_read() -> None:
    other = {**branched(), "conversation_id": "c2"}
    good, bad, twin = json.dumps(branched()), '{"title": "x", "mapping": {"a": tru}}', json.dumps(other)

    first, second, third = read_bytes(read_chatgpt_export, f"[{good}, {bad}, {twin}]".encode())

    assert isinstance(first, ImportedConversation)
    assert isinstance(second, Problem)
    assert (second.place, second.reason.split(";")[0]) == ("sample, conversation 2", "it is not JSON: expecting value")
    assert isinstance(third, ImportedConversation)
    assert third.id == "c2"


def test_what_is_no_conversation_is_a_problem() -> None:
    empty = make({}, None)
    problems = read_json(read_chatgpt_export, [{"title": "no mapping"}, 7, empty, branched(), branched()])

    assert [result.reason for result in problems if isinstance(result, Problem)] == [
        "it is not a conversation: it has no `mapping`",
        "it is not a conversation: it has no `mapping`",
        "it has no messages",
        'the conversation "c1" is in the export twice; the first one is taken',
    ]


def test_a_long_path_needs_no_recursion() -> None:
    nodes: dict[str, tuple[str | None, Any]] = {
        str(number): (str(number - 1) if number else None, message("user", text("Hi"))) for number in range(2000)
    }

    assert len(read_one(read_chatgpt_export, [make(nodes, "1999")]).messages) == 2000


def samples() -> list[dict[str, Any]]:
    made = [branched(), odd_contents(), pictures(), branched()]
    return [{**sample, "conversation_id": f"c{number}"} for number, sample in enumerate(made)]


def test_damaged_json_gives_problems_and_whole_conversations() -> None:
    check_damaged(read_chatgpt_export, json.dumps(samples()).encode(), seed=1)


def test_a_damaged_zip_gives_problems_and_whole_conversations() -> None:
    files = {"conversations.json": json.dumps(samples()).encode(), "file-AbC1.png": PNG}
    check_damaged(read_chatgpt_export, make_zip(files), seed=2)
    check_damaged(read_chatgpt_export, make_zip(files, compression=0), seed=3)


def test_values_of_other_types_give_problems_and_whole_conversations() -> None:
    check_odd_values(read_chatgpt_export, samples(), seed=4)
