"""The command line. `convstore --help` imports click and nothing heavier: each command loads what it needs."""

from __future__ import annotations

import importlib
import signal
import sys
import warnings

import click

from convstore import __version__
from convstore.cli.exit_codes import report
from convstore.cli.options import shared_options
from convstore.cli.render import output

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
"""Where each command is: a command that runs does not wait for the others to load."""


class Commands(click.Group):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(".")
        command: click.Command = getattr(importlib.import_module(f"convstore.cli.commands.{module}"), name)
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=shared_options.example(
        'ID=$(convstore new "Olympics" --system "You are a sports expert." -m gpt-4o-mini)',
        'convstore say "Where were the 2008 games held?"',
        'convstore say "Who won most medals?" -c "$ID"',
    ),
)
@click.version_option(__version__, prog_name="convstore", message="%(prog)s %(version)s")
def convstore() -> None:
    """Keep conversations with language models in your own database.

    REF names a conversation: its name, its id, or the beginning of its id. Without one, the conversation
    is CONVSTORE_CONVERSATION if that is set, else the one used last.

    \b
    CONVSTORE_DB      the database: a SQLAlchemy URL, or the path of a SQLite file
    CONVSTORE_OWNER   whose conversations these are, where several people share a database
    CONVSTORE_MODEL   the model to ask where neither the call nor the conversation names one
    CONVSTORE_PRICES  what tokens cost: a TOML file
    OPENAI_API_KEY    the key for OpenAI, or for the server at OPENAI_BASE_URL
    OPENAI_BASE_URL   any server that speaks Chat Completions (llama.cpp, Ollama, vLLM …)
    """


def main() -> None:
    """Run the command line and exit: 0 done, 1 unexpected, 2 usage, 3 not found, 4 ambiguous, 5 busy or conflict,
    6 the model or its provider failed, 7 the database, 130 Ctrl-C."""
    output.prepare_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # what libraries tell programmers
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored on purpose, as under nohup
            signal.signal(number, _stop)
    try:
        shared_options.check_arguments(sys.argv[1:])
        convstore.main(prog_name="convstore", standalone_mode=False)
        sys.stdout.flush()
        status = 0
    except BrokenPipeError:
        output.abandon()  # whoever read our output (head, less) has seen enough
        status = 1
    except BaseException as error:
        status = report(error)
        if isinstance(error, OSError):
            output.abandon()
    sys.exit(status)


def _stop(number: int, _: object) -> None:
    """End in good order after Ctrl-C, and when the terminal is closed or the program told to end: what came is kept."""
    raise SystemExit(128 + number)
