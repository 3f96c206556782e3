"""Test that `show --tree` draws every message and its place in the tree."""

import re
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convstore.cli.render.tree_drawing import ASCII_GLYPHS, BOX_GLYPHS, Glyphs, draw_tree, find_path
from convstore.testing import ChatServer, Failure, Reply
from convstore.values.identifiers import Position, Seq
from convstore.values.results import MessageRecord
from tests.cli.program import Program, Running
from tests.cli.terminal import is_tame

WILD = "a\x1b]0;owned\x07b\x1b[2Jc\x9b31md\x08e\rf\x7fg\nh"
LINE = re.compile(r"(?P<rails>(?:│ |\| )*(?:├─|\|-)?)(?P<mark>[*o]) +(?P<seq>\d+) +(?P<at>\d+)  (?P<rest>.*)")


def make_records(parents: Sequence[int], text: str = "hi") -> list[MessageRecord]:
    """Return messages with the numbers 1, 2, 3 … and these parents."""
    positions = {0: 0}
    found = []
    for seq, parent in enumerate(parents, 1):
        positions[seq] = positions[parent] + 1
        message = {"role": "user" if positions[seq] % 2 else "assistant", "content": text}
        at = Position(positions[seq])
        found.append(MessageRecord(at, Seq(seq), Seq(parent), None, datetime.now(UTC), message, b"", Seq(0)))
    return found


def draw(parents: Sequence[int], head: int, glyphs: Glyphs = BOX_GLYPHS, width: int = 100) -> list[str]:
    heading, *lines = [line.text for line in draw_tree(make_records(parents), head, {}, width, glyphs)]
    assert heading.split() == ["seq", "at"]
    return lines


def read_drawing(lines: Sequence[str]) -> dict[int, tuple[int, bool, int]]:
    """Return the parent and the column of each message that the drawing shows.

    The second value is True if the drawing shows the message on the path.
    """
    found = {}
    latest: dict[int, int] = {}  # the latest message in each column
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        column = len(match["rails"])
        branches = match["rails"].endswith(("├─", "|-"))
        parent = latest.get(column - 2 if branches else column, 0)
        seq = int(match["seq"])
        latest = {place: one for place, one in latest.items() if place <= column} | {column: seq}
        found[seq] = (parent, match["mark"] == "*", column)
    return found


TREES = st.lists(st.integers(0, 10**6), min_size=1, max_size=60).map(
    lambda drawn: [number % (place + 1) for place, number in enumerate(drawn)]
)


@given(parents=TREES, at=st.integers(0, 10**6), glyphs=st.sampled_from([BOX_GLYPHS, ASCII_GLYPHS]))
def test_the_parent_of_each_message_can_be_read_from_any_drawing(parents: list[int], at: int, glyphs: Glyphs) -> None:
    head = at % len(parents) + 1
    way = {head}
    while parents[min(way) - 1]:
        way.add(parents[min(way) - 1])
    lines = draw(parents, head, glyphs)
    found = read_drawing(lines)
    assert len(lines) == len(found) == len(parents)  # each message is drawn once
    assert [found[seq][0] for seq in range(1, len(parents) + 1)] == parents
    assert {seq for seq, (_, on_path, _) in found.items() if on_path} == way == find_path(make_records(parents), head)
    for parent in {0, *parents}:
        *branches, _ = [
            seq for seq in found if found[seq][0] == parent
        ]  # the child in the column of the parent is drawn last
        assert branches == sorted(branches)
    assert {found[seq][2] for seq in way} == {0}
    assert max(column for _, _, column in found.values()) <= 2 * (1 + log2(len(parents)))
    assert [line for line in lines if line.endswith(glyphs.head)] == [
        line for line in lines if re.match(rf"[*] +{head} ", line)
    ]


