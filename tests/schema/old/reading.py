"""Read a database with a release's library, the same way for an old release and this one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from convstore import Store
from tests.schema.old.samples import OWNERS


def reading(store: Store) -> dict[str, Any]:
    """Return everything that a release's library shows of a database, as plain JSON."""
    return {owner: [_reading_of(store.for_owner(owner), it) for it in _listed(store, owner)] for owner in OWNERS}


def _listed(store: Store, owner: str) -> list[Any]:
    return list(store.for_owner(owner).list(limit=None))


def _reading_of(store: Store, conversation: Any) -> dict[str, Any]:
    id = conversation.id
    turns = store.turns(id, limit=None)
    return {
        "conversation": _plain(conversation),
        "history": store.history(id, exact=True),
        "messages": [_plain(record) for record in store.messages(id, limit=None)],
        "turns": [_plain(turn) for turn in turns],
        "inputs": [[_plain(record) for record in store.input_of(turn)] for turn in turns],
        "unanswered": [turn.seq for turn in store.unanswered(id)],
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value
