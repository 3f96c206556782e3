"""Test that the price of a model is found and the cost of a call is computed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from convstore.messages.completion import Usage
from convstore.usage.price_file import parse_prices
from convstore.usage.prices import NO_PRICES, Price, Prices, compute_cost

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def parse_models(**models: Any) -> Prices:
    return parse_prices({"models": models}, "prices")


def make_rate(prompt: float) -> dict[str, float]:
    return {"prompt": prompt, "completion": 0}


def find_prompt_price(stated: Prices, model: str | None, requested: str | None, at: datetime = NOW) -> float | None:
    """Return the price of prompt tokens, which is different in each entry."""
    price = stated.find_price(model, requested, at)
    return price.prompt if price is not None else None


def make_usage(prompt: Any = 1_000_000, completion: Any = 0, cached: Any = None, reasoning: Any = None) -> Usage:
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached is not None else {}
    more = {"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning is not None else {}
    return Usage({"prompt_tokens": prompt, "completion_tokens": completion, **details, **more})


def test_a_price_is_found_by_the_model_that_answered_then_the_requested_one_then_a_prefix() -> None:
    stated = parse_models(
        **{"a": make_rate(1), "a-2024": make_rate(2), "a*": make_rate(3), "a-2*": make_rate(4), "*": make_rate(5)}
    )
    assert find_prompt_price(stated, "a-2024", "a") == 2
    assert find_prompt_price(stated, "a-2025", "a") == 1
    assert find_prompt_price(stated, "a-2025", "a-latest") == 4
    assert find_prompt_price(stated, "ab", "abc") == 3
    assert find_prompt_price(stated, "b", "c") == 5
    assert find_prompt_price(stated, None, "a") == 1
    assert find_prompt_price(stated, "a", None) == 1
    assert find_prompt_price(stated, None, None) is None
    assert find_prompt_price(NO_PRICES, "a", "a") is None


def test_a_price_that_is_not_yet_in_effect_is_skipped() -> None:
    later = {"prompt": 1, "completion": 1, "since": date(2026, 12, 1)}
    stated = parse_models(**{"a": later, "a*": make_rate(3)})
    assert find_prompt_price(stated, "a", None) == 3
    assert find_prompt_price(stated, "a", None, NOW + timedelta(days=30)) == 1
    assert find_prompt_price(parse_models(a=later), "a", None) is None


def test_a_call_costs_what_its_tokens_cost() -> None:
    price = Price(prompt=2, completion=8, cached=1, reasoning=4)
    assert compute_cost(make_usage(1_000_000, 1_000_000), price) == 10
    assert compute_cost(make_usage(1_000_000, 0, cached=400_000), price) == 1.6
    assert compute_cost(make_usage(0, 1_000_000, reasoning=500_000), price) == 6
    assert compute_cost(make_usage(1, 1), price) == 0.00001
    assert compute_cost(make_usage(0, 0), price) == 0


def test_an_unknown_cost_is_none_and_never_zero() -> None:
    price = Price(1, 1, cached=1, reasoning=1)
    assert compute_cost(None, price) is None
    assert compute_cost(make_usage(), None) is None
    for prompt, completion in ((None, 1), (1, None), ("1", 1), (-1, 1), (1, -1), (True, 1)):
        assert compute_cost(make_usage(prompt, completion), price) is None


def test_impossibly_large_token_counts_have_no_cost() -> None:
    assert compute_cost(make_usage(2**62, 2**62), Price(15, 60, cached=1, reasoning=1)) is None
    assert compute_cost(make_usage(2**64, 1), Price(0, 0, cached=0, reasoning=0)) is None


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(-(10**8), 10**8), st.integers(-(10**8), 10**8))
def test_wrong_counts_of_cached_and_reasoning_tokens_keep_the_cost_within_the_prices(
    prompt: int, completion: int, cached: int, reasoning: int
) -> None:
    price = Price(prompt=3, completion=5, cached=1, reasoning=7)
    found = compute_cost(make_usage(prompt, completion, cached, reasoning), price)
    assert found is not None
    assert round((prompt * 1 + completion * 5) / 1e6, 9) <= found <= round((prompt * 3 + completion * 7) / 1e6, 9)
