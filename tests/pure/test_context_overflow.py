"""Test that overflow errors of servers are recognised, and what share may fit."""

from __future__ import annotations

from typing import Any

import pytest

from convstore.provider.context_overflow import find_fitting_share


class RefusedRequest(Exception):
    """An error like those of openai. `body` is the answer, or the `error` in it."""

    def __init__(self, message: str, status: int = 400, code: Any = None, **facts: Any) -> None:
        super().__init__(message)
        self.status_code, self.code, self.message = status, code, message
        self.body = {"message": message, "code": code, **facts}


MAXIMUM = "This model's maximum context length is {} tokens. However, "
CASES = [
    (
        RefusedRequest(
            MAXIMUM.format(8192) + "your messages resulted in 8227 tokens. Please reduce the length of the messages.",
            code="context_length_exceeded",
        ),
        0.8 * 8192 / 8227,
    ),
    (  # OpenAI, and vLLM up to 0.9: the tokens of the reply are subtracted from the limit first
        RefusedRequest(
            MAXIMUM.format(16384) + "you requested 122946 tokens (112946 in the messages, 10000 in the completion). "
            "Please reduce the length of the messages or completion.",
            code=400,
            type="BadRequestError",
        ),
        0.8 * 6384 / 112946,
    ),
    (  # the reply alone is too long, so no share of the prompt helps and a half is as good as any
        RefusedRequest(
            MAXIMUM.format(6048) + "you requested 6616 tokens (568 in the messages, 6048 in the completion)."
        ),
        0.5,
    ),
    (
        RefusedRequest(
            MAXIMUM.format(128000) + "you requested 65535 output tokens and your prompt contains at least 62466 input "
            "tokens, for a total of at least 128001 tokens."
        ),
        0.5,
    ),
    (
        RefusedRequest(
            "the request exceeds the available context size, try increasing it",
            type="exceed_context_size_error",
            n_prompt_tokens=14429,
            n_ctx=8192,
        ),
        0.8 * 8192 / 14429,
    ),
    (RefusedRequest("request (1000 tokens) exceeds the available context size (500 tokens), try increasing it"), 0.4),
    (RefusedRequest("the request exceeds the available context size. try increasing the context size"), 0.5),
    (RefusedRequest("something else", code="context_length_exceeded"), 0.5),
]


@pytest.mark.parametrize(("error", "share"), CASES)
def test_the_share_that_may_fit_is_computed_from_the_numbers_in_the_error(error: RefusedRequest, share: float) -> None:
    assert find_fitting_share(error) == pytest.approx(share)


@pytest.mark.parametrize(
    "error",
    [
        RefusedRequest("temperature must be at most 2"),
        RefusedRequest("max_tokens must be at least 1, got -186."),
        RefusedRequest("Rate limit reached: too many tokens per minute", status=429),
        RefusedRequest("the maximum context length is 8192 tokens", status=500),
        ValueError("maximum context length"),
    ],
)
def test_other_errors_are_not_taken_as_an_overflow(error: Exception) -> None:
    assert find_fitting_share(error) is None
