"""Define the options for a call of the model.

`say`, `edit` and `retry` have all of them; other commands use --wait and --base-url.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from convstore.cli.options.chosen_settings import profile_option
from convstore.cli.options.conversation_option import expected_head_option
from convstore.cli.options.output_options import json_option, plain_option

_base_url_option = click.option(
    "--base-url",
    metavar="URL",
    help="Server of the model.  [default: the profile's, OPENAI_BASE_URL, else OpenAI]",
)


def base_url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --base-url and --profile to a command.

    It receives `base_url`; `open_store` takes the profile from the context.
    """
    return _base_url_option(profile_option(command))


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the model is called, and how its reply is printed."""

    as_stream: bool
    """Whether the reply is printed as it arrives."""
    wait: float
    """Seconds to wait while another turn runs."""
    base_url: str | None
    expected_head: int | None
    as_json: bool
    is_plain: bool = False
    """Whether the reply is printed as it is, without rendering, and nothing is redrawn."""

    @property
    def store_arguments(self) -> dict[str, Any]:
        """The keyword arguments for a method of the store that calls the model."""
        return {"wait": self.wait, "expected_head": self.expected_head}


_no_stream_option = click.option("--no-stream", is_flag=True, help="Reply printed when it is complete.")


def call_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a call to a command; it receives CallOptions as `call`."""

    @wraps(command)
    def run(
        *,
        no_stream: bool,
        wait: float,
        base_url: str | None,
        expected_head: int | None,
        as_json: bool,
        is_plain: bool,
        **others: Any,
    ) -> None:
        call = CallOptions(not (no_stream or as_json), wait, base_url, expected_head, as_json, is_plain)
        command(call=call, **others)

    return expected_head_option(_no_stream_option(plain_option(wait_options(base_url_option(json_option(run))))))


def chat_call_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of many calls to a command: those of `call_options` that are not about one of them."""

    @wraps(command)
    def run(*, no_stream: bool, wait: float, base_url: str | None, is_plain: bool, **others: Any) -> None:
        command(call=CallOptions(not no_stream, wait, base_url, None, as_json=False, is_plain=is_plain), **others)

    return _no_stream_option(plain_option(wait_options(base_url_option(run))))


def wait_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --wait and --no-wait to a command; it receives the seconds as `wait`."""

    @wraps(command)
    def run(*, wait: float, no_wait: bool, **others: Any) -> None:
        command(wait=0.0 if no_wait else wait, **others)

    wait_option = click.option(
        "--wait",
        type=click.FloatRange(min=0),
        default=30.0,
        metavar="SECONDS",
        help="Longest wait while another turn runs.  [default: 30]",
    )
    no_wait_option = click.option("--no-wait", is_flag=True, help="No wait: exit with 5 while another turn runs.")
    return wait_option(no_wait_option(run))
