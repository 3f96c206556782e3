"""Recognise that a provider found a request too long, and how much of it may fit."""

from __future__ import annotations

import re
from collections.abc import Mapping

from convstore.provider.error_texts import read_error_text

_OVERFLOW_STATUSES = (400, 413, 422)
# OpenAI's code; llama.cpp's type.
_OVERFLOW_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
# The words of vLLM, llama.cpp, Ollama, LM Studio and Mistral.
_OVERFLOW_TEXT = re.compile(
    r"maximum context length|exceeds? the (available |model's )?(maximum )?context|context (size|length|window)"
    r"|prompt is too long|too many tokens|input length|longer than the maximum model length",
    re.IGNORECASE,
)
_LIMIT_TOKENS = re.compile(
    r"(?:maximum context length is|context (?:size|length|window)[^0-9]{0,20}?) ?\(?(\d{2,})", re.IGNORECASE
)
_REQUESTED_TOKENS = re.compile(
    r"(?:resulted in|requested|request(?: has)?|prompt (?:contains|is)|input[^0-9]{0,20}?)(?: about)? ?\(?(\d{2,})",
    re.IGNORECASE,
)
# Servers that include the reply in their count name its parts too (OpenAI, vLLM).
_PROMPT_TOKENS = re.compile(
    r"(\d+) in the messages|prompt contains (?P<least>at least )?(\d+) input tokens", re.IGNORECASE
)
_REPLY_TOKENS = re.compile(r"(\d+) in the completion|requested (\d+) output tokens", re.IGNORECASE)

_TARGET_SHARE_OF_LIMIT = 0.8  # counts are estimates, and the reply needs room too
_UNKNOWN_OVERFLOW_SHARE = 0.5


def find_fitting_share(error: BaseException) -> float | None:
    """Return what share of the request may fit, or None for another error.

    The share is a part of the request's tokens, as a number between 0 and 1. It is computed from the numbers in the
    provider's error; without numbers it is a half.
    """
    if getattr(error, "status_code", None) not in _OVERFLOW_STATUSES:
        return None
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    facts = inner if isinstance(inner, Mapping) else {}
    codes = (getattr(error, "code", None), facts.get("code"), facts.get("type"))
    text = read_error_text(error)
    is_known_code = any(code in _OVERFLOW_CODES for code in codes if isinstance(code, str))
    if not is_known_code and not _OVERFLOW_TEXT.search(text):
        return None
    prompt, limit = facts.get("n_prompt_tokens"), facts.get("n_ctx")  # llama.cpp's
    if not isinstance(prompt, int) or not isinstance(limit, int):
        prompt, limit = _read_token_counts(text)
    return _TARGET_SHARE_OF_LIMIT * limit / prompt if 0 < limit < prompt else _UNKNOWN_OVERFLOW_SHARE


def _read_token_counts(text: str) -> tuple[int, int]:
    """Return (prompt tokens, limit) from an error's text; zeros if it names none."""
    limit, prompt, reply = _LIMIT_TOKENS.search(text), _PROMPT_TOKENS.search(text), _REPLY_TOKENS.search(text)
    if limit is None:
        return 0, 0
    if prompt is None or reply is None:
        requested = _REQUESTED_TOKENS.search(text)
        return (int(requested[1]) if requested is not None else 0), int(limit[1])
    if prompt["least"]:
        return 0, 0  # the server stopped counting where there was no more room
    return int(prompt[1] or prompt[3]), int(limit[1]) - int(reply[1] or reply[2])
