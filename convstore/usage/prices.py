"""What tokens cost: prices per model, as a person or an application states them. Reads one file, and is pure otherwise.

A file of prices is TOML; a mapping of the same form serves as well::

    currency = "USD"                # a label; USD where there is none

    [models."gpt-4o-mini*"]         # `*` at the end: every model whose name begins so
    prompt = 0.15                   # for a million tokens
    cached = 0.075                  # of the prompt, those that the provider had cached; else as `prompt`
    completion = 0.60
    reasoning = 0.60                # of the completion, those spent on reasoning; else as `completion`

    [[models."gpt-4o"]]             # several prices of one model, each from a day on (00:00 UTC) or a moment
    prompt = 5.00
    completion = 15.00

    [[models."gpt-4o"]]
    since = 2026-10-01
    prompt = 2.50
    completion = 10.00
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from convstore.config import prices_file
from convstore.errors import InvalidInput
from convstore.messages.completion import Usage

ALWAYS = datetime.min.replace(tzinfo=UTC)

PER = 1_000_000
"""So many tokens are what a price is of."""
_MOST = 10**9  # from here on no cost fits its column: whoever reports so many tokens counts something else
_KEYS = ("prompt", "cached", "completion", "reasoning", "since")
_NEEDED = ("prompt", "completion")


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of a model cost, from a moment on."""

    prompt: float
    completion: float
    cached: float
    """Of tokens of the prompt that the provider had cached."""
    reasoning: float
    """Of tokens of the completion that were spent on reasoning."""
    since: datetime = ALWAYS

    def of_tokens(self, *, prompt: float, cached: float, completion: float, reasoning: float) -> float:
        """Return what so many tokens cost; cached ones are among the prompt's, and reasoning among the completion's."""
        return (
            (prompt - cached) * self.prompt
            + cached * self.cached
            + (completion - reasoning) * self.completion
            + reasoning * self.reasoning
        ) / PER


@dataclass(frozen=True, slots=True)
class Prices:
    """The prices of models, by name or by a beginning of names."""

    currency: str = "USD"
    _models: Mapping[str, tuple[Price, ...]] = field(default_factory=dict)
    """Of each name, the latest first; a name that ends with `*` stands for all that begin so."""

    def of(self, model: str | None, requested: str | None, at: datetime) -> Price | None:
        """Return the price in effect at a moment: of the model that answered, else of the one that was asked for,
        else of the longest beginning of either; None where none is known.

        Args:
            model: as the provider named it: often a dated name of what was asked for.
            requested: as the request named it.
            at: when the turn began.
        """
        for prices in self._found(model, requested):
            for price in prices:
                if price.since <= at:
                    return price
        return None

    def cost(self, usage: Usage | None, model: str | None, requested: str | None, at: datetime) -> float | None:
        """Return what a call cost; None where its tokens or their price are unknown."""
        price = self.of(model, requested, at) if usage is not None else None
        return cost(usage, price)

    @property
    def any(self) -> bool:
        """Whether there is any price."""
        return bool(self._models)

    @property
    def changes(self) -> list[datetime]:
        """The moments at which any price changes, in order."""
        return sorted({price.since for prices in self._models.values() for price in prices} - {ALWAYS})

    def _found(self, model: str | None, requested: str | None) -> Iterator[tuple[Price, ...]]:
        names = [name for name in (model, requested) if name is not None]
        yield from (self._models[name] for name in names if name in self._models)
        beginnings = (pattern for pattern in self._models if pattern.endswith("*"))
        for pattern in sorted(beginnings, key=len, reverse=True):
            if any(name.startswith(pattern[:-1]) for name in names):
                yield self._models[pattern]


NO_PRICES = Prices()


def cost(usage: Usage | None, price: Price | None) -> float | None:
    """Return what a call cost, to nine decimals; None where its tokens or their price are unknown."""
    if usage is None or price is None:
        return None
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is None or completion is None or min(prompt, completion) < 0:
        return None
    total = price.of_tokens(
        prompt=prompt,
        cached=_among(prompt, usage.cached_tokens),
        completion=completion,
        reasoning=_among(completion, usage.reasoning_tokens),
    )
    return round(total, 9) if total < _MOST else None