@pytest.mark.parametrize(
    ("parents", "head"),
    [
        (list(range(10_000)), 10_000),
        ([max(0, seq - 1 - seq % 2) for seq in range(1, 10_001)], 10_000),  # each turn was retried
        ([*range(5_000), 2_500, *range(5_001, 10_000)], 3_000),
    ],
    ids=["a line", "a comb", "a fork"],
)
def test_ten_thousand_messages_are_drawn_quickly_and_in_few_columns(parents: list[int], head: int) -> None:
    made = make_records(parents)
    began = time.process_time()
    lines = [line.text for line in draw_tree(made, head, {}, 100)]
    assert time.process_time() - began < 5
    assert len(lines) == 10_001
    assert max(len(line) - len(line.lstrip("│├─ ")) for line in lines[1:]) <= 6


def test_a_line_is_cut_at_the_width_of_the_terminal_even_with_wide_characters() -> None:
    for text in ("x" * 500, "二〇〇八" * 100):
        lines = [line.text for line in draw_tree(make_records([0, 1], text), 2, {1: "(pinned)"}, 60)]
        for line in lines[1:]:
            assert 55 <= sum(2 if character in "二〇八" else 1 for character in line) <= 60
        assert lines[1].endswith("…  (pinned)")
        assert lines[2].endswith("…  ← head")


def show_tree(program: Program, *arguments: str) -> list[str]:
    """Run `show --tree`, and return the lines of the tree without the heading."""
    ran = program("show", "--tree", *arguments)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    return lines[[line.split() for line in lines].index(["seq", "at"]) + 1 :]


def test_the_tree_has_every_message_with_its_status(on_each: Program, chat_server: ChatServer) -> None:
    identity = on_each("new", "Games", "--system", "Be brief.").out.strip()
    chat_server.script(Reply("one"), Reply("two"), Failure(500), Reply("cut", finish_reason=None))
    on_each("say", "first")
    on_each("retry")
    assert on_each("say", "second").code == 6
    on_each("say", "third", "--no-stream")
    on_each("edit", "2", "instead")
    on_each("pin", "1")
    assert on_each("show", "--tree").out.startswith(f"{identity} Games\n")
    assert show_tree(on_each) == [
        "*   1  1  system     Be brief.  (pinned)",
        "├─o   2  2  user       first",
        "│ ├─o   3  3  assistant  one",
        "│ o   4  3  assistant  two",
        "│ ├─o   5  4  user       second  (failed)",
        "│ o   6  4  user       third",
        "│ o   7  5  assistant  cut  (interrupted)",
        "*   8  2  user       instead",
        "*   9  3  assistant  You said: instead  ← head",
    ]
    tree = on_each("show", "--tree", "--json").json["tree"]
    assert list(tree[0]) == [
        *("position", "seq", "turn", "created_at", "message", "parent_seq", "on_path", "pinned", "status"),
    ]
    assert [(one["seq"], one["parent_seq"], one["position"], one["on_path"]) for one in tree] == [
        *((1, 0, 1, True), (2, 1, 2, False), (3, 2, 3, False), (4, 2, 3, False), (5, 4, 4, False), (6, 4, 4, False)),
        *((7, 6, 5, False), (8, 1, 2, True), (9, 8, 3, True)),
    ]
    assert [(one["seq"], one["status"]) for one in tree if one["status"]] == [(5, "failed"), (7, "interrupted")]
    assert [one["seq"] for one in tree if one["pinned"]] == [1]
    assert tree[6]["message"] == {"role": "assistant", "content": "cut"}


def test_a_message_that_is_being_answered_is_in_the_tree(program: Program, chat_server: ChatServer) -> None:
    started = threading.Event()
    chat_server.script(Reply("never", hold=threading.Event(), started=started))
    program("new")
    with Running("say", "hi"):
        assert started.wait(30)
        assert show_tree(program)[1:] == ["o   1  1  user       hi  (being answered)"]
        assert program("show", "--tree", "--json").json["tree"][0]["status"] == "running"


def test_the_head_is_shown_even_before_the_first_message(program: Program) -> None:
    program("new")
    assert show_tree(program) == ["*   0  0  ← head"]
    program("say", "hi")
    program("undo")
    assert show_tree(program) == ["*   0  0  ← head", "o   1  1  user       hi", "o   2  2  assistant  You said: hi"]
    assert [one["on_path"] for one in program("show", "--tree", "--json").json["tree"]] == [False, False]


