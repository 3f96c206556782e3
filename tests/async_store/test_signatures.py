"""Test that `AsyncStore` is `Store` with `await`: the same names, parameters, defaults and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from convstore import AsyncReplyStream, AsyncStore, ReplyStream, Store
from convstore.store.transaction_view import AsyncTransactionView, TransactionView

PAIRS = [
    (Store, AsyncStore),
    (TransactionView, AsyncTransactionView),
    (ReplyStream, AsyncReplyStream),
]
PAIRED = pytest.mark.parametrize(("sync", "asynchronous"), PAIRS, ids=["Store", "using", "ReplyStream"])

AT_ONCE = {"for_owner", "using", "stream", "retry_stream", "complete_stream", "edit_stream"}
"""Methods that only make an object: they have nothing to await."""
GENERATORS = {"follow", "iterate_history", "iterate_messages", "iterate_tree"}

# The name in `AsyncStore` of each type of `Store`.
TYPES = {
    "OpenAI": "AsyncOpenAI",
    "Connection": "AsyncConnection",
    "TransactionView": "AsyncTransactionView",
    "ReplyStream": "AsyncReplyStream",
    "Iterator[str]": "AsyncIterator[str]",
    "Iterator[Message]": "AsyncIterator[Message]",
    "Iterator[MessageRecord]": "AsyncIterator[MessageRecord]",
}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: getattr(kind, name) for name in public(kind) if inspect.isfunction(getattr(kind, name))}


def shape(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


def renamed(annotation: Any) -> str:
    text = str(annotation)
    return TYPES.get(text, text)


@PAIRED
def test_both_have_the_same_public_names(sync: type, asynchronous: type) -> None:
    assert public(sync) == public(asynchronous)
    assert methods(sync).keys() == methods(asynchronous).keys()


@PAIRED
def test_every_method_takes_the_same_parameters(sync: type, asynchronous: type) -> None:
    for name, function in methods(sync).items():
        assert shape(function) == shape(methods(asynchronous)[name]), name


@PAIRED
def test_the_types_are_the_same_except_those_of_asyncio(sync: type, asynchronous: type) -> None:
    for name, function in methods(sync).items():
        ours, theirs = inspect.signature(function), inspect.signature(methods(asynchronous)[name])
        for parameter in ours.parameters.values():
            expected = renamed(parameter.annotation)
            assert str(theirs.parameters[parameter.name].annotation) == expected, (name, parameter.name)
        assert str(theirs.return_annotation) == renamed(ours.return_annotation), name


@PAIRED
def test_every_method_and_property_has_the_same_docstring(sync: type, asynchronous: type) -> None:
    for name in public(sync):
        words = inspect.getdoc(getattr(sync, name))
        assert words, name
        assert inspect.getdoc(getattr(asynchronous, name)) == words, name


@PAIRED
def test_methods_that_work_are_awaited_and_methods_that_only_make_an_object_are_not(
    sync: type, asynchronous: type
) -> None:
    for name, function in methods(asynchronous).items():
        assert inspect.isasyncgenfunction(function) == (name in GENERATORS), name
        assert inspect.iscoroutinefunction(function) == (name not in AT_ONCE | GENERATORS), name


def test_stores_are_made_with_the_same_parameters() -> None:
    assert shape(Store.__init__) == shape(AsyncStore.__init__)


def test_streams_are_read_and_closed_in_the_same_ways() -> None:
    for sync, asynchronous in (("iter", "aiter"), ("next", "anext"), ("enter", "aenter"), ("exit", "aexit")):
        ours, theirs = getattr(ReplyStream, f"__{sync}__"), getattr(AsyncReplyStream, f"__{asynchronous}__")
        assert shape(ours) == shape(theirs)
        assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    for name in ("__aenter__", "__aexit__", "__anext__"):
        assert inspect.iscoroutinefunction(getattr(AsyncReplyStream, name))
    for name in ("__aenter__", "__aexit__"):
        assert inspect.iscoroutinefunction(getattr(AsyncStore, name))