def _among(whole: int, part: int | None) -> int:
    # Some servers report more cached tokens than the prompt has.
    return min(max(part or 0, 0), whole)


def price_source(given: Mapping[str, Any] | str | os.PathLike[str] | None) -> Callable[[], Prices]:
    """Return what gives the prices; a file is read when it is asked, which may be never.

    Args:
        given: a mapping of the file's form, or a file's path. None: the person's own file, if there is one.

    Raises:
        InvalidInput: the mapping is wrong.
    """
    if given is None:
        return _configured
    if isinstance(given, Mapping):
        prices = parse(given, "prices")
        return lambda: prices
    path = Path(given)
    return lambda: read(path)


def _configured() -> Prices:
    path = prices_file()
    return read(path) if path is not None else NO_PRICES


def read(path: Path) -> Prices:
    """Return the prices of a file.

    Raises:
        InvalidInput: it cannot be read, or is wrong; the message names the file, the key, and what is expected there.
    """
    import tomllib

    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InvalidInput(f"the file of prices {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8 too, and a number of 5,000 digits
        raise InvalidInput(f"the file of prices {path} is not TOML: {error}") from None
    return parse(document, str(path))


def parse(document: Mapping[str, Any], source: str) -> Prices:
    """Return the prices that a mapping of the file's form states.

    Args:
        source: what messages name as their place.

    Raises:
        InvalidInput: it is wrong; the message names the key, and what is expected there.
    """
    _check_keys(document, ("currency", "models"), source)
    currency = document.get("currency", "USD")
    if not isinstance(currency, str) or not currency.strip() or not currency.isprintable():
        raise InvalidInput(f'{source}: currency must be a text, such as "USD", not {currency!r:.80}')
    models = document.get("models", {})
    if not isinstance(models, Mapping):
        raise InvalidInput(f'{source}: models must be tables, such as [models."gpt-4o"], not {models!r:.80}')
    return Prices(currency.strip(), {name: _prices(name, value, source) for name, value in models.items()})


def _prices(name: object, value: object, source: str) -> tuple[Price, ...]:
    where = f'{source}: models."{name}"'
    if not isinstance(name, str) or "*" in name[:-1]:
        raise InvalidInput(f"{where}: a model's name may have a * at its end, and nowhere else")
    entries = value if isinstance(value, (list, tuple)) else [value]
    found = [_price(entry, where) for entry in entries]
    if len({price.since for price in found}) < len(found):
        raise InvalidInput(f"{where}: several prices begin at the same time; give each another `since`")
    return tuple(sorted(found, key=lambda price: price.since, reverse=True))


def _price(entry: object, where: str) -> Price:
    if not isinstance(entry, Mapping):
        raise InvalidInput(
            f"{where} must be a table with {' and '.join(_NEEDED)}, or an array of such, not {entry!r:.80}"
        )
    _check_keys(entry, _KEYS, where)
    for key in _NEEDED:
        if key not in entry:
            raise InvalidInput(f"{where}.{key} is missing: the price of a million tokens")
    numbers = {key: _number(entry[key], f"{where}.{key}") for key in _KEYS[:-1] if key in entry}
    numbers.setdefault("cached", numbers["prompt"])
    numbers.setdefault("reasoning", numbers["completion"])
    return Price(**numbers, since=_moment(entry["since"], f"{where}.since") if "since" in entry else ALWAYS)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _MOST:
        raise InvalidInput(f"{where} must be the price of a million tokens, a number of at least 0, not {value!r:.80}")
    return float(value)


def _moment(value: object, where: str) -> datetime:
    with suppress(OverflowError):  # at either end of time
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
        if isinstance(value, date):
            return datetime.combine(value, time(), UTC)
    raise InvalidInput(f"{where} must be a date, such as 2026-10-01 without quotes, not {value!r:.80}")


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(f"{where}: unknown key {key!r:.80}; there are {', '.join(known)}")
