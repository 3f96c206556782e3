"""Keeps LLM conversations in your own SQL database and replays them into Chat Completions calls.

>>> from convstore import Store
>>> store = Store("sqlite:///chat.db")
>>> conversation = store.new(system="Answer briefly.", model="gpt-4o-mini")
>>> store.say(conversation.id, "Hello!").text
'Hello! How can I help you today?'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convstore.async_replies import AsyncReplyStream
    from convstore.async_store import AsyncStore
    from convstore.completions import Completion, Usage
    from convstore.errors import (
        AmbiguousReference,
        Conflict,
        ContextTooLong,
        ConversationBusy,
        ConversationExists,
        ConversationNotFound,
        ConvstoreError,
        DamagedRow,
        DatabaseError,
        DatabaseUnavailable,
        HeadMoved,
        IdempotencyMismatch,
        InvalidInput,
        InvalidMessage,
        InvalidParameter,
        LeaseLost,
        NotConfigured,
        ReplyInterrupted,
        ReplyNotStored,
        SchemaOutdated,
        SchemaTooNew,
        TurnFailed,
        UnansweredToolCalls,
    )
    from convstore.messages import Message
    from convstore.records import UNCHANGED, Conversation, MessageRecord, Request, Summary, Turn, TurnStatus
    from convstore.replies import ReplyStream
    from convstore.store import Store
    from convstore.tools import tool_result
    from convstore.usage import UsageReport, UsageRow

__version__ = "0.1.0"

# Each name is imported when it is first used: `import convstore` costs nothing, and `convstore --help` little.
_HOMES = {
    "convstore.async_replies": ("AsyncReplyStream",),
    "convstore.async_store": ("AsyncStore",),
    "convstore.completions": ("Completion", "Usage"),
    "convstore.errors": (
        "AmbiguousReference",
        "Conflict",
        "ContextTooLong",
        "ConversationBusy",
        "ConversationExists",
        "ConversationNotFound",
        "ConvstoreError",
        "DamagedRow",
        "DatabaseError",
        "DatabaseUnavailable",
        "HeadMoved",
        "IdempotencyMismatch",
        "InvalidInput",
        "InvalidMessage",
        "InvalidParameter",
        "LeaseLost",
        "NotConfigured",
        "ReplyInterrupted",
        "ReplyNotStored",
        "SchemaOutdated",
        "SchemaTooNew",
        "TurnFailed",
        "UnansweredToolCalls",
    ),
    "convstore.messages": ("Message",),
    "convstore.records": ("UNCHANGED", "Conversation", "MessageRecord", "Request", "Summary", "Turn", "TurnStatus"),
    "convstore.replies": ("ReplyStream",),
    "convstore.store": ("Store",),
    "convstore.tools": ("tool_result",),
    "convstore.usage": ("UsageReport", "UsageRow"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "UNCHANGED",
    "AmbiguousReference",
    "AsyncReplyStream",
    "AsyncStore",
    "Completion",
    "Conflict",
    "ContextTooLong",
    "Conversation",
    "ConversationBusy",
    "ConversationExists",
    "ConversationNotFound",
    "ConvstoreError",
    "DamagedRow",
    "DatabaseError",
    "DatabaseUnavailable",
    "HeadMoved",
    "IdempotencyMismatch",
    "InvalidInput",
    "InvalidMessage",
    "InvalidParameter",
    "LeaseLost",
    "Message",
    "MessageRecord",
    "NotConfigured",
    "ReplyInterrupted",
    "ReplyNotStored",
    "ReplyStream",
    "Request",
    "SchemaOutdated",
    "SchemaTooNew",
    "Store",
    "Summary",
    "Turn",
    "TurnFailed",
    "TurnStatus",
    "UnansweredToolCalls",
    "Usage",
    "UsageReport",
    "UsageRow",
    "__version__",
    "tool_result",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
