"""The tree that a conversation's messages form, drawn in lines. Pure.

::

      seq  at
    *   1   1  system     You are a sports expert.
    *   2   2  user       Where were the 2008 games held?
    ├─o 3   3  assistant  In Greece.
    │ o 4   4  user       Are you sure?
    *   5   3  assistant  In Beijing, China.  ← head

A message stands in the column of the one that it follows where it is on the path, or else has most behind it. What else
follows that one branches off between the two. So lines are indented where branches leave, and nowhere else; and however
long a conversation is, and however often its path has branched, it needs few columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convstore.cli.render import message_text, output

if TYPE_CHECKING:
    from convstore.values.results import MessageRecord

_LEAST_WORDS = 16  # columns for how a message begins, however narrow the terminal is
_ROLE = 9  # columns of the longest usual one


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What the tree is drawn with."""

    rail: str = "│ "
    branch: str = "├─"
    end: str = "…"
    head: str = "← head"

    @property
    def all(self) -> str:
        return self.rail + self.branch + self.end + self.head


BOXES = Glyphs()
ASCII = Glyphs("| ", "|-", "...", "<- head")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the drawing."""

    text: str
    on_path: bool


def path(records: Sequence[MessageRecord], head: int) -> frozenset[int]:
    """Return the `seq` of the messages on the path to message `head`."""
    parents = {record.seq: record.parent_seq for record in records}
    found = set()
    while head in parents and head not in found:
        found.add(head)
        head = parents[head]
    return frozenset(found)


def leaves(records: Sequence[MessageRecord]) -> list[MessageRecord]:
    """Return the messages that nothing follows."""
    followed = {record.parent_seq for record in records}
    return [record for record in records if record.seq not in followed]


def draw(
    records: Sequence[MessageRecord], head: int, remarks: Mapping[int, str], width: int, glyphs: Glyphs = BOXES
) -> Iterator[Line]:
    """Yield the lines of the drawing: a heading, and one for each message.

    Args:
        records: every message, by `seq`.
        head: the `seq` of the path's last message; 0: the path is empty.
        remarks: what is to be said of messages beside their words, by `seq`.
        width: the columns that a line may have.
    """
    by_seq = {record.seq: record for record in records}
    on_path = path(records, head)
    children = _children(records, on_path)
    numbers = max(3, len(str(max(by_seq, default=0))))
    places = max(2, *(len(str(record.position)) for record in records)) if records else 2
    yield Line(f"  {'seq':>{numbers}} {'at':>{places}}", on_path=False)
    if head == 0:
        yield Line(f"* {'0':>{numbers}} {'0':>{places}}  {glyphs.head}", on_path=True)
    # What is still to be drawn: the message, what stands before the rest of its column, and before itself.
    todo = _following(children.get(0, []), "", glyphs)
    while todo:
        seq, rails, first = todo.pop()
        record = by_seq[seq]
        remark = remarks.get(seq, "")
        told = [*([remark] if remark else []), *([glyphs.head] if seq == head else [])]
        role = output.one_line(str(record.message["role"])).ljust(_ROLE)
        start = f"{first}{'*' if seq in on_path else 'o'} {seq:>{numbers}} {record.position:>{places}}  {role}  "
        after = "".join(f"  {word}" for word in told)
        words = message_text.first_words(
            record.message, max(_LEAST_WORDS, width - len(start) - len(after)), end=glyphs.end
        )
        yield Line(f"{start}{words}{after}".rstrip(), seq in on_path)
        todo.extend(_following(children.get(seq, []), rails, glyphs))


def _following(children: Sequence[int], rails: str, glyphs: Glyphs) -> list[tuple[int, str, str]]:
    """Return what follows a message, in the reverse of the order in which it is drawn: branches, then its column."""
    if not children:
        return []
    *branches, last = children
    column = [(last, rails, rails)]
    return column + [(seq, rails + glyphs.rail, rails + glyphs.branch) for seq in reversed(branches)]


def _children(records: Sequence[MessageRecord], on_path: frozenset[int]) -> dict[int, list[int]]:
    """Return what follows each message, by `seq`, last the one that stands in the same column."""
    known = {record.seq for record in records}
    sizes = dict.fromkeys(known, 1)
    found: dict[int, list[int]] = {}
    for record in sorted(records, key=lambda record: record.seq, reverse=True):
        parent = record.parent_seq if record.parent_seq in known else 0
        found.setdefault(parent, []).append(record.seq)
        if parent:
            sizes[parent] += sizes[record.seq]  # complete: whatever follows it has a greater number
    return {
        parent: sorted(following, key=lambda seq: (seq == main, seq))
        for parent, following in found.items()
        for main in [max(following, key=lambda seq: (seq in on_path, sizes[seq], seq))]
    }
