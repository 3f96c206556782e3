"""`convstore doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.call_options import base_url_option
from convstore.cli.options.chosen_settings import get_given_profile
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import database_options
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json
from convstore.cli.render.terminal_table import get_width
from convstore.cli.render.text_width import wrap_line

if TYPE_CHECKING:
    from convstore.cli.options.store_options import DatabaseChoice
    from convstore.values.health import Finding

_HAS_PROBLEM = "a setting that names it has a problem"
_LEAST_COLUMNS = 30
_EXIT_CODES = {"settings": 2, "database": 7, "provider": 6, "terminal": 2}


@click.command(epilog=format_examples("convstore doctor", "convstore doctor --json", "convstore doctor --offline"))
@click.option("--offline", is_flag=True, help="No call to the provider.")
@click.option("--owner", metavar="OWNER", help="Owner of the conversations.  [default: as in `convstore config`]")
@base_url_option
@json_option
@database_options
def doctor(
    offline: bool, owner: str | None, base_url: str | None, as_json: bool, database_choice: DatabaseChoice
) -> None:
    """Find out what is wrong: settings, database, provider, terminal.

    Each problem is printed with its remedy. The exit code is 0 only without a problem; else 2 if a setting is wrong or
    missing, else 7 for the database, 6 for the provider, 2 for the terminal. Nothing is changed, and nothing printed
    is secret.
    """
    from convstore import __version__

    found: list[Finding] = []
    for finding in _examine(database_choice, owner, base_url, is_offline=offline):
        found.append(finding)
        if not as_json:
            _print(finding)
    problems = [finding for finding in found if finding.status == "problem"]
    if as_json:
        write_json({"version": __version__, "ok": not problems, "findings": [_to_json(finding) for finding in found]})
    else:
        count = len(problems)
        write_answer("all is well" if not count else f"{count} {'problem' if count == 1 else 'problems'}")
    if problems:
        raise SystemExit(
            next(code for topic, code in _EXIT_CODES.items() if topic in {each.topic for each in problems})
        )


def _examine(choice: DatabaseChoice, owner: str | None, base_url: str | None, *, is_offline: bool) -> Iterator[Finding]:
    from platform import platform, python_version

    from convstore import __version__
    from convstore.cli import convstore
    from convstore.cli.options.settings_health import examine_settings
    from convstore.cli.render.terminal_health import examine_terminal
    from convstore.config.settings_report import GivenSettings
    from convstore.values.health import HealthTopic, report_ok, report_unchecked

    given = GivenSettings(choice.db, owner, get_given_profile(), base_url)
    version = f"{__version__}, Python {python_version()}, {platform(terse=True)}"
    settings = [report_ok(HealthTopic.SETTINGS, "convstore", version), *examine_settings(given, convstore)]
    yield from settings
    problems = [finding for finding in settings if finding.status == "problem"]
    yield from _examine_database(choice, owner, problems)
    if is_offline:
        yield report_unchecked(HealthTopic.PROVIDER, "server", "--offline")
    else:
        yield from _examine_provider(base_url, problems)
    yield from examine_terminal()


def _examine_database(choice: DatabaseChoice, owner: str | None, problems: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what is found about the database, unless one of the settings that name it is wrong.

    Args:
        problems: what is wrong with the settings.
    """
    from convstore.cli.options.chosen_settings import find_owner
    from convstore.errors import ConvstoreError
    from convstore.store.database_health import examine_database
    from convstore.values.health import HealthTopic, report_problem, report_unchecked

    try:
        url = choice.locate()
    except ConvstoreError as error:
        if str(error) in {problem.text for problem in problems}:
            yield report_unchecked(HealthTopic.DATABASE, "database", _HAS_PROBLEM)
        else:
            yield report_problem(HealthTopic.DATABASE, "database", str(error), "name one: --db or CONVSTORE_DB")
        return
    if not any(problem.subject == "owner" for problem in problems):
        with suppress(ConvstoreError):  # it is told already; most checks need no owner
            owner = find_owner(owner)
    yield from examine_database(url, choice.schema, owner or "")


def _examine_provider(base_url: str | None, problems: Sequence[Finding]) -> Iterator[Finding]:
    """Yield what is found about the server of models, unless one of the settings that name it is wrong."""
    from convstore.config.settings import choose_model, choose_server
    from convstore.errors import ConvstoreError
    from convstore.store.provider_health import examine_provider
    from convstore.values.health import HealthTopic, report_unchecked

    profile = get_given_profile()
    try:
        choose_server(base_url, profile)
        choose_model(profile=profile)
    except ConvstoreError:  # a mistake in a file, which is told already
        yield report_unchecked(HealthTopic.PROVIDER, "server", _HAS_PROBLEM)
        return
    if {"base-url", "key"} & {problem.subject for problem in problems}:
        yield report_unchecked(HealthTopic.PROVIDER, "server", _HAS_PROBLEM)
    else:
        yield from examine_provider(base_url, profile)


def _print(finding: Finding) -> None:
    mark = {"ok": "ok", "problem": "PROBLEM", "not checked": "-"}[finding.status]
    remedy = f"; {finding.remedy}" if finding.remedy is not None else ""
    text = make_one_line(finding.text + remedy)
    begin = f"{mark.ljust(8)}{finding.subject.ljust(16)}"
    room = get_width() - len(begin)
    lines = wrap_line(text, room) if sys.stdout.isatty() and room >= _LEAST_COLUMNS else [text]
    write_answer(begin + f"\n{' ' * len(begin)}".join(lines))


def _to_json(finding: Finding) -> dict[str, Any]:
    return {
        "topic": finding.topic.value,
        "subject": finding.subject,
        "status": finding.status.value,
        "text": finding.text,
        "remedy": finding.remedy,
    }
