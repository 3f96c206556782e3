"""Reading chunks without parsing them gives what parsing and merging them gives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from convstore.messages.chunk_accumulator import ChunkAccumulator
from convstore.messages.chunk_template import ChunkTemplate

PIECES = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", "\ud83d", "\ude00", "é", '","finish_reason":"stop', "[DONE]"]
)
OTHERS = st.sampled_from(
    [
        {},
        {"obfuscation": "aB3"},
        {"usage": None},
        {"usage": {"prompt_tokens": 1}},
        {"system_fingerprint": "fp", "obfuscation": ""},
        {"vendor": ["x"]},
    ]
)
CHOICES = st.sampled_from(
    [
        {"finish_reason": None},
        {"logprobs": None, "finish_reason": None},
        {"logprobs": {"content": [{"token": "a"}]}, "finish_reason": None},
        {"finish_reason": "stop"},
        {"index": 1},
        {"seed": 7},
    ]
)
DELTAS = st.sampled_from([{}, {"role": "assistant"}, {"reasoning_content": "hm"}, {"tool_calls": []}])


def write(piece: str, delta: dict[str, Any], choice: dict[str, Any], other: dict[str, Any]) -> str:
    return json.dumps({"id": "c", "choices": [{"index": 0, "delta": {**delta, "content": piece}, **choice}], **other})


@given(st.lists(st.tuples(PIECES, DELTAS, CHOICES, OTHERS), max_size=12))
@example([("a", {}, {"finish_reason": None}, {}), ("b", {}, {"finish_reason": None}, {})])
def test_chunks_are_merged_alike(chunks: list[tuple[str, Any, Any, Any]]) -> None:
    template, fast, slow = ChunkTemplate(), ChunkAccumulator(), ChunkAccumulator()
    for chunk in chunks:
        data = write(*chunk)
        slow.add_plain(json.loads(data))
        text = template.read(data)
        if text is not None:
            fast.add_text(text)
        else:
            fast.add_plain(json.loads(data))
            template.learn(data, json.loads(data))
    assert fast.to_completion() == slow.to_completion()


def test_the_usual_chunks_are_read_without_parsing() -> None:
    template = ChunkTemplate()
    kinds: list[dict[str, Any]] = [
        {},
        {"obfuscation": "x1"},
        {"system_fingerprint": "fp", "usage": None, "obfuscation": "y"},
    ]
    for other in kinds:
        first = write("one", {}, {"logprobs": None, "finish_reason": None}, other)
        template.learn(first, json.loads(first))
        later = {**other, **({"obfuscation": "Zz9"} if "obfuscation" in other else {})}
        assert (
            template.read(write('two\n \\ "é', {}, {"logprobs": None, "finish_reason": None}, later)) == 'two\n \\ "é'
        )
        assert template.read(write("two", {}, {"logprobs": None, "finish_reason": "stop"}, later)) is None
