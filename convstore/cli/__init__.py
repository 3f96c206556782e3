"""The command line. `convstore --help` imports click and nothing heavier: each command loads what it needs."""

from __future__ import annotations

import os
import sys

import click

from convstore import __version__
from convstore.cli import output
from convstore.cli.database import database
from convstore.cli.failures import report
from convstore.cli.list import list_conversations
from convstore.cli.new import new
from convstore.cli.say import say
from convstore.cli.set import set_conversation
from convstore.cli.show import show
from convstore.cli.style import example


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example(
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
    OPENAI_API_KEY    the key for OpenAI, or for the server at OPENAI_BASE_URL
    OPENAI_BASE_URL   any server that speaks Chat Completions (llama.cpp, Ollama, vLLM …)
    """


convstore.add_command(new)
convstore.add_command(say)
convstore.add_command(show)
convstore.add_command(list_conversations)
convstore.add_command(set_conversation)
convstore.add_command(database)


def main() -> None:
    """Run the command line and exit: 0 done, 1 unexpected, 2 usage, 3 not found, 4 ambiguous, 5 busy or conflict,
    6 the model or its provider failed, 7 the database, 130 Ctrl-C."""
    output.prepare_streams()
    try:
        convstore.main(prog_name="convstore", standalone_mode=False)
        sys.stdout.flush()
        status = 0
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough. Nothing must be flushed into it at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except BaseException as error:
        status = report(error)
    sys.exit(status)
