"""`convstore set`."""

from __future__ import annotations

from typing import Any

import click

from convstore.cli.options import shared_options, window_options
from convstore.cli.options.target import describe, find_conversation, open_store
from convstore.cli.render import output

_ALSO_UNSET = ("name", "title", "metadata")  # besides parameters


@click.command(
    "set",
    epilog=shared_options.example(
        "convstore set -m gpt-4o-mini --temperature 0.2",
        "convstore set --last 10 --max-context 8000",
        'convstore set 3kx9 --name games --title "Olympic games"',
        "convstore set games --unset temperature --unset title",
    ),
)
@click.argument("ref", required=False)
@click.option("--name", metavar="HANDLE", help="A new short handle.")
@click.option("--title", metavar="TITLE", help="A new title.")
@shared_options.parameter_options
@window_options.kept_options
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata to add or replace; repeatable.")
@click.option(
    "--unset",
    multiple=True,
    metavar="KEY",
    help="Take away a parameter, an option of the window, name, title or metadata; repeatable.",
)
@shared_options.json_option
@shared_options.store_options
def set_conversation(
    ref: str | None,
    name: str | None,
    title: str | None,
    meta: tuple[str, ...],
    unset: tuple[str, ...],
    as_json: bool,
    db: str | None,
    owner: str,
    **given: Any,
) -> None:
    """Change a conversation's parameters, window, name or title.

    REF is its name, its id, or the beginning of its id; without one, it is the conversation used last.
    """
    options = window_options.taken(given)
    changes: dict[str, Any] = shared_options.kept_parameters(**given) | options
    changes |= {key: value for key, value in (("name", name), ("title", title)) if value is not None}
    for key in (window_options.key(word) or word for word in unset):
        if key not in _ALSO_UNSET and key not in window_options.KEYS:
            shared_options.check_key(key)
        if key in changes:
            raise click.UsageError(f"{key} is both set and unset.")
        changes[key] = None
    added = shared_options.metadata(meta)
    if not changes and not added:
        raise click.UsageError("nothing to change.")
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        if added:
            changes["metadata"] = added if "metadata" in changes else {**conversation.metadata, **added}
        conversation = store.set(conversation.id, **changes)
    if as_json:
        from convstore.cli.render.json_forms import conversation_form

        output.write_json(conversation_form(conversation))
    else:
        kept = {**conversation.settings, **conversation.window}
        output.note_on_terminal(f"changed {describe(conversation)}: {output.json_text(kept)}")
