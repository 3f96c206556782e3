"""The history of the prompt: what its owner said in all conversations, newest first."""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from prompt_toolkit.history import History

from convstore.errors import ConvstoreError
from convstore.messages.message import extract_text

if TYPE_CHECKING:
    from datetime import datetime

    from convstore.store.read_methods import ReadMethods
    from convstore.values.results import Conversation, MessageRecord

_MAX_MESSAGES = 1_000
_MAX_CONVERSATIONS = 200
_MAX_CHARACTERS = 20_000
"""A longer message, such as a pasted file, is not offered again."""
_PAGE_MESSAGES = 20
_LOADED_AT_FIRST = 10
_LOADED_AT_ONCE = 50

_logger = logging.getLogger(__name__)


class PromptHistory(History):
    """The owner's messages, read from the database in small portions while the prompt waits for keys."""

    def __init__(self, store: ReadMethods) -> None:
        super().__init__()
        self._store = store
        self._reading = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Forget what was read and typed: a text was removed for good. The next prompt reads again."""
        with self._reading:
            self._stored = islice(_iterate_texts(self._store), _MAX_MESSAGES)
            self._loaded_strings = []
            self._is_over = False

    async def load(self) -> AsyncGenerator[str, None]:
        """Yield the messages, newest first; go on in the database where the last prompt stopped."""
        given = 0
        if not self._loaded_strings:
            self._load_portion(_LOADED_AT_FIRST)  # at once, for a person who presses a key at once
        while True:
            # What was said in this chat is put in front; the number of strings behind it does not change.
            for text in self._loaded_strings[given:]:
                given += 1
                yield text
            if self._is_over:
                return
            await asyncio.get_running_loop().run_in_executor(None, self._load_portion, _LOADED_AT_ONCE)

    def load_history_strings(self) -> Iterable[str]:
        """Return nothing: `load` reads."""
        return ()

    def store_string(self, string: str) -> None:
        """Store nothing: what is said is in the database."""

    def _load_portion(self, size: int) -> None:
        with self._reading:
            try:
                portion = list(islice(self._stored, size))
            except ConvstoreError as error:  # a prompt without a history is better than none
                _logger.info("the history of the prompt is not whole (%s)", type(error).__name__)
                portion = []
            self._loaded_strings += portion
            self._is_over = len(portion) < size


def _iterate_texts(store: ReadMethods) -> Iterator[str]:
    """Yield the texts of the owner's messages, newest first, each once."""
    known = set()
    for record in _iterate_messages(store):
        text = extract_text(record.message)
        if text.strip() and len(text) <= _MAX_CHARACTERS and text not in known:
            known.add(text)
            yield text


def _iterate_messages(store: ReadMethods) -> Iterator[MessageRecord]:
    """Yield the owner's messages on the paths of all conversations, newest first.

    No message of a conversation is newer than its latest activity. So the next conversation is looked into only when
    it may have a newer message than those that were looked into.
    """
    conversations = _iterate_conversations(store)
    upcoming = next(conversations, None)
    opened: list[tuple[float, int, MessageRecord, Iterator[MessageRecord]]] = []
    number = 0
    while opened or upcoming is not None:
        while upcoming is not None and (not opened or -opened[0][0] <= upcoming.updated_at.timestamp()):
            number += 1
            _push(opened, number, _iterate_user_messages(store, upcoming))
            upcoming = next(conversations, None)
        if opened:
            _, place, record, rest = heapq.heappop(opened)
            yield record
            _push(opened, place, rest)


def _push(
    opened: list[tuple[float, int, MessageRecord, Iterator[MessageRecord]]], place: int, rest: Iterator[MessageRecord]
) -> None:
    record = next(rest, None)
    if record is not None:
        heapq.heappush(opened, (-_get_seconds(record.created_at), place, record, rest))


def _get_seconds(moment: datetime) -> float:
    return moment.timestamp()


def _iterate_conversations(store: ReadMethods) -> Iterator[Conversation]:
    before: Conversation | None = None
    left = _MAX_CONVERSATIONS
    while left > 0:
        page = store.list(limit=min(left, 20), before=before, on_damaged=lambda _: None)
        yield from page
        left -= 20
        if len(page) < 20:
            return
        before = page[-1]


def _iterate_user_messages(store: ReadMethods, conversation: Conversation) -> Iterator[MessageRecord]:
    """Yield the user's messages of a conversation, newest first."""
    before: int | None = None
    while True:
        page = store.messages(conversation.id, limit=_PAGE_MESSAGES, before=before)
        yield from (record for record in reversed(page) if record.message["role"] == "user")
        if len(page) < _PAGE_MESSAGES:
            return
        before = page[0].seq
