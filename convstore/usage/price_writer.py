"""Change the user's price file; its comments and its order are kept."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from convstore.config.user_folders import write_private_file
from convstore.errors import InvalidInput
from convstore.usage.price_file import parse_prices

Amounts = Mapping[str, float]
"""What a million tokens cost: `prompt`, `completion`, and if they differ `cached` and `reasoning`."""


def set_price(path: Path, model: str, amounts: Amounts, since: date | None = None) -> None:
    """Store what a model costs.

    Without `since`, it replaces what the file says of the model. With it, the earlier prices stay, and this one holds
    from that day on.

    Args:
        path: the price file; it is made if it does not exist.
        model: a name; with `*` at its end, all names that begin so.

    Raises:
        InvalidInput: the file has a mistake, or a value is wrong; nothing was changed.
    """
    entry = {**({"since": since} if since is not None else {}), **amounts}

    def change(models: Any, aot: Any) -> None:
        if since is None or model not in models:
            models[model] = entry
            return
        before = models[model]
        earlier = list(before) if isinstance(before, list) else [before]
        entries = aot()
        for kept in [one for one in earlier if one.get("since") != since]:
            entries.append(kept)
        entries.append(_make_table(entry))
        models[model] = entries

    _change(path, change)


def remove_price(path: Path, model: str) -> None:
    """Remove all prices of a model.

    Raises:
        InvalidInput: the file has a mistake, or no price for this name.
    """

    def change(models: Any, _: Any) -> None:
        if model not in models:
            raise InvalidInput(f"{path} has no price for {model!r:.80}")
        del models[model]

    _change(path, change)


def replace_prices(path: Path, text: str) -> None:
    """Replace the whole file.

    Raises:
        InvalidInput: the text is wrong; nothing was changed.
    """
    _check(path, text)
    write_private_file(path, text)


def _make_table(values: Mapping[str, Any]) -> Any:
    import tomlkit

    table = tomlkit.table()
    table.update(values)
    return table


def _change(path: Path, change: Any) -> None:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    text = _read(path)
    _check(path, text)
    try:
        document = tomlkit.parse(text)
        if "models" not in document:
            document["models"] = tomlkit.table(is_super_table=True)
        change(document["models"], tomlkit.aot)
        changed = tomlkit.dumps(document)
    except (TOMLKitError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path}: this cannot be changed here ({error:.200}); edit the file") from None
    _check(path, changed)
    write_private_file(path, changed)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the price file {str(path)!r} cannot be read: {error}") from None


def _check(path: Path, text: str) -> None:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the price file {str(path)!r} is not TOML: {error}") from None
    parse_prices(document, str(path))
