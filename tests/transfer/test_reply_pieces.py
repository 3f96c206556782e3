"""Test how a reply with tool calls becomes messages of Chat Completions."""

from typing import Any

from convstore.transfer.reply_pieces import ReplyText, ToolCall, ToolResult, split_reply, to_tool_name


def summarize(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (m["role"], m["content"], *[call["function"]["name"] for call in m.get("tool_calls", ())]) for m in messages
    ]


def test_calls_side_by_side_share_a_message() -> None:
    messages = split_reply(
        [
            ReplyText("I look."),
            ToolCall("a", {}, "1"),
            ToolCall("b", {}, "2"),
            ToolResult("B", call_id="2"),
            ToolResult("A", call_id="1"),
            ReplyText("Found."),
        ],
        "m",
    )

    assert summarize(messages) == [
        ("assistant", "I look.", "a", "b"),
        ("tool", "A"),
        ("tool", "B"),
        ("assistant", "Found."),
    ]


def test_a_call_without_a_result_and_a_result_without_a_call_become_text() -> None:
    messages = split_reply(
        [ToolCall("a", {"x": 1}, "1"), ReplyText("Next."), ToolResult("late", "a", "9"), ToolResult("?")], "m"
    )

    assert summarize(messages) == [
        ("assistant", "Next.\n\n[tool result a]\nlate", "a"),
        ("tool", "?"),
    ]
    assert summarize(split_reply([ReplyText("Hm"), ToolCall("a", {"x": 1})], "m")) == [
        ("assistant", 'Hm\n\n[tool call a]\n{"x": 1}')
    ]


def test_calls_get_ids_that_apis_accept() -> None:
    pieces = [ToolCall("a", {}, "same"), ToolCall("a", {}, "same"), ToolCall("a", {}), ToolCall("a", {}, "x" * 50)]
    results = [ToolResult("1", "a"), ToolResult("2", "a"), ToolResult("3", "a"), ToolResult("4", "a")]

    first, *answers = split_reply([*pieces, *results], "m")

    ids = [call["id"] for call in first["tool_calls"]]
    assert ids[0] == "same"
    assert len(set(ids)) == 4
    assert all(len(id_) <= 40 for id_ in ids)
    assert [answer["tool_call_id"] for answer in answers] == ids
    assert [answer["content"] for answer in answers] == ["1", "2", "3", "4"]


def test_arguments_are_the_text_of_an_object() -> None:
    for given, expected in (
        ('{"a":  1}', '{"a":  1}'),
        ("print(1)", '{"input": "print(1)"}'),
        ([1], '{"input": [1]}'),
        (None, "{}"),
        ("", "{}"),
        ({"ü": 1e999}, '{"ü": "inf"}'),
    ):
        (message, _) = split_reply([ToolCall("f", given), ToolResult("")], "m")
        assert message["tool_calls"][0]["function"]["arguments"] == expected


def test_names_of_tools_have_the_characters_that_apis_accept() -> None:
    assert to_tool_name("web.search 天") == "web_search__"
    assert to_tool_name("") == "tool"
    assert len(to_tool_name("x" * 100)) == 64


def test_a_reply_of_nothing_is_no_message() -> None:
    assert split_reply([ReplyText(" "), ReplyText("", "reasoning")], "m") == []
    assert split_reply([ReplyText("why", "reasoning")], "m") == [
        {"role": "assistant", "content": "", "reasoning_content": "why"}
    ]
