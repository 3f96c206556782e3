"""Samples to store: one of every kind of message, and other values that are hard to store."""

from __future__ import annotations

from typing import Any

OWNERS = ("", "ada", "用户 7")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}},
    {"id": "call_2", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Łódź\\u0000"}'}},
]
CALLING = {"role": "assistant", "content": None, "refusal": None, "tool_calls": CALLS}
USAGE = {
    "prompt_tokens": 91,
    "completion_tokens": 17,
    "total_tokens": 108,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 9, "x_vendor": None},
    "x_queue_ms": 0.25,
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PARTS = [
    {"type": "text", "text": "What is this? 这是什么？\0"},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
    {"type": "input_audio", "input_audio": {"data": "UklGRiQAAABXQVZF", "format": "wav"}},
    {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0xLjQK", "filename": "ä b.pdf"}},
]
NUMBERS = [1, 2.5, -0.0, 1e300]
TITLES = [
    "Ünïcode 标题 🎉",
    "a\0b",
    "half \ud83d",
    "\udc00",
    '"quoted"',
    '"',
    "",
    " ",
    "line\nline\ttab",
    "x" * 5000,
    "'; --",
]
TEXTS = [
    "Hello",
    "",
    " ",
    "你好，世界",
    "👩‍👩‍👧‍👦 e\u0301",
    "nul \0 in it",
    "half \ud83d",
    "\udc00 other",
    "\ud83d" + "\ude00",
    "\r\n",
    "\\u0000",
    "'",
]


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = {"in": [value]}
    return value


def messages() -> list[dict[str, Any]]:
    """Return one of every kind of message."""
    return [
        {"role": "system", "content": "Be brief.", "name": "rules"},
        {"role": "developer", "content": [{"type": "text", "text": "Answer in English."}]},
        *({"role": "user", "content": text} for text in TEXTS),
        *({"role": "assistant", "content": text} for text in TEXTS),
        {"role": "user", "content": PARTS, "name": "ada_1"},
        {"role": "user", "name": "\0", "content": "a name that no column holds"},
        CALLING,
        {"role": "tool", "tool_call_id": "call_1", "content": "18 °C"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "\ud800"}]},
        {"role": "assistant", "content": "Warm.", "annotations": [{"type": "url_citation", "url_citation": {}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "old", "arguments": "{}"}},
        {"role": "function", "name": "old", "content": "null"},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No, no."}], "tool_calls": []},
        {"role": "assistant", "content": None, "audio": {"id": "audio_1", "data": "AAAA", "transcript": "hm"}},
        {"role": "assistant", "content": "", "reasoning_content": "I think \0", "x_vendor": {"b": NUMBERS, "a": None}},
        {"role": "assistant", "content": 5, "big": 2**70, "true": True},
        {"role": "critic", "content": "a role of a vendor", "": "an empty key", "\ud83d": "half a key"},
        {"role": "\0", "content": "a role that no column holds"},
        {"role": "user", "content": "deep", "tree": nested(40)},
    ]


def completion(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what `create` would have returned."""
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}
