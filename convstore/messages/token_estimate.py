"""How many tokens a message is likely to be: an estimate without a tokenizer, and the factor that fits it to a model.

Pure. A tokenizer is a download, differs from model to model, and many providers publish none. So the estimate is of the
kind that all of them share (common words are one token, rare ones several), calibrated on the vocabularies of today's
large models, and a factor for each model, learnt from the `prompt_tokens` that providers report, scales it. How far it
is off is measured: docs/windows.md, "How tokens are counted".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, TypeAlias

from convstore.errors import InvalidInput
from convstore.messages.codec import Message, to_request

Counter: TypeAlias = Callable[[Message], int]
"""What counts the tokens of one message in its exact form, whatever its role and content; 0 is taken for 1."""

_MOST_OF_ONE = 2**53  # beyond, it is no count, and no JSON number either

REQUEST = 3
"""What a request costs beside its messages: the words that begin the reply."""

MESSAGE = 4
"""What a message costs beside its content: the marks around it, and its role."""

CALL = 8
"""What a tool call costs beside its name and arguments."""

IMAGE, IMAGE_OF_LOW_DETAIL = 765, 85
"""An image of 1024 × 1024 pixels, and one of `"detail": "low"` (OpenAI's guide, "Images and vision": 85 tokens, and 170
for each tile of 512 × 512 pixels). Its pixels are not looked at."""

AUDIO, FILE = 100, 2_000
"""Audio (ten seconds of it) and a file of which only the id is known."""

_WAV_BYTES, _AUDIO_BYTES = 3_200, 800
"""Bytes to a token of audio, at ten tokens a second: uncompressed speech (16 kHz, 16 bits, mono); 64 kbit/s."""

_TEXT_BYTES, _FILE_BYTES = 4, 32
"""Bytes to a token of a file: plain text; anything else, such as a PDF with its fonts and pictures."""

LEAST, MOST = 0.25, 8.0
"""Between these a factor stays: beyond, it is the report that is wrong (a proxy's, a count of something else)."""

ENOUGH = 200
"""From so many estimated tokens on, a conversation's own turns tell its factor better than those of others do: it keeps
to its languages. Before, what a template adds to every request weighs too much."""

# Chinese characters, Japanese syllables, and the punctuation of both: there are no spaces to go by, and a token is one
# character or a frequent few.
_DENSE = "\u2e80-\u318f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60\U00020000-\U0003ffff"
_DENSE_TOKENS = 0.75  # to a character: 0.65 to 0.78 in today's vocabularies, 1.2 in GPT-4's
# Every match is about one token, but one of the group, which is as many as its characters say.
_PIECE = re.compile(
    "|".join(
        [
            r"""[ _./('"<$#*-]?[A-Z]?[a-z]{1,8}""",  # a word, or eight letters of a long one, and the mark before it
            r"""[ _./('"<$#*-]?[A-Z]{1,3}""",
            r" ?[\u00c0-\u024f\u1e00-\u1eff][a-z]{0,2}",  # an accent ends what a vocabulary knows as one
            rf"([{_DENSE}]+)",
            r"[0-9]{1,2}",  # vocabularies take one digit at a time, or three
            r"\s{1,16}",
            r" ?[\uac00-\ud7a3]{1,2}",  # Korean syllables
            r" ?[\u0080-\u08ff]{1,4}",  # Greek, Cyrillic, Hebrew, Arabic …
            r" ?[\u0900-\u1fff\ua000-\uabff]{1,3}",  # the scripts of South and South-East Asia …
            r" ?[!-/:-@\[-`{-~]{1,3}\n{0,2}",
            r".",  # an emoji, a symbol, a control character, half a surrogate pair
        ]
    ),
    re.DOTALL,
)
# So long a run without a space is no word of anybody's: it is data.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{512,}={0,2}")


def checked(count: Counter) -> Counter:
    """Return a caller's own counter as one of which every failure has a name.

    It raises:
        InvalidInput: the caller's raised, or what it returned is no count.
    """
    if count is estimate:
        return count

    def counted(message: Message) -> int:
        try:
            tokens = count(message)
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
            raise InvalidInput(f"count_tokens {problem:.200} (of a message of role {message['role']!r})") from error
        if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens < _MOST_OF_ONE:
            raise InvalidInput(f"count_tokens must return a whole number of tokens, at least 0, not {tokens!r:.80}")
        return max(1, tokens)  # a path that costs nothing would be read to its beginning, whatever the budget

    return counted


def unfailing(count: Counter) -> Counter:
    """Return a counter that estimates where the caller's own fails: what was paid for must not be lost by it."""

    def counted(message: Message) -> int:
        try:
            return count(message)
        except InvalidInput:
            return estimate(message)

    return counted


def remembering(count: Counter) -> Counter:
    """Return a counter that counts each message once: of a turn, the new ones are for its window and for their rows."""
    known: dict[int, tuple[Message, int]] = {}  # with the message itself, whose identity another could else have later

    def counted(message: Message) -> int:
        found = known.get(id(message))
        if found is None:
            found = known[id(message)] = message, count(message)
        return found[1]

    return counted


def estimate(message: Message) -> int:
    """Return about how many tokens a message is in a request, its role and the marks around it included: at least 1.

    What `to_request` leaves out costs nothing: nulls, reasoning, annotations. Images, audio and files are counted by
    what is known of them, never as the text that they are encoded in. Any message that the codec accepts has a count.

    Args:
        message: the exact form, or the request form.
    """
    total: int = MESSAGE
    for key, value in to_request(message).items():
        if key == "role":
            total += estimate_text(value) - 1
        elif key in ("content", "refusal"):
            total += _content(value)
        elif key in ("name", "tool_call_id"):
            total += 1 + _value(value)
        elif key == "tool_calls" and isinstance(value, list):
            total += sum(_call(call) for call in value)
        elif key == "function_call":
            total += _call({"function": value})
        elif key == "audio":
            total += _audio(message[key])  # the exact form knows how much the id stands for
        else:
            total += estimate_text(key) + _value(value)
    return total


def estimate_text(text: str) -> int:
    """Return about how many tokens a text is: 0 of an empty one.

    Of two texts joined, it is the sum of theirs or a few less or more.
    """
    runs = _PIECE.findall(text)
    dense = "".join(runs)
    return runs.count("") + ceil(_DENSE_TOKENS * len(dense))


def estimate_json(value: object) -> int:
    """Return about how many tokens a JSON value is when a model reads it: tools, a response format, a vendor's field.

    What looks like base64 in it is taken for images.
    """
    text = json.dumps(value, ensure_ascii=False)
    bare, images = _BASE64.subn("", text)
    return estimate_text(bare) + IMAGE * images


def learn(samples: Sequence[tuple[int, int]]) -> float:
    """Return the factor that scales estimates to one model's counts: all that was reported to all that was estimated.

    Every sample weighs by its size, and none by its age: hand over as many of the latest turns as should count. The
    conversation's own serve best, once they come to `ENOUGH`; before, the model's in any conversation.

    Args:
        samples: of each turn the estimate of its whole request, `REQUEST` included, and the `prompt_tokens` reported.
            A pair with a number below 1 says nothing and is passed over.

    Returns:
        1.0 of no samples; else between `LEAST` and `MOST`.
    """
    told = [(estimated, reported) for estimated, reported in samples if estimated > 0 and reported > 0]
    if not told:
        return 1.0
    factor = sum(reported for _, reported in told) / sum(estimated for estimated, _ in told)
    return min(max(factor, LEAST), MOST)


def _value(value: Any) -> int:
    return estimate_text(value) if isinstance(value, str) else estimate_json(value)


def _content(content: Any) -> int:
    if isinstance(content, list):
        return sum(_part(part) for part in content)
    return _value(content)


def _part(part: Any) -> int:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal", "image_url", "input_audio", "file") and kind in part:
        value = part[kind]
        if isinstance(value, str):
            return estimate_text(value) if kind in ("text", "refusal") else IMAGE
        if isinstance(value, dict) and kind == "image_url":
            return IMAGE_OF_LOW_DETAIL if value.get("detail") == "low" else IMAGE
        if isinstance(value, dict) and kind == "input_audio":
            return _audio(value)
        if isinstance(value, dict) and kind == "file":
            return _file(value)
    return estimate_json(part)


def _audio(audio: Any) -> int:
    data = audio.get("data") if isinstance(audio, dict) else None
    if not isinstance(data, str):
        return AUDIO
    wav = data.startswith("UklGR")  # RIFF
    return 1 + _decoded_size(data) // (_WAV_BYTES if wav else _AUDIO_BYTES)


def _file(file: Any) -> int:
    name, data = file.get("filename"), file.get("file_data")
    named = estimate_text(name) if isinstance(name, str) else 0
    if not isinstance(data, str):
        return FILE + named
    head, _, encoded = data.rpartition(",")  # of a data URL, which it is or not
    return 1 + named + _decoded_size(encoded) // (_TEXT_BYTES if head.startswith("data:text/") else _FILE_BYTES)


def _decoded_size(base64: str) -> int:
    return len(base64) * 3 // 4


def _call(call: Any) -> int:
    body = call
    if isinstance(call, dict):
        body = next((call[kind] for kind in ("function", "custom") if kind in call), call)
    if not isinstance(body, dict):
        return CALL + _value(body)
    # No id: what a model reads of a call is its name and what it was given.
    return CALL + sum(_value(value) for value in body.values() if value is not None)
