"""Test how conversations are made, found, listed and changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from convstore import (
    UNCHANGED,
    AmbiguousReference,
    ConversationDeleted,
    ConversationExists,
    ConversationNotFound,
    InvalidInput,
    InvalidMessage,
    InvalidParameter,
    Store,
)
from convstore.testing import ChatServer
from tests.contract.conftest import HARD_TEXTS, ON_ALL_BACKENDS, Backend


def test_new_stores_everything_that_it_is_given(store: Store) -> None:
    before = datetime.now(UTC)
    made = store.new(
        "Olympics",
        system="Answer briefly.",
        id="games",
        name="oly",
        metadata={"tags": ["a", 1, None], "deep": {"x": 1.5}},
        model="gpt-x",
        temperature=0.2,
    )
    assert (made.id, made.name, made.title, made.owner) == ("games", "oly", "Olympics", "")
    assert made.settings == {"model": "gpt-x", "temperature": 0.2}
    assert made.metadata == {"tags": ["a", 1, None], "deep": {"x": 1.5}}
    assert (made.length, made.model) == (1, "gpt-x")
    assert made.created_at == made.updated_at
    assert before - timedelta(seconds=1) <= made.created_at <= datetime.now(UTC)
    assert store.get("games") == made
    assert store.history("games") == [{"role": "system", "content": "Answer briefly."}]


def test_new_needs_no_arguments(store: Store) -> None:
    made = store.new()
    assert (made.name, made.title, made.settings, made.metadata, made.model) == (None, None, {}, {}, None)
    assert (made.length, made.head_seq) == (0, 0)
    assert store.get(made.id) == made
    assert store.history(made.id) == []
    assert store.messages(made.id) == []
    assert store.turns(made.id) == []
    assert store.unanswered(made.id) == []


def test_generated_ids_differ_in_their_first_characters(store: Store) -> None:
    ids = [store.new().id for _ in range(30)]
    assert all(re.fullmatch(r"[a-z0-9]{12}", id) for id in ids)
    assert len({id[:5] for id in ids}) > 25


def test_new_stores_the_messages_that_it_is_given(store: Store) -> None:
    given: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "1", "name": "ann"},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]
    made = store.new(system="First.", messages=given)
    assert store.history(made.id, exact=True) == [{"role": "system", "content": "First."}, *given]
    assert made.length == 4
    assert [record.position for record in store.messages(made.id)] == [1, 2, 3, 4]


def test_an_id_may_be_any_printable_text(store: Store) -> None:
    for id in ("x", "a b", "会話", "user@example.org", "'; DROP TABLE x; --", "%", "_", "🦊", "i" * 255):
        store.new(id=id)
        assert store.get(id).id == id
        store.append(id, "hello")
        assert store.history(id) == [{"role": "user", "content": "hello"}]


def test_new_refuses_an_invalid_id_and_stores_nothing(store: Store) -> None:
    for id in ("", "a\0b", "a\nb", "\ud800", "i" * 256, "会" * 86, "\x1b[31m"):
        with pytest.raises(InvalidInput, match="an id is 1 to 255 bytes"):
            store.new(id=id)
    assert store.list() == []


def test_an_invalid_name_is_refused_and_nothing_is_stored(store: Store) -> None:
    made = store.new(name="good")
    for name in ("", "a b", ".hidden", "-x", "a/b", "n" * 65, "a\0", "a\n", "\ud800"):
        with pytest.raises(InvalidInput, match="a name is 1 to 64"):
            store.new(name=name)
        with pytest.raises(InvalidInput, match="a name is 1 to 64"):
            store.set(made.id, name=name)
    assert store.list() == [made]


def test_a_name_may_have_letters_and_digits_of_any_script(store: Store) -> None:
    for name in ("a", "9", "work-2.b_c", "オリンピック", "n" * 64):
        made = store.new(name=name)
        assert store.get(name) == made


@ON_ALL_BACKENDS
def test_new_refuses_an_id_that_exists_and_keeps_the_first_conversation(store: Store) -> None:
    first = store.new("first", id="x", system="1")
    with pytest.raises(ConversationExists, match="'x'"):
        store.new("second", id="x", system="2")
    assert store.get("x") == first
    assert store.history("x") == [{"role": "system", "content": "1"}]


@ON_ALL_BACKENDS
def test_a_name_that_exists_is_refused_and_nothing_changes(store: Store) -> None:
    first = store.new(name="work")
    other = store.new(name="home", title="t")
    with pytest.raises(ConversationExists, match="'work'"):
        store.new(name="work")
    with pytest.raises(ConversationExists, match="'work'"):
        store.set(other.id, name="work", title="changed", metadata={"a": 1}, temperature=1)
    assert store.get(other.id) == other
    assert store.get("work") == first
    assert len(store.list()) == 2


def test_a_removed_name_can_be_given_to_another_conversation(store: Store) -> None:
    first, second = store.new(name="work"), store.new()
    assert store.set(first.id, name=None).name is None
    assert store.set(second.id, name="work").name == "work"
    assert store.get("work").id == second.id
    store.set(second.id, name="other")
    assert store.new(name="work").name == "work"


def test_set_accepts_the_current_name_of_a_conversation(store: Store) -> None:
    made = store.new(name="work")
    assert store.set(made.id, name="work").name == "work"


def test_names_are_case_sensitive(store: Store) -> None:
    small, large = store.new(name="work"), store.new(name="Work")
    assert (store.get("work").id, store.get("Work").id) == (small.id, large.id)
    with pytest.raises(ConversationNotFound):
        store.get("WORK")


# --- finding ---


def test_get_finds_a_conversation_by_a_unique_prefix_of_its_id(store: Store) -> None:
    store.new(id="abcd")
    store.new(id="abxy")
    assert store.get("abc").id == "abcd"
    assert store.get("abx").id == "abxy"


def test_get_lists_the_candidates_of_an_ambiguous_prefix(store: Store) -> None:
    for id in ("abcd", "abxy", "b"):
        store.new(id=id)
    with pytest.raises(AmbiguousReference, match=r"abcd.*abxy") as caught:
        store.get("ab")
    assert [candidate.id for candidate in caught.value.candidates] == ["abcd", "abxy"]


def test_a_complete_id_is_not_ambiguous_if_other_ids_begin_with_it(store: Store) -> None:
    for id in ("ab", "abc", "abcd"):
        store.new(id=id)
    assert store.get("ab").id == "ab"
    assert store.get("abc").id == "abc"


def test_get_prefers_an_id_to_a_name_and_a_name_to_a_prefix(store: Store) -> None:
    victim = store.new(id="target")
    store.new(id="other", name="target")
    assert store.get("target") == victim
    named = store.new(id="zzz", name="oth")
    assert store.get("oth") == named


def test_get_does_not_treat_a_prefix_as_a_pattern(store: Store) -> None:
    store.new(id="abc")
    for pattern in ("%", "_bc", "a%", "*", "a_", "[a]", "ABC", "bc"):
        with pytest.raises(ConversationNotFound):
            store.get(pattern)
    store.new(id="a%c")
    assert store.get("a%").id == "a%c"


def test_get_finds_prefixes_of_ids_in_any_script(store: Store) -> None:
    for id in ("会話一", "会話二", "🦊🦊", "😀"):
        store.new(id=id)
    assert store.get("会話二").id == "会話二"
    assert store.get("🦊").id == "🦊🦊"
    with pytest.raises(AmbiguousReference):
        store.get("会話")


def test_get_raises_conversation_not_found_for_an_unknown_reference(store: Store) -> None:
    store.new(id="abc")
    for reference in ("", "nothing", "a\0b", "\ud800", "x" * 300, "a\nb"):
        with pytest.raises(ConversationNotFound):
            store.get(reference)


@pytest.mark.parametrize("id", ["nothing", "a\0b", "\ud800"], ids=["printable", "nul", "surrogate"])
def test_methods_other_than_get_accept_only_an_exact_id(store: Store, id: str) -> None:
    made = store.new(id="abc", name="work")
    for wrong in ("", "ab", "work", "x" * 3000, id):
        calls: list[Callable[[], object]] = [
            partial(store.say, wrong, "hi"),
            partial(_open_stream, store, wrong),
            partial(store.append, wrong, "hi"),
            partial(store.history, wrong),
            partial(store.messages, wrong),
            partial(store.messages, wrong, before=1),
            partial(store.turns, wrong),
            partial(store.unanswered, wrong),
            partial(store.set, wrong, title="x"),
            partial(store.preview, wrong, "hi"),
        ]
        for call in calls:
            with pytest.raises(ConversationNotFound):
                call()
    assert store.list() == [made]


def _open_stream(store: Store, id: str) -> None:
    with store.stream(id, "hi"):
        pass


# --- listing ---


def test_list_puts_the_latest_activity_first(store: Store) -> None:
    a, b, c = (store.new(id=id) for id in "abc")
    assert [found.id for found in store.list()] == ["c", "b", "a"]
    store.append(a.id, "hi")
    assert [found.id for found in store.list()] == ["a", "c", "b"]
    store.say(b.id, "hi")
    assert [found.id for found in store.list()] == ["b", "a", "c"]
    store.set(c.id, title="changed")
    assert [found.id for found in store.list()] == ["c", "b", "a"]
    assert store.list()[1].length == 2


def test_list_returns_the_same_values_as_get(store: Store) -> None:
    made = store.new("t", system="s", name="n", metadata={"a": 1}, temperature=1)
    store.say(made.id, "hi")
    assert store.list() == [store.get(made.id)]


@ON_ALL_BACKENDS
def test_the_pages_of_a_list_add_up_to_the_complete_list(store: Store) -> None:
    made = [store.new().id for _ in range(7)]
    whole = store.list(limit=None)
    assert [found.id for found in whole] == made[::-1]
    for size in (1, 2, 3, 7, 10):
        pages = []
        last = None
        while page := store.list(limit=size, before=last):
            assert len(page) <= size
            pages += page
            last = page[-1]
        assert pages == whole


def test_paging_a_list_loses_no_conversations_with_equal_times(store: Store, backend: Backend) -> None:
    made = {store.new().id for _ in range(7)}
    with backend.connect() as connection, connection.begin():
        connection.execute(text("UPDATE convstore_conversations SET updated_at = '2026-01-02 03:04:05.678901'"))
    pages = []
    last = None
    while page := store.list(limit=2, before=last):
        pages += page
        last = page[-1]
    assert pages == store.list(limit=None)
    assert {found.id for found in pages} == made
    assert len(pages) == 7


def test_list_returns_at_most_limit_conversations(store: Store) -> None:
    for _ in range(21):
        store.new()
    assert len(store.list()) == 20
    assert len(store.list(limit=None)) == 21
    assert len(store.list(limit=1)) == 1
    assert store.list(limit=0) == []
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises(InvalidInput, match="a limit must be"):
            store.list(limit=wrong)  # type: ignore[arg-type]


def test_the_model_of_a_conversation_is_the_sticky_model_or_the_last_one_used(store: Store) -> None:
    made = store.new()
    assert store.get(made.id).model is None
    store.say(made.id, "hi", model="asked-once")
    assert store.get(made.id).model == "asked-once"
    store.set(made.id, model="sticky")
    assert [found.model for found in store.list()] == ["sticky"]


# --- changing ---


def test_set_changes_only_what_it_is_given(store: Store) -> None:
    made = store.new("t", id="x", name="n", metadata={"a": 1}, model="m", temperature=0.5, seed=7)
    changed = store.set("x", title="new title")
    assert changed == store.get("x")
    assert (changed.title, changed.name, changed.metadata) == ("new title", "n", {"a": 1})
    assert changed.settings == made.settings
    assert changed.created_at == made.created_at
    assert changed.updated_at >= made.updated_at
    assert store.set("x", name=UNCHANGED, title=UNCHANGED, metadata=UNCHANGED).title == "new title"


def test_set_replaces_single_parameters_and_none_removes_one(store: Store) -> None:
    made = store.new(model="m", temperature=0.5, seed=7)
    assert store.set(made.id, seed=8).settings == {"model": "m", "temperature": 0.5, "seed": 8}
    assert store.set(made.id, seed=None, model=None).settings == {"temperature": 0.5}
    assert store.set(made.id, nothing_there=None).settings == {"temperature": 0.5}
    assert store.set(made.id, temperature=None).settings == {}


def test_new_does_not_store_parameters_that_are_none(store: Store) -> None:
    assert store.new(model=None, temperature=1, top_p=None).settings == {"temperature": 1}


def test_setting_temperature_or_top_p_replaces_the_other(store: Store) -> None:
    made = store.new(temperature=0.5)
    assert store.set(made.id, top_p=0.1).settings == {"top_p": 0.1}
    assert store.set(made.id, temperature=0).settings == {"temperature": 0}


INVALID_PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 2.1},
    {"temperature": -0.1},
    {"temperature": "hot"},
    {"temperature": True},
    {"temperature": float("nan")},
    {"temperature": 1, "top_p": 1},
    {"max_tokens": 0},
    {"max_tokens": 1.5},
    {"model": ""},
    {"model": 5},
    {"stream": True},
    {"seed": object()},
    {"timeout": 5},
    {"extra_headers": {"Authorization": "secret"}},
]


def test_an_invalid_sticky_parameter_is_refused_and_nothing_changes(store: Store) -> None:
    made = store.new(seed=1)
    for wrong in INVALID_PARAMETERS:
        with pytest.raises(InvalidParameter):
            store.new(**wrong)
        with pytest.raises(InvalidParameter):
            store.set(made.id, title="changed", **wrong)
    assert store.list() == [made]


def test_parameters_at_the_bounds_of_their_ranges_are_accepted(store: Store) -> None:
    within: list[dict[str, Any]] = [{"temperature": 0}, {"temperature": 2}, {"top_p": 0.5}, {"max_tokens": 1}]
    for parameters in within:
        assert store.new(**parameters).settings == parameters


def test_set_can_remove_the_title_and_the_metadata(store: Store) -> None:
    made = store.new("t", metadata={"a": 1})
    changed = store.set(made.id, title=None, metadata=None)
    assert (changed.title, changed.metadata) == (None, {})


def test_set_replaces_all_metadata(store: Store) -> None:
    made = store.new(metadata={"a": 1, "b": 2})
    assert store.set(made.id, metadata={"b": 3}).metadata == {"b": 3}


def test_texts_of_metadata_are_replaced_and_the_rest_stays(store: Store) -> None:
    made = store.new(metadata={"a": "x", "b": "y", "n": 1, "import": {"kind": "chatgpt"}})
    rest = {"n": 1, "import": {"kind": "chatgpt"}}
    assert store.set(made.id, metadata_texts={"b": "z"}).metadata == {**rest, "b": "z"}
    assert store.set(made.id, title="t").metadata == {**rest, "b": "z"}
    assert store.set(made.id, metadata_texts={"n": "1"}).metadata == {**rest, "n": "1"}
    assert store.set(made.id, metadata_texts=None).metadata == {"import": {"kind": "chatgpt"}}
    assert store.set(made.id, metadata={"a": 1, "b": "x"}, metadata_texts={"c": "y"}).metadata == {"a": 1, "c": "y"}
    with pytest.raises(InvalidInput, match="must be a text"):
        store.set(made.id, metadata_texts={"a": 1})  # type: ignore[dict-item]
    assert store.get(made.id).metadata == {"a": 1, "c": "y"}


def test_metadata_that_is_not_a_json_object_is_refused_and_nothing_changes(store: Store) -> None:
    made = store.new("t", metadata={"a": 1})
    wrongs: list[Any] = [{"a": object()}, {"a": float("nan")}, {1: "a"}, "text", ["a"], [["a", 1]], 5]
    for metadata in wrongs:
        with pytest.raises(InvalidInput):
            store.new(metadata=metadata)
        with pytest.raises(InvalidInput):
            store.set(made.id, title="changed", metadata=metadata)
    assert store.list() == [made]


def test_a_title_that_is_not_text_is_refused_and_nothing_changes(store: Store) -> None:
    made = store.new("t")
    wrongs: list[Any] = [5, b"bytes", ["a"], {}]
    for title in wrongs:
        with pytest.raises(InvalidInput):
            store.new(title)
        with pytest.raises(InvalidInput):
            store.set(made.id, title=title)
    assert store.list() == [made]


def test_a_title_metadata_and_settings_may_hold_any_text(store: Store) -> None:
    for hard in HARD_TEXTS:
        made = store.new(hard, metadata={hard: [hard, {hard: hard}]}, stop=hard, user=hard)
        assert made.title == hard
        assert store.get(made.id) == made
        assert store.list(limit=1) == [made]
        changed = store.set(made.id, title=hard + "!", metadata={"x": hard}, stop=[hard])
        assert (changed.title, changed.metadata) == (hard + "!", {"x": hard})
        assert changed.settings == {"stop": [hard], "user": hard}
        assert store.get(made.id) == changed


def test_new_refuses_an_invalid_message_and_stores_nothing(store: Store) -> None:
    wrongs: list[Any] = [{"content": "no role"}, {"role": 5}, {"role": ""}, "text", 5, None, {"role": "user", "x": {1}}]
    for wrong in wrongs:
        with pytest.raises(InvalidMessage):
            store.new(messages=[{"role": "user", "content": "good"}, wrong])
    for empty in ("", "  \n"):
        with pytest.raises(InvalidMessage, match="empty"):
            store.new(system=empty)
    assert store.list() == []


def test_later_changes_to_the_callers_objects_do_not_change_the_conversation(store: Store) -> None:
    metadata = {"a": [1]}
    made = store.new(metadata=metadata, stop=["x"])
    metadata["a"].append(2)
    made.settings["stop"].append("y")
    found = store.get(made.id)
    assert (found.metadata, found.settings) == ({"a": [1]}, {"stop": ["x"]})


# --- deleted ---


def test_the_error_for_a_deleted_conversation_says_that_it_is_deleted(
    store: Store, backend: Backend, chat_server: ChatServer
) -> None:
    store.new(id="gone", name="handle")
    store.delete("gone")
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.get("gone"),
        lambda: store.say("gone", "Hi"),
        lambda: store.append("gone", "Hi"),
        lambda: store.history("gone"),
        lambda: store.set("gone", title="x"),
        lambda: store.undo("gone"),
    )
    for call in calls:
        with pytest.raises(ConversationDeleted, match="'gone' is deleted; restore it"):
            call()
    with pytest.raises(ConversationExists, match="'gone' belongs to a deleted conversation; restore it"):
        store.new(id="gone", title="Another")
    for view, reference in ((store, "handle"), (store.for_owner("other"), "gone")):
        with pytest.raises(ConversationNotFound) as caught:
            view.get(reference)
        assert type(caught.value) is ConversationNotFound
    store.restore("gone")
    assert store.get("handle").id == "gone"
    assert chat_server.requests == []
