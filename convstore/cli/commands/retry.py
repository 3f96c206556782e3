"""`convstore retry`."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from convstore.cli.options import shared_options, window_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render.reply_output import call_options, print_reply


@click.command(epilog=shared_options.example("convstore retry", "convstore retry games -m gpt-4o --temperature 1"))
@click.argument("ref", required=False)
@shared_options.parameter_options
@window_options.options
@shared_options.head_option
@call_options
@shared_options.json_option
@shared_options.store_options
def retry(
    ref: str | None,
    expected_head: int | None,
    no_stream: bool,
    wait: float,
    no_wait: bool,
    base_url: str | None,
    as_json: bool,
    db: str | None,
    owner: str,
    **given: Any,
) -> None:
    """Ask again what was asked last.

    After a failure, an interruption, or for another answer: the new reply takes the place of the old one, which stays
    on record. The parameters and the window are those of the last time, but for what is given. REF is the
    conversation's name, its id, or the beginning of its id; without one, it is the conversation used last.
    """
    options = window_options.taken(given)
    parameters = shared_options.parameters(**given) | options
    with open_store(db, owner, base_url) as store:
        target = find_conversation(store, ref).id
        how: dict[str, Any] = {"wait": 0.0 if no_wait else wait, "expected_head": expected_head, **parameters}
        print_reply(
            stream=partial(store.retry_stream, target, **how),
            whole=partial(store.retry, target, **how),
            as_it_comes=not (no_stream or as_json),
            as_json=as_json,
        )
