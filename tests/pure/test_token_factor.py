"""Test that the token factor of a model is learnt from the usage of its turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convstore.messages import token_factor
from convstore.messages.token_factor import learn_token_factor

samples = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30)


@given(samples)
def test_a_factor_stays_between_its_limits(reports: list[tuple[int, int]]) -> None:
    assert token_factor.MIN_TOKEN_FACTOR <= learn_token_factor(reports) <= token_factor.MAX_TOKEN_FACTOR


@given(st.floats(0.3, 7.5), st.lists(st.integers(1_000, 10**6), min_size=1, max_size=30))
def test_a_factor_that_all_turns_share_is_found(factor: float, estimated: list[int]) -> None:
    assert learn_token_factor([(each, round(each * factor)) for each in estimated]) == pytest.approx(factor, rel=0.01)


@given(samples.flatmap(lambda reports: st.tuples(st.just(reports), st.permutations(reports))))
def test_the_order_of_the_turns_does_not_matter(drawn: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    reports, reordered = drawn

    assert learn_token_factor(reports) == learn_token_factor(reordered)


@given(samples)
def test_scaled_estimates_add_up_to_the_reported_counts(reports: list[tuple[int, int]]) -> None:
    usable = [(estimated, reported) for estimated, reported in reports if estimated and reported]
    factor = learn_token_factor(reports)
    if token_factor.MIN_TOKEN_FACTOR < factor < token_factor.MAX_TOKEN_FACTOR and usable:
        assert sum(each for each, _ in usable) * factor == pytest.approx(sum(reported for _, reported in usable))


def test_without_turns_to_learn_from_the_factor_is_one() -> None:
    assert learn_token_factor([]) == learn_token_factor([(0, 5), (5, 0), (-1, -1)]) == 1.0
    assert learn_token_factor([(100, 250), (0, 9), (100, 0)]) == 2.5
    assert (learn_token_factor([(1, 10**9)]), learn_token_factor([(10**9, 1)])) == (8.0, 0.25)
