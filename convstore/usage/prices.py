"""Compute what a call cost from the prices of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from convstore.messages.completion import Usage

BEGINNING_OF_TIME = datetime.min.replace(tzinfo=UTC)
"""The moment from which a price without a date applies."""

TOKENS_PER_PRICE = 1_000_000
"""A price is for this many tokens."""

# A cost of this size does not fit its column. A provider that reports so many tokens counts something else.
AMOUNT_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of a model cost, from a moment on."""

    prompt: float
    completion: float
    cached: float
    """For the tokens of the prompt that the provider had cached."""
    reasoning: float
    """For the tokens of the completion that the model used for reasoning."""
    since: datetime = BEGINNING_OF_TIME

    def compute_amount(self, *, prompt: float, cached: float, completion: float, reasoning: float) -> float:
        """Return what these tokens cost.

        Args:
            cached: the part of `prompt` that was cached.
            reasoning: the part of `completion` that was used for reasoning.
        """
        return (
            (prompt - cached) * self.prompt
            + cached * self.cached
            + (completion - reasoning) * self.completion
            + reasoning * self.reasoning
        ) / TOKENS_PER_PRICE


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of models, by name or by the beginning of a name."""

    currency: str = "USD"
    _models: Mapping[str, tuple[Price, ...]] = field(default_factory=dict)
    """The prices for each name, the latest first. A name that ends with `*` matches all names that begin so."""

    def find_price(self, model: str | None, requested: str | None, at: datetime) -> Price | None:
        """Return the price in effect at a moment, or None if it is unknown.

        An entry with the name of the model that answered is used first; then one with the requested name; then the
        longest name with `*` that matches one of the two.

        Args:
            model: the model as the provider named it, often a dated name of the requested one.
            requested: the model as the request named it.
            at: when the turn began.
        """
        for prices in self._find_entries(model, requested):
            for price in prices:
                if price.since <= at:
                    return price
        return None

    def compute_cost(self, usage: Usage | None, model: str | None, requested: str | None, at: datetime) -> float | None:
        """Return what a call cost, or None if its tokens or their price are unknown."""
        price = self.find_price(model, requested, at) if usage is not None else None
        return compute_cost(usage, price)

    @property
    def has_prices(self) -> bool:
        """True if there is at least one price."""
        return bool(self._models)

    def list_prices(self) -> list[tuple[str, Price]]:
        """Return each name with each of its prices, sorted by name, the latest first."""
        return [(name, price) for name in sorted(self._models) for price in self._models[name]]

    @property
    def change_moments(self) -> list[datetime]:
        """The moments at which a price changes, oldest first."""
        return sorted({price.since for prices in self._models.values() for price in prices} - {BEGINNING_OF_TIME})

    def _find_entries(self, model: str | None, requested: str | None) -> Iterator[tuple[Price, ...]]:
        names = [name for name in (model, requested) if name is not None]
        yield from (self._models[name] for name in names if name in self._models)
        patterns = (pattern for pattern in self._models if pattern.endswith("*"))
        for pattern in sorted(patterns, key=len, reverse=True):
            if any(name.startswith(pattern[:-1]) for name in names):
                yield self._models[pattern]


NO_PRICES = Prices()


def compute_cost(usage: Usage | None, price: Price | None) -> float | None:
    """Return what a call cost, to nine decimals.

    Returns:
        None if the tokens or their price are unknown, or the cost is unreasonably large.
    """
    if usage is None or price is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is None or completion is None or min(prompt, completion) < 0:
        return None
    amount = price.compute_amount(
        prompt=prompt,
        cached=_limit_part(prompt, usage.cached_tokens),
        completion=completion,
        reasoning=_limit_part(completion, usage.reasoning_tokens),
    )
    return round(amount, 9) if amount < AMOUNT_LIMIT else None


def _limit_part(whole: int, part: int | None) -> int:
    # Some servers report more cached tokens than the prompt has.
    return min(max(part or 0, 0), whole)
