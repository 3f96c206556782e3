"""The state of a chat: its conversation, what goes with the next message, and what the turns cost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from convstore.cli.chat.first_message import NewConversation, delete_unused, shorten_title, start_conversation
from convstore.cli.options.attach_option import join_text_and_parts, list_file_names, read_attachments
from convstore.cli.options.call_options import CallOptions
from convstore.cli.render.message_output import print_message
from convstore.cli.render.output_streams import write_note, write_terminal_note
from convstore.cli.render.reply_output import print_reply
from convstore.errors import ConversationNotFound

if TYPE_CHECKING:
    from convstore.cli.options.store_options import StoreChoice
    from convstore.store.store import Store
    from convstore.values.results import Conversation, Turn

_MAX_NEWS = 20
"""Messages of others that are shown before one's own; more are counted."""
_PAGE_TURNS = 4


@dataclass(slots=True)
class NextMessage:
    """What goes with the next message."""

    system: str | None = None
    attached: list[str] = field(default_factory=list)
    """Files and URLs."""


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """What the status line shows of the turns."""

    last_turn: int = 0
    tokens: int | None = None
    """Tokens of the latest request and its reply: what the next request begins with."""
    cost: float | None = None
    """Cost of all turns so far; None: no turn has a known cost."""


class ProviderSilent(click.ClickException):
    """The provider does not tell what it has."""

    exit_code = 6


