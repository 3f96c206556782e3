"""Learn the factor that scales token estimates to the counts of one model."""

from __future__ import annotations

from collections.abc import Sequence

MIN_TOKEN_FACTOR, MAX_TOKEN_FACTOR = 0.25, 8.0
"""A factor stays between these. Beyond them the report is wrong: a proxy's, or a count of something else."""

MIN_TOKENS_FOR_OWN_FACTOR = 200
"""From this many estimated tokens on, a conversation's own turns give a better factor than those of other
conversations, because it keeps to its languages. Below, what a template adds to every request weighs too much."""


def learn_token_factor(samples: Sequence[tuple[int, int]]) -> float:
    """Return the factor that scales estimates to one model's counts.

    It is the sum of the reported counts divided by the sum of the estimates. A large request weighs more than a small
    one, and the order does not matter: give the latest turns only. The conversation's own turns are best, once their
    estimates reach `MIN_TOKENS_FOR_OWN_FACTOR`; before, the model's turns in any conversation.

    Args:
        samples: for each turn, the estimate of its whole request, `TOKENS_PER_REQUEST` included, and the
            `prompt_tokens` reported. A pair with a number below 1 is skipped.

    Returns:
        1.0 without samples; else a number from `MIN_TOKEN_FACTOR` to `MAX_TOKEN_FACTOR`.
    """
    usable = [(estimated, reported) for estimated, reported in samples if estimated > 0 and reported > 0]
    if not usable:
        return 1.0
    factor = sum(reported for _, reported in usable) / sum(estimated for estimated, _ in usable)
    return min(max(factor, MIN_TOKEN_FACTOR), MAX_TOKEN_FACTOR)
