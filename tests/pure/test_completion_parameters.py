"""Test how completion parameters are checked, merged, sent and stored."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from convstore import Store
from convstore.errors import InvalidParameter
from convstore.testing import ChatServer
from convstore.values.completion_parameters import (
    check_parameters,
    check_sender_names,
    check_sticky_parameters,
    merge_parameters,
)
from tests.schema.support import contents

JSON = dict[str, Any]


# --- each rule at its limits ---


@pytest.mark.parametrize("value", [0, 0.0, 0.2, 1, 2, 2.0, None])
def test_temperature_is_a_number_from_0_to_2(value: object) -> None:
    assert check_parameters({"temperature": value}) == {"temperature": value}


@pytest.mark.parametrize(
    "value",
    [-0.0001, 2.0001, 3, -1, "1", True, False, [1], float("nan"), float("inf"), pytest.param(10**5000, id="huge")],
)
def test_any_other_temperature_is_refused_with_the_rule(value: object) -> None:
    with pytest.raises(InvalidParameter, match="temperature") as refused:
        check_parameters({"temperature": value})
    assert len(str(refused.value)) < 200


def test_the_error_states_the_rule() -> None:
    with pytest.raises(InvalidParameter, match=r"^temperature must be a number from 0 to 2, not 2\.5$"):
        check_parameters({"temperature": 2.5})
    with pytest.raises(InvalidParameter, match=r"^max_tokens must be a whole number of at least 1, not 0$"):
        check_parameters({"max_tokens": 0})
    with pytest.raises(InvalidParameter, match=r"^give temperature or top_p, not both"):
        check_parameters({"temperature": 1, "top_p": 1})


@pytest.mark.parametrize("value", [1, 2, 10**9, None])
def test_max_tokens_is_at_least_1(value: object) -> None:
    assert check_parameters({"max_tokens": value}) == {"max_tokens": value}


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, True, "10", [], pytest.param(-(10**4000), id="huge")])
def test_any_other_max_tokens_is_refused(value: object) -> None:
    with pytest.raises(InvalidParameter, match="max_tokens must be a whole number of at least 1") as refused:
        check_parameters({"max_tokens": value})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["a", "Z", "0", "_", "-", "li_ming-2", "x" * 64, None])
def test_a_senders_name_is_1_to_64_letters_digits_underscores_or_hyphens(name: str | None) -> None:
    check_sender_names([{"role": "user", "content": "x"}, {"role": "user", "content": "x", "name": name}])


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "é", "李", "a.b", "a\n", "a\0", "٣", 3, ["a"]])
def test_any_other_senders_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidParameter, match="name must be 1 to 64 letters"):
        check_sender_names([{"role": "user", "content": "x", "name": name}])


@pytest.mark.parametrize("model", ["", "  ", 3, ["m"]])
def test_a_model_that_is_not_a_name_is_refused(model: object) -> None:
    with pytest.raises(InvalidParameter, match="model"):
        check_parameters({"model": model})


@pytest.mark.parametrize("key", ["messages", "stream"])
def test_messages_and_stream_are_refused_also_inside_extra_body(key: str) -> None:
    tries: list[JSON] = [{key: None}, {key: []}, {"extra_body": {key: 1}}]
    for given in tries:
        with pytest.raises(InvalidParameter, match=key):
            check_parameters(given)


@pytest.mark.parametrize("value", [[], "x", 3])
def test_an_extra_body_that_is_not_an_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidParameter, match="extra_body"):
        check_parameters({"extra_body": value})


def test_a_parameter_that_json_cannot_represent_is_refused_by_name() -> None:
    with pytest.raises(InvalidParameter, match="parameter response_format: JSON has no form for type"):
        check_parameters({"response_format": dict})


def test_unknown_parameters_pass_unchanged() -> None:
    given = {"top_k": 5, "min_p": 0.1, "stop": ["\n"], "logit_bias": {"50256": -100}, "seed": None, "x": {"y": [None]}}
    assert check_parameters(given) == given


# --- temperature and top_p ---

PAIRS = [("temperature", "top_p"), ("top_p", "temperature")]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_given_temperature_or_top_p_replaces_the_other_sticky_one(one: str, other: str) -> None:
    assert merge_parameters({other: 0.5, "n": 1}, {one: 0.1}) == {one: 0.1, "n": 1}
    assert merge_parameters({one: 0.5}, {one: 0.1}) == {one: 0.1}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_given_none_removes_its_own_parameter_only(one: str, other: str) -> None:
    assert merge_parameters({other: 0.5}, {one: None}) == {other: 0.5}
    assert merge_parameters({one: 0.5}, {one: None}) == {}
    assert merge_parameters({one: 0.5}, {one: None, other: 0.1}) == {other: 0.1}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_temperature_and_top_p_together_are_refused_unless_one_is_none(one: str, other: str) -> None:
    assert check_parameters({one: 0.5, other: None}) == {one: 0.5, other: None}
    with pytest.raises(InvalidParameter, match="not both"):
        check_parameters({one: 0, other: 0})


def test_merged_parameters_never_have_both_temperature_and_top_p() -> None:
    values: list[Any] = [{}, *({key: value} for key in PAIRS[0] for value in (0, 1, None))]
    for sticky, given in product(values, values):
        merged = merge_parameters({key: value for key, value in sticky.items() if value is not None}, given)
        assert check_parameters(merged) == merged
        assert None not in merged.values()


def test_merging_does_not_change_its_arguments() -> None:
    sticky, given = {"temperature": 1}, {"top_p": 0.5, "n": None}
    merge_parameters(sticky, given)
    assert (sticky, given) == ({"temperature": 1}, {"top_p": 0.5, "n": None})


@pytest.mark.parametrize("option", ["extra_headers", "extra_query", "timeout"])
def test_an_option_of_one_call_is_never_sticky(option: str) -> None:
    assert check_parameters({option: 1}) == {option: 1}
    with pytest.raises(InvalidParameter, match=option):
        check_sticky_parameters({option: 1})


# --- parameters in the request and in the database ---


@pytest.fixture
def store(sqlite_url: str, chat_server: ChatServer) -> Store:
    return Store(sqlite_url, base_url=chat_server.url, model="m")


def say(store: Store, conversation_id: str, mode: str, **parameters: Any) -> None:
    """Send "Hi" by `say` or by `stream`."""
    if mode == "whole":
        store.say(conversation_id, "Hi", **parameters)
    else:
        with store.stream(conversation_id, "Hi", **parameters) as reply:
            list(reply)


def read_sent_parameters(server: ChatServer) -> JSON:
    """Return the parameters of the last request."""
    body = dict(server.requests[-1].body)
    del body["messages"]
    if body.pop("stream", False):
        assert body.pop("stream_options") == {"include_usage": True}
    return body


modes = pytest.mark.parametrize("mode", ["whole", "streamed"])


@modes
def test_parameters_that_the_client_does_not_know_reach_the_body(
    store: Store, chat_server: ChatServer, mode: str
) -> None:
    with store:
        conversation = store.new()
        say(store, conversation.id, mode, top_k=5, min_p=0.1, seed=7, extra_body={"min_p": 0.2, "x": {"y": [None]}})
        # A field of extra_body replaces a parameter with the same name, as in the openai client.
        assert read_sent_parameters(chat_server) == {
            "model": "m",
            "top_k": 5,
            "min_p": 0.2,
            "seed": 7,
            "x": {"y": [None]},
        }


@modes
def test_sticky_parameters_are_sent_until_they_are_replaced_or_removed(
    store: Store, chat_server: ChatServer, mode: str
) -> None:
    with store:
        id = store.new(model="sticky", temperature=0, max_tokens=9, top_k=5).id
        base = {"model": "sticky", "max_tokens": 9, "top_k": 5}
        for given, expected in (
            ({}, {**base, "temperature": 0}),
            ({"top_p": 0.5}, {**base, "top_p": 0.5}),
            ({"temperature": 2}, {**base, "temperature": 2}),
            ({"temperature": None, "max_tokens": None}, {"model": "sticky", "top_k": 5}),
            ({"model": None}, {**base, "model": "m", "temperature": 0}),
            ({}, {**base, "temperature": 0}),
        ):
            say(store, id, mode, **given)
            assert read_sent_parameters(chat_server) == expected
        assert store.set(id, top_p=0.25, max_tokens=None).settings == {"model": "sticky", "top_k": 5, "top_p": 0.25}
        say(store, id, mode, temperature=1)
        assert read_sent_parameters(chat_server) == {"model": "sticky", "top_k": 5, "temperature": 1}


@modes
def test_options_of_a_call_are_used_and_not_stored(
    store: Store, chat_server: ChatServer, mode: str, tmp_path: Path
) -> None:
    secret = "sk-not-for-the-database"  # not a real key
    with store:
        id = store.new().id
        options = {"extra_headers": {"X-Secret": secret}, "extra_query": {"tag": "v1"}, "timeout": 20.5}
        say(store, id, mode, **options)
        request = chat_server.requests[-1]
        assert request.headers["x-secret"] == secret
        assert request.path.endswith("?tag=v1")
        assert set(request.body) <= {"model", "messages", "stream", "stream_options"}
        (turn,) = store.turns(id)
        assert set(turn.request) <= {"model", "stream", "stream_options"}
        with pytest.raises(InvalidParameter, match="extra_headers"):
            store.new(extra_headers={"X-Secret": secret})
        with pytest.raises(InvalidParameter, match="timeout"):
            store.set(id, timeout=3)
    assert secret not in str(contents(f"sqlite:///{tmp_path}/chat.db"))
    assert not any(secret.encode() in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())


@modes
@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 2.1},
        {"temperature": 1, "top_p": 1},
        {"max_tokens": 0},
        {"name": "not a name"},
        {"stream": True},
        {"extra_body": {"messages": []}},
    ],
)
def test_a_parameter_that_breaks_a_rule_is_refused_before_anything_is_stored_or_sent(
    store: Store, chat_server: ChatServer, mode: str, given: JSON
) -> None:
    with store:
        id = store.new().id
        with pytest.raises(InvalidParameter):
            say(store, id, mode, **given)
        assert store.history(id) == []
        assert store.turns(id) == []
        assert chat_server.requests == []
