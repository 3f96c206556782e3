"""Test what the formats of an export have in common."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from convstore.errors import InvalidInput
from convstore.transfer.writers.formats import EXPORT_FORMATS, load_writer
from convstore.values.exported import ExportedConversation
from tests.transfer.exported import CALL, HELLO, HI, PHOTO, RESULT, join, make_exported, make_path


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_a_format_writes_one_conversation_after_another(name: str) -> None:
    asked = 0

    def make_all() -> Iterator[ExportedConversation]:
        nonlocal asked
        for _ in range(3):
            asked += 1
            yield make_exported([(0, HELLO), (1, HI), (1, {**HI, "content": "Bye"})], 2, ratings={2: "good", 3: "bad"})

    pieces = load_writer(name)(make_all(), print)
    data = next(pieces)
    # The rows of Parquet are written in groups of many conversations.
    assert asked <= 1 or name.startswith("parquet")
    data += join(pieces)
    assert asked == 3
    assert EXPORT_FORMATS[name].ending.startswith(".")


@pytest.mark.parametrize("name", [name for name, each in EXPORT_FORMATS.items() if each.is_text])
def test_no_text_of_a_format_drives_a_terminal(name: str) -> None:
    odd = "\x1b[2J\x9b\x7f\0\ud800"
    message = {"content": odd, "name": odd, odd: odd}
    tree = [
        (0, {"role": "user", **message}),
        (1, {"role": "assistant", **message}),
        (1, {**message, "role": "assistant"}),
    ]
    exported = make_exported(tree, ratings={2: "good", 3: "bad"}, title=odd, id="x", models={2: odd})

    data = join(load_writer(name)([exported, make_path(HELLO, CALL, RESULT, PHOTO, HI)], print)).decode()

    assert data
    assert [one for one in data if one not in "\n\r" and (ord(one) < 32 or 127 <= ord(one) < 160)] == []


def test_a_format_that_is_not_known_is_an_error_that_names_the_others() -> None:
    with pytest.raises(InvalidInput, match="the format 'docx' is not known; these are: markdown, html, openai"):
        load_writer("docx")


def test_the_list_of_formats_loads_no_writer() -> None:
    program = (
        "import sys, convstore.transfer.writers.formats; "
        "print([name for name in ('markdown_it', 'pyarrow', 'csv', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
