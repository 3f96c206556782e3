"""Provide Hypothesis strategies for any JSON and any message of openai's types."""

import collections.abc
import types
from itertools import pairwise
from typing import Any, Literal, Required, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from openai import BaseModel
from openai.types.chat import ChatCompletionMessage
from openai.types.chat.chat_completion_message_param import ChatCompletionMessageParam
from typing_extensions import is_typeddict

ODD = st.sampled_from(
    [
        "",
        "\0",
        "a\0b",
        "\ud83d",
        "\ude00x",
        "😀",
        "中文，",
        "שלום",
        "\u202e",
        '"',
        "{}",
        "null",
        "\\u0000",
        "\r\n",
        "\x1b[2J",
    ]
)

# The texts may contain lone surrogates. Two halves that follow each other are joined, because storing them joins them.
text = (st.text(max_size=12) | ODD).map(
    lambda drawn: "".join(drawn.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"))
)
number = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 1.0, -0.0, True, 10**40, -(10**4299), 2**63, 1e300, 5e-324, 0.1])
)
scalar = st.none() | st.booleans() | number | text
json_value = st.recursive(
    scalar, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
role = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | text.filter(bool)

json_object_with_role = st.builds(
    lambda given, fields: {**fields, "role": given},
    role,
    st.dictionaries(st.sampled_from(["content", "name", "tool_calls", "extra", "seq"]) | text, json_value, max_size=6),
)
vendor_fields = st.dictionaries(
    st.sampled_from(["reasoning_content", "reasoning_details", "x_vendor", "provider_specific_fields", "\0odd"]),
    json_value,
    max_size=2,
)


def find_required_keys(typed_dict: Any) -> set[str]:
    """Return the required keys of a TypedDict.

    `__required_keys__` is wrong for openai's types, because their annotations are strings.
    """
    hints = get_type_hints(typed_dict, include_extras=True)
    return {key for key, hint in hints.items() if get_origin(hint) is Required}


def make_strategy(annotation: Any) -> st.SearchStrategy[Any]:
    """Return a strategy that draws plain JSON of a type in openai's messages."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return make_strategy(annotation.__origin__)
    if origin in (Union, types.UnionType):
        return st.one_of([make_strategy(argument) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (list, collections.abc.Iterable):
        return st.lists(make_strategy(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(text, make_strategy(arguments[1]), max_size=3)
    if is_typeddict(annotation):
        hints = get_type_hints(annotation)
        required = {key: make_strategy(hints[key]) for key in find_required_keys(annotation)}
        optional = {key: make_strategy(hint) for key, hint in hints.items() if key not in required}
        return st.fixed_dictionaries(required, optional=optional)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        required = {key: make_strategy(field.annotation) for key, field in fields.items() if field.is_required()}
        optional = {key: make_strategy(field.annotation) for key, field in fields.items() if key not in required}
        return st.fixed_dictionaries(required, optional=optional)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: text,
        int: st.integers(0, 2**53),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        type(None): st.none(),
        object: json_value,
    }
    return plain[annotation]


param_types: tuple[Any, ...] = get_args(ChatCompletionMessageParam)
"""The six types of messages in a request."""

request_message: st.SearchStrategy[dict[str, Any]] = st.one_of([make_strategy(kind) for kind in param_types])
reply_message: st.SearchStrategy[dict[str, Any]] = make_strategy(ChatCompletionMessage)
openai_message = st.builds(
    lambda message, vendor: {**vendor, **message}, request_message | reply_message, st.just({}) | vendor_fields
)
any_message = openai_message | json_object_with_role


@st.composite
def draw_pieces(draw: st.DrawFn, whole: str) -> list[str]:
    """Draw the pieces of a text that is cut anywhere, even between surrogate halves.

    A piece may be empty.
    """
    units = whole.encode("utf-16-le", "surrogatepass")
    places = sorted(draw(st.lists(st.integers(0, len(units) // 2), max_size=6)))
    ends = [0, *places, len(units) // 2]
    return [units[2 * start : 2 * end].decode("utf-16-le", "surrogatepass") for start, end in pairwise(ends)]
