"""`convstore keys`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.age_option import read_age
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.render.output_streams import (
    format_local_time,
    make_one_line,
    write_answer,
    write_json,
    write_note,
    write_terminal_note,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from convstore.values.api_key import ApiKey

_RIGHTS = ("read", "write", "act-for", "admin")


@click.group(
    "keys",
    epilog=format_examples(
        'KEY=$(convstore keys create --owner ada --name "Ada\'s laptop")',
        "convstore keys list --all-owners",
        "convstore keys revoke b7kq2mxp9twd",
    ),
)
def keys() -> None:
    """Make, list and revoke the keys of the service (`convstore serve`).

    A key belongs to an owner. With the first key, the service stops serving callers without one.
    """


def _read_rights(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    rights = tuple(part.strip() for part in value.split(",") if part.strip())
    unknown = [right for right in rights if right not in _RIGHTS]
    if unknown or not rights:
        raise click.BadParameter(f"rights are {', '.join(_RIGHTS)}, separated by commas; not '{value}'.")
    return rights


@keys.command(
    epilog=format_examples(
        "convstore keys create --owner ada --expires 90d",
        "convstore keys create --rights read --name reports",
        "convstore keys create --rights read,write,act-for --for 'webui-' --name 'Open WebUI'",
    )
)
@click.option(
    "--rights",
    default="read,write",
    show_default=True,
    callback=_read_rights,
    metavar="LIST",
    help="What the key may do: read, write, act-for, admin.",
)
@click.option(
    "--for",
    "acts_for",
    metavar="PREFIX",
    help="Beginning of the owners that a key with act-for may act for; '' for all.",
)
@click.option(
    "--expires",
    "expires_in",
    callback=read_age,
    metavar="TIME",
    help="How long it is valid: 90d, 12h.  [default: until it is revoked]",
)
@click.option("--name", metavar="TEXT", help="Label for people.")
@click.option(
    "--max-turns",
    type=click.IntRange(min=0),
    metavar="N",
    help="Turns of an owner at one time; 0 for any.  [default: as `serve` says]",
)
@click.option(
    "--max-tokens-a-day",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tokens of an owner on a day (UTC); 0 for any.  [default: as `serve` says]",
)
@json_option
@store_options
def create(
    rights: tuple[str, ...],
    acts_for: str | None,
    expires_in: timedelta | None,
    name: str | None,
    max_turns: int | None,
    max_tokens_a_day: int | None,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Make a key, and print it: it is not stored and cannot be shown again."""
    if ("act-for" in rights) != (acts_for is not None):
        raise click.UsageError("'act-for' in --rights and --for PREFIX need each other (--for '' for all owners).")
    with open_store(store_choice) as store:
        made = store.create_key(
            name=name,
            rights=rights,
            acts_for=acts_for,
            expires_in=expires_in,
            max_turns=max_turns,
            max_tokens_a_day=max_tokens_a_day,
        )
    if as_json:
        write_json({"secret": made.secret, **_key_to_json(made.key)})
        return
    write_answer(made.secret)
    write_terminal_note(f"key {made.key.id}: {_describe(made.key)}; keep it now, it cannot be shown again")


@keys.command("list", epilog=format_examples("convstore keys list --owner ada", "convstore keys list --all-owners"))
@click.option("--all-owners", is_flag=True, help="Keys of all owners.")
@json_option
@store_options
def list_keys(all_owners: bool, as_json: bool, store_choice: StoreChoice) -> None:
    """List the owner's keys, oldest first: id, rights, last use."""
    with open_store(store_choice) as store:
        found = store.list_keys(all_owners=all_owners)
    if as_json:
        write_json([_key_to_json(key) for key in found])
        return
    if found and sys.stdout.isatty():
        _print_table(found)
        return
    for key in found:
        used = f"last used {format_local_time(key.last_used_at)}" if key.last_used_at else "never used"
        write_answer(f"{key.id}  {make_one_line(_describe(key))}  {used}  {make_one_line(key.name or '')}".rstrip())
    if not found:
        hint = "" if all_owners or store_choice.owner else "; `--all-owners` lists those of other owners"
        write_terminal_note(f"no keys{hint}")


@keys.command(epilog=format_examples("convstore keys revoke b7kq2mxp9twd"))
@click.argument("key_id", metavar="ID")
@json_option
@store_options
def revoke(key_id: str, as_json: bool, store_choice: StoreChoice) -> None:
    """Revoke a key: the next request with it is refused.

    Without --owner, it may be a key of any owner. The service goes on asking for a key.
    """
    with open_store(store_choice) as store:
        key = store.revoke_key(key_id)
    if as_json:
        write_json(_key_to_json(key))
    else:
        write_note(f"key {key.id} is revoked")


def _describe(key: ApiKey) -> str:
    """Return the owner, the rights and the state of a key as a few words."""
    words = [f"owner '{key.owner}'", ",".join(right for right in _RIGHTS if right in key.rights)]
    if key.acts_for is not None:
        words.append(f"for '{key.acts_for}…'" if key.acts_for else "for all owners")
    if key.max_turns is not None:
        words.append(f"{key.max_turns or 'any number of'} turns at one time")
    if key.max_tokens_a_day is not None:
        words.append(f"{key.max_tokens_a_day or 'any number of'} tokens a day")
    if state := _describe_state(key):
        words.append(state)
    return " ".join(words)


def _describe_state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return ""
    word = "expires" if key.is_active(datetime.now(UTC)) else "expired"
    return f"{word} {format_local_time(key.expires_at)}"


def _print_table(found: list[ApiKey]) -> None:
    from convstore.cli.render.terminal_table import Column, print_table

    columns = [Column("ID"), Column("OWNER", max_width=30), Column("RIGHTS"), Column("FOR", max_width=20)]
    columns += [Column("LAST USE"), Column("STATE"), Column("NAME", max_width=40)]
    rows = [
        [
            key.id,
            make_one_line(key.owner) or "-",
            ",".join(right for right in _RIGHTS if right in key.rights),
            "-" if key.acts_for is None else make_one_line(key.acts_for) or "all",
            format_local_time(key.last_used_at) if key.last_used_at else "never",
            _describe_state(key) or "valid",
            make_one_line(key.name or ""),
        ]
        for key in found
    ]
    print_table(columns, rows)


def _key_to_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "owner": key.owner,
        "name": key.name,
        "rights": [right for right in _RIGHTS if right in key.rights],
        "for": key.acts_for,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "max_turns": key.max_turns,
        "max_tokens_a_day": key.max_tokens_a_day,
    }
