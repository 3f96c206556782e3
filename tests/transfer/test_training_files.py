"""Test what is written for training: fine-tuning examples, preference pairs and ShareGPT."""

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.transfer.fine_tuning import read_fine_tuning
from convstore.transfer.recognition import recognise_kind
from convstore.transfer.sharegpt import read_sharegpt
from convstore.transfer.writers.fine_tuning_writer import write_fine_tuning
from convstore.transfer.writers.preference_pairs import write_preferences
from convstore.transfer.writers.sharegpt_writer import write_sharegpt
from convstore.values.exported import ExportedConversation
from convstore.values.results import TurnStatus
from tests.pure.strategies import any_message
from tests.pure.strict_request import find_faults
from tests.transfer.damage import read_all
from tests.transfer.exported import (
    CALL,
    HELLO,
    HI,
    PHOTO,
    RESULT,
    TOOLS,
    any_tree,
    join,
    make_exported,
    make_path,
    make_turn,
    read_crosswoz,
    read_mt_bench,
)

Notes = list[tuple[str, str]]
SYSTEM = {"role": "system", "content": "Be brief."}
BYE = {"role": "assistant", "content": "Bye"}
LOOKED = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}],
}


def write_examples(*exported: ExportedConversation) -> tuple[list[dict[str, Any]], Notes]:
    notes: Notes = []
    data = join(write_fine_tuning(exported, lambda id, reason: notes.append((id, reason))))
    return [json.loads(line) for line in data.splitlines()], notes


def write_pairs(*exported: ExportedConversation) -> tuple[list[dict[str, Any]], Notes]:
    notes: Notes = []
    data = join(write_preferences(exported, lambda id, reason: notes.append((id, reason))))
    return [json.loads(line) for line in data.splitlines()], notes


def write_shared(*exported: ExportedConversation) -> tuple[list[dict[str, Any]], Notes]:
    notes: Notes = []
    data = join(write_sharegpt(exported, lambda id, reason: notes.append((id, reason))))
    return json.loads(data), notes


# --- fine-tuning ---


def test_an_example_is_the_path_up_to_the_last_reply_with_the_tools_of_its_requests() -> None:
    turns = [
        make_turn(1, request={"model": "m", "tools": [{"old": 1}]}),
        make_turn(2, request={"model": "m", "tools": TOOLS, "parallel_tool_calls": False}),
        make_turn(3, request={"model": "m"}),
        make_turn(4, purpose="summary", request={"tools": [{"wrong": 1}]}),
    ]
    reply: dict[str, Any] = {**HI, "refusal": None, "annotations": [], "reasoning_content": "Hm.", "x_vendor": 1}
    exported = make_path(
        {"role": "developer", "content": "Be brief."}, {**HELLO, "name": "ann"}, CALL, RESULT, reply, HELLO, turns=turns
    )

    assert write_examples(exported) == (
        [
            {
                "messages": [SYSTEM, {**HELLO, "name": "ann"}, LOOKED, RESULT, HI],
                "tools": TOOLS,
                "parallel_tool_calls": False,
            }
        ],
        [("chat", "1 message after its last reply left out")],
    )


def test_an_example_may_end_with_a_call_and_show_images_to_the_model() -> None:
    assert write_examples(make_path(PHOTO, CALL))[0] == [{"messages": [PHOTO, LOOKED]}]


