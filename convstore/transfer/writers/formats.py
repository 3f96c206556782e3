"""The formats of an export. The module of a writer is imported when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from convstore.errors import InvalidInput
from convstore.transfer.writers.written_text import Write


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format in which conversations are written."""

    name: str
    ending: str
    """The ending of a file's name, with its dot."""
    module: str
    function: str
    wants_tree: bool = False
    """Whether all branches are written by default, and not only the path."""
    is_text: bool = True
    """Whether it is text in UTF-8."""


_FORMATS = (
    ExportFormat("markdown", ".md", "markdown_writer", "write_markdown"),
    ExportFormat("html", ".html", "html_page", "write_html", wants_tree=True),
    ExportFormat("openai", ".jsonl", "fine_tuning_writer", "write_fine_tuning"),
    ExportFormat("sharegpt", ".json", "sharegpt_writer", "write_sharegpt"),
    ExportFormat("preferences", ".jsonl", "preference_pairs", "write_preferences", wants_tree=True),
    ExportFormat("csv", ".csv", "csv_tables", "write_csv_messages", wants_tree=True),
    ExportFormat("csv-turns", ".csv", "csv_tables", "write_csv_turns", wants_tree=True),
    ExportFormat("parquet", ".parquet", "parquet_tables", "write_parquet_messages", wants_tree=True, is_text=False),
    ExportFormat("parquet-turns", ".parquet", "parquet_tables", "write_parquet_turns", wants_tree=True, is_text=False),
)

EXPORT_FORMATS = {one.name: one for one in _FORMATS}
"""The formats by their names."""


def load_writer(name: str) -> Write:
    """Return the function that writes a format.

    Called with conversations, it yields the bytes of one file; it holds no more than one conversation at a time.

    Raises:
        InvalidInput: there is no such format.
    """
    chosen = EXPORT_FORMATS.get(name)
    if chosen is None:
        raise InvalidInput(f"the format {name!r:.40} is not known; these are: {', '.join(EXPORT_FORMATS)}")
    write: Write = getattr(import_module(f"convstore.transfer.writers.{chosen.module}"), chosen.function)
    return write
