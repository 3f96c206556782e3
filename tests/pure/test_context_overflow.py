"""How a provider says that a request is too long, and how much of it may fit: by what servers really sent."""

from __future__ import annotations

from typing import Any

import pytest

from convstore.provider.openai_client import overflow


class Refused(Exception):
    """What openai raises, as far as it is looked at: `body` is the `error` of the answer, or all of it."""

    def __init__(self, message: str, status: int = 400, code: Any = None, **facts: Any) -> None:
        super().__init__(message)
        self.status_code, self.code, self.message = status, code, message
        self.body = {"message": message, "code": code, **facts}


MAXIMUM = "This model's maximum context length is {} tokens. However, "
CASES = [
    (
        Refused(
            MAXIMUM.format(8192) + "your messages resulted in 8227 tokens. Please reduce the length of the messages.",
            code="context_length_exceeded",
        ),
        0.8 * 8192 / 8227,
    ),
    (  # OpenAI and vLLM up to 0.9: what the reply may need is taken off first
        Refused(
            MAXIMUM.format(16384) + "you requested 122946 tokens (112946 in the messages, 10000 in the completion). "
            "Please reduce the length of the messages or completion.",
            code=400,
            type="BadRequestError",
        ),
        0.8 * 6384 / 112946,
    ),
    (  # the reply alone is too long: nothing that is left out can help, and a half is as good as anything
        Refused(MAXIMUM.format(6048) + "you requested 6616 tokens (568 in the messages, 6048 in the completion)."),
        0.5,
    ),
    (
        Refused(
            MAXIMUM.format(128000) + "you requested 65535 output tokens and your prompt contains at least 62466 input "
            "tokens, for a total of at least 128001 tokens."
        ),
        0.5,
    ),
    (
        Refused(
            "the request exceeds the available context size, try increasing it",
            type="exceed_context_size_error",
            n_prompt_tokens=14429,
            n_ctx=8192,
        ),
        0.8 * 8192 / 14429,
    ),
    (Refused("request (1000 tokens) exceeds the available context size (500 tokens), try increasing it"), 0.4),
    (Refused("the request exceeds the available context size. try increasing the context size"), 0.5),
    (Refused("something else", code="context_length_exceeded"), 0.5),
]


@pytest.mark.parametrize(("error", "share"), CASES)
def test_what_may_fit_is_told_by_the_numbers_that_a_server_gives(error: Refused, share: float) -> None:
    assert overflow(error) == pytest.approx(share)


@pytest.mark.parametrize(
    "error",
    [
        Refused("temperature must be at most 2"),
        Refused("max_tokens must be at least 1, got -186."),
        Refused("Rate limit reached: too many tokens per minute", status=429),
        Refused("the maximum context length is 8192 tokens", status=500),
        ValueError("maximum context length"),
    ],
)
def test_no_other_failure_is_taken_for_it(error: Exception) -> None:
    assert overflow(error) is None
