"""`convstore resume`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from convstore.cli.options.conversation_option import find_conversation, ref_argument
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_reader, store_options
from convstore.cli.render.output_streams import write_answer, write_json, write_note
from convstore.cli.render.session_output import find_program_folder, write_session_file

_COMMANDS = {"claude": "claude --resume", "codex": "codex resume"}


@click.command(
    epilog=format_examples("convstore resume games --in claude", "convstore resume games --in codex --folder ~/project")
)
@ref_argument
@click.option("--in", "program", type=click.Choice(list(_COMMANDS)), required=True, help="Program that goes on.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Folder of the project.  [default: the current one]",
)
@json_option
@store_options
def resume(ref: str | None, program: str, folder: Path, as_json: bool, store_choice: StoreChoice) -> None:
    """Go on with a conversation in Claude Code or Codex.

    The current path is written as a session of the program, in its own folder; a file that exists is never changed.
    It prints the path of the file, and on stderr the command that goes on and what could not be carried. REF is a
    name, an id or the beginning of an id; the default is the conversation used last.
    """
    from convstore.transfer.writers.claude_code_writer import write_claude_code_session
    from convstore.transfer.writers.codex_writer import write_codex_session

    with open_reader(store_choice) as store:
        conversation = find_conversation(store, ref)
        records = store.messages(conversation.id, limit=None)
    if not records:
        raise click.UsageError(f"conversation '{conversation.id}' has no messages to go on with")
    write = write_claude_code_session if program == "claude" else write_codex_session
    project = folder.resolve()
    session = write(conversation, records, str(project))
    path, is_new = write_session_file(session, find_program_folder(program))
    command = f"cd {shlex.quote(str(project))} && {_COMMANDS[program]} {session.id}"
    if as_json:
        losses = list(session.losses)
        write_json({"path": str(path), "id": session.id, "command": command, "new": is_new, "not_carried": losses})
        return
    write_answer(str(path))
    for loss in session.losses:
        write_note(f"note: {loss}")
    if not is_new:
        write_note("note: this session was written before, and is kept as it is")
    write_note(f"to go on: {command}")
