"""Estimate how many tokens a message is, without a tokenizer.

A tokenizer has to be downloaded, differs between models, and many providers publish none. So the estimate uses what all
tokenizers share: a common word is one token, a rare one is several. It is calibrated on the vocabularies of today's
large models, and a factor for each model scales it (`token_factor`). docs/windows.md, "How tokens are counted", gives
the measured errors.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from math import ceil
from typing import Any

from convstore.messages.message import Message
from convstore.messages.request_form import to_request

TOKENS_PER_REQUEST = 3
"""Added once for a request: the words that begin the reply."""

TOKENS_PER_MESSAGE = 4
"""Added for each message: its role, and the tokens that mark its beginning and end."""

TOKENS_PER_TOOL_CALL = 8
"""Added for each tool call, besides its name and arguments."""

TOKENS_PER_IMAGE, TOKENS_PER_LOW_DETAIL_IMAGE = 765, 85
"""An image of 1024 × 1024 pixels, and one of `"detail": "low"` (OpenAI's guide, "Images and vision": 85 tokens, and 170
for each tile of 512 × 512 pixels). The image itself is not read."""

TOKENS_PER_UNREAD_AUDIO, TOKENS_PER_UNREAD_FILE = 100, 2_000
"""Audio (ten seconds) and a file, if only the id is known."""

# Bytes for each token of audio, at ten tokens a second: uncompressed speech (16 kHz, 16 bits, mono); 64 kbit/s.
_WAV_BYTES_PER_TOKEN, _COMPRESSED_AUDIO_BYTES_PER_TOKEN = 3_200, 800

# Bytes for each token of a file: plain text; anything else, such as a PDF with its fonts and pictures.
_TEXT_FILE_BYTES_PER_TOKEN, _OTHER_FILE_BYTES_PER_TOKEN = 4, 32

# Chinese characters, Japanese syllables, and their punctuation. These texts have no spaces, and a token is one
# character, or a few frequent ones.
_DENSE_CHARACTERS = (
    "\u2e80-\u318f\u31a0-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff60\U00020000-\U0003ffff"
)
_TOKENS_PER_DENSE_CHARACTER = 0.75  # 0.65 to 0.78 in today's vocabularies, 1.2 in GPT-4's
# Each match is about one token, except a match of the group, which counts by its characters.
_TOKEN_PIECE = re.compile(
    "|".join(
        [
            " [a-z]{1,8}+",  # the next one would match the same, in twice the time: most pieces are like this
            r"""[ _./('"<$#*-]?[A-Z]?[a-z]{1,8}""",  # a word, or eight letters of a long one, and the mark before it
            r"""[ _./('"<$#*-]?[A-Z]{1,3}""",
            r" ?[\u00c0-\u024f\u1e00-\u1eff][a-z]{0,2}",  # a letter with an accent begins a new token
            rf"([{_DENSE_CHARACTERS}]+)",
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
# A run of this length without a space is not a word but data.
_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]{512,}={0,2}")


def estimate_message(message: Message) -> int:
    """Return an estimate of the tokens of a message in a request, at least 1.

    It includes the role and the tokens around the message. Fields that `to_request` leaves out (nulls, reasoning,
    annotations) are not counted. Images, audio and files are counted by their type and size, never as base64 text.
    Every message that the codec accepts has a count.

    Args:
        message: the exact form, or the request form.
    """
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str) and content.isascii():  # most messages: the rest gives the same
        return TOKENS_PER_MESSAGE + _estimate_role(message["role"]) + estimate_text(content)
    total: int = TOKENS_PER_MESSAGE
    for key, value in to_request(message).items():
        if key == "role":
            total += _estimate_role(value)
        elif key in ("content", "refusal"):
            total += _estimate_content(value)
        elif key in ("name", "tool_call_id"):
            total += 1 + _estimate_value(value)
        elif key == "tool_calls" and isinstance(value, list):
            total += sum(_estimate_call(call) for call in value)
        elif key == "function_call":
            total += _estimate_call({"function": value})
        elif key == "audio":
            total += _estimate_audio(message[key])  # only the exact form holds the data
        else:
            total += estimate_text(key) + _estimate_value(value)
    return total


@lru_cache(maxsize=64)
def _estimate_role(role: str) -> int:
    return estimate_text(role) - 1


def estimate_text(text: str) -> int:
    """Return an estimate of the tokens of a text; 0 for an empty text.

    The estimate of two joined texts differs from the sum of their estimates by a few tokens at most.
    """
    runs = _TOKEN_PIECE.findall(text)
    if text.isascii():
        return len(runs)
    dense = "".join(runs)
    return runs.count("") + ceil(_TOKENS_PER_DENSE_CHARACTER * len(dense))


def estimate_json(value: object) -> int:
    """Return an estimate of the tokens of a JSON value.

    The value may be tools, a response format or a vendor's field. Long runs that look like base64 are counted as
    images.
    """
    text = json.dumps(value, ensure_ascii=False)
    bare, images = _BASE64_RUN.subn("", text)
    return estimate_text(bare) + TOKENS_PER_IMAGE * images


def _estimate_value(value: Any) -> int:
    return estimate_text(value) if isinstance(value, str) else estimate_json(value)


def _estimate_content(content: Any) -> int:
    if isinstance(content, list):
        return sum(_estimate_part(part) for part in content)
    return _estimate_value(content)


def _estimate_part(part: Any) -> int:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal", "image_url", "input_audio", "file") and kind in part:
        value = part[kind]
        if isinstance(value, str):
            return estimate_text(value) if kind in ("text", "refusal") else TOKENS_PER_IMAGE
        if isinstance(value, dict) and kind == "image_url":
            return TOKENS_PER_LOW_DETAIL_IMAGE if value.get("detail") == "low" else TOKENS_PER_IMAGE
        if isinstance(value, dict) and kind == "input_audio":
            return _estimate_audio(value)
        if isinstance(value, dict) and kind == "file":
            return _estimate_file(value)
    return estimate_json(part)


def _estimate_audio(audio: Any) -> int:
    data = audio.get("data") if isinstance(audio, dict) else None
    if not isinstance(data, str):
        return TOKENS_PER_UNREAD_AUDIO
    is_wav = data.startswith("UklGR")  # RIFF
    return 1 + _count_decoded_bytes(data) // (_WAV_BYTES_PER_TOKEN if is_wav else _COMPRESSED_AUDIO_BYTES_PER_TOKEN)


def _estimate_file(file: Any) -> int:
    name, data = file.get("filename"), file.get("file_data")
    name_tokens = estimate_text(name) if isinstance(name, str) else 0
    if not isinstance(data, str):
        return TOKENS_PER_UNREAD_FILE + name_tokens
    head, _, encoded = data.rpartition(",")  # the head is empty if it is no data URL
    is_text = head.startswith("data:text/")
    bytes_per_token = _TEXT_FILE_BYTES_PER_TOKEN if is_text else _OTHER_FILE_BYTES_PER_TOKEN
    return 1 + name_tokens + _count_decoded_bytes(encoded) // bytes_per_token


def _count_decoded_bytes(base64: str) -> int:
    return len(base64) * 3 // 4


def _estimate_call(call: Any) -> int:
    body = call
    if isinstance(call, dict):
        body = next((call[kind] for kind in ("function", "custom") if kind in call), call)
    if not isinstance(body, dict):
        return TOKENS_PER_TOOL_CALL + _estimate_value(body)
    # The id is not counted, because a model reads only the call's name and its arguments.
    return TOKENS_PER_TOOL_CALL + sum(_estimate_value(value) for value in body.values() if value is not None)
