"""Test that estimates, scaled by a factor learnt from a real model, are as near to its counts as the page says."""

from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

from bench.tokens import Count, Sample, counting, crosswoz, measure, mt_bench, own_errors, scaled_errors
from convstore.messages import token_estimate, token_factor

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "windows.md").read_text()

BY_OTHERS, BY_ITS_OWN = 0.10, 0.05
"""Mean absolute error, with a factor learnt from other conversations, and from the same one."""


@pytest.fixture(scope="module")
def counts(shared_data: Path) -> Iterator[tuple[Count, Count]]:
    with counting() as both:
        yield both


@pytest.fixture(scope="module", params=["crosswoz", "mt_bench"])
def measured(request: pytest.FixtureRequest, shared_data: Path, counts: tuple[Count, Count]) -> list[list[Sample]]:
    """Return the measured samples: every tenth Chinese dialogue, and all the short English ones."""
    chinese = request.param == "crosswoz"
    conversations = crosswoz(shared_data)[::10] if chinese else mt_bench(shared_data)
    tokenized, replied = counts
    for conversation in conversations[:2]:
        asked = conversation[:1]
        assert tokenized(asked) == replied(asked)  # the tokenizer's count equals the count of a reply
    return [measure(conversation, tokenized) for conversation in conversations]


def test_with_a_factor_from_other_conversations_the_error_is_within_the_stated_bound(
    measured: list[list[Sample]],
) -> None:
    assert len(measured) >= 50
    assert mean(map(abs, scaled_errors(measured))) < BY_OTHERS


def test_with_a_factor_from_its_own_turns_the_error_is_within_the_stated_bound(
    measured: list[list[Sample]],
) -> None:
    errors = own_errors(measured)

    assert len(errors) >= 5
    assert mean(map(abs, errors)) < BY_ITS_OWN


def test_the_page_states_the_bounds_and_the_rules_that_the_code_has() -> None:
    assert f"below {BY_OTHERS:.0%}".replace("%", " %") in PAGE
    assert f"below {BY_ITS_OWN:.0%}".replace("%", " %") in PAGE
    for number in (
        token_estimate.TOKENS_PER_REQUEST,
        token_estimate.TOKENS_PER_MESSAGE,
        token_estimate.TOKENS_PER_TOOL_CALL,
        token_estimate.TOKENS_PER_IMAGE,
        token_estimate.TOKENS_PER_LOW_DETAIL_IMAGE,
        token_estimate.TOKENS_PER_UNREAD_AUDIO,
        token_estimate.TOKENS_PER_UNREAD_FILE,
        token_factor.MIN_TOKENS_FOR_OWN_FACTOR,
        token_factor.MIN_TOKEN_FACTOR,
        token_factor.MAX_TOKEN_FACTOR,
    ):
        assert f"{number:,}".removesuffix(".0") in PAGE
