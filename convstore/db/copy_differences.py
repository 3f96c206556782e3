"""Find what differs between a database and its copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from convstore.db.connection import Connection
from convstore.db.copied_rows import ATTACHMENTS, CONVERSATIONS, MESSAGES, TURNS, get_column, read_pages
from convstore.db.engine import Database
from convstore.db.row_stream import OpenConnection, Row, count_key_columns, stream_pages
from convstore.messages.inline_data import digest_attachment

_KEY_OF_ATTACHMENT = ("owner", "digest")

Pair = tuple[Row | None, Row | None]
"""A row of the source, and the row of the target with the same key; None: it does not exist."""
TellRows = Callable[[int], object]
"""Takes the number of rows of the source so far."""


@dataclass(frozen=True, slots=True)
class Sides:
    """A database as it was at one moment, and another one that shall be its copy."""

    source: Database
    snapshot: Connection
    target: Database

    def find_differences(self, table: str, tell: TellRows | None = None) -> Iterator[Pair]:
        """Yield the rows of a table that differ."""
        of_source = read_pages(self._read_source, table)
        return _pair_pages(
            of_source if tell is None else _count_rows(of_source, tell),
            read_pages(self._read_target(), table),
            count_key_columns(table),
        )

    def find_missing_attachments(self) -> Iterator[Pair]:
        """Yield the keys of attachments that only one side has; their bytes are not read."""
        return _pair_pages(
            stream_pages(self._read_source, ATTACHMENTS, _KEY_OF_ATTACHMENT),
            stream_pages(self._read_target(), ATTACHMENTS, _KEY_OF_ATTACHMENT),
            len(_KEY_OF_ATTACHMENT),
        )

    def find_different_attachments(self, tell: TellRows) -> Iterator[Pair]:
        """Yield the attachments that only one side has, or that do not fit their digests in the target."""
        of_source = _count_rows(stream_pages(self._read_source, ATTACHMENTS, _KEY_OF_ATTACHMENT), tell)
        of_target = stream_pages(self._read_target(), ATTACHMENTS, (*_KEY_OF_ATTACHMENT, "data"))
        return _pair_pages(
            ([(owner, digest, digest) for owner, digest in page] for page in of_source),
            ([(owner, digest, digest_attachment(data)) for owner, digest, data in page] for page in of_target),
            len(_KEY_OF_ATTACHMENT),
        )

    def _read_source(self) -> nullcontext[Connection]:
        return nullcontext(self.snapshot)

    def _read_target(self) -> OpenConnection:
        # A transaction for each page: one that stayed open would keep the log of a SQLite file from shrinking.
        return partial(self.target.read, keeps_bytes=True)


def _pair_pages(source: Iterator[list[Row]], target: Iterator[list[Row]], key_columns: int) -> Iterator[Pair]:
    """Yield the rows with the same key that differ, and None beside a row that only one table has.

    Args:
        source: pages of rows in the order of their keys.
        target: the same; pages of equal tables begin and end with the same rows, and are compared at once.
        key_columns: how many of the first columns are the key.
    """
    page, other_page = next(source, []), next(target, [])
    while page and other_page:
        if page == other_page:
            page, other_page = next(source, []), next(target, [])
            continue
        place = other_place = 0
        while place < len(page) and other_place < len(other_page):
            row, other = page[place], other_page[other_place]
            if row == other:
                place, other_place = place + 1, other_place + 1
            elif row[:key_columns] == other[:key_columns]:
                yield row, other
                place, other_place = place + 1, other_place + 1
            elif row[:key_columns] < other[:key_columns]:
                yield row, None
                place += 1
            else:
                yield None, other
                other_place += 1
        page, other_page = page[place:] or next(source, []), other_page[other_place:] or next(target, [])
    while page:
        for row in page:
            yield row, None
        page = next(source, [])
    while other_page:
        for row in other_page:
            yield None, row
        other_page = next(target, [])


def _count_rows(pages: Iterator[list[Row]], tell: TellRows) -> Iterator[list[Row]]:
    count = 0
    for page in pages:
        count += len(page)
        yield page
        tell(count)


def describe_difference(table: str, pair: Pair) -> str:
    """Return in words how a row of the target differs from the source."""
    row, copy = pair
    name = name_row(table, row or copy or ())
    if row is not None and copy is not None:
        return f"{name} differs"
    return f"{name} is missing" if copy is None else f"{name} is not in the source"


def name_row(table: str, row: Row) -> str:
    """Return what a row is, in words."""
    owner, id, *rest = row
    of_owner = f" of owner {owner!r}" if owner else ""
    if table == CONVERSATIONS:
        return f"conversation {id!r}{of_owner}"
    if table == ATTACHMENTS:
        return f"attachment {id.hex()}{of_owner}"
    if table in (MESSAGES, TURNS):
        what = f"turn {rest[0]}" if table == TURNS else f"message {get_column(table, row, 'position')} (seq {rest[0]})"
        return f"{what} of conversation {id!r}{of_owner}"
    return f"a row of {table}, {id!r}{of_owner},"
