"""Find out whether the terminal and the locale can show every text."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator

from convstore.cli.render.output_streams import describe_locale, has_colours
from convstore.values.health import Finding, HealthTopic, report_ok, report_problem

_TOPIC = HealthTopic.TERMINAL


def examine_terminal() -> Iterator[Finding]:
    """Yield what is found about the terminal and the locale."""
    cause = describe_locale()
    encoding = (sys.stdout.encoding or "unknown").lower()
    if cause:
        text, _, remedy = cause.partition("; ")
        yield report_problem(_TOPIC, "locale", text, remedy)
    elif encoding not in ("utf-8", "utf8"):
        yield report_problem(_TOPIC, "locale", f"the output is in {encoding}", "set PYTHONIOENCODING=utf-8")
    else:
        yield report_ok(_TOPIC, "locale", "texts are in UTF-8")
    if not sys.stdout.isatty():
        yield report_ok(_TOPIC, "terminal", "stdout is not a terminal")
        return
    name = os.environ.get("TERM", "")
    if not name:
        yield report_problem(_TOPIC, "terminal", "TERM is not set", "set TERM to the name of your terminal")
        return
    size = shutil.get_terminal_size()
    colours = "with colours" if has_colours(sys.stdout) else "without colours"
    yield report_ok(_TOPIC, "terminal", f"{name}, {size.columns} columns, {size.lines} lines, {colours}")
