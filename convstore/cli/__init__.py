"""Run the command line.

`convstore --help` imports click and nothing heavier, because each command imports what it needs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click

from convstore import __version__
from convstore.cli.exit_codes import report_error
from convstore.cli.options.command_defaults import CommandDefaults
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.text_input import check_arguments
from convstore.cli.render.output_streams import abandon_stdout, prepare_streams, report_lost_characters

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_COMMANDS = {
    "archive": ("archive.archive", "Move a conversation to the archive."),
    "chat": ("chat.chat", "Talk with a model at a prompt."),
    "checkout": ("checkout.checkout", "Move the head to any message."),
    "compact": ("compact.compact", "Summarise the older messages of a conversation."),
    "completion": ("completion.completion", "Print the script that completes commands in a shell."),
    "config": ("config.config", "Show the settings in force, and change them."),
    "db": ("db.database", "Inspect and upgrade the database schema."),
    "delete": ("delete.delete", "Delete a conversation; `restore` brings it back."),
    "doctor": ("doctor.doctor", "Find out what is wrong: settings, database, provider, terminal."),
    "edit": ("edit.edit", "Edit a message and ask again."),
    "export": ("export.export", "Write conversations to a file."),
    "follow": ("follow.follow", "Print a reply that another process streams."),
    "fork": ("fork.fork", "Fork a conversation and print the new id."),
    "import": ("import_.import_conversations", "Bring in conversations of other programs, or of an export."),
    "keys": ("keys.keys", "Make, list and revoke the keys of the service (`convstore serve`)."),
    "list": ("list.list_conversations", "List conversations, latest activity first."),
    "models": ("models.models", "List the models of the server, by name."),
    "new": ("new.new", "Start a conversation and print its id."),
    "open": ("open.open_conversation", "Choose a conversation, print its id, and use it from now on."),
    "pin": ("pin.pin", "Always send a message."),
    "prices": ("prices.prices", "Show the prices of models, and change them."),
    "purge": ("purge.purge", "Remove conversations for good."),
    "rate": ("rate.rate", "Rate a reply."),
    "redact": ("redact.redact", "Remove the text of messages, or parts of it, for good."),
    "redo": ("redo.redo", "Redo the turns of the latest undo."),
    "restore": ("restore.restore", "Restore a deleted conversation."),
    "resume": ("resume.resume", "Go on with a conversation in Claude Code or Codex."),
    "retention": ("retention.retention", "Say how long conversations are kept, and purge the others."),
    "retry": ("retry.retry", "Ask the last question again."),
    "say": ("say.say", "Say something and print the reply."),
    "search": ("search.search", "Find messages and titles that contain every part of QUERY, newest first."),
    "serve": ("serve.serve", "Serve OpenAI's HTTP API on your database."),
    "set": ("set.set_conversation", "Change a conversation's parameters, window, name or title."),
    "show": ("show.show", "Print a conversation's messages."),
    "stop": ("stop.stop", "Interrupt a reply in another process."),
    "tag": ("tag.tag", "Add tags to a conversation."),
    "tags": ("tags.tags", "List the tags, with their numbers of conversations."),
    "templates": ("templates.templates", "Make and change templates of new conversations."),
    "title": ("title.title", "Change a conversation's title."),
    "tool-result": ("tool_result.tool_result", "Give the result of a tool call."),
    "turns": ("turns.turns", "List the turns of a conversation."),
    "unarchive": ("unarchive.unarchive", "Move a conversation back from the archive."),
    "undo": ("undo.undo", "Undo the last turn: message and reply."),
    "unpin": ("unpin.unpin", "Stop always sending a message."),
    "untag": ("untag.untag", "Remove tags from a conversation."),
    "usage": ("usage.usage", "Show turns, tokens, cost and latency."),
}
"""The module and the function of each command, and its help in short.

Only the module of the command that runs is imported. `--help` and completion take the short help from here.
"""

_OTHER_NAMES = {
    "ask": "say",
    "history": "show",
    "find": "search",
    "grep": "search",
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
        module, name = _COMMANDS[cmd_name][0].split(".")
        command: click.Command = getattr(importlib.import_module(f"convstore.cli.commands.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(_COMMANDS.items())])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # click imports it to complete

        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in sorted(_COMMANDS.items())
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]  # then the options of the group

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in _OTHER_NAMES:
            raise click.UsageError(f"no command '{args[0]}'; `convstore {_OTHER_NAMES[args[0]]}` does it", ctx)
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
    CONVSTORE_DB       database: a SQLAlchemy URL, or the path of a SQLite file
    CONVSTORE_PROFILE  profile of your config.toml: server, key and model
    CONVSTORE_OWNER    owner of the conversations, if several people share a database
    CONVSTORE_MODEL    model to call, if neither the command nor the conversation names one
    CONVSTORE_PRICES   prices of tokens: a TOML file
    OPENAI_API_KEY     key for OpenAI, or for the server at OPENAI_BASE_URL
    OPENAI_BASE_URL    any server that speaks Chat Completions (llama.cpp, Ollama, vLLM …)
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
        if os.environ.get("_CONVSTORE_COMPLETE", "").startswith("bash"):
            from convstore.cli.options.bash_words import complete_by_line

            complete_by_line()
        if arguments[:1] == ["help"]:  # as in git
            arguments = [*arguments[1:], "--help"]
        convstore.main(arguments, prog_name="convstore", standalone_mode=False, default_map=CommandDefaults())
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
