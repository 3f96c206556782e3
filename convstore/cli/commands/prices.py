"""`convstore prices`."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.completed_words import complete_model
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json, write_note, write_terminal_note
from convstore.errors import InvalidInput

if TYPE_CHECKING:
    from convstore.usage.prices import Price, Prices

_HEADINGS = ("MODEL", "PROMPT", "CACHED", "COMPLETION", "REASONING", "SINCE")
_AMOUNT = click.FloatRange(min=0)


@click.group(
    "prices",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    epilog=format_examples(
        "convstore prices",
        "convstore prices check",
        "convstore prices set 'gpt-4o-mini*' --prompt 0.15 --completion 0.60",
        "convstore prices set o9 --prompt 10 --completion 40 --since 2026-10-01",
    ),
)
@json_option
@click.pass_context
def prices(context: click.Context, as_json: bool) -> None:
    """Show the prices of models, and change them.

    Without a command, the file of prices is read and each price is printed: of a million tokens, in the file's
    currency.
    """
    if context.invoked_subcommand is not None:
        return
    path, found = _read()
    rows = found.list_prices()
    if as_json:
        write_json(
            {
                "file": str(path) if path is not None else None,
                "currency": found.currency,
                "prices": [_price_to_json(name, price) for name, price in rows],
            }
        )
        return
    if path is None or not rows:
        write_note("there are no prices yet; `convstore prices set MODEL --prompt X --completion Y` adds one")
        return
    write_terminal_note(f"({path}; {found.currency} for a million tokens)")
    _print_table([_HEADINGS, *(_format_price(name, price) for name, price in rows)])


def _read() -> tuple[Path | None, Prices]:
    from convstore.config.settings import find_price_file
    from convstore.usage.price_file import read_price_file
    from convstore.usage.prices import NO_PRICES

    path = find_price_file()
    return path, read_price_file(path) if path is not None else NO_PRICES


def _find_path() -> Path:
    from convstore.config.settings import choose_price_file

    value = choose_price_file().value
    if value is None:
        raise InvalidInput("your configuration directory is unknown (HOME is not set); set CONVSTORE_PRICES")
    return Path(value)


def _format_price(name: str, price: Price) -> tuple[str, ...]:
    amounts = (price.prompt, price.cached, price.completion, price.reasoning)
    return (make_one_line(name), *(f"{amount:g}" for amount in amounts), _format_since(price) or "-")


def _format_since(price: Price) -> str | None:
    from convstore.usage.prices import BEGINNING_OF_TIME

    if price.since == BEGINNING_OF_TIME:
        return None
    is_day = (price.since.hour, price.since.minute, price.since.second) == (0, 0, 0)
    return price.since.date().isoformat() if is_day else price.since.isoformat()


def _price_to_json(name: str, price: Price) -> dict[str, Any]:
    return {
        "model": name,
        "prompt": price.prompt,
        "cached": price.cached,
        "completion": price.completion,
        "reasoning": price.reasoning,
        "since": _format_since(price),
    }


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        write_answer("  ".join(cells))


@prices.command("check", epilog=format_examples("convstore prices check", "convstore prices check --json"))
@json_option
@store_options
def check(as_json: bool, store_choice: StoreChoice) -> None:
    """Check the file of prices, and name the models that were used and have no price.

    If the file has a mistake, the exit code is 2, and stderr names it.
    """
    path, found = _read()
    with open_reader(store_choice) as store:
        rows = store.usage(by="model").rows
    without = {row.key: row.turns_without_price for row in rows if row.key is not None and row.turns_without_price}
    if as_json:
        write_json({"file": str(path) if path is not None else None, "models_without_price": without})
        return
    count = len({name for name, _ in found.list_prices()})
    write_answer(f"{path or 'no file'}: prices of {count} {'model' if count == 1 else 'models'}, no mistake")
    for name, turns in without.items():
        write_note(f"no price for {name}: {turns} {'turn' if turns == 1 else 'turns'}")


@prices.command(
    "set",
    epilog=format_examples(
        "convstore prices set 'gpt-4o-mini*' --prompt 0.15 --cached 0.075 --completion 0.60",
        "convstore prices set o9 --prompt 10 --completion 40 --since 2026-10-01",
    ),
)
@click.argument("model", shell_complete=complete_model)
@click.option("--prompt", type=_AMOUNT, required=True, metavar="X", help="Price of a million tokens of the prompt.")
@click.option("--completion", type=_AMOUNT, required=True, metavar="X", help="Price of a million tokens of the reply.")
@click.option("--cached", type=_AMOUNT, metavar="X", help="Price of cached tokens of the prompt.  [default: --prompt]")
@click.option("--reasoning", type=_AMOUNT, metavar="X", help="Price of reasoning tokens.  [default: --completion]")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="DAY",
    help="First day of the price (UTC); earlier prices stay.  [default: any time, instead of all others]",
)
def set_price(
    model: str,
    prompt: float,
    completion: float,
    cached: float | None,
    reasoning: float | None,
    since: datetime | None,
) -> None:
    """Set the price of a model.

    A MODEL with * at its end is every model with a name that begins so.
    """
    from convstore.usage import price_writer

    given = {"prompt": prompt, "cached": cached, "completion": completion, "reasoning": reasoning}
    amounts = {key: amount for key, amount in given.items() if amount is not None}
    day: date | None = since.date() if since is not None else None
    path = _find_path()
    price_writer.set_price(path, model, amounts, day)
    write_terminal_note(f"(changed {path})")


@prices.command("unset", epilog=format_examples("convstore prices unset o9"))
@click.argument("model", shell_complete=complete_model)
def unset_price(model: str) -> None:
    """Remove the prices of a model."""
    from convstore.usage import price_writer

    path = _find_path()
    price_writer.remove_price(path, model)
    write_terminal_note(f"(changed {path})")
