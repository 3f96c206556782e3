"""`convstore models`."""

from __future__ import annotations

import click

from convstore.cli.options.call_options import base_url_option
from convstore.cli.options.chosen_settings import get_given_profile
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import log_option
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json, write_note

_PROVIDER_FAILED = 6


@click.command(epilog=format_examples("convstore models", "convstore models --profile work --json"))
@base_url_option
@json_option
@log_option
def models(base_url: str | None, as_json: bool) -> None:
    """List the models of the server, by name."""
    from convstore.provider.model_list import ModelsNotListed, list_models
    from convstore.provider.openai_client import make_client

    client = make_client(base_url, get_given_profile())
    try:
        found = list_models(client)
    except ModelsNotListed as error:
        write_note(f"{error}; `convstore doctor` says more")
        raise SystemExit(_PROVIDER_FAILED) from None
    finally:
        client.close()
    if as_json:
        write_json([{"id": model.id, "owned_by": model.owner, "created_at": model.created_at} for model in found])
        return
    for model in found:
        write_answer(make_one_line(model.id))
    if not found:
        write_note("the server lists no models")
