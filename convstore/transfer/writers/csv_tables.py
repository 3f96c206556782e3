"""Write the tables of messages and turns as CSV (RFC 4180): UTF-8, a header, CRLF at the end of a row.

An empty field is an unknown value, or an empty text. Times are ISO 8601 in UTC, booleans `true` and `false`. Control
characters but tabs and the ends of lines, which RFC 4180 does not allow and a terminal obeys, are pictures: `␛`.

Otherwise a text is written as it is, also if it begins with `=`, `+`, `-` or `@`: a quotation mark before it, as a
guard against formulas, would change the data for each program that only reads. A spreadsheet evaluates such a text:
import the columns of a file there as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from convstore.transfer.writers.flat_tables import MESSAGES, TURNS, Table, Value
from convstore.transfer.writers.written_text import OnNote, ignore_note, picture_control_characters
from convstore.values.exported import ExportedConversation


def write_csv_messages(
    conversations: Iterable[ExportedConversation],
    on_note: OnNote = ignore_note,  # noqa: ARG001
) -> Iterator[bytes]:
    """Yield a row for each message, after the header; nothing needs a note."""
    return _write(MESSAGES, conversations)


def write_csv_turns(
    conversations: Iterable[ExportedConversation],
    on_note: OnNote = ignore_note,  # noqa: ARG001
) -> Iterator[bytes]:
    """Yield a row for each turn, after the header; nothing needs a note."""
    return _write(TURNS, conversations)


def _write(table: Table, conversations: Iterable[ExportedConversation]) -> Iterator[bytes]:
    written = io.StringIO(newline="")
    writer = csv.writer(written)  # its own form is that of RFC 4180
    writer.writerow(table.columns)
    for exported in conversations:
        for row in table.list_rows(exported):
            writer.writerow([_to_field(value) for value in row])
        yield written.getvalue().encode()
        written.seek(0)
        written.truncate()
    yield written.getvalue().encode()  # the header, if there are no conversations


def _to_field(value: Value) -> str | int | float | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return picture_control_characters(value) if isinstance(value, str) else value