class ChatSession:
    """A chat in one conversation, which may be replaced by another one.

    Args:
        choice: the options that name the store.
        call: how the model is called.
        new: what a new conversation is to have.
        once: completion parameters and window options of each message, if the conversation exists already.
    """

    def __init__(
        self, store: Store, choice: StoreChoice, call: CallOptions, new: NewConversation, once: dict[str, Any]
    ) -> None:
        self.store = store
        self.choice = choice
        self.call = call
        self.conversation: Conversation | None = None
        """None: the first message starts one."""
        self.next = NextMessage()
        self.figures = TurnFigures()
        self.forget_typed: Callable[[], object] = bool
        """Makes the prompt forget its history, after a text was removed for good."""
        self._new = new
        self._once = once
        self._is_own = False  # the chat has started the conversation
        self._currency = ""

    # --- which conversation ---

    def open(self, conversation: Conversation) -> None:
        """Go on with a conversation."""
        self.leave()
        self.conversation = conversation
        self._is_own = False
        self._read_figures(conversation.id)

    def begin_new(self) -> None:
        """Let the next message start a new conversation, with the options of the chat."""
        self.leave()
        self.conversation, self._is_own = None, False
        self.figures = TurnFigures()

    def ensure_conversation(self) -> Conversation:
        """Return the conversation; start it if no message was said yet, for a command that changes it."""
        if self.conversation is None:
            new = self._new
            self.conversation = self.store.new(new.title, name=new.name, system=new.system, **(new.parameters or {}))
            self._is_own = True
            write_terminal_note(f"({self.conversation.id})")
        return self.conversation

    def leave(self) -> None:
        """Delete the conversation if the chat has started it, and it was neither used nor named."""
        if not self._is_own or self.conversation is None:
            return
        try:
            now = self.store.get(self.conversation.id)
        except ConversationNotFound:  # it was deleted
            return
        is_named = now.title != self._new.title or now.name != self._new.name or bool(now.tags)
        if not is_named and delete_unused(self.store, now.id):
            self.conversation = None

    @property
    def model(self) -> str | None:
        """The model that the next message goes to; None: CONVSTORE_MODEL, or none."""
        if self.conversation is None:
            return (self._new.parameters or {}).get("model")
        return self._once.get("model") or self.conversation.model

    @property
    def currency(self) -> str:
        """The currency of the costs; "" if it is not known."""
        return self._currency

    def find_system(self) -> str | None:
        """Return the text of the system message that is in force, or None."""
        from convstore.messages.message import extract_text

        if self.conversation is None:
            return self._new.system
        sent = self.store.preview(self.conversation.id, "?", **self._once)["messages"]
        return next((extract_text(each) for each in reversed(sent) if each["role"] in ("system", "developer")), None)

    def list_models(self) -> list[str]:
        """Return the names of the models that the provider offers.

        Raises:
            NotConfigured: neither a key nor a server is named.
            ProviderSilent: the provider does not tell.
        """
        from convstore.provider.model_list import ModelsNotListed, list_models

        try:
            return [model.id for model in list_models(self.store.client)]
        except ModelsNotListed as error:
            raise ProviderSilent(str(error)) from error

    def change_settings(self, change: Callable[[], object]) -> None:
        """Change what the conversation keeps; it then holds instead of the options that the chat was started with."""
        before = self.ensure_conversation()
        change()
        now = self.ensure_conversation()
        for kept, was in ((now.settings, before.settings), (now.window, before.window)):
            for name in {**kept, **was}:
                if kept.get(name) != was.get(name):
                    self._once.pop(name, None)

    # --- talking ---

    def say(self, text: str) -> None:
        """Say a message, and print the reply.

        Raises:
            ConvstoreError: as `Store.say`.
            click.UsageError: an attachment cannot be read.
        """
        parts = read_attachments(self.next.attached)
        content = join_text_and_parts(text, parts)
        arguments: dict[str, Any] = {**self._once, **self.call.store_arguments}
        if self.conversation is None:
            title = None if text.strip() else shorten_title(list_file_names(self.next.attached))
            new = replace(self._new, title=self._new.title or title)
            self.conversation = start_conversation(self.store, new, content)
            self._is_own = True
            write_terminal_note(f"({self.conversation.id})")
            arguments = {**self.call.store_arguments}
        arguments["system"] = self.next.system
        target = self.conversation.id
        self.ask(
            lambda: print_reply(
                partial(self.store.stream, target, content, **arguments),
                partial(self.store.say, target, content, **arguments),
                as_stream=self.call.as_stream,
                as_json=False,
                is_plain=self.call.is_plain,
            )
        )

    def ask(self, make_turn: Callable[[], object]) -> None:
        """Make a turn, and show before it what others said meanwhile."""
        self.show_news()
        before = self.figures.last_turn
        try:
            make_turn()
        finally:
            self.refresh()
            if self.figures.last_turn > before:  # the message is stored: it is not sent again
                self.next = NextMessage()

    def refresh(self) -> None:
        """Read the conversation and its latest turns again."""
        if self.conversation is None:
            return
        self.conversation = self.store.get(self.conversation.id)
        for turn in self._read_new_turns(self.conversation.id):
            if turn.status.value != "running":
                self.figures = _add_turn(self.figures, turn)
        if self.figures.cost is not None and not self._currency:
            self._currency = self.store.usage(self.conversation.id).currency

    def show_news(self) -> bool:
        """Print what others said in the conversation since it was last read; return True if there was something."""
        if self.conversation is None:
            return False
        before, now = self.conversation, self.store.get(self.conversation.id)
        self.conversation = now
        if now.head_seq == before.head_seq:
            return False
        page = self.store.messages(now.id, limit=_MAX_NEWS)
        news = [record for record in page if record.seq > before.head_seq]
        if not news:
            write_note(f"another caller moved the head to position {now.length}")
            return True
        more = f"; the last {_MAX_NEWS} messages:" if len(news) == _MAX_NEWS else ""
        write_note(f"another caller went on with this conversation{more}")
        if not sys.stdout.isatty():  # only replies go there
            return True
        for record in news:
            print_message(f"{record.position}", record.message, is_plain=self.call.is_plain)
        return True

    def _read_new_turns(self, id: str) -> list[Turn]:
        """Return the turns since the latest one that was counted, oldest first."""
        found = page = self.store.turns(id, limit=_PAGE_TURNS)
        while len(page) == _PAGE_TURNS and page[0].seq > self.figures.last_turn + 1:
            page = self.store.turns(id, before=page[0].seq, limit=_PAGE_TURNS)
            found = [*page, *found]
        return [turn for turn in found if turn.seq > self.figures.last_turn]

    def _read_figures(self, id: str) -> None:
        turns = self.store.turns(id, limit=1)
        report = self.store.usage(id)
        self._currency = report.currency
        self.figures = TurnFigures(cost=report.total.cost if report.total.turns else None)
        for turn in turns:
            self.figures = replace(_add_turn(self.figures, turn), cost=self.figures.cost)


def _add_turn(figures: TurnFigures, turn: Turn) -> TurnFigures:
    tokens = turn.usage.total_tokens if turn.usage is not None else turn.estimated_tokens
    cost = figures.cost if turn.cost is None else (figures.cost or 0.0) + turn.cost
    is_reply = turn.purpose is None and tokens is not None
    return TurnFigures(turn.seq, tokens if is_reply else figures.tokens, cost)
