"""Read the prices of models from a TOML file, or from a mapping of the same form.

::

    currency = "USD"                # a label; USD if it is missing

    [models."gpt-4o-mini*"]         # `*` at the end: all models with a name that begins so
    prompt = 0.15                   # for a million tokens
    cached = 0.075                  # for the part of the prompt that the provider had cached; else as `prompt`
    completion = 0.60
    reasoning = 0.60                # for the part of the completion used for reasoning; else as `completion`

    [[models."gpt-4o"]]             # several prices of one model, each from a day (00:00 UTC) or a moment on
    prompt = 5.00
    completion = 15.00

    [[models."gpt-4o"]]
    since = 2026-10-01
    prompt = 2.50
    completion = 10.00
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from convstore.config.settings import find_price_file
from convstore.errors import InvalidInput
from convstore.usage.prices import AMOUNT_LIMIT, BEGINNING_OF_TIME, NO_PRICES, Price, Prices

_MAX_FILE_BYTES = 16 * 1024**2
_FILE_KEYS = ("currency", "models")
_AMOUNT_KEYS = ("prompt", "cached", "completion", "reasoning")
_REQUIRED_KEYS = ("prompt", "completion")
_PRICE_KEYS = (*_AMOUNT_KEYS, "since")


def make_price_loader(given: Mapping[str, Any] | str | os.PathLike[str] | None) -> Callable[[], Prices]:
    """Return a function that returns the prices.

    A file is read when the function is called.

    Args:
        given: a mapping of the file's form, or the path of a file. None means the user's own file, if it exists.

    Raises:
        InvalidInput: the mapping is wrong.
    """
    if given is None:
        return _read_configured_prices
    if isinstance(given, Mapping):
        prices = parse_prices(given, "prices")
        return lambda: prices
    path = Path(given)
    return lambda: read_price_file(path)


def _read_configured_prices() -> Prices:
    path = find_price_file()
    return read_price_file(path) if path is not None else NO_PRICES


def read_price_file(path: Path) -> Prices:
    """Return the prices in a file.

    Raises:
        InvalidInput: the file cannot be read, or is wrong; the text names the file, the key and the expected value.
    """
    import tomllib

    try:
        if path.exists() and not path.is_file():
            raise InvalidInput(f"the price file {str(path)!r} is not a regular file")
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise InvalidInput(f"the price file {str(path)!r} is larger than {_MAX_FILE_BYTES // 1024**2} MiB")
        document = tomllib.loads(data.decode())
    except OSError as error:
        raise InvalidInput(f"the price file {str(path)!r} cannot be read: {error.strerror or error}") from None
    except InvalidInput:
        raise
    except (ValueError, RecursionError) as error:  # also if a byte is not UTF-8, or a number has 5,000 digits
        raise InvalidInput(f"the price file {str(path)!r} is not TOML: {error}") from None
    return parse_prices(document, str(path))


def parse_prices(document: Mapping[str, Any], source: str) -> Prices:
    """Return the prices that a mapping of the file's form states.

    Args:
        source: the name of the document in error texts.

    Raises:
        InvalidInput: the mapping is wrong; the text names the key and the expected value.
    """
    _check_keys(document, _FILE_KEYS, source)
    currency = document.get("currency", "USD")
    if not isinstance(currency, str) or not currency.strip() or not currency.isprintable():
        raise InvalidInput(f'{source}: currency must be a text, such as "USD", not {currency!r:.80}')
    models = document.get("models", {})
    if not isinstance(models, Mapping):
        raise InvalidInput(f'{source}: models must be tables, such as [models."gpt-4o"], not {models!r:.80}')
    return Prices(currency.strip(), {name: _parse_model(name, value, source) for name, value in models.items()})


def _parse_model(name: object, value: object, source: str) -> tuple[Price, ...]:
    where = f'{source}: models."{name}"'
    if not isinstance(name, str) or "*" in name[:-1]:
        raise InvalidInput(f"{where}: a model's name may have a * at its end only")
    entries = value if isinstance(value, (list, tuple)) else [value]
    found = [_parse_price(entry, where) for entry in entries]
    if len({price.since for price in found}) < len(found):
        raise InvalidInput(f"{where}: two prices begin at the same time; give each its own `since`")
    return tuple(sorted(found, key=lambda price: price.since, reverse=True))


def _parse_price(entry: object, where: str) -> Price:
    if not isinstance(entry, Mapping):
        raise InvalidInput(
            f"{where} must be a table with {' and '.join(_REQUIRED_KEYS)}, or an array of such tables, "
            f"not {entry!r:.80}"
        )
    _check_keys(entry, _PRICE_KEYS, where)
    for key in _REQUIRED_KEYS:
        if key not in entry:
            raise InvalidInput(f"{where}.{key} is missing: the price of a million tokens")
    amounts = {key: _parse_amount(entry[key], f"{where}.{key}") for key in _AMOUNT_KEYS if key in entry}
    amounts.setdefault("cached", amounts["prompt"])
    amounts.setdefault("reasoning", amounts["completion"])
    since = _parse_moment(entry["since"], f"{where}.since") if "since" in entry else BEGINNING_OF_TIME
    return Price(**amounts, since=since)


def _parse_amount(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < AMOUNT_LIMIT:
        raise InvalidInput(f"{where} must be the price of a million tokens, a number of at least 0, not {value!r:.80}")
    return float(value)


def _parse_moment(value: object, where: str) -> datetime:
    with suppress(OverflowError):  # a time zone may move a moment out of the range of `datetime`
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
        if isinstance(value, date):
            return datetime.combine(value, time(), UTC)
    raise InvalidInput(f"{where} must be a date, such as 2026-10-01 without quotes, not {value!r:.80}")


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise InvalidInput(f"{where}: unknown key {key!r:.80}; the known keys are {', '.join(known)}")
