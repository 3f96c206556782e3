"""Complete the commands of a chat, their options, and file names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from convstore.cli.chat.adapted_commands import adapt_command
from convstore.cli.chat.slash_commands import SLASH_COMMANDS
from convstore.cli.render.output_streams import make_one_line
from convstore.errors import ConvstoreError

if TYPE_CHECKING:
    from convstore.cli.chat.chat_session import ChatSession

_OFFERED_CONVERSATIONS = 50


class SlashCompleter(Completer):
    """Completes what stands after a slash at the beginning of the message."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session
        self._models: list[str] | None = None
        """What the provider offers; None: it was not asked yet."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        """Yield what the last word may become."""
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//") or "\n" in text:
            return
        name, space, typed = text[1:].partition(" ")
        if not space:
            for each, command in SLASH_COMMANDS.items():
                if each.startswith(name):
                    yield Completion(f"{each} " if command.usage else each, -len(name), f"/{each}", command.summary)
            return
        word = typed.rpartition(" ")[2]
        for value, meta in self._offer(name, word):
            if value.startswith(word):
                yield Completion(value, -len(word), display_meta=make_one_line(meta))

    def _offer(self, name: str, word: str) -> Iterable[tuple[str, str]]:
        """Yield values for a word of a command, each with its meaning."""
        try:
            if word.startswith("-"):
                yield from _list_options(name)
            elif name == "help":
                yield from ((each, command.summary) for each, command in SLASH_COMMANDS.items())
            elif name == "model":
                if self._models is None:
                    self._models = self._session.list_models()
                yield from ((model, "") for model in self._models)
            elif name == "open":
                for conversation in self._session.store.list(limit=_OFFERED_CONVERSATIONS):
                    yield conversation.name or conversation.id, conversation.title or ""
            elif name == "attach":
                yield from _list_files(word)
        except (ConvstoreError, click.ClickException, OSError):
            return  # a completion that is not there is no error


def _list_options(name: str) -> Iterable[tuple[str, str]]:
    slash = SLASH_COMMANDS.get(name)
    for parameter in adapt_command(slash.command).params if slash and slash.command else ():
        if isinstance(parameter, click.Option):
            yield from ((option, parameter.help or "") for option in parameter.opts if option.startswith("--"))


def _list_files(word: str) -> Iterable[tuple[str, str]]:
    folder, separator, _ = word.rpartition("/")
    for path in sorted((Path(folder + separator) if separator else Path()).expanduser().iterdir()):
        yield f"{folder}{separator}{path.name}" + ("/" if path.is_dir() else ""), ""
