"""Test that every type of a public signature can be imported from `convstore`."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest

import convstore

PUBLIC = {name: getattr(convstore, name) for name in convstore.__all__}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def annotations_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """Return the annotations that a reader of a class sees: place, module and type."""
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            yield f"{kind.__name__}.{field.name}", kind.__module__, str(field.type)
    for owner in kind.__mro__:
        for name, value in vars(owner).items():
            if name.startswith("_") and name not in ("__init__", "__next__", "__anext__"):
                continue
            function = value.fget if isinstance(value, property) else value
            if inspect.isfunction(function) and function.__module__.startswith("convstore"):
                if name == "__init__" and (owner is not kind or kind.__name__ not in ("Store", "AsyncStore")):
                    continue  # only convstore makes objects of the others
                for parameter, annotation in function.__annotations__.items():
                    yield f"{kind.__name__}.{name}({parameter})", function.__module__, str(annotation)


@functools.cache
def homes(module: str) -> dict[str, str]:
    """Return the names that a module imports, also for type checkers, each with its module."""
    source = inspect.getsource(sys.modules[module])
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node.module or "" for alias in node.names}
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            found[node.name] = module
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, module)
    return found


def names_in(annotation: str) -> set[str]:
    return set(re.findall(r"(?<![.\w'\"])[A-Za-z_]\w*", annotation))


def test_every_type_in_a_public_signature_can_be_imported_from_convstore() -> None:
    seen, missing = 0, set()
    for kind in CLASSES.values():
        for where, module, annotation in annotations_of(kind):
            known = homes(module)
            for name in names_in(annotation):
                if known.get(name, "").startswith("convstore"):
                    seen += 1
                    if name not in PUBLIC:
                        missing.add((where, name))
    assert missing == set()
    assert seen > 200


def test_the_search_for_types_that_cannot_be_imported_finds_them() -> None:
    from convstore.store.conversation_methods import ConversationMethods
    from convstore.values.turn_outcome import RunningTurn

    assert "key: ConversationKey" in {
        f"{where.split('.')[1]}: {what}" for where, _, what in annotations_of(RunningTurn)
    }
    assert "ConversationKey" not in PUBLIC
    assert homes(ConversationMethods.__module__)["Summary"] == "convstore.values.results"


def test_the_public_names_are_the_same_for_programs_and_for_type_checkers() -> None:
    tree = ast.parse(inspect.getsource(convstore))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    for_checkers = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    at_run_time = {(home, name) for home, names in convstore._HOMES.items() for name in names}
    assert for_checkers == at_run_time
    assert {name for _, name in at_run_time} | {"__version__"} == set(convstore.__all__)
    assert set(convstore.__all__) <= set(dir(convstore))


@pytest.mark.parametrize("name", ["Seq", "Position", "TurnNumber"])
def test_returned_numbers_are_plain_integers(name: str) -> None:
    assert PUBLIC[name](3) == 3
    assert PUBLIC[name].__supertype__ is int


def test_closed_sets_are_literals() -> None:
    closed: dict[str, Any] = {"OnBusy": ("wait", "reject"), "UsageBy": ("model", "day", "conversation")}
    for name, values in closed.items():
        assert get_origin(PUBLIC[name]) is not None
        assert get_args(PUBLIC[name]) == values
