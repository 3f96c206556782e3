"""Format the help of a command."""

from __future__ import annotations

import click

_SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Conversation",
        ("--conversation", "--new", "--name", "--title", "--expected-head", "--db", "--schema", "--owner"),
    ),
    ("Message", ("--attach", "--continue", "--sender", "--system", "--key")),
    ("Model", ("--model", "--temperature", "--top-p", "--max-tokens", "-o", "--profile", "--base-url")),
    (
        "What is sent",
        (
            *("--history", "--last", "--max-context", "--cache-stable", "--on-overflow", "--fill-missing-tools"),
            *("--send-reasoning", "--send-extra", "--accept-done", "--dry-run"),
        ),
    ),
    ("Waiting", ("--wait", "--no-wait")),
    ("Output", ()),
)
"""The sections of the help of a command that calls a model; the last one has all other options."""


def format_examples(*lines: str) -> str:
    """Return the examples of a command for its help: a heading, and a line for each."""
    # Without \b at its beginning, click would wrap the paragraph.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class SectionedCommand(click.Command):
    """A command with many options: its help has them in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        parameters = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for heading, flags in _SECTIONS:
            is_last = not flags
            chosen = [one for one in parameters if is_last or not set(flags).isdisjoint(one.opts)]
            parameters = [one for one in parameters if one not in chosen]
            records = [record for one in chosen if (record := one.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
