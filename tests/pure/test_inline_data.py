"""Test that large base64 is stored as bytes and read as the same characters."""

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore.messages.inline_data import (
    MIN_BASE64_CHARACTERS,
    DetachedObject,
    attach,
    decode_base64,
    detach,
    digest_attachment,
    encode_attachments,
    from_extra_list,
    to_extra_list,
)
from convstore.messages.storable_text import to_json
from tests.pure.round_trip import is_same_json
from tests.pure.strategies import json_value, text

quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BYTES = bytes(range(256)) * 16  # 4,096 bytes become 5,464 characters
ENCODED = base64.b64encode(BYTES).decode()
URL = f"data:image/png;base64,{ENCODED}"

# These strategies draw a few bytes and repeat them, because Hypothesis could hardly vary large values.
data = st.builds(lambda piece, size: (piece * size)[:size], st.binary(min_size=1, max_size=5), st.integers(3070, 3078))
large = st.builds(lambda piece, size: (piece * size)[:size], st.binary(min_size=1, max_size=5), st.integers(3072, 3090))
big = data.map(lambda drawn: base64.b64encode(drawn).decode())
prefix = st.sampled_from(["", "data:image/png;base64,", "data:;base64,", "DATA:text/plain;charset=utf-8;BASE64,"])
spoilers = st.sampled_from(
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
spoiled_base64 = st.builds(lambda spoil, whole: spoil(whole), spoilers, attached)
anything = st.recursive(
    json_value | attached | spoiled_base64,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
json_object = st.dictionaries(text, anything, max_size=4)


def detach_and_attach(fields: dict[str, Any]) -> tuple[dict[str, Any], DetachedObject]:
    """Return an object as it is read after it was stored, and its stored form."""
    detached = detach(fields)
    emptied, references = from_extra_list(json.loads(to_json(to_extra_list(detached))))
    return attach(emptied, references, encode_attachments(detached.blobs)), detached


@quick
@given(json_object)
def test_any_object_comes_back_equal_and_detach_does_not_change_it(fields: dict[str, Any]) -> None:
    before = copy.deepcopy(fields)
    back, _ = detach_and_attach(fields)
    assert is_same_json(back, before)
    assert is_same_json(fields, before)


@quick
@given(prefix, large, st.lists(text | st.integers(0, 2), max_size=4))
def test_large_canonical_base64_is_taken_out_at_any_depth(start: str, data: bytes, path: list[str | int]) -> None:
    value: Any = start + base64.b64encode(data).decode()
    for step in reversed(path):
        value = {step: value} if isinstance(step, str) else [*[None, 1, "x"][:step], value]
    back, detached = detach_and_attach({"vendor": value})
    assert back == {"vendor": value}
    (reference,) = detached.references
    assert reference.path == ("vendor", *path)
    assert (reference.prefix, reference.size) == (start, len(data))
    assert detached.blobs == {reference.digest: data}
    assert len(json.dumps(detached.fields)) < 1000


@pytest.mark.parametrize(
    ("length", "out"),
    [
        (MIN_BASE64_CHARACTERS - 4, False),
        (MIN_BASE64_CHARACTERS - 1, False),
        (MIN_BASE64_CHARACTERS, True),
        (MIN_BASE64_CHARACTERS + 1, False),
        (MIN_BASE64_CHARACTERS + 4, True),
    ],
)
@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
def test_base64_of_4096_characters_or_more_is_taken_out(length: int, out: bool, start: str) -> None:
    back, detached = detach_and_attach({"data": start + "A" * length})
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
        ENCODED[:-2] + "B=",  # the last character has bits that belong to no byte
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
def test_base64_that_could_not_be_restored_exactly_stays_in_the_message(odd: str) -> None:
    assert len(odd) >= MIN_BASE64_CHARACTERS
    assert decode_base64(odd) is None
    back, detached = detach_and_attach({"content": [{"data": odd}]})
    assert back == {"content": [{"data": odd}]}
    assert detached.blobs == {}


def test_the_same_bytes_are_stored_once_whatever_their_prefix() -> None:
    fields = {"content": [{"url": URL}, {"url": URL}, {"data": ENCODED}], "again": [[URL]]}
    back, detached = detach_and_attach(fields)
    assert back == fields
    assert detached.blobs == {digest_attachment(BYTES): BYTES}
    assert [reference.path for reference in detached.references] == [
        ("content", 0, "url"),
        ("content", 1, "url"),
        ("content", 2, "data"),
        ("again", 0, 0),
    ]


def test_a_row_holds_a_list_with_everything_but_the_bytes() -> None:
    held = to_extra_list(detach({"content": [{"type": "text", "text": "What?"}, {"image_url": {"url": URL}}]}))
    assert held == [
        {"content": [{"type": "text", "text": "What?"}, {"image_url": {"url": None}}]},
        [[["content", 1, "image_url", "url"], "data:image/png;base64,", digest_attachment(BYTES).hex(), 4096]],
    ]


def test_a_missing_or_changed_blob_is_an_error_that_names_it() -> None:
    held = to_extra_list(detach({"url": URL}))
    for blobs in (
        {},
        {digest_attachment(BYTES): BYTES[:-1]},
        {digest_attachment(BYTES): b""},
        {digest_attachment(b"x"): b"x"},
    ):
        with pytest.raises(ValueError, match=f"{digest_attachment(BYTES).hex()}, of 4096 bytes, is missing or damaged"):
            attach(*from_extra_list(copy.deepcopy(held)), encode_attachments(blobs))


@pytest.mark.parametrize(
    "held",
    [
        [],
        [{}],
        [[], []],
        [{"a": None}, {}],
        [{"a": None}, [], []],
        [{"a": None}, [1]],
        [{"a": None}, [[[], "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": None}, [["a", "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": None}, [[["a"], "", digest_attachment(BYTES).hex()]]],
        [{"a": None}, [[["a"], "", "00", 4096]]],
        [{"a": None}, [[["a"], "", "x" * 64, 4096]]],
        [{"a": None}, [[["b"], "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": None}, [[["a", "b"], "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": "said"}, [[["a"], "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": [None]}, [[["a", 1], "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": [None]}, [[["a", "0"], "", digest_attachment(BYTES).hex(), 4096]]],
        [{"a": "text"}, [[["a", 0], "", digest_attachment(BYTES).hex(), 4096]]],
    ],
)
def test_a_damaged_list_is_refused(held: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"the extra fields|an attachment|hexadecimal"):
        attach(*from_extra_list(held), {digest_attachment(BYTES): ENCODED})
