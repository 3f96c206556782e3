"""Learn the factor that scales token estimates to the counts of one model."""

from __future__ import annotations

from collections.abc import Sequence

MIN_TOKEN_FACTOR, MAX_TOKEN_FACTOR = 0.25, 8.0
"""A factor is limited to this range. Outside it the reported counts are wrong, such as those of some proxies."""

MIN_TOKENS_FOR_OWN_FACTOR = 200
"""With this many estimated tokens or more, a conversation's own turns give a better factor than other conversations,
because a conversation has the same languages throughout. With fewer, the tokens that a template adds to every request
distort the factor."""


def learn_token_factor(samples: Sequence[tuple[int, int]]) -> float:
    """Return the factor that scales estimates to one model's counts.

    It is the sum of the reported counts divided by the sum of the estimates. So a large request weighs more than a
    small one, and the order does not matter. Give only the latest turns: those of the conversation if their estimates
    reach `MIN_TOKENS_FOR_OWN_FACTOR`, else those of any conversation with this model.

    Args:
        samples: for each turn, the estimate of its whole request (with `TOKENS_PER_REQUEST`), and the reported
            `prompt_tokens`. A pair with a number below 1 is skipped.

    Returns:
        1.0 without samples; else a number from `MIN_TOKEN_FACTOR` to `MAX_TOKEN_FACTOR`.
    """
    usable = [(estimated, reported) for estimated, reported in samples if estimated > 0 and reported > 0]
    if not usable:
        return 1.0
    factor = sum(reported for _, reported in usable) / sum(estimated for estimated, _ in usable)
    return min(max(factor, MIN_TOKEN_FACTOR), MAX_TOKEN_FACTOR)