def test_the_tree_of_a_fork_shows_where_it_was_forked_and_which_messages_were_not_answered(
    on_each: Program, chat_server: ChatServer
) -> None:
    origin = on_each("new", "--name", "origin").out.strip()
    chat_server.script(Failure(500), Reply("cut", finish_reason=None))
    on_each("say", "lost")
    on_each("say", "first", "--no-stream")
    on_each("say", "second")
    on_each("checkout", "3")
    on_each("fork", "--name", "copy")
    on_each("say", "third", "-c", "copy")
    on_each("delete", "origin")
    assert show_tree(on_each, "copy") == [
        "├─o   1  1  user       lost  (not answered)",
        "*   2  1  user       first",
        f"*   3  2  assistant  cut  (interrupted, forked from {origin} here)",
        "*   4  3  user       third",
        "*   5  4  assistant  You said: third  ← head",
    ]
    assert f"forked from {origin}" in on_each("show", "copy").out.splitlines()[1]
    assert "2 assistant (interrupted)" in on_each("show", "copy").out


def test_an_appended_message_is_not_shown_as_a_failure(program: Program) -> None:
    from convstore import Store

    identity = program("new").out.strip()
    with Store() as store:
        store.append(identity, {"role": "user", "content": "for later"}, idempotency_key="k")
    assert show_tree(program) == ["*   1  1  user       for later  ← head"]


def test_on_a_terminal_messages_off_the_path_are_dim(program: Program) -> None:
    program("new")
    program("say", "one")
    program("edit", "1", "two")
    lines = program("show", "--tree", terminal=True).out.splitlines()
    off, on = [line for line in lines if " user " in line]
    assert off.startswith("\x1b[2m├─o")
    assert on == "*   3  1  user       two"
    program.set(NO_COLOR="1")
    assert "\x1b" not in program("show", "--tree", terminal=True).out


def test_no_message_drives_the_terminal_from_the_tree(program: Program, chat_server: ChatServer) -> None:
    chat_server.script(Reply(message={"role": "assistant", "content": WILD, "name": WILD}), Failure(500, WILD))
    program("new", WILD, "-m", WILD)
    program("say", WILD)
    program("say", WILD)
    for mode in ([], ["--json"]):
        ran = program("show", "--tree", *mode, terminal=True)
        assert ran.code == 0
        assert "owned" in ran.out
        assert is_tame(ran.out + ran.err)
    assert len(show_tree(program)) == 3
    program("fork", "--id", "x\u202ey")
    assert len(show_tree(program)) == 3


def test_without_box_characters_the_tree_is_drawn_in_ascii(program: Program) -> None:
    program("new")
    program("say", "one")
    program("edit", "1", "二")
    program.set(PYTHONIOENCODING="ascii")
    ran = program.real("show", "--tree")
    assert ran.code == 0
    assert "some characters were written as `?`: the encoding of the output is ascii" in ran.err
    assert ran.out.splitlines()[-4:] == [
        "|-o   1  1  user       one",
        "| o   2  2  assistant  You said: one",
        "*   3  1  user       ?",
        "*   4  2  assistant  You said: ?  <- head",
    ]


def test_a_path_that_branched_often_stays_in_its_column(program: Program) -> None:
    program("new")
    for number in range(6):
        program("say", str(number))
        program("retry")
    starts = [line.split()[0] for line in show_tree(program)]
    assert starts == ["*", "├─o", "*"] * 6
    positions = [int(line.split()[2]) for line in show_tree(program) if line.startswith("*")]
    assert all(after == before + 1 for before, after in pairwise(positions))


def test_tree_refuses_last_and_save_attachments(program: Program) -> None:
    program("new")
    program("show", "--tree", "--last", "2").failed(2, "--tree")
    program("show", "--tree", "--save-attachments", "x").failed(2, "--tree")
    program("show", "--tree", "nope").failed(3, "nope")
