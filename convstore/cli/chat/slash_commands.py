"""The commands of a chat: one table with their names, help and functions.

Most of them are commands of the command line, which run here with the same options on the chat's conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from shlex import split
from typing import TYPE_CHECKING

from convstore.cli.chat import slash_actions
from convstore.cli.chat.adapted_commands import rename_forms, run_adapted
from convstore.cli.chat.slash_actions import LeaveChat, SlashError

if TYPE_CHECKING:
    from convstore.cli.chat.chat_session import ChatSession

__all__ = [
    "SLASH_COMMANDS",
    "LeaveChat",
    "SlashCommand",
    "find_slash_command",
    "name_slash_commands",
    "run_slash_command",
]

Action = Callable[["ChatSession", str], None]


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A command of a chat."""

    usage: str
    """Its arguments."""
    summary: str
    act: Action
    """Gets what is typed after the name."""
    command: str | None = None
    """The command of the command line that it is."""


def _run(name: str, *before: str, changes_path: bool = False) -> Action:
    """Return the action that runs a command of the command line on the chat's conversation.

    Args:
        before: its first arguments.
        changes_path: the command asks the model.
    """

    def act(session: ChatSession, typed: str) -> None:
        _run_words(session, name, [*before, *split_words(typed)], changes_path=changes_path)

    return act


def _run_words(session: ChatSession, name: str, arguments: list[str], *, changes_path: bool = False) -> None:
    id = session.ensure_conversation().id
    if changes_path:
        session.ask(lambda: run_adapted(session, name, arguments, id))
    else:
        run_adapted(session, name, arguments, id)
    session.refresh()


def _run_alone(name: str) -> Action:
    """Return the action that runs a command that is not about one conversation."""
    return lambda session, typed: run_adapted(session, name, split_words(typed), None)


def _search(session: ChatSession, typed: str) -> None:
    run_adapted(session, "search", typed.split(), None)  # with its quotation marks


def _undo(session: ChatSession, typed: str) -> None:
    _run_words(session, "undo", ["-n", typed] if typed.isdecimal() else split_words(typed))


def _title(session: ChatSession, typed: str) -> None:
    words = split_words(typed)
    if not typed.startswith("-") and len(words) != 1:  # a title of several words needs no quotation marks
        words = [typed] if typed else []
    _run_words(session, "title", words)


def _edit(session: ChatSession, typed: str) -> None:
    position, _, text = typed.partition(" ")
    if not position:
        position = str(slash_actions.find_last_question(session))
    arguments = split_words(typed) if text.startswith("-") else [position, *(["--", text] if text.strip() else [])]
    _run_words(session, "edit", arguments, changes_path=True)


def _continue(session: ChatSession, typed: str) -> None:
    if typed:
        raise SlashError("/continue takes no arguments; what you type without a slash is your next message")
    _run_words(session, "say", ["--continue"], changes_path=True)


def _set(session: ChatSession, typed: str) -> None:
    session.change_settings(lambda: _run("set")(session, typed))


def _model(session: ChatSession, typed: str) -> None:
    if typed:
        session.change_settings(lambda: _run_words(session, "set", ["-m", typed]))
    else:
        slash_actions.list_models(session)


def _fork(session: ChatSession, typed: str) -> None:
    origin = session.ensure_conversation()
    if not origin.head_seq and not session.store.turns(origin.id, limit=1):
        raise SlashError("there is no message yet to fork at")
    with slash_actions.capture_stdout() as printed:
        run_adapted(session, "fork", split_words(typed), origin.id)
    slash_actions.open_fork(session, origin.id, printed.getvalue())


def _redact(session: ChatSession, typed: str) -> None:
    _run("redact")(session, typed)
    session.forget_typed()  # it has the text, and perhaps this command with a part of it


def _delete(session: ChatSession, typed: str) -> None:
    run_adapted(session, "delete", split_words(typed), session.ensure_conversation().id)
    session.begin_new()


def _help(session: ChatSession, typed: str) -> None:
    if typed:
        name = typed.removeprefix("/")
        found = find_slash_command(name)
        slash_actions.print_command_help(name, found.usage, found.summary)
        if found.command is not None:
            run_adapted(session, found.command, ["--help"], None)
        return
    slash_actions.print_overview({name: (each.usage, each.summary) for name, each in SLASH_COMMANDS.items()})


