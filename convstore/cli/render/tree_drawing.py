"""Draw the tree of a conversation's messages as lines of text.

::

      seq  at
    *   1   1  system     You are a sports expert.
    *   2   2  user       Where were the 2008 games held?
    ├─o 3   3  assistant  In Greece.
    │ o 4   4  user       Are you sure?
    *   5   3  assistant  In Beijing, China.  ← head

One child of each message is in the same column as the message: the child on the path, else the child with most messages
below it. The other children are drawn as branches between the two. So only branches are indented, and even a long
conversation with many branches needs few columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convstore.cli.render.message_text import take_first_words
from convstore.cli.render.output_streams import make_one_line

if TYPE_CHECKING:
    from convstore.values.results import MessageRecord

_MIN_TEXT_WIDTH = 16  # columns for the first words of a message, even if the terminal is narrower
_ROLE_WIDTH = 9  # columns of "assistant"


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters that a tree is drawn with."""

    rail: str = "│ "
    branch: str = "├─"
    end: str = "…"
    head: str = "← head"

    @property
    def all(self) -> str:
        return self.rail + self.branch + self.end + self.head


BOX_GLYPHS = Glyphs()
ASCII_GLYPHS = Glyphs("| ", "|-", "...", "<- head")


@dataclass(frozen=True, slots=True)
class TreeLine:
    """A line of the drawing."""

    text: str
    on_path: bool


def find_path(records: Sequence[MessageRecord], head: int) -> frozenset[int]:
    """Return the `seq` of each message on the path to message `head`."""
    parents: dict[int, int] = {record.seq: record.parent_seq for record in records}
    found = set()
    while head in parents and head not in found:
        found.add(head)
        head = parents[head]
    return frozenset(found)


def find_leaves(records: Sequence[MessageRecord]) -> list[MessageRecord]:
    """Return the messages without a child."""
    parents = {record.parent_seq for record in records}
    return [record for record in records if record.seq not in parents]


def draw_tree(
    records: Sequence[MessageRecord], head: int, remarks: Mapping[int, str], width: int, glyphs: Glyphs = BOX_GLYPHS
) -> Iterator[TreeLine]:
    """Yield the lines of the drawing: a heading, and one for each message.

    Args:
        records: every message, by `seq`.
        head: the `seq` of the last message of the path; 0 if the path is empty.
        remarks: texts to print after the words of a message, by `seq`.
        width: columns of a line.
    """
    by_seq: dict[int, MessageRecord] = {record.seq: record for record in records}
    on_path = find_path(records, head)
    children = _find_children(records, on_path)
    seq_width = max(3, len(str(max(by_seq, default=0))))
    position_width = max(2, *(len(str(record.position)) for record in records)) if records else 2
    yield TreeLine(f"  {'seq':>{seq_width}} {'at':>{position_width}}", on_path=False)
    if head == 0:
        yield TreeLine(f"* {'0':>{seq_width}} {'0':>{position_width}}  {glyphs.head}", on_path=True)
    # The messages still to draw: the `seq`, the text before the rest of its column, and the text before the message.
    todo = _plan_children(children.get(0, []), "", glyphs)
    while todo:
        seq, rails, first = todo.pop()
        record = by_seq[seq]
        remark = remarks.get(seq, "")
        remarks_after = [*([remark] if remark else []), *([glyphs.head] if seq == head else [])]
        role = make_one_line(str(record.message["role"])).ljust(_ROLE_WIDTH)
        start = (
            f"{first}{'*' if seq in on_path else 'o'} {seq:>{seq_width}} {record.position:>{position_width}}  {role}  "
        )
        after = "".join(f"  {text}" for text in remarks_after)
        text_width = max(_MIN_TEXT_WIDTH, width - len(start) - len(after))
        words = take_first_words(record.message, text_width, end=glyphs.end)
        yield TreeLine(f"{start}{words}{after}".rstrip(), seq in on_path)
        todo.extend(_plan_children(children.get(seq, []), rails, glyphs))


def _plan_children(children: Sequence[int], rails: str, glyphs: Glyphs) -> list[tuple[int, str, str]]:
    """Return the children of a message in reverse order of drawing.

    Branches are drawn first, and the child in the same column last.
    """
    if not children:
        return []
    *branches, last = children
    column = [(last, rails, rails)]
    return column + [(seq, rails + glyphs.rail, rails + glyphs.branch) for seq in reversed(branches)]


def _find_children(records: Sequence[MessageRecord], on_path: frozenset[int]) -> dict[int, list[int]]:
    """Return the children of each message; the child in the same column is the last."""
    known: set[int] = {record.seq for record in records}
    sizes = dict.fromkeys(known, 1)
    found: dict[int, list[int]] = {}
    for record in sorted(records, key=lambda record: record.seq, reverse=True):
        parent = record.parent_seq if record.parent_seq in known else 0
        found.setdefault(parent, []).append(record.seq)
        if parent:
            sizes[parent] += sizes[record.seq]  # complete, because all messages below have greater numbers
    return {
        parent: sorted(following, key=lambda seq: (seq == main, seq))
        for parent, following in found.items()
        for main in [max(following, key=lambda seq: (seq in on_path, sizes[seq], seq))]
    }
