"""Run the command line.

`convstore --help` imports click and nothing heavier, because each command imports what it needs.
"""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from typing import Any

import click

from convstore import __version__
from convstore.cli.exit_codes import report_error
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.text_input import check_arguments
from convstore.cli.render.output_streams import abandon_stdout, prepare_streams, report_lost_characters

_COMMANDS = {
    "checkout": "checkout.checkout",
    "compact": "compact.compact",
    "db": "db.database",
    "delete": "delete.delete",
    "edit": "edit.edit",
    "follow": "follow.follow",
    "fork": "fork.fork",
    "list": "list.list_conversations",
    "new": "new.new",
    "pin": "pin.pin",
    "redo": "redo.redo",
    "restore": "restore.restore",
    "retry": "retry.retry",
    "say": "say.say",
    "set": "set.set_conversation",
    "show": "show.show",
    "stop": "stop.stop",
    "tool-result": "tool_result.tool_result",
    "turns": "turns.turns",
    "undo": "undo.undo",
    "unpin": "unpin.unpin",
    "usage": "usage.usage",
}
"""The module and the function of each command. Only the module of the command that runs is imported."""


_OTHER_NAMES = {
    "ask": "say",
    "chat": "say",
    "history": "show",
    "log": "turns",
    "ls": "list",
    "rename": "set --name",
    "rm": "delete",
}
"""Names that other programs have for some commands, and the commands."""


class _Commands(click.Group):
    """The commands, each of which is imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(".")
        command: click.Command = getattr(importlib.import_module(f"convstore.cli.commands.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in _OTHER_NAMES:
            raise click.UsageError(f"No such command '{args[0]}'; `convstore {_OTHER_NAMES[args[0]]}` does it.", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if name is not None else None
            if error.ctx is None and command is not None:  # click leaves it out of some errors
                error.ctx = click.Context(command, info_name=name, parent=ctx)
            raise


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=format_examples(
        'ID=$(convstore new "Olympics" --system "You are a sports expert." -m gpt-4o-mini)',
        'convstore say "Where were the 2008 games held?"',
        'convstore say "Who won most medals?" -c "$ID"',
    ),
)
@click.version_option(__version__, "-V", "--version", prog_name="convstore", message="%(prog)s %(version)s")
def convstore() -> None:
    """Keep conversations with language models in your database.

    REF is the name of a conversation, its id, or the beginning of its id. Without it, the conversation is
    CONVSTORE_CONVERSATION, else the one used last.

    \b
    CONVSTORE_DB      database: a SQLAlchemy URL, or the path of a SQLite file
    CONVSTORE_OWNER   owner of the conversations, if several people share a database
    CONVSTORE_MODEL   model to call, if neither the command nor the conversation names one
    CONVSTORE_PRICES  prices of tokens: a TOML file
    OPENAI_API_KEY    key for OpenAI, or for the server at OPENAI_BASE_URL
    OPENAI_BASE_URL   any server that speaks Chat Completions (llama.cpp, Ollama, vLLM …)
    """


def main() -> None:
    """Run the command line and exit with a code of `exit_codes`; 0 is success."""
    prepare_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # Python's warnings are for programmers
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(number, _exit_on_signal)
    try:
        arguments = sys.argv[1:]
        check_arguments(arguments)
        if arguments[:1] == ["help"]:  # as in git
            arguments = [*arguments[1:], "--help"]
        convstore.main(arguments, prog_name="convstore", standalone_mode=False)
        sys.stdout.flush()
        status = 0
    except BrokenPipeError:
        abandon_stdout()  # the program that reads stdout (head, less) has ended
        status = 1
    except BaseException as error:
        status = report_error(error)
        if isinstance(error, OSError):
            abandon_stdout()
    report_lost_characters()
    sys.exit(status)


def _exit_on_signal(number: int, _: object) -> None:
    """Raise SystemExit, so that a partial reply is stored before the program ends."""
    raise SystemExit(128 + number)
