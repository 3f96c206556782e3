"""Find out whether the settings, and the files that they come from, have a mistake."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from convstore.cli.options.chosen_settings import find_project
from convstore.cli.options.default_checks import find_mistakes
from convstore.config.profile import is_http_url
from convstore.config.settings import choose_profile, choose_server
from convstore.config.settings_file import UserSettings, is_private, read_user_settings
from convstore.config.settings_report import GivenSettings, shorten_home, try_settings
from convstore.errors import ConvstoreError, InvalidInput
from convstore.usage.price_file import make_price_loader
from convstore.values.health import Finding, HealthStatus, HealthTopic, report_ok, report_problem, report_unchecked
from convstore.values.validation import check_owner

if TYPE_CHECKING:
    import click

    from convstore.config.project_file import ProjectSettings

_TOPIC = HealthTopic.SETTINGS
_EDIT = "`convstore config edit`, or see docs/configuration.md"
_OTHER_PROFILE = "name another: --profile, CONVSTORE_PROFILE or `convstore config`"


def examine_settings(given: GivenSettings, program: click.Group) -> Iterator[Finding]:
    """Yield what is found about the settings that are in force, and about the files that they come from.

    Args:
        given: what the command line gives.
        program: the group that has all commands.
    """
    told: set[str] = set()
    for finding in _examine(given, program):
        if finding.status is HealthStatus.PROBLEM:
            if finding.text in told:  # a mistake of the file is met again by each setting that the file may have
                continue
            told.add(finding.text)
        yield finding


def _examine(given: GivenSettings, program: click.Group) -> Iterator[Finding]:
    try:
        user: UserSettings | None = read_user_settings()
    except ConvstoreError as error:
        user = None
        yield report_problem(_TOPIC, "config.toml", str(error), _EDIT)
    if user is not None:
        yield from _examine_user_file(user, program)
    project: ProjectSettings | None = None
    try:
        project = find_project()
    except InvalidInput as error:
        yield report_problem(_TOPIC, "project file", str(error), "edit this file, or remove it")
    if project is not None and project.problem is not None:
        text = f"{shorten_home(str(project.path))} is not read: {project.problem}"
        yield report_problem(_TOPIC, "project file", text, "`chmod go-w` it, or remove it")
    for key, setting in try_settings(given, project):
        if isinstance(setting, ConvstoreError):
            yield report_problem(_TOPIC, key, str(setting), _OTHER_PROFILE if key == "profile" else _EDIT)
        elif setting.source != "default":
            value = setting.value if setting.value is not None else "not set"
            yield report_ok(_TOPIC, key, f"{shorten_home(value)} (from {shorten_home(setting.source)})")
            if key == "owner":
                yield from _examine_owner(setting.value or "")
    yield from _examine_server(given)
    if user is not None:
        yield from _examine_other_profiles(user, given)
    try:
        make_price_loader(None)()
    except ConvstoreError as error:
        yield report_problem(_TOPIC, "prices", str(error), "correct the file; `convstore prices check`")


def _examine_user_file(user: UserSettings, program: click.Group) -> Iterator[Finding]:
    path = shorten_home(str(user.path))
    if user.file is None:
        yield report_ok(_TOPIC, "config.toml", "you have no such file")
        return
    mistakes = list(find_mistakes(user, program))
    for mistake in mistakes:
        yield report_problem(_TOPIC, "config.toml", str(mistake), _EDIT)
    if not is_private(user.file):
        yield report_problem(_TOPIC, "config.toml", f"other users may write {path}", f"`chmod 600 {path}`")
    elif not mistakes:
        yield report_ok(_TOPIC, "config.toml", f"{path} has no mistake")


def _examine_owner(owner: str) -> Iterator[Finding]:
    try:
        check_owner(owner)
    except InvalidInput as error:
        yield report_problem(
            _TOPIC, "owner", str(error), "name another: --owner, CONVSTORE_OWNER or `convstore config`"
        )


def _examine_server(given: GivenSettings) -> Iterator[Finding]:
    """Yield what is wrong with the address of the server that is in force, and with the variable for its key."""
    try:
        server = choose_server(given.base_url, given.profile)
    except ConvstoreError:
        return  # it is told above
    if not is_http_url(server.base_url):
        text = f"the base URL {server.source_in_words} is not a URL such as http://localhost:8080/v1"
        yield report_problem(_TOPIC, "base-url", text, "correct it: --base-url, OPENAI_BASE_URL or `convstore config`")
    if server.profile is not None and server.profile.key_variable is not None:
        try:
            server.profile.read_key()
        except ConvstoreError as error:
            text, _, remedy = str(error).partition("; ")
            yield report_problem(_TOPIC, "key", text, remedy)


def _examine_other_profiles(user: UserSettings, given: GivenSettings) -> Iterator[Finding]:
    """Yield what is missing for the profiles that are not in force: it may be there when they are."""
    try:
        chosen, _ = choose_profile(given.profile)
    except ConvstoreError:
        chosen = None
    for profile in user.profiles.values():
        variable = profile.key_variable
        if profile != chosen and variable is not None and not os.environ.get(variable, "").strip():
            yield report_unchecked(_TOPIC, f"profile {profile.name}", f"the variable {variable} is not set here")
