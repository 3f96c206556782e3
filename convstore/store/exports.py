"""Export conversations: choose them, read each in a transaction of its own, and write them to a file or a stream."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from convstore.conversations import exporting
from convstore.db.transactions import Transactions
from convstore.errors import ConversationDeleted, DamagedRow, InvalidInput
from convstore.store.export_output import is_folder, make_unwritable, name_file, open_new_file
from convstore.values.export_format import COUNTS, FORMAT_VERSION, Line, write_line
from convstore.values.export_report import ExportProblem, ExportReport
from convstore.values.exported import ExportedConversation
from convstore.values.identifiers import ConversationKey

OWN_FORMAT = "jsonl"
_SPOOLED_BYTES = 8_000_000  # of one conversation, in memory; a longer one is put into a temporary file
HEADER: Line = {"type": "export", "convstore": FORMAT_VERSION}


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is exported, and how."""

    ids: Sequence[str] | None
    """The conversations, in this order; None: all of the owner's."""
    format: str
    tree: bool | None
    """Whether all branches are written; None: as the format usually has it."""


class Export:
    """An export of one owner's conversations.

    Args:
        on_progress: called after each conversation with the number of messages written so far.
    """

    def __init__(
        self,
        transactions: Transactions,
        owner: str,
        request: ExportRequest,
        on_progress: Callable[[int], object] | None,
    ) -> None:
        self._transactions = transactions
        self._owner = owner
        self._request = request
        self._on_progress = on_progress
        self._problems: list[ExportProblem] = []
        self._files: list[str] = []
        self._conversations = self._messages = 0
        self._given = frozenset(request.ids) if request.ids is not None else None
        self._origins: frozenset[str] | None = None
        self._written: dict[str, tuple[int, int]] = {}
        """The origins of forks that were written, each with its `next_seq` and `next_turn`."""

    def run(self, target: str | os.PathLike[str] | IO[bytes]) -> ExportReport:
        """Write the conversations, and return what was written."""
        if is_folder(target):
            self._write_folder(Path(cast(str, target)))
        elif isinstance(target, str | os.PathLike):
            self._write_file(Path(target), self._list_ids())
        else:
            self._write(target, self._list_ids())
        return ExportReport(
            format=self._request.format,
            conversations=self._conversations,
            messages=self._messages,
            files=self._files,
            problems=self._problems,
        )

    def _write_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise make_unwritable(folder, error) from None
        ids, self._given = self._list_ids(), frozenset()  # each file can be imported without the others
        for id in ids:
            self._write_file(folder / name_file(id, self._find_ending()), [id])

    def _find_ending(self) -> str:
        if self._request.format == OWN_FORMAT:
            return ".jsonl"
        from convstore.transfer.writers.formats import EXPORT_FORMATS

        return EXPORT_FORMATS[self._request.format].ending

    def _write_file(self, path: Path, ids: Iterable[str]) -> None:
        with open_new_file(path) as stream:
            self._write(stream, ids)
        self._files.append(os.fspath(path))

    def _write(self, stream: IO[bytes], ids: Iterable[str]) -> None:
        if self._request.format == OWN_FORMAT:
            self._write_own_format(stream, ids)
            return
        from convstore.transfer.writers.formats import load_writer

        for piece in load_writer(self._request.format)(self._iterate_exported(ids), self._note):
            stream.write(piece)

    def _note(self, conversation_id: str, reason: str) -> None:
        self._problems.append(ExportProblem(conversation_id, reason, is_note=True))

    # --- which conversations ---

    def _list_ids(self) -> Iterator[str]:
        """Yield the ids of the conversations; an origin comes before its forks, which need it when they are read."""
        done: set[str] = set()
        for id in self._request.ids if self._request.ids is not None else self._iterate_all_ids():
            waiting = [id]
            while (origin := self._find_origin(waiting[-1])) is not None and origin not in waiting:
                waiting.append(origin)
            for one in reversed(waiting):
                if one not in done and (self._given is not None or one >= id):  # of all, smaller ids have come
                    done.add(one)
                    yield one
            if self._given is None:
                done = {one for one in done if one > id}

    def _iterate_all_ids(self) -> Iterator[str]:
        after = ""
        while page := self._transactions.read(exporting.list_ids, self._owner, after):
            yield from page
            after = page[-1]

    def _find_origin(self, id: str) -> str | None:
        """Return the conversation that another one was forked from, if both are exported in convstore's own format."""
        if self._request.format != OWN_FORMAT:
            return None
        origin = self._transactions.read(exporting.find_origin, ConversationKey(self._owner, id))
        return origin if self._given is None or origin in self._given else None

    # --- convstore's own format ---

    def _write_own_format(self, stream: IO[bytes], ids: Iterable[str]) -> None:
        conversations, messages = self._conversations, self._messages
        stream.write(write_line(HEADER))
        for id in ids:
            with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as spool:
                try:
                    head = self._spool_lines(id, cast(IO[bytes], spool))
                except DamagedRow as error:
                    self._problems.append(ExportProblem(id, str(error), is_note=False))
                    continue
                stream.write(write_line(head))
                if id in self._list_origins():
                    self._written[id] = head["next_seq"], head["next_turn"]
                spool.seek(0)
                shutil.copyfileobj(spool, stream)
            self._count(head["messages"])
        ending = {"conversations": self._conversations - conversations, "messages": self._messages - messages}
        stream.write(write_line({"type": "end", **ending}))

    def _spool_lines(self, id: str, spool: IO[bytes]) -> Line:
        """Write the lines that follow a conversation's to a temporary file, and return its own with their numbers."""
        head: Line = {}

        def begin() -> Callable[[Line], object]:
            spool.seek(0)
            spool.truncate()
            head.clear()
            return write

        def write(line: Line) -> None:
            if line["type"] == "conversation":
                head.update(line, **dict.fromkeys(COUNTS.values(), 0))
            else:
                head[COUNTS[line["type"]]] += 1
                spool.write(write_line(line))

        key = ConversationKey(self._owner, id)
        self._transactions.read(exporting.write_lines, key, self._written, begin)
        return head

    def _list_origins(self) -> frozenset[str]:
        """Return the conversations that forks need, as it was when the first one was written."""
        if self._origins is None:
            found = self._transactions.read(exporting.list_origin_ids, self._owner)
            self._origins = frozenset(found if self._given is None else found & self._given)
        return self._origins

    # --- the other formats ---

    def _iterate_exported(self, ids: Iterable[str]) -> Iterator[ExportedConversation]:
        from convstore.transfer.writers.formats import EXPORT_FORMATS

        tree = self._request.tree
        is_tree = EXPORT_FORMATS[self._request.format].wants_tree if tree is None else tree
        for id in ids:
            try:
                exported = self._transactions.read(
                    exporting.read_exported, ConversationKey(self._owner, id), is_tree=is_tree
                )
            except ConversationDeleted:  # one of all: only convstore's own format has deleted ones
                continue
            except DamagedRow as error:
                self._problems.append(ExportProblem(id, str(error), is_note=False))
                continue
            yield exported
            self._count(len(exported.messages))

    def _count(self, messages: int) -> None:
        self._conversations += 1
        self._messages += messages
        if self._on_progress is not None:
            self._on_progress(self._messages)


def check_format(name: str) -> str:
    """Return the name of a format, checked.

    Raises:
        InvalidInput: there is no such format.
    """
    if name != OWN_FORMAT:
        from convstore.transfer.writers.formats import EXPORT_FORMATS

        if name not in EXPORT_FORMATS:
            known = ", ".join((OWN_FORMAT, *EXPORT_FORMATS))
            raise InvalidInput(f"the format {name!r:.40} is not known; these are: {known}")
    return name