SLASH_COMMANDS: dict[str, SlashCommand] = {
    "help": SlashCommand("[COMMAND]", "List the commands, or explain one.", _help),
    "new": SlashCommand("", "Start a new conversation.", slash_actions.begin_new),
    "open": SlashCommand("[REF]", "Go on with another conversation.", slash_actions.open_conversation),
    "show": SlashCommand("[-n N]", "Print the messages.", _run("show"), "show"),
    "tree": SlashCommand("", "Print all messages, on the path and off it.", _run("show", "--tree"), "show"),
    "undo": SlashCommand("[N]", "Undo the last turn.", _undo, "undo"),
    "redo": SlashCommand("", "Redo the turns of the latest undo.", _run("redo"), "redo"),
    "retry": SlashCommand("[OPTIONS]", "Ask the last question again.", _run("retry", changes_path=True), "retry"),
    "edit": SlashCommand("[POSITION [TEXT]]", "Edit a message and ask again; the last one of yours.", _edit, "edit"),
    "checkout": SlashCommand("SEQ", "Move the head to any message of /tree.", _run("checkout"), "checkout"),
    "fork": SlashCommand("[--at POSITION]", "Fork the conversation, and go on in the fork.", _fork, "fork"),
    "pin": SlashCommand("POSITION", "Always send a message.", _run("pin"), "pin"),
    "unpin": SlashCommand("POSITION", "Stop always sending a message.", _run("unpin"), "unpin"),
    "compact": SlashCommand("[OPTIONS]", "Summarise the older messages.", _run("compact"), "compact"),
    "system": SlashCommand("[TEXT|@FILE]", "Put a system message before the next message.", slash_actions.set_system),
    "attach": SlashCommand("[FILE|URL]", "Attach a file to the next message.", slash_actions.attach),
    "detach": SlashCommand("", "Attach nothing to the next message.", slash_actions.detach),
    "model": SlashCommand("[MODEL]", "Change the model; alone, list the models.", _model),
    "set": SlashCommand("[OPTIONS]", "Change parameters, window, name or title.", _set, "set"),
    "title": SlashCommand("TITLE|--auto", "Change the title.", _title, "title"),
    "tag": SlashCommand("NAME...", "Add tags.", _run("tag"), "tag"),
    "untag": SlashCommand("NAME...", "Remove tags.", _run("untag"), "untag"),
    "rate": SlashCommand("POSITION good|bad|none", "Rate a reply.", _run("rate"), "rate"),
    "archive": SlashCommand("", "Move the conversation to the archive.", _run("archive"), "archive"),
    "delete": SlashCommand("", "Delete the conversation, and start a new one.", _delete, "delete"),
    "redact": SlashCommand("POSITION [--match REGEX]", "Remove a message's text for good.", _redact, "redact"),
    "tool-result": SlashCommand("CALL_ID TEXT", "Give the result of a tool call.", _run("tool-result"), "tool-result"),
    "continue": SlashCommand("", "Let the model go on, as after a tool's result.", _continue),
    "list": SlashCommand("[TEXT]", "List conversations.", _run_alone("list"), "list"),
    "search": SlashCommand("QUERY", "Find messages and titles.", _search, "search"),
    "turns": SlashCommand("", "List the turns.", _run("turns"), "turns"),
    "usage": SlashCommand("[OPTIONS]", "Show tokens and cost of the conversation.", _run("usage"), "usage"),
    "status": SlashCommand("", "Print conversation, model, tokens and cost.", slash_actions.print_status),
    "export": SlashCommand("[-f FORMAT] [-o FILE]", "Write the conversation to a file.", _run("export"), "export"),
    "exit": SlashCommand("", "Leave the chat, as Ctrl-D does.", slash_actions.leave),
}
"""The commands by name, in the order of /help."""

_STEERING = frozenset(
    {
        *("new", "open", "undo", "redo", "retry", "edit", "checkout", "fork", "delete", "redact", "tool-result"),
        *("continue", "pin", "unpin", "compact", "system", "attach", "detach", "model", "set"),
    }
)
"""The commands after which the next message goes elsewhere, or with something else."""
_SHOWING_ALONE = ("attach", "model", "system")
"""Those of them that change nothing without an argument."""

_COMMAND_LINE = re.compile(r"`convstore ([a-z-]+)")

_OTHER_NAMES = {"quit": "exit", "bye": "exit", "clear": "new", "regenerate": "retry", "history": "show", "?": "help"}


def run_slash_command(session: ChatSession, line: str) -> None:
    """Run what was typed after the slash.

    Raises:
        click.ClickException: there is no such command, or its arguments are wrong.
        ConvstoreError: the command failed.
        LeaveChat: the command ends the chat.
    """
    name, *typed = line.split(maxsplit=1) or [""]
    find_slash_command(name).act(session, "".join(typed).strip())


def steers_next_message(line: str) -> bool:
    """Return True if a command decides where the next message goes, or with what; a name that is wrong may mean one."""
    name, *typed = line.split(maxsplit=1) or [""]
    name = _OTHER_NAMES.get(name, name)
    return name not in SLASH_COMMANDS or (name in _STEERING and not (name in _SHOWING_ALONE and not typed))


def find_slash_command(name: str) -> SlashCommand:
    """Return the command with a name.

    Raises:
        SlashError: no command has this name.
    """
    found = SLASH_COMMANDS.get(_OTHER_NAMES.get(name, name))
    if found is None:
        similar = get_close_matches(name, SLASH_COMMANDS, 1)
        hint = f"did you mean /{similar[0]}? " if similar else ""
        raise SlashError(f"no command '/{name:.40}'; {hint}/help lists the commands, // begins a message with a slash")
    return found


def name_slash_commands(note: str) -> str:
    """Return a note with the chat's commands instead of those of the command line, where they do the same."""
    return _COMMAND_LINE.sub(
        lambda found: f"`/{found[1]}" if found[1] in SLASH_COMMANDS else found[0], rename_forms(note)
    )


def split_words(typed: str) -> list[str]:
    """Return the words of what was typed, as a shell splits them; with an open quotation mark, between the spaces."""
    try:
        return split(typed)
    except ValueError:
        return typed.split()
