"""Test that any message has a token estimate that counts no base64 as text."""

import base64
import json
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore.messages import token_estimate
from convstore.messages.message import Message
from convstore.messages.request_form import to_request
from convstore.messages.token_counters import TokenCounter
from convstore.messages.token_estimate import estimate_json, estimate_message, estimate_text
from tests.pure.strategies import any_message, json_value
from tests.pure.strategies import text as odd_text

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


ALPHABETS = [
    "etaoinshrdlu ",
    "aZ_ .-/('\"<$#*é0",
    "中文，。的你 a1",
    "カタひらがな漢字",
    "안녕하세요 a",
    "привет мир",
    "नमस्ते ไทย",
    "😀👍🏽‍❤️\ud83d\ude00",
    '{}[]":,\n\t 0123456789',
    "\0\x1b\u202e\n \r",
]


prose = st.one_of([st.text(letters, max_size=60) for letters in ALPHABETS]) | odd_text | st.text(max_size=60)


def make_user_message(content: Any) -> Message:
    return {"role": "user", "content": content}


def make_base64(size: int) -> str:
    return base64.b64encode(bytes(range(256)) * (size // 256)).decode()


@quick
@given(any_message)
def test_every_message_that_the_codec_accepts_has_a_count_of_at_least_one(message: Message) -> None:
    count: TokenCounter = estimate_message

    assert isinstance(count(message), int)
    assert count(message) >= 1


@pytest.mark.parametrize(
    "message",
    [
        make_user_message(""),
        make_user_message(None),
        {"role": "user"},
        {"role": "tool", "tool_call_id": 7, "content": {"a": [None]}},
        {"role": "assistant", "tool_calls": "none", "function_call": [], "audio": "x"},
        {"role": "assistant", "tool_calls": [None, {}, {"function": None}, {"function": {"name": {}}}]},
        make_user_message(
            [None, "x", {}, {"type": 1}, {"type": []}, {"type": "text"}, {"type": "text", "text": 5}, {"type": "file"}]
        ),
        make_user_message(
            [{"type": "file", "file": {"file_data": 5}}, {"type": "input_audio", "input_audio": {"data": None}}]
        ),
        make_user_message(
            [{"type": "image_url", "image_url": 3}, {"type": "image_url", "image_url": "https://example.com/a.png"}]
        ),
        make_user_message("\0\ud83d" * 500),
        make_user_message(10**4299),
    ],
    ids=lambda message: json.dumps(message)[:40],
)
def test_messages_that_no_api_accepts_are_counted_too(message: Message) -> None:
    assert estimate_message(message) >= 1


def test_a_message_nested_as_deep_as_the_codec_allows_is_counted() -> None:
    value: Any = "deep"
    for _ in range(97):
        value = [value]

    assert estimate_message(make_user_message([{"type": "x", "x": value}])) > 1


@quick
@given(prose, prose)
def test_two_texts_joined_cost_about_the_sum_of_both(one: str, other: str) -> None:
    joined = estimate_text(one + other)

    assert abs(joined - estimate_text(one) - estimate_text(other)) <= 3
    assert joined >= max(estimate_text(one), estimate_text(other)) - 3


@quick
@given(st.lists(prose, max_size=40))
def test_a_longer_text_costs_more(texts: list[str]) -> None:
    counts = [estimate_message(make_user_message("".join(texts[:length]))) for length in range(len(texts) + 1)]

    assert all(later >= earlier - 3 for earlier, later in pairwise(counts))
    assert counts[0] == estimate_message(make_user_message("")) >= 1


@quick
@given(any_message.filter(lambda message: "audio" not in message))
def test_the_request_form_costs_as_much_as_the_exact_form(message: Message) -> None:
    assert estimate_message(to_request(message)) == estimate_message(message)


@quick
@given(json_value)
def test_any_json_has_a_count(value: Any) -> None:
    assert estimate_json(value) >= 1


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        # About the smallest and the largest count with the vocabularies of GPT-4, GPT-4o, Qwen and DeepSeek.
        ("The quick brown fox jumps over the lazy dog.", 10, 12),
        ("你好，我想找家人均消费在100-150元的餐馆吃驴杂汤这道菜。", 18, 32),
        ("Съешь же ещё этих мягких французских булок", 12, 22),
        ("def add(a, b):\n    return a + b\n", 12, 16),
        ("😀😀😀", 3, 9),
        ("", 0, 0),
    ],
)
def test_texts_of_all_kinds_cost_about_what_they_do_in_todays_vocabularies(text: str, least: int, most: int) -> None:
    assert least <= estimate_text(text) <= most