def test_a_reply_that_is_bad_cut_off_or_empty_is_not_learnt_and_weights_are_kept() -> None:
    replies: list[dict[str, Any]] = [HI, HI, {**HI, "content": ""}, {**HI, "weight": 0}, {**HI, "weight": 1}, HI]
    exported = make_path(
        *(message for reply in replies for message in (HELLO, reply)),
        ratings={2: "bad", 10: "bad", 12: "good"},
        statuses={4: TurnStatus.INTERRUPTED, 12: TurnStatus.COMPLETED},
    )

    ((example,), notes) = write_examples(exported)

    assert [one.get("weight") for one in example["messages"] if one["role"] == "assistant"] == [0, 0, 0, 0, 1, None]
    assert notes == []


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "it has no reply"),
        ([HELLO], "it has no reply"),
        (
            [{"role": "narrator", "content": "x"}, HI],
            "message 1 has the role 'narrator', which training files do not have",
        ),
        ([{"role": "function", "name": "f", "content": "x"}, HI], "message 1 has the role 'function', which"),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, HI],
            "message 1 has a part of the type 'input_audio', which a user of training cannot have",
        ),
        (
            [{"role": "system", "content": [PHOTO["content"][1]]}, HI],
            "message 1 has a part of the type 'image_url', which",
        ),
        ([{"role": "user", "content": ["x"]}, HI], "message 1 has a part of the type None"),
        ([{"role": "user"}, HI], "message 1 has no text"),
        ([{"role": "user", "content": 5}, HI], "message 1 has no text"),
        ([{"role": "user", "content": [{"type": "text"}]}, HI], "message 1 has a part without a text"),
        ([HELLO, RESULT, HI], "message 2 is a tool's result without its call"),
        ([HELLO, CALL, HI], "the tool call 'c1' before message 3 has no result"),
        ([HELLO, CALL, RESULT, RESULT, HI], "message 4 is a tool's result without its call"),
        ([HELLO, {**HI, "weight": 0}], "it has no reply to learn: each is rated bad, cut off or empty"),
        ([HELLO, {"role": "assistant", "content": ""}], "it has no reply to learn"),
    ],
)
def test_a_conversation_that_cannot_be_an_example_is_left_out_with_a_note(messages: list[Any], reason: str) -> None:
    examples, notes = write_examples(make_path(*messages), make_path(HELLO, HI, id="next"))

    assert examples == [{"messages": [HELLO, HI]}]
    ((id, said),) = notes
    assert (id, said.startswith(f"not written: {reason}")) == ("chat", True), said


# People do write twice before they are answered, and an example may end with a call.
ALLOWED_FAULTS = "two messages of a user in a row|calls without results at the end"
# What a caller sent is not repaired: a message of each kind that is as it should be, or any.
LIKELY_MESSAGE = st.sampled_from([SYSTEM, HELLO, HELLO, HI, HI, CALL, RESULT, PHOTO]) | any_message
FIELDS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "weight"},
    "tool": {"role", "content", "tool_call_id"},
}


@settings(max_examples=60, deadline=None)
@given(st.lists(any_tree(LIKELY_MESSAGE), max_size=4))
def test_examples_of_random_trees_are_valid(exported: list[ExportedConversation]) -> None:
    examples, notes = write_examples(*exported)

    assert len(examples) + len([reason for _, reason in notes if reason.startswith("not written")]) == len(exported)
    for example in examples:
        messages = example["messages"]
        for message in messages:
            assert message.keys() <= FIELDS[message["role"]]
        assert messages[-1]["role"] == "assistant"
        assert any(one["role"] == "assistant" and one.get("weight") != 0 for one in messages)
        faults = find_faults([{key: one[key] for key in one if key != "weight"} for one in messages])
        assert [fault for fault in faults if not re.search(ALLOWED_FAULTS, fault)] == []


def test_examples_of_the_data_sets_come_back_equal(shared_data: Path) -> None:
    exported = [*read_crosswoz(shared_data), *read_mt_bench(shared_data)]

    data = join(write_fine_tuning(exported))

    assert recognise_kind(data[: 2**16]) == "fine-tuning"
    found = read_all(read_fine_tuning(io.BytesIO(data)))
    for one, other in zip(exported, found, strict=True):
        path = [each.record.message for each in one.messages]
        last = max(at for at, message in enumerate(path) if message["role"] == "assistant")
        assert [each.message for each in other.messages] == path[: last + 1]


# --- preferences ---


