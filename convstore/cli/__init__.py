"""The command line. `convstore --help` imports click and nothing heavier: each command loads what it needs."""

from __future__ import annotations

import signal
import sys
import warnings

import click

from convstore import __version__
from convstore.cli import output, style
from convstore.cli.checkout import checkout
from convstore.cli.compact import compact
from convstore.cli.database import database
from convstore.cli.delete import delete
from convstore.cli.edit import edit
from convstore.cli.failures import report
from convstore.cli.follow import follow
from convstore.cli.fork import fork
from convstore.cli.list import list_conversations
from convstore.cli.new import new
from convstore.cli.pin import pin
from convstore.cli.redo import redo
from convstore.cli.restore import restore
from convstore.cli.retry import retry
from convstore.cli.say import say
from convstore.cli.set import set_conversation
from convstore.cli.show import show
from convstore.cli.stop import stop
from convstore.cli.tool_result import tool_result
from convstore.cli.turns import turns
from convstore.cli.undo import undo
from convstore.cli.unpin import unpin
from convstore.cli.usage import usage


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=style.example(
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


convstore.add_command(new)
convstore.add_command(say)
convstore.add_command(show)
convstore.add_command(list_conversations)
convstore.add_command(set_conversation)
convstore.add_command(retry)
convstore.add_command(turns)
convstore.add_command(follow)
convstore.add_command(stop)
convstore.add_command(undo)
convstore.add_command(redo)
convstore.add_command(edit)
convstore.add_command(checkout)
convstore.add_command(fork)
convstore.add_command(pin)
convstore.add_command(unpin)
convstore.add_command(compact)
convstore.add_command(usage)
convstore.add_command(tool_result)
convstore.add_command(delete)
convstore.add_command(restore)
convstore.add_command(database)


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
        style.check_arguments(sys.argv[1:])
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
