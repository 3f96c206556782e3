"""Keep LLM conversations in your database, and send them to Chat Completions APIs.

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
    from convstore.errors import (
        AmbiguousReference,
        Conflict,
        ContextTooLong,
        ConversationBusy,
        ConversationDeleted,
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
        KeyNotFound,
        LeaseLost,
        NotConfigured,
        PurgeUnfinished,
        RedactionUnfinished,
        ReplyInterrupted,
        ReplyNotStored,
        SchemaOutdated,
        SchemaTooNew,
        TurnFailed,
        TurnLimitReached,
        UnansweredToolCalls,
    )
    from convstore.messages.completion import (
        Completion,
        Usage,
    )
    from convstore.messages.message import (
        Message,
    )
    from convstore.messages.token_counters import (
        TokenCounter,
    )
    from convstore.messages.tool_calls import (
        tool_result,
    )
    from convstore.store.async_reply_stream import (
        AsyncReplyStream,
    )
    from convstore.store.async_store import (
        AsyncStore,
    )
    from convstore.store.reply_stream import (
        ReplyStream,
    )
    from convstore.store.store import (
        Store,
    )
    from convstore.store.transaction_view import (
        AsyncTransactionView,
        TransactionView,
    )
    from convstore.transfer.imported import (
        ImportedConversation,
        ImportedMessage,
        Problem,
    )
    from convstore.usage.usage_report import (
        UsageBy,
        UsageReport,
        UsageRow,
    )
    from convstore.values.api_key import (
        ApiKey,
        KeyCheck,
        NewApiKey,
        Right,
    )
    from convstore.values.export_report import (
        ExportProblem,
        ExportReport,
    )
    from convstore.values.identifiers import (
        Position,
        Seq,
        TurnNumber,
    )
    from convstore.values.import_report import (
        ImportProblem,
        ImportReport,
    )
    from convstore.values.purge_receipt import (
        KeptByFork,
        PurgeReceipt,
    )
    from convstore.values.redaction_report import (
        MessagePlace,
        Redaction,
        RedactionExtent,
    )
    from convstore.values.results import (
        UNCHANGED,
        Conversation,
        Given,
        MessageRecord,
        Rating,
        RatingValue,
        Request,
        Summary,
        Turn,
        TurnStatus,
        Unchanged,
    )
    from convstore.values.retention_rule import (
        Retained,
        RetentionRule,
    )
    from convstore.values.search_results import (
        SearchHit,
        SearchResults,
    )
    from convstore.values.validation import (
        OnBusy,
    )
    from convstore.values.window_options import (
        WindowOptions,
    )
    from convstore.values.window_report import (
        WindowReport,
    )

__version__ = "0.1.0"

# Each name is imported when it is first used, so that `import convstore` and `convstore --help` are fast.
_HOMES = {
    "convstore.errors": (
        "AmbiguousReference",
        "Conflict",
        "ContextTooLong",
        "ConversationBusy",
        "ConversationDeleted",
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
        "KeyNotFound",
        "LeaseLost",
        "NotConfigured",
        "PurgeUnfinished",
        "RedactionUnfinished",
        "ReplyInterrupted",
        "ReplyNotStored",
        "SchemaOutdated",
        "SchemaTooNew",
        "TurnFailed",
        "TurnLimitReached",
        "UnansweredToolCalls",
    ),
    "convstore.messages.completion": (
        "Completion",
        "Usage",
    ),
    "convstore.messages.message": ("Message",),
    "convstore.messages.token_counters": ("TokenCounter",),
    "convstore.messages.tool_calls": ("tool_result",),
    "convstore.store.async_reply_stream": ("AsyncReplyStream",),
    "convstore.store.async_store": ("AsyncStore",),
    "convstore.store.reply_stream": ("ReplyStream",),
    "convstore.store.store": ("Store",),
    "convstore.store.transaction_view": (
        "AsyncTransactionView",
        "TransactionView",
    ),
    "convstore.usage.usage_report": (
        "UsageBy",
        "UsageReport",
        "UsageRow",
    ),
    "convstore.values.api_key": (
        "ApiKey",
        "KeyCheck",
        "NewApiKey",
        "Right",
    ),
    "convstore.values.export_report": (
        "ExportProblem",
        "ExportReport",
    ),
    "convstore.values.identifiers": (
        "Position",
        "Seq",
        "TurnNumber",
    ),
    "convstore.transfer.imported": (
        "ImportedConversation",
        "ImportedMessage",
        "Problem",
    ),
    "convstore.values.import_report": (
        "ImportProblem",
        "ImportReport",
    ),
    "convstore.values.purge_receipt": (
        "KeptByFork",
        "PurgeReceipt",
    ),
    "convstore.values.redaction_report": (
        "MessagePlace",
        "Redaction",
        "RedactionExtent",
    ),
    "convstore.values.results": (
        "UNCHANGED",
        "Conversation",
        "Given",
        "MessageRecord",
        "Rating",
        "RatingValue",
        "Request",
        "Summary",
        "Turn",
        "TurnStatus",
        "Unchanged",
    ),
    "convstore.values.retention_rule": (
        "Retained",
        "RetentionRule",
    ),
    "convstore.values.search_results": (
        "SearchHit",
        "SearchResults",
    ),
    "convstore.values.validation": ("OnBusy",),
    "convstore.values.window_options": ("WindowOptions",),
    "convstore.values.window_report": ("WindowReport",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "UNCHANGED",
    "AmbiguousReference",
    "ApiKey",
    "AsyncReplyStream",
    "AsyncStore",
    "AsyncTransactionView",
    "Completion",
    "Conflict",
    "ContextTooLong",
    "Conversation",
    "ConversationBusy",
    "ConversationDeleted",
    "ConversationExists",
    "ConversationNotFound",
    "ConvstoreError",
    "DamagedRow",
    "DatabaseError",
    "DatabaseUnavailable",
    "ExportProblem",
    "ExportReport",
    "Given",
    "HeadMoved",
    "IdempotencyMismatch",
    "ImportProblem",
    "ImportReport",
    "ImportedConversation",
    "ImportedMessage",
    "InvalidInput",
    "InvalidMessage",
    "InvalidParameter",
    "KeptByFork",
    "KeyCheck",
    "KeyNotFound",
    "LeaseLost",
    "Message",
    "MessagePlace",
    "MessageRecord",
    "NewApiKey",
    "NotConfigured",
    "OnBusy",
    "Position",
    "Problem",
    "PurgeReceipt",
    "PurgeUnfinished",
    "Rating",
    "RatingValue",
    "Redaction",
    "RedactionExtent",
    "RedactionUnfinished",
    "ReplyInterrupted",
    "ReplyNotStored",
    "ReplyStream",
    "Request",
    "Retained",
    "RetentionRule",
    "Right",
    "SchemaOutdated",
    "SchemaTooNew",
    "SearchHit",
    "SearchResults",
    "Seq",
    "Store",
    "Summary",
    "TokenCounter",
    "TransactionView",
    "Turn",
    "TurnFailed",
    "TurnLimitReached",
    "TurnNumber",
    "TurnStatus",
    "UnansweredToolCalls",
    "Unchanged",
    "Usage",
    "UsageBy",
    "UsageReport",
    "UsageRow",
    "WindowOptions",
    "WindowReport",
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