def test_replies_that_are_rated_good_and_bad_make_pairs_at_their_place() -> None:
    tree = [(0, SYSTEM), (1, HELLO), (2, HI), (2, BYE), (2, {**HI, "content": "Well"}), (3, HELLO), (6, CALL), (6, BYE)]
    exported = make_exported(
        tree,
        head=4,
        ratings={3: "bad", 4: "good", 5: "good", 7: "bad", 8: "good"},
        turns=[make_turn(1, request={"tools": TOOLS})],
    )

    pairs, notes = write_pairs(exported)

    called = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    assert pairs[0] == {
        "prompt": [SYSTEM, HELLO],
        "chosen": [BYE],
        "rejected": [HI],
        "tools": TOOLS,
        "conversation": "chat",
        "position": 3,
        "chosen_seq": 4,
        "rejected_seq": 3,
    }
    assert [(one["chosen_seq"], one["rejected_seq"]) for one in pairs] == [(4, 3), (5, 3), (8, 7)]
    assert pairs[2]["prompt"] == [SYSTEM, HELLO, HI, HELLO]
    assert pairs[2]["rejected"] == [{"role": "assistant", "tool_calls": [called]}]
    assert notes == []

    data = join(write_preferences([exported]))
    assert recognise_kind(data) == "fine-tuning"
    found = read_all(read_fine_tuning(io.BytesIO(data)))
    assert [[one.message for one in each.messages] for each in found] == [
        [SYSTEM, HELLO, BYE, HI],
        [SYSTEM, HELLO, {**HI, "content": "Well"}, HI],
        [SYSTEM, HELLO, HI, HELLO, BYE, LOOKED],
    ]
    for each in found:
        *_, prompt, chosen, rejected = each.messages
        assert (chosen.parent, rejected.parent, each.head) == (prompt.id, prompt.id, chosen.id)
        assert each.metadata == {"tools": TOOLS}


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ([(0, HELLO), (1, HI), (2, HELLO), (3, BYE)], "its rated replies make no pair: no good and bad"),
        (
            [(0, HELLO), (0, HI), (1, HELLO), (0, BYE)],
            "the pair of messages 2 and 4 is not written: there",
        ),
        (
            [(0, HELLO), (1, HI), (1, HELLO), (1, {**HI, "content": ""})],
            "the pair of messages 2 and 4 is not written",
        ),
        (
            [(0, {"role": "x"}), (1, HI), (1, HELLO), (1, BYE)],
            "the pair of messages 2 and 4 is not written: message",
        ),
    ],
)
def test_rated_replies_that_make_no_pair_are_noted(tree: list[Any], reason: str) -> None:
    pairs, notes = write_pairs(make_exported(tree, ratings={2: "good", 4: "bad"}), make_path(HELLO, HI, id="unrated"))

    assert pairs == []
    ((id, said),) = notes
    assert (id, said[: len(reason)]) == ("chat", reason)


@settings(max_examples=40, deadline=None)
@given(any_tree(LIKELY_MESSAGE), st.data())
def test_pairs_of_random_trees_answer_the_same_message(tree: ExportedConversation, data: st.DataObject) -> None:
    ratings = {int(one.record.seq): data.draw(st.sampled_from(["good", "bad"])) for one in tree.messages}
    rated = make_exported([(one.record.parent_seq, one.record.message) for one in tree.messages], ratings=ratings)

    parents = {one.record.seq: one.record.parent_seq for one in tree.messages}
    for pair in write_pairs(rated)[0]:
        chosen, rejected = pair["chosen_seq"], pair["rejected_seq"]
        assert (ratings[chosen], ratings[rejected]) == ("good", "bad")
        assert parents[chosen] == parents[rejected] != 0
        assert pair["position"] == len(pair["prompt"]) + 1


# --- ShareGPT ---


