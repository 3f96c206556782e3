"""Large base64 leaves a message as bytes, and comes back as the very characters that went in."""

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore.messages.codec import to_json
from convstore.messages.inline_data import LEAST, Detached, attach, detach, digest_of, from_list, read, to_list, written
from tests.pure.strategies import json_value, text
from tests.pure.test_messages import same

quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BYTES = bytes(range(256)) * 16  # 4,096 bytes: 5,464 characters
ENCODED = base64.b64encode(BYTES).decode()
URL = f"data:image/png;base64,{ENCODED}"

# Drawn small: what is large is what Hypothesis would find hard to vary.
data = st.builds(lambda piece, size: (piece * size)[:size], st.binary(min_size=1, max_size=5), st.integers(3070, 3078))
large = st.builds(lambda piece, size: (piece * size)[:size], st.binary(min_size=1, max_size=5), st.integers(3072, 3090))
big = data.map(lambda drawn: base64.b64encode(drawn).decode())
prefix = st.sampled_from(["", "data:image/png;base64,", "data:;base64,", "DATA:text/plain;charset=utf-8;BASE64,"])
spoiled = st.sampled_from(
    [
        lambda whole: whole + "\n",
        lambda whole: " " + whole,
        lambda whole: whole[:76] + "\r\n" + whole[76:],
        lambda whole: whole.rstrip("=") + "=" * ((whole.count("=") + 1) % 3),
        lambda whole: whole.replace("+", "-").replace("/", "_") + "-_==",
        lambda whole: "data:image/png," + whole,
        lambda whole: whole[:-4] + "QQ==" + whole[-4:],
    ]
)
attached = st.builds(lambda start, encoded: start + encoded, prefix, big)
almost = st.builds(lambda spoil, whole: spoil(whole), spoiled, attached)
anything = st.recursive(
    json_value | attached | almost,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
json_object = st.dictionaries(text, anything, max_size=4)


def through_rows(fields: dict[str, Any]) -> tuple[dict[str, Any], Detached]:
    """What an object is after it was stored, and how it was."""
    detached = detach(fields)
    emptied, references = from_list(json.loads(to_json(to_list(detached))))
    return attach(emptied, references, written(detached.blobs)), detached


@quick
@given(json_object)
def test_any_object_comes_back_equal_and_is_not_changed_itself(fields: dict[str, Any]) -> None:
    before = copy.deepcopy(fields)
    back, _ = through_rows(fields)
    assert same(back, before)
    assert same(fields, before)


@quick
@given(prefix, large, st.lists(text | st.integers(0, 2), max_size=4))
def test_whatever_is_canonical_and_large_is_taken_out_wherever_it_stands(
    start: str, data: bytes, path: list[str | int]
) -> None:
    value: Any = start + base64.b64encode(data).decode()
    for step in reversed(path):
        value = {step: value} if isinstance(step, str) else [*[None, 1, "x"][:step], value]
    back, detached = through_rows({"vendor": value})
    assert back == {"vendor": value}
    (reference,) = detached.references
    assert reference.path == ("vendor", *path)
    assert (reference.prefix, reference.size) == (start, len(data))
    assert detached.blobs == {reference.digest: data}
    assert len(json.dumps(detached.fields)) < 1000


@pytest.mark.parametrize(
    ("length", "out"), [(LEAST - 4, False), (LEAST - 1, False), (LEAST, True), (LEAST + 1, False), (LEAST + 4, True)]
)
@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
def test_the_border_is_4096_characters_of_base64(length: int, out: bool, start: str) -> None:
    back, detached = through_rows({"data": start + "A" * length})
    assert back == {"data": start + "A" * length}
    assert bool(detached.blobs) is out


@pytest.mark.parametrize(
    "odd",
    [
        ENCODED[:76] + "\n" + ENCODED[76:],
        ENCODED + "\n",
        " " + ENCODED,
        ENCODED.replace("+", "-").replace("/", "_"),
        ENCODED.rstrip("="),
        ENCODED[:-2] + "B=",  # bits that no bytes stand behind
        ENCODED + ENCODED,  # padding in the middle
        "data:image/png," + ENCODED,
        "data:image/png;base64;" + ENCODED,
        "x" + URL,
        f"data:{'a' * 201};base64,{ENCODED}",
        "中" * 4096,
        "\ud83d" * 4096,
        "=" * 4096,
    ],
)
def test_what_its_bytes_would_not_give_again_stays_where_it_is(odd: str) -> None:
    assert len(odd) >= LEAST
    assert read(odd) is None
    back, detached = through_rows({"content": [{"data": odd}]})
    assert back == {"content": [{"data": odd}]}
    assert detached.blobs == {}


def test_the_same_bytes_are_one_blob_however_they_are_named() -> None:
    fields = {"content": [{"url": URL}, {"url": URL}, {"data": ENCODED}], "again": [[URL]]}
    back, detached = through_rows(fields)
    assert back == fields
    assert detached.blobs == {digest_of(BYTES): BYTES}
    assert [reference.path for reference in detached.references] == [
        ("content", 0, "url"),
        ("content", 1, "url"),
        ("content", 2, "data"),
        ("again", 0, 0),
    ]


def test_what_a_row_holds_is_a_list_which_says_all_but_the_bytes() -> None:
    held = to_list(detach({"content": [{"type": "text", "text": "What?"}, {"image_url": {"url": URL}}]}))
    assert held == [
        {"content": [{"type": "text", "text": "What?"}, {"image_url": {"url": None}}]},
        [[["content", 1, "image_url", "url"], "data:image/png;base64,", digest_of(BYTES).hex(), 4096]],
    ]


def test_a_blob_that_is_missing_or_not_what_it_was_is_an_error_that_names_it() -> None:
    held = to_list(detach({"url": URL}))
    for blobs in ({}, {digest_of(BYTES): BYTES[:-1]}, {digest_of(BYTES): b""}, {digest_of(b"x"): b"x"}):
        with pytest.raises(ValueError, match=f"{digest_of(BYTES).hex()}, of 4096 bytes, is missing or damaged"):
            attach(*from_list(copy.deepcopy(held)), written(blobs))


@pytest.mark.parametrize(
    "held",
    [
        [],
        [{}],
        [[], []],
        [{"a": None}, {}],
        [{"a": None}, [], []],
        [{"a": None}, [1]],
        [{"a": None}, [[[], "", digest_of(BYTES).hex(), 4096]]],
        [{"a": None}, [["a", "", digest_of(BYTES).hex(), 4096]]],
        [{"a": None}, [[["a"], "", digest_of(BYTES).hex()]]],
        [{"a": None}, [[["a"], "", "00", 4096]]],
        [{"a": None}, [[["a"], "", "x" * 64, 4096]]],
        [{"a": None}, [[["b"], "", digest_of(BYTES).hex(), 4096]]],
        [{"a": None}, [[["a", "b"], "", digest_of(BYTES).hex(), 4096]]],
        [{"a": "said"}, [[["a"], "", digest_of(BYTES).hex(), 4096]]],
        [{"a": [None]}, [[["a", 1], "", digest_of(BYTES).hex(), 4096]]],
        [{"a": [None]}, [[["a", "0"], "", digest_of(BYTES).hex(), 4096]]],
        [{"a": "text"}, [[["a", 0], "", digest_of(BYTES).hex(), 4096]]],
    ],
)
def test_a_damaged_list_is_refused(held: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"its extra fields|an attachment|hexadecimal"):
        attach(*from_list(held), {digest_of(BYTES): ENCODED})
