"""Test the reader of Open WebUI's export with samples in its form."""

import html
import json
from datetime import UTC, datetime
from typing import Any

from convstore.transfer.imported import Problem
from convstore.transfer.open_webui_export import read_open_webui_export
from tests.transfer.reading import check_damaged, check_odd_values, draw, read_json, read_one

IMAGE = "data:image/png;base64,iVBORw0KGgo="


def say(role: str, id_: str, parent: str | None, children: list[str], content: Any, **fields: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "parentId": parent,
        "childrenIds": children,
        "role": role,
        "content": content,
        "timestamp": 1_700_000_000,
        **({"model": "llama3.1:latest", "done": True} if role == "assistant" else {}),
        **fields,
    }


def make(messages: list[dict[str, Any]], current: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "user_id": "u1",
        "title": "Sample",
        "chat": {
            "id": "",
            "title": "Sample",
            "models": ["llama3.1:latest"],
            "params": {},
            "history": {"currentId": current, "messages": {message["id"]: message for message in messages}},
            "messages": [],
            "tags": [],
            "timestamp": 1_700_000_000_000,
            "files": [],
        },
        "created_at": 1_700_000_000,
        "updated_at": 1_700_000_010,
        "share_id": None,
        "archived": False,
        "pinned": True,
        "meta": {"tags": ["maths"]},
        "folder_id": None,
        **fields,
    }


def branched() -> dict[str, Any]:
    return make(
        [
            say("user", "u1", None, ["a1b", "a1"], "Hello"),
            say("assistant", "a1", "u1", ["u2"], "Hi."),
            say("assistant", "a1b", "u1", [], "Hey.", model="qwen3"),
            say("user", "u2", "a1", ["a2"], "More"),
            say("assistant", "a2", "u2", [], "", done=False),
        ],
        "a2",
    )


def with_output() -> dict[str, Any]:
    output = [
        {
            "type": "reasoning",
            "id": "r",
            "status": "completed",
            "content": [{"type": "output_text", "text": "15 * 17 = 255"}],
            "summary": None,
        },
        {
            "type": "function_call",
            "id": "call_1",
            "call_id": "call_1",
            "name": "get_weather",
            "arguments": '{"city":"Paris"}',
            "status": "completed",
        },
        {
            "type": "function_call_output",
            "id": "fco",
            "call_id": "call_1",
            "output": [{"type": "input_text", "text": "18C"}],
            "status": "completed",
        },
        {"type": "open_webui:code_interpreter", "code": "1"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 18C."}]},
    ]
    made = make(
        [
            say(
                "user",
                "u",
                None,
                ["a"],
                "Weather?",
                files=[{"type": "image", "url": IMAGE}, {"type": "file", "name": "a.pdf"}],
            ),
            say("assistant", "a", "u", [], "<details>…</details>It is 18C.", output=output),
        ],
        "a",
    )
    made["chat"]["params"] = {"system": "Be brief.", "temperature": 1}
    return made


def with_details() -> dict[str, Any]:
    arguments = html.escape(json.dumps(json.dumps({"city": "Paris"})))
    result = html.escape(json.dumps("18C & rain"))
    content = (
        '<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 seconds</summary>\n'
        "&gt; Let me see.\n&gt; Yes.\n</details>\n"
        f'<details type="tool_calls" done="true" id="call_1" name="get_weather" arguments="{arguments}"'
        f' result="{result}" files="" embeds="">\n<summary>Tool Executed</summary>\n</details>\n'
        "It is 18C.\n<details><summary>More</summary>Rain.</details>"
    )
    return make(
        [
            say("user", "u", None, ["a"], "Weather?"),
            say("assistant", "a", "u", ["v"], content),
            say("user", "v", "a", ["b"], "And?"),
            say("assistant", "b", "v", [], "", error={"content": "model not found"}),
        ],
        "b",
    )


def old() -> dict[str, Any]:
    """Return a row as of 2023: messages in one list."""
    return {
        "id": "c1",
        "chat": {
            "title": "Old",
            "models": ["llama2"],
            "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi.", "done": True}],
        },
        "timestamp": 1_700_000_000,
    }


def test_the_tree_follows_parents_and_the_order_of_children() -> None:
    read = read_one(read_open_webui_export, [branched()])

    assert draw(read) == [
        ("u1", None, "user", "Hello"),
        ("a1b", "u1", "assistant", "Hey."),
        ("a1", "u1", "assistant", "Hi."),
        ("u2", "a1", "user", "More"),
    ]
    assert (read.id, read.title, read.head, read.model) == ("c1", "Sample", "u2", "llama3.1:latest")
    assert [said.model for said in read.messages] == [None, "qwen3", "llama3.1:latest", None]
    assert read.created_at == read.messages[0].created_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert read.metadata == {"pinned": True, "tags": ["maths"]}


def test_the_items_of_an_output_become_calls_and_results() -> None:
    read = read_one(read_open_webui_export, [with_output()])

    assert [said.message for said in read.messages] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Weather?"},
                {"type": "image_url", "image_url": {"url": IMAGE}},
                {"type": "text", "text": "[file a.pdf]"},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "15 * 17 = 255",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "18C"},
        {
            "role": "assistant",
            "content": "[open_webui:code_interpreter]\nIt is 18C.",
            "convstore_imported": {"output": [{"type": "open_webui:code_interpreter", "code": "1"}]},
        },
    ]
    assert [(said.id, said.parent) for said in read.messages] == [
        ("system-prompt", None),
        ("u", "system-prompt"),
        ("a/1", "u"),
        ("a/2", "a/1"),
        ("a", "a/2"),
    ]
    assert read.notes == ["left out: 1 files that the export does not have"]


def test_details_in_the_text_become_reasoning_calls_and_results() -> None:
    read = read_one(read_open_webui_export, [with_details()])

    assert [said.message for said in read.messages] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Let me see.\nYes.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "18C & rain"},
        {"role": "assistant", "content": "It is 18C.\n<details><summary>More</summary>Rain.</details>"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "[error]\nmodel not found"},
    ]


def test_many_open_details_take_no_time() -> None:
    content = "<details type='reasoning'>" * 200_000
    sample = make([say("assistant", "a", None, [], content)], "a")

    assert read_one(read_open_webui_export, [sample]).messages[0].message["content"] == content


def test_an_old_list_of_messages_is_one_path() -> None:
    first, second = read_one(read_open_webui_export, [old()]).messages

    assert (first.parent, second.parent) == (None, first.id)
    assert [first.message["content"], second.message["content"]] == ["Hello", "Hi."]


def test_what_is_no_chat_is_a_problem() -> None:
    results = read_json(read_open_webui_export, [{"id": "x"}, make([], None), branched(), branched(), None])

    assert [result.reason for result in results if isinstance(result, Problem)] == [
        "it is not a chat: it has no `history.messages` and no `messages`",
        "it has no messages",
        'the chat "c1" is in the export twice; the first one is taken',
        "it is not a chat: it has no `history.messages` and no `messages`",
    ]


def samples() -> list[dict[str, Any]]:
    made = [branched(), with_output(), with_details(), old()]
    return [{**sample, "id": f"c{number}"} for number, sample in enumerate(made)]


def test_damaged_json_gives_problems_and_whole_conversations() -> None:
    check_damaged(read_open_webui_export, json.dumps(samples()).encode(), seed=21)


def test_values_of_other_types_give_problems_and_whole_conversations() -> None:
    check_odd_values(read_open_webui_export, samples(), seed=22)