def test_a_chat_with_a_tool_is_written_and_read_again() -> None:
    exported = make_path(
        SYSTEM,
        HELLO,
        CALL,
        RESULT,
        HI,
        model="gpt-4o",
        turns=[make_turn(1, request={"tools": TOOLS})],
    )

    records, notes = write_shared(exported)

    assert records == [
        {
            "id": "chat",
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hello"},
                {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'},
                {"from": "observation", "value": "blue"},
                {"from": "gpt", "value": "Hi"},
            ],
            "model": "gpt-4o",
            "tools": json.dumps(TOOLS),
        }
    ]
    assert notes == []
    (found,) = read_all(read_sharegpt(io.BytesIO(join(write_sharegpt([exported])))))
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
    assert [one.message for one in found.messages] == [
        SYSTEM,
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {**RESULT, "tool_call_id": "call_1"},
        HI,
    ]


def test_what_sharegpt_cannot_hold_is_noted() -> None:
    calls = [*CALL["tool_calls"], {"function": {"name": "cut", "arguments": '{"a'}}, "odd"]
    empty, refused = {"role": "assistant", "content": ""}, {"role": "assistant", "content": None, "refusal": "No."}
    old = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"n": 1e999}'}}
    records, notes = write_shared(
        make_path({"role": "narrator", "content": "x"}, id="odd"),
        make_path(id="empty"),
        make_path(PHOTO, HI | {"tool_calls": calls}, empty, refused),
        make_path(old, id="old"),
    )

    assert [[(entry["from"], entry["value"]) for entry in record["conversations"]] for record in records] == [
        [
            ("human", "What is on it?"),
            ("gpt", "Hi"),
            ("function_call", '{"name": "look", "arguments": {"at": "sky"}}'),
            ("gpt", "No."),
        ],
        [("function_call", '{"name": "f", "arguments": "{\\"n\\": 1e999}"}')],
    ]
    assert notes == [
        ("odd", "not written: it has a message of the role 'narrator'"),
        ("empty", "not written: it has no text"),
        ("chat", "a part of a message that is no text is left out"),
        ("chat", "a tool call that is not whole is left out"),
        ("chat", "a text beside tool calls is an entry of its own"),
        ("chat", "a message without a text is left out"),
    ]


def test_a_list_without_conversations_is_json() -> None:
    assert write_shared() == ([], [])


plain = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant"]),
    st.text(min_size=1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(plain, min_size=1, max_size=5), max_size=4))
def test_plain_chats_come_back_equal(chats: list[list[dict[str, Any]]]) -> None:
    exported = [make_path(SYSTEM, *chat, id=f"chat-{number}") for number, chat in enumerate(chats)]

    found = read_all(read_sharegpt(io.BytesIO(join(write_sharegpt(exported)))))

    assert [one.metadata["id"] for one in found] == [one.conversation.id for one in exported]
    for one, chat in zip(found, chats, strict=True):
        assert [each.message for each in one.messages] == [SYSTEM, *chat]
        assert all(after.parent == before.id for before, after in pairwise(one.messages))


@settings(max_examples=40, deadline=None)
@given(st.lists(any_tree(LIKELY_MESSAGE), max_size=4))
def test_random_trees_are_written_as_json_that_is_read(exported: list[ExportedConversation]) -> None:
    records, notes = write_shared(*exported)

    left_out = [id for id, reason in notes if reason.startswith("not written")]
    assert len(records) + len(left_out) == len(exported)
    assert len(read_all(read_sharegpt(io.BytesIO(join(write_sharegpt(exported)))))) == len(records)


def test_the_data_sets_come_back_equal_from_sharegpt(shared_data: Path) -> None:
    exported = [*read_crosswoz(shared_data), *read_mt_bench(shared_data)]

    data = join(write_sharegpt(exported))

    assert recognise_kind(data[: 2**16]) == "sharegpt"
    found = read_all(read_sharegpt(io.BytesIO(data)))
    for one, other in zip(exported, found, strict=True):
        assert [each.message for each in other.messages] == [each.record.message for each in one.messages]
