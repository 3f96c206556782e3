"""Test that any links give a tree that keeps every message, after its parent."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from convstore.transfer.message_tree import TreeNode, arrange_tree

NAMES = "abcdefgh"


def node(id_: str, parent: str | None, *texts: str, minute: int | None = None, children: str = "") -> TreeNode:
    messages = [{"role": "assistant", "content": text} for text in texts]
    time = None if minute is None else datetime(2026, 1, 1, 0, minute, tzinfo=UTC)
    return TreeNode(id_, parent, messages, time, "model", list(children))


def arrange(*nodes: TreeNode, current: str | None = None) -> tuple[list[tuple[str, str | None]], str | None]:
    tree = arrange_tree({each.id: each for each in nodes}, current)
    return [(message.id, message.parent) for message in tree.messages], tree.head


def test_the_nodes_after_one_without_a_message_follow_its_parent() -> None:
    assert arrange(node("a", None, "1"), node("b", "a"), node("c", "b"), node("d", "c", "2"), current="c") == (
        [("a", None), ("d", "a")],
        "a",
    )


def test_several_messages_of_a_node_follow_each_other() -> None:
    assert arrange(node("a", None, "1", "2", "3"), node("b", "a", "4"), current="a") == (
        [("a/1", None), ("a/2", "a/1"), ("a", "a/2"), ("b", "a")],
        "a",
    )


def test_the_ids_of_parts_are_no_node_s() -> None:
    order, _ = arrange(node("a", None, "1", "2"), node("a/1", "a", "3"))

    assert order == [("a//1", None), ("a", "a//1"), ("a/1", "a")]


def test_the_order_of_children_is_kept_and_unlisted_ones_come_after() -> None:
    order, _ = arrange(
        node("r", None, "0", children="cbx"), node("a", "r", "1"), node("b", "r", "2"), node("c", "r", "3")
    )

    assert [id_ for id_, _ in order] == ["r", "c", "b", "a"]


def test_a_node_without_a_parent_follows_the_node_that_lists_it() -> None:
    assert arrange(node("r", None, "0", children="a"), node("a", None, "1"), node("s", None, "2")) == (
        [("r", None), ("a", "r"), ("s", None)],
        "s",
    )


def test_without_a_current_node_the_path_with_the_newest_leaf_is_current() -> None:
    nodes = (node("r", None, "0", minute=9), node("a", "r", "1", minute=5), node("b", "r", "2", minute=3))

    assert arrange(*nodes)[1] == "a"
    assert arrange(*nodes, current="gone")[1] == "a"
    assert arrange(*nodes, current="b")[1] == "b"
    assert arrange(node("r", None), current="r") == ([], None)


@given(
    st.lists(
        st.tuples(st.sampled_from([*NAMES, None, "x"]), st.integers(0, 2), st.text(alphabet=NAMES + "x", max_size=4)),
        max_size=len(NAMES),
    ),
    st.sampled_from([*NAMES, None]),
)
def test_any_links_give_a_tree_with_every_message(
    links: list[tuple[str | None, int, str]], current: str | None
) -> None:
    nodes = [
        node(NAMES[number], parent, *["text"] * count, children=children)
        for number, (parent, count, children) in enumerate(links)
    ]

    order, head = arrange(*nodes, current=current)

    known: set[str | None] = {None}
    for id_, parent in order:
        assert parent in known
        assert id_ not in known
        known.add(id_)
    assert len(order) == sum(count for _, count, _ in links)
    assert head in known
    assert (head is None) == (not order)
