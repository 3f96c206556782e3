"""`convstore serve`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.chosen_settings import get_given_profile
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.store_options import DatabaseChoice, StoreChoice, database_options, open_store
from convstore.cli.render.output_streams import write_answer

if TYPE_CHECKING:
    from convstore.cli.render.log_output import AccessLog
    from convstore.server.service_settings import ServiceSettings

_MIB = 2**20


@click.command(
    "serve",
    epilog=format_examples(
        "convstore serve",
        "convstore serve --upstream http://localhost:8080/v1",
        "convstore serve --host 0.0.0.0 --allowed-host chat.example.org --workers 3",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", default=8377, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for a free one.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Number of processes.")
@click.option(
    "--upstream", metavar="URL", help="Server of the models.  [default: the profile's, OPENAI_BASE_URL, else OpenAI]"
)
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Name that clients may use; repeatable."
)
@click.option(
    "--cors-origin", "cors_origins", multiple=True, metavar="ORIGIN", help="Web pages that may call; repeatable."
)
@click.option(
    "--rate",
    "requests_a_minute",
    default=6000,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Requests a minute of a key, in each process; 0 for any number.",
)
@click.option(
    "--wrong-keys",
    "failures_a_minute",
    default=60,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Wrong keys a minute of an address, in each process; 0 for any number.",
)
@click.option(
    "--max-turns",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Turns of an owner at one time, if its key has no number; 0 for any.",
)
@click.option(
    "--max-tokens-a-day",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Tokens of an owner on a day (UTC), if its key has no number; 0 for any.",
)
@click.option("--max-body", default=32, show_default=True, type=click.IntRange(1, 1024), help="Largest body, in MiB.")
@click.option(
    "--max-connections", default=1000, show_default=True, type=click.IntRange(min=1), help="Connections of a process."
)
@click.option(
    "--read-timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Time in which a client must send a request.",
)
@click.option(
    "--grace",
    default=30,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Time to end requests.",
)
@click.option(
    "--log",
    "access",
    type=click.Choice(["json", "text", "none"]),
    help="A line for each request on stderr.  [default: text with -v, else none]",
)
@click.option(
    "--wait",
    "wait_seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Time to wait for a conversation that a request names, while another turn runs there.",
)
@click.option(
    "--no-match-cut",
    "matches_cut",
    flag_value=False,
    default=True,
    help="A list without its beginning is a new conversation.",
)
@click.option(
    "--no-side-requests",
    "keeps_side_requests_apart",
    flag_value=False,
    default=True,
    help="Requests for titles and tags are conversations as all others.",
)
@click.option(
    "--on-disconnect",
    "on_disconnect",
    type=click.Choice(["finish", "stop"]),
    default="finish",
    show_default=True,
    help="What happens to a reply when its client leaves.",
)
@click.option(
    "--pass",
    "passes",
    multiple=True,
    type=click.Choice(["embeddings"]),
    help="Forward these requests, without recording them.",
)
@click.option(
    "--route",
    "given_routes",
    multiple=True,
    metavar="PATTERN=PROFILE",
    help="Profile of the server for models such as `claude-*`; repeatable.",
)
@click.option("--tls-cert", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="TLS certificate, PEM.")
@click.option("--tls-key", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Its private key, PEM.")
@database_options
def serve(
    database_choice: DatabaseChoice,
    allowed_hosts: tuple[str, ...],
    cors_origins: tuple[str, ...],
    max_body: int,
    read_timeout: float,
    grace: int,
    access: AccessLog | None,
    on_disconnect: str,
    given_routes: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    **plain: Any,
) -> None:
    """Serve OpenAI's HTTP API on your database.

    Without any key, only this machine is served. `convstore keys create` makes one; from then on each request needs a
    key. SIGTERM and Ctrl-C end the service after the running requests, within --grace.
    """
    try:
        from convstore.server.service_settings import ServiceSettings, is_loopback_name
        from convstore.server.serving import (
            check_settings,
            describe_address,
            has_other_people,
            open_socket,
            run_service,
        )
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "limits", "h11", "prometheus_client"):
            raise
        raise click.UsageError("`serve` needs more packages: pip install 'convstore[server]'.") from None
    from convstore.config.profile import is_http_url

    if plain["upstream"] and not is_http_url(plain["upstream"]):
        raise click.BadParameter("it is not a URL such as http://localhost:8080/v1", param_hint="--upstream")
    settings = ServiceSettings(
        database=database_choice.locate(),
        schema=database_choice.schema,
        profile=get_given_profile(),
        allowed_hosts=tuple(name.lower().rstrip(".") for name in allowed_hosts),
        cors_origins=tuple(origin.lower() for origin in cors_origins),
        max_body_bytes=max_body * _MIB,
        read_seconds=read_timeout,
        grace_seconds=grace,
        stops_when_left=on_disconnect == "stop",
        routes=_read_routes(given_routes),
        certificate=tls_cert,
        private_key=tls_key,
        **plain,
    )
    with open_store(StoreChoice(database_choice, "")) as store:
        has_keys = store.check_key("").has_keys
    check_settings(settings, has_keys=has_keys)
    bound = open_socket(settings)
    _print_beginning(settings, describe_address(settings, bound), has_keys=has_keys)
    import logging

    from convstore.cli.render.log_output import begin_log

    logger = logging.getLogger("convstore")
    begin = partial(begin_log, logger.level or logging.WARNING, access)  # as -v says
    begin()
    if not has_keys and has_other_people():
        logger.warning(
            "other people have accounts on this machine, and without a key each of them can use this service; "
            "`convstore keys create` makes a key"
        )
    if not is_loopback_name(settings.host) and settings.certificate is None:
        logger.warning(
            "without TLS, everybody on the way can read the keys; use --tls-cert and --tls-key, or let a proxy with "
            "TLS send the requests"
        )
    run_service(settings, bound, begin)


def _read_routes(given: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return patterns of models with their profiles."""
    from convstore.config.settings import choose_server

    routes = []
    for text in given:
        pattern, _, profile = text.partition("=")
        if not pattern or not profile:
            raise click.BadParameter(f"{text!r} is not a pattern and a profile: claude-*=work", param_hint="--route")
        choose_server(None, profile)  # it exists
        routes.append((pattern, profile))
    return tuple(routes)


def _print_beginning(settings: ServiceSettings, address: str, *, has_keys: bool) -> None:
    """Print the address, and what a client needs."""
    key = "'cs_…'  # a key of `convstore keys create`" if has_keys else "none  # any text: no key was made yet"
    write_answer(f"# convstore serves {address}; Ctrl-C ends it")
    write_answer(f"export OPENAI_BASE_URL={address}/v1")
    write_answer(f"export OPENAI_API_KEY={key}")
    from convstore.config.database_location import mask_url

    upstream = f" {mask_url(settings.upstream)}" if settings.upstream else ""
    write_answer(f"# model: any of the upstream{upstream}: GET /v1/models")
