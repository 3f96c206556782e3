"""`convstore doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.call_options import base_url_option
from convstore.cli.options.chosen_settings import find_project, get_given_profile
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import database_options
from convstore.cli.render.output_streams import make_one_line, write_answer, write_json

if TYPE_CHECKING:
    from convstore.cli.options.store_options import DatabaseChoice
    from convstore.values.health import Finding

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

    Each problem is printed with its remedy. The exit code is 0 only without a problem; else 2 for the settings, 7 for
    the database, 6 for the provider, whichever comes first. Nothing is changed, and nothing printed is secret.
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
        raise SystemExit(_EXIT_CODES[problems[0].topic])


def _examine(choice: DatabaseChoice, owner: str | None, base_url: str | None, *, is_offline: bool) -> Iterator[Finding]:
    from convstore.cli.options.chosen_settings import find_owner
    from convstore.cli.render.terminal_health import examine_terminal
    from convstore.errors import ConvstoreError
    from convstore.store.database_health import examine_database
    from convstore.values.health import HealthTopic, report_problem, report_unchecked

    settings = list(_examine_settings(choice, owner))
    yield from settings
    if any(finding.status == "problem" for finding in settings):
        yield report_unchecked(HealthTopic.DATABASE, "database", "the settings that name it have a problem")
        yield report_unchecked(HealthTopic.PROVIDER, "server", "the settings that name it have a problem")
    else:
        try:
            url = choice.locate()
        except ConvstoreError as error:
            yield report_problem(HealthTopic.DATABASE, "database", str(error), "name one: --db or CONVSTORE_DB")
        else:
            yield from examine_database(url, choice.schema, find_owner(owner))
        if is_offline:
            yield report_unchecked(HealthTopic.PROVIDER, "server", "--offline")
        else:
            from convstore.store.provider_health import examine_provider

            yield from examine_provider(base_url, get_given_profile())
    yield from examine_terminal()


def _examine_settings(choice: DatabaseChoice, owner: str | None) -> Iterator[Finding]:
    from platform import platform, python_version

    from convstore import __version__
    from convstore.cli import convstore
    from convstore.cli.options.command_defaults import check_all_defaults
    from convstore.config.settings_file import is_private, read_user_settings
    from convstore.config.settings_report import GivenSettings, list_settings, shorten_home
    from convstore.errors import ConvstoreError
    from convstore.usage.price_file import make_price_loader
    from convstore.values.health import HealthTopic, report_ok, report_problem

    topic = HealthTopic.SETTINGS
    yield report_ok(topic, "convstore", f"{__version__}, Python {python_version()}, {platform(terse=True)}")
    try:
        user = read_user_settings()
        check_all_defaults(user, convstore)
        if user.file is None:
            yield report_ok(topic, "config.toml", "you have no such file")
        elif not is_private(user.file):
            path = shorten_home(str(user.path))
            yield report_problem(topic, "config.toml", f"other users may write {path}", f"`chmod 600 {path}`")
        else:
            yield report_ok(topic, "config.toml", f"{shorten_home(str(user.path))} has no mistake")
        project = find_project()
        if project is not None and project.problem is not None:
            text = f"{shorten_home(str(project.path))} is not read: {project.problem}"
            yield report_problem(topic, "project file", text, "`chmod go-w` it, or remove it")
        found = list_settings(GivenSettings(choice.db, owner, get_given_profile()), project)
        for key, setting in found:
            if setting.source != "default" and not key.startswith(("rendering.", "defaults.")):
                value = setting.value if setting.value is not None else "not set"
                yield report_ok(topic, key, f"{shorten_home(value)} (from {shorten_home(setting.source)})")
    except ConvstoreError as error:
        yield report_problem(topic, "config.toml", str(error), "`convstore config edit`, or see docs/configuration.md")
        return
    try:
        make_price_loader(None)()
    except ConvstoreError as error:
        yield report_problem(topic, "prices", str(error), "correct the file; `convstore prices check`")


def _print(finding: Finding) -> None:
    mark = {"ok": "ok", "problem": "PROBLEM", "not checked": "-"}[finding.status]
    remedy = f"; {finding.remedy}" if finding.remedy is not None else ""
    write_answer(f"{mark.ljust(8)}{finding.subject.ljust(16)}{make_one_line(finding.text + remedy)}")


def _to_json(finding: Finding) -> dict[str, Any]:
    return {
        "topic": finding.topic.value,
        "subject": finding.subject,
        "status": finding.status.value,
        "text": finding.text,
        "remedy": finding.remedy,
    }