def test_chinese_is_counted_by_characters_and_english_by_words() -> None:
    assert estimate_text("的" * 400) == 300
    assert estimate_text("word " * 400) in range(400, 403)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{make_base64(2**20)}"}}, 765),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}}, 765),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}, 85),
        ({"type": "input_audio", "input_audio": {"data": make_base64(80_000 // 256 * 256), "format": "mp3"}}, 100),
        ({"type": "input_audio", "input_audio": {"data": "UklG" + "R" + "A" * 426_667, "format": "wav"}}, 101),
        ({"type": "file", "file": {"file_id": "file-abc"}}, 2_000),
        ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{make_base64(64 * 1024)}"}}, 2_049),
        ({"type": "file", "file": {"file_data": f"data:text/plain;base64,{make_base64(8 * 1024)}"}}, 2_049),
        ({"type": "text", "text": "Hello"}, 1),
        ({"type": "refusal", "refusal": "No"}, 1),
    ],
    ids=["data", "url", "low", "mp3", "wav", "file id", "pdf", "text file", "text", "refusal"],
)
def test_images_audio_and_files_are_counted_by_type_and_size(part: Message, expected: int) -> None:
    assert estimate_message(make_user_message([part])) - estimate_message(make_user_message([])) == expected


def test_base64_in_a_vendors_part_is_not_counted_as_text() -> None:
    part = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": make_base64(2**20)}}

    assert (
        token_estimate.TOKENS_PER_IMAGE
        < estimate_message(make_user_message([part]))
        < token_estimate.TOKENS_PER_IMAGE + 40
    )


def test_a_file_is_counted_with_its_name() -> None:
    plain = {"type": "file", "file": {"file_id": "file-abc"}}
    named = {"type": "file", "file": {"file_id": "file-abc", "filename": "quarterly report.pdf"}}

    assert estimate_message(make_user_message([named])) - estimate_message(make_user_message([plain])) == estimate_text(
        "quarterly report.pdf"
    )


def test_reasoning_and_annotations_cost_nothing_because_they_are_not_sent() -> None:
    plain = {"role": "assistant", "content": "Yes."}
    rich = {**plain, "reasoning_content": "Hm. " * 500, "reasoning": "Hm.", "annotations": [{"type": "url_citation"}]}

    assert estimate_message(rich) == estimate_message(plain)


def test_each_field_that_is_sent_is_counted() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    plain: Message = {"role": "assistant", "content": "Yes."}
    more: list[Message] = [
        {"name": "ann"},
        {"refusal": "I cannot help with that."},
        {"tool_calls": [call]},
        {"tool_calls": [call, call]},
        {"function_call": call["function"]},
        {"tool_calls": [{"id": "call_2", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}]},
        {"audio": {"id": "audio_1"}},
        {"tool_call_id": "call_1"},
        {"x_vendor": {"level": 3}},
    ]

    costs = [estimate_message(plain | fields) - estimate_message(plain) for fields in more]

    assert min(costs) >= 2
    arguments, name = estimate_text('{"city": "Paris"}'), estimate_text("get_weather")
    assert costs[2] == token_estimate.TOKENS_PER_TOOL_CALL + arguments + name
    assert costs[3] == 2 * costs[2]
    assert costs[4] == costs[2]
    assert costs[6] == token_estimate.TOKENS_PER_UNREAD_AUDIO


def test_a_kilobyte_takes_microseconds() -> None:
    for text in (
        "The quick brown fox jumps over it. " * 3_000,
        "我想找家人均消费在" * 4_000,
        "a1 " * 30_000,
        "\0" * 100_000,
    ):
        began = time.thread_time()
        estimate_text(text)
        assert (
            time.thread_time() - began < len(text.encode()) / 1024 * 0.002
        )  # at most 2 ms for each kilobyte, which usually takes about 50 µs


def test_the_estimate_imports_no_heavy_package() -> None:
    heavy = ("sqlalchemy", "openai", "click")
    code = f"import sys, convstore.messages.token_estimate; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180)

    assert done.stdout.strip() == "[]"
