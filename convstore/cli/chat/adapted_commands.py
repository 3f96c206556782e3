"""Run commands of the command line in a chat, which has one conversation, one database and one owner.

What would choose another of them is neither taken nor shown.
"""

from __future__ import annotations

import re
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli import convstore
from convstore.cli.options.command_defaults import CommandDefaults

if TYPE_CHECKING:
    from convstore.cli.chat.chat_session import ChatSession

_OF_THE_CHAT = ("db", "schema", "owner", "base_url", "ref", "refs", "conversation", "profile")
"""The parameters that the chat itself has a value for."""
_OTHERS = {"export": ("is_all", "query")}
"""Parameters that are about other conversations, by command."""
_SENTENCE_ABOUT_REF = re.compile(r"\s*[^.]*\bREF\b[^.]*\.")


def rename_forms(text: str) -> str:
    """Return a text with the chat's commands where they have another form than those of the command line."""
    return text.replace("`convstore --help`", "`/help`").replace("`convstore say --continue`", "`/continue`")


def adapt_command(name: str) -> click.Command:
    """Return a command of the command line without the parameters that the chat has a value for.

    Its callback still needs them.
    """
    command = convstore.get_command(click.Context(convstore), name)
    assert command is not None  # noqa: S101 (a test compares the table with the command line)
    adapted = copy(command)
    adapted.params = [each for each in command.params if not _is_of_the_chat(name, each)]
    adapted.help = rename_forms(_SENTENCE_ABOUT_REF.sub("", command.help or ""))
    adapted.epilog = None  # the examples are of the command line
    return adapted


def run_adapted(session: ChatSession, name: str, arguments: list[str], conversation_id: str | None) -> None:
    """Run a command with the options of the chat; those that were typed come after them and win.

    Args:
        conversation_id: the conversation that it works on; None: all of the owner.
    """
    command = convstore.get_command(click.Context(convstore), name)
    assert command is not None  # noqa: S101
    adapted = adapt_command(name)
    assert adapted.callback is not None  # noqa: S101
    taken = {
        str(each.name): _find_value(session, each, conversation_id)
        for each in command.params
        if each not in adapted.params and each.expose_value
    }
    adapted.callback = partial(adapted.callback, **taken)
    known = {flag for each in adapted.params for flag in each.opts}
    given = [words for words in _list_options(session) if words[0] in known]
    adapted.main(
        [word for words in given for word in words] + arguments,
        prog_name=f"/{name}",
        standalone_mode=False,
        default_map=CommandDefaults((name,)),
        **convstore.context_settings,  # `-h`, and the width of help
    )


def _is_of_the_chat(name: str, parameter: click.Parameter) -> bool:
    return parameter.name in _OF_THE_CHAT or parameter.name in _OTHERS.get(name, ())


def _find_value(session: ChatSession, parameter: click.Parameter, conversation_id: str | None) -> Any:
    database = session.choice.database
    values = {"db": database.db, "schema": database.schema, "owner": session.choice.owner, "ref": conversation_id}
    if parameter.name == "refs":
        return (conversation_id,)
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return False
    return values.get(str(parameter.name))


def _list_options(session: ChatSession) -> list[list[str]]:
    """Return the options that the chat was started with and its commands share, each with its value."""
    flags = {"--plain": session.call.is_plain, "--no-stream": not session.call.as_stream}
    return [*([option] for option, is_set in flags.items() if is_set), ["--wait", str(session.call.wait)]]
