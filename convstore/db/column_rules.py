"""Say of every column what purging, redacting, retention, encryption and an export do to it.

A test fails for a column that is not named here. Another one is made of these rules: it puts a text into every column
of a conversation, purges it, and looks for the text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Fate(StrEnum):
    """What becomes of the value of a column."""

    DELETED = "deleted"
    """Its row is deleted."""
    COPIED = "copied"
    """Its row is deleted; forks that share the row have a copy of it."""
    KEPT = "kept"
    """Nothing happens to it."""
    WRITTEN = "written"
    """A row is written: what was done, without text."""
    READ = "read"
    """It says what is to be done, and stays."""


class Redaction(StrEnum):
    """What `redact` does to a column of the messages that it is about, and of what was made of them."""

    KEPT = "kept"
    BLANKED = "blanked"
    """The text is removed from it."""
    COMPUTED = "computed"
    """It is computed anew, from the text without what was redacted."""
    REMOVED = "removed"
    """It is removed, because it tells something about the text."""
    WRITTEN = "written"


class Encryption(StrEnum):
    """What encryption at rest does to a column."""

    PLAIN = "plain"
    """It can be read: times, sizes, counts, ids, and what belongs to them."""
    ENCRYPTED = "encrypted"
    KEYED = "keyed"
    """It is a digest that needs the key."""


class Export(StrEnum):
    """What convstore's own export does with a column."""

    WRITTEN = "written"
    LEFT_OUT = "left out"
    """It means nothing elsewhere, or is made again."""


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What each of these does to a column."""

    purge: Fate
    """When the conversation is purged."""
    purge_owner: Fate
    """When the owner is purged."""
    redact: Redaction
    retention: Fate
    """When the time of the conversation is over."""
    encryption: Encryption
    export: Export


_FACT = ColumnRule(
    purge=Fate.DELETED,
    purge_owner=Fate.DELETED,
    redact=Redaction.KEPT,
    retention=Fate.DELETED,
    encryption=Encryption.PLAIN,
    export=Export.WRITTEN,
)
"""A number, a time, an id."""
_INTERNAL = replace(_FACT, export=Export.LEFT_OUT)
_WORDS = replace(_FACT, redact=Redaction.REMOVED, encryption=Encryption.ENCRYPTED)
"""A short text that a caller chose: with the text in it, it is removed as a whole."""
_TEXT = replace(_WORDS, redact=Redaction.BLANKED)
"""What was said, or made of it, or written about it."""
_DIGEST = replace(_FACT, redact=Redaction.COMPUTED, encryption=Encryption.KEYED)
_OTHER_DIGEST = replace(_INTERNAL, redact=Redaction.REMOVED, encryption=Encryption.KEYED)


def _share(rule: ColumnRule) -> ColumnRule:
    """Return the rule for a row that forks share."""
    return replace(rule, purge=Fate.COPIED, retention=Fate.COPIED)


_OF_OWNER = replace(_INTERNAL, purge=Fate.KEPT, retention=Fate.KEPT)


def _rule(**names: ColumnRule) -> dict[str, ColumnRule]:
    """Return the rules of columns; each argument has the names of several, with `__` between them."""
    return {name: rule for joined, rule in names.items() for name in joined.split("__")}


COLUMN_RULES: dict[str, dict[str, ColumnRule]] = {
    "convstore_conversations": _rule(
        owner__running_turn__lease_token__lease_expires_at__lease_ms__lineage__compacting_until=(_INTERNAL),
        id__head_seq__length__next_seq__next_turn__pins__redo__summary_turn__window=_FACT,
        inherited_model=replace(_FACT, redact=Redaction.REMOVED),  # if it is a secret in the place of a model
        created_at__updated_at__deleted_at__archived_at=_FACT,
        name=_WORDS,
        title__made_title__metadata__settings=_TEXT,
        creation_digest=replace(_OTHER_DIGEST, export=Export.WRITTEN),
    ),
    "convstore_messages": _rule(
        owner__conversation_id__context_seq__back_32__back_1024__back_32768__item_id=_share(_INTERNAL),
        seq__parent_seq__position__role__turn_seq__created_at=_share(_FACT),
        name=_share(replace(_TEXT, redact=Redaction.KEPT)),  # who speaks, as `role`
        content__extra=_share(_TEXT),
        tokens=_share(replace(_FACT, redact=Redaction.COMPUTED)),
        digest=_share(_DIGEST),
    ),
    "convstore_turns": _rule(
        owner__conversation_id=_share(_INTERNAL),
        seq__status__base_seq__first_input_seq__last_input_seq__output_seq__purpose__estimated_tokens=_share(_FACT),
        prompt_tokens__completion_tokens__total_tokens__cached_tokens__reasoning_tokens__cost=_share(_FACT),
        latency_ms__first_token_ms__started_at__ended_at__finish_reason__stop_requested_at=_share(_FACT),
        response_id__model__system_fingerprint=_share(_FACT),
        requested_model=_share(replace(_FACT, redact=Redaction.BLANKED)),  # if it is a secret in the place of a model
        # A window report may quote the beginning of arguments.
        request__window__usage__error__attempts__response_fields__notes=_share(_TEXT),
        idempotency_key=_WORDS,
        input_digest=replace(_OTHER_DIGEST, export=Export.WRITTEN),
    ),
    "convstore_deltas": _rule(
        owner__conversation_id__turn_seq__number=_INTERNAL, delta=replace(_TEXT, export=Export.LEFT_OUT)
    ),
    "convstore_summaries": _rule(
        owner__conversation_id=_share(_INTERNAL),
        turn_seq__up_to_seq__up_to_position__previous_turn__created_at=_share(_FACT),
        text=_share(_TEXT),
        tokens=_share(replace(_FACT, redact=Redaction.COMPUTED)),
    ),
    "convstore_attachments": _rule(
        # They stay as long as another message of the owner has them.
        owner__created_at=_share(_INTERNAL),
        digest=_share(replace(_FACT, redact=Redaction.REMOVED, encryption=Encryption.KEYED)),
        data=_share(replace(_TEXT, redact=Redaction.REMOVED)),
    ),
    "convstore_daily_usage": _rule(
        # Numbers, and names of models. The sums of the days of purged turns are removed, and made again.
        owner__day__turns=_OF_OWNER,
        sums=replace(_OF_OWNER, purge=Fate.DELETED, retention=Fate.DELETED),
    ),
    "convstore_search_documents": _rule(
        owner__created_us__conversation_id__seq__docid__late=_INTERNAL,
        terms=replace(_INTERNAL, redact=Redaction.COMPUTED, encryption=Encryption.KEYED),
    ),
    "convstore_search_backlog": _rule(owner__conversation_id__from_seq=_INTERNAL),
    "convstore_tags": _rule(owner__conversation_id=_INTERNAL, tag=_WORDS),
    "convstore_ratings": _rule(
        owner__conversation_id=_share(_INTERNAL), seq__rating__rated_at=_share(_FACT), note=_share(_TEXT)
    ),
    "convstore_tombstones": _rule(
        owner__conversation_id__reason__source_kind__erased_at=replace(
            _INTERNAL, purge=Fate.WRITTEN, retention=Fate.WRITTEN, redact=Redaction.WRITTEN
        )
    ),
    "convstore_redactions": _rule(
        owner__conversation_id__seq__extent__redacted_at=_share(replace(_INTERNAL, redact=Redaction.WRITTEN))
    ),
    "convstore_retention": _rule(
        owner__covers__keep_seconds__set_at=replace(_OF_OWNER, retention=Fate.READ),
    ),
    "convstore_api_keys": _rule(
        # The keys of an owner end with the owner. The name is a label such as "laptop".
        digest__id__owner__name__rights__acts_for__created_at__expires_at__revoked_at__last_used_at=_OF_OWNER,
        max_turns__max_tokens_a_day=_OF_OWNER,
    ),
    "convstore_client_requests": _rule(
        owner__conversation_id__turn_seq__asked_seq__reply_seq__sender__taken_at__created_at=_share(_INTERNAL),
        asked_digest__context_digest__reply_digest__tail_digest__body_digest=_share(_OTHER_DIGEST),
        idempotency_digest=_INTERNAL,  # of a caller's key, which forks do not share
        response_id__hidden_at=_share(_INTERNAL),
        metadata=_share(replace(_TEXT, export=Export.LEFT_OUT)),
    ),
    "convstore_erasures": _rule(
        # What is left to do to the file: of no owner, and without text.
        step__since=ColumnRule(
            purge=Fate.WRITTEN,
            purge_owner=Fate.WRITTEN,
            redact=Redaction.WRITTEN,
            retention=Fate.WRITTEN,
            encryption=Encryption.PLAIN,
            export=Export.LEFT_OUT,
        )
    ),
    "convstore_compatibility": _rule(
        minimum_version=ColumnRule(
            purge=Fate.KEPT,
            purge_owner=Fate.KEPT,
            redact=Redaction.KEPT,
            retention=Fate.KEPT,
            encryption=Encryption.PLAIN,
            export=Export.LEFT_OUT,
        )
    ),
}
"""The rule of each column, by table."""
