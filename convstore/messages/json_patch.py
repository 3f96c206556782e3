"""Write how a JSON value differs from another one, so that it can be made of it again. Pure.

Values are compared as JSON writes them: 1, 1.0 and true differ.
"""

from __future__ import annotations

import json
from typing import Any

_to_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def make_patch(base: Any, wanted: Any) -> dict[str, Any] | None:
    """Return what makes `wanted` of `base`; None: they are equal.

    >>> make_patch({"a": 1, "b": [{"c": 2}]}, {"b": [{"c": 3}]})
    {'in': {'b': {'at': {'0': {'set': {'c': 3}}}}}, 'drop': ['a']}
    """
    if _is_same(base, wanted):
        return None
    if isinstance(base, dict) and isinstance(wanted, dict):
        changed = {key: value for key, value in wanted.items() if key not in base or not _is_same(base[key], value)}
        inner = {key: patch for key, value in changed.items() if (patch := _look_inside(base.get(key), value))}
        given = {key: value for key, value in changed.items() if key not in inner}
        dropped = [key for key in base if key not in wanted]
        parts = {"in": inner, "set": given, "drop": dropped}
        return {name: part for name, part in parts.items() if part}
    if isinstance(base, list) and isinstance(wanted, list) and len(base) == len(wanted):
        pairs = enumerate(zip(base, wanted, strict=True))
        return {"at": {str(place): patch for place, (old, new) in pairs if (patch := make_patch(old, new)) is not None}}
    return {"is": wanted}


def apply_patch(base: Any, patch: Any) -> Any:
    """Return the value that a patch was made for; `base` is not changed.

    Raises:
        ValueError: it is no patch, or none of such a value.
    """
    try:
        return _apply(base, patch)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("the patch does not fit the value") from error


def _look_inside(base: Any, value: Any) -> dict[str, Any] | None:
    """Return the patch of a value that has the form of the other one; None: it is written whole."""
    same_form = (isinstance(base, dict) and isinstance(value, dict)) or (
        isinstance(base, list) and isinstance(value, list) and len(base) == len(value)
    )
    return make_patch(base, value) if same_form else None


def _apply(base: Any, patch: Any) -> Any:
    if patch is None:
        return base
    if "is" in patch:
        return patch["is"]
    if "at" in patch:
        items = list(base)
        for place, one in patch["at"].items():
            items[int(place)] = _apply(items[int(place)], one)
        return items
    dropped = patch.get("drop", ())
    found = {key: value for key, value in base.items() if key not in dropped}
    for key, one in patch.get("in", {}).items():
        found[key] = _apply(found[key], one)
    return {**found, **patch.get("set", {})}


def _is_same(one: Any, other: Any) -> bool:
    return one is other or _to_canonical(one) == _to_canonical(other)
