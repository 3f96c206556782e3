"""Remove a secret from the rows beside messages: turns, pieces of replies, summaries, ratings, tags, conversations.

Digests over what was changed are removed too, because a digest lets someone test guesses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, bindparam, delete, func, null, select, update

from convstore.db.connection import Connection
from convstore.db.covering_summaries import has_one_of
from convstore.db.drawer_rows import remove_tags
from convstore.db.erased_rows import forget_sums
from convstore.db.fork_sharing import read_lineage
from convstore.db.message_blanking import BlankedMessage
from convstore.db.row_errors import DECODING_ERRORS
from convstore.db.search_index import replace_title
from convstore.db.tables import client_requests, conversations, deltas, ratings, turns
from convstore.db.text_occurrences import CONVERSATIONS, RATINGS, REQUESTS, TAGS, TURNS, find_rows_of
from convstore.messages.first_title import is_beginning
from convstore.messages.redacted_message import REDACTED_TEXT, Secret
from convstore.messages.storable_text import from_column, to_column, to_json
from convstore.values.identifiers import ConversationKey

_THIS_TURN = (
    turns.c.owner == bindparam("key_owner"),
    turns.c.conversation_id == bindparam("key_id"),
    turns.c.seq == bindparam("key_seq"),
)
_FORGET_INPUT = update(turns).where(*_THIS_TURN).values(input_digest=null())
# Other fields of a reply may have its text in other forms, such as the probabilities of its tokens.
_FORGET_REPLY = update(turns).where(*_THIS_TURN).values(response_fields=null())
_ERRORS = select(turns.c.error, turns.c.attempts).where(*_THIS_TURN)
_SET_ERRORS = update(turns).where(*_THIS_TURN).values(error=bindparam("new_error"), attempts=bindparam("new_attempts"))
_ANSWERED_AS = (
    select(turns.c.seq)
    .where(
        turns.c.owner == bindparam("owner"),
        turns.c.requested_model == bindparam("model", type_=turns.c.requested_model.type),
        turns.c.model.is_not(None),
    )
    .limit(1)
)
_WITH_ERRORS = (
    select(turns.c.seq, func.coalesce(turns.c.last_input_seq, turns.c.base_seq).label("up_to"))
    .where(
        turns.c.owner == bindparam("owner"),
        turns.c.conversation_id == bindparam("conversation_id"),
        turns.c.error.is_not(None) | turns.c.attempts.is_not(None),
    )
    .order_by(turns.c.seq)
)
_LINEAGE = select(conversations.c.lineage).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_OWN_ERRORS = ("Abandoned", "Stopped", "Exported", "NotShared", "Redacted")
"""Types of errors with texts of our own."""
_SENT_AS = "are sent as "
_CUT_ARGUMENTS = re.compile(rf'({_SENT_AS})(?:[^"\\]|\\.)*')
_DELETE_DELTAS = delete(deltas).where(
    deltas.c.owner == bindparam("owner"), deltas.c.conversation_id == bindparam("conversation_id")
)
_CONVERSATION = select(*CONVERSATIONS.columns, conversations.c.created_at, conversations.c.inherited_model).where(
    conversations.c.owner == bindparam("owner"), conversations.c.id == bindparam("id")
)
_FORGET_CREATION = (
    update(conversations)
    .where(conversations.c.owner == bindparam("key_owner"), conversations.c.id == bindparam("key_id"))
    .values(creation_digest=null())
)
_SET_NOTE = (
    update(ratings)
    .where(
        ratings.c.owner == bindparam("key_owner"),
        ratings.c.conversation_id == bindparam("key_id"),
        ratings.c.seq == bindparam("key_seq"),
    )
    .values(note=bindparam("new_note"))
)
_SET_REQUEST_METADATA = (
    update(client_requests)
    .where(
        client_requests.c.owner == bindparam("key_owner"),
        client_requests.c.conversation_id == bindparam("key_id"),
        client_requests.c.turn_seq == bindparam("key_seq"),
    )
    .values(metadata=bindparam("new_metadata"))
)
_DERIVED_ID = re.compile("[0-9a-f]{32}")
_LABELS = ("title", "made_title")
_PARAMETERS = ("request", "settings")
_JSON_OF_TURN = tuple(name for name in TURNS.names if name not in ("idempotency_key", "requested_model"))


@dataclass(frozen=True, slots=True)
class Removal:
    """What is removed, and from where."""

    connection: Connection
    owner: str
    secret: Secret
    spellings: Sequence[str]
    ids: Collection[str]
    """The conversations to look at."""
    changed_turns: set[tuple[str, int]] = field(default_factory=set)
    changed_conversations: set[str] = field(default_factory=set)

    models: dict[str, bool] = field(default_factory=dict)

    def is_model(self, name: str) -> bool:
        """Return True if a provider has ever answered as this model; else it may be a secret in the wrong place."""
        if name not in self.models:
            values = {"owner": self.owner, "model": name}
            self.models[name] = self.connection.execute(_ANSWERED_AS, values).first() is not None
        return self.models[name]

    def find(self, place: Any) -> list[Any]:
        """Return the rows of a table in which the secret occurs."""
        return find_rows_of(self.connection, place, self.owner, self.spellings, self.ids)


def remove_from_turns(removal: Removal, blanked: Collection[BlankedMessage], *, is_whole: bool) -> None:
    """Remove a secret from turns: from what was sent, and from what is stored of the answer.

    Args:
        is_whole: whether the message is redacted as a whole: then an error of the turn that sent it may quote any part.
    """
    rows = removal.find(TURNS)
    if removal.secret.original.get("tool_calls"):  # a window report has the beginning of arguments that were repaired
        rows += find_rows_of(removal.connection, TURNS, removal.owner, [_SENT_AS], removal.ids)
    for row in rows:
        values = {name: _blank_json(removal, name, getattr(row, name)) for name in _JSON_OF_TURN}
        values = {name: value for name, value in values.items() if value != getattr(row, name)}
        if row.window is not None and _SENT_AS in row.window:
            values["window"] = _CUT_ARGUMENTS.sub(rf"\1{REDACTED_TEXT}", values.get("window") or row.window)
        if "request" in values:
            values["input_digest"] = None  # it is over the parameters too
            values |= _blank_model(removal, row)
        key = _read_label(row.idempotency_key)
        if key is not None and removal.secret.replace(key) != key:
            values["idempotency_key"] = None
        if values:
            _update(removal, turns, row.conversation_id, values, seq=row.number)
            removal.changed_turns.add((row.conversation_id, row.number))
    for one in blanked:
        if one.turn is None:
            continue
        place = {"key_owner": removal.owner, "key_id": one.key.id, "key_seq": one.turn}
        removal.connection.execute(_FORGET_INPUT, place)
        if one.role == "assistant":
            removal.connection.execute(_FORGET_REPLY, place)
        elif is_whole:
            _blank_error(removal, place)
        removal.changed_turns.add((one.key.id, one.turn))


def remove_from_errors(removal: Removal, copies: Sequence[BlankedMessage], ids: Collection[str]) -> None:
    """Remove the texts of a provider's errors from all turns that sent one of some messages: they may quote any part.

    Args:
        copies: the messages that are redacted as a whole.
        ids: the conversations that have one of them.
    """
    connection, owner = removal.connection, removal.owner
    first, last = min((one.seq for one in copies), default=0), max((one.position for one in copies), default=0)
    for id in sorted(ids):
        rows = connection.execute(_WITH_ERRORS, {"owner": owner, "conversation_id": id}).all()
        later = [row for row in rows if copies and row.up_to >= first]
        if not later:
            continue
        lineage = read_lineage(ConversationKey(owner, id), connection.scalar(_LINEAGE, {"owner": owner, "id": id}))
        for row in later:
            if has_one_of(connection, lineage, row.up_to, last, copies):
                _blank_error(removal, {"key_owner": owner, "key_id": id, "key_seq": row.seq})
                removal.changed_turns.add((id, row.seq))


def _blank_error(removal: Removal, place: Mapping[str, Any]) -> None:
    """Remove the text of a provider's errors from the turn that sent a message."""
    row = removal.connection.execute(_ERRORS, place).one_or_none()
    if row is None:
        return
    values = {"new_error": row.error, "new_attempts": row.attempts}
    with suppress(*DECODING_ERRORS):  # it is damaged, and stays so
        if row.error is not None:
            values["new_error"] = to_json(_blank_error_text(json.loads(row.error)))
        if row.attempts is not None:
            tries = [{**one, "error": _blank_error_text(one.get("error"))} for one in json.loads(row.attempts)]
            values["new_attempts"] = to_json(tries)
        removal.connection.execute(_SET_ERRORS, {**place, **values})


def _blank_error_text(error: Any) -> Any:
    if isinstance(error, str):
        return REDACTED_TEXT
    if not isinstance(error, dict) or error.get("type") in _OWN_ERRORS or "message" not in error:
        return error
    return {**error, "message": REDACTED_TEXT}


def delete_left_deltas(connection: Connection, owner: str, ids: Collection[str]) -> None:
    """Delete pieces of replies of conversations in which no turn runs: nobody needs them."""
    for id in sorted(ids):
        connection.execute(_DELETE_DELTAS, {"owner": owner, "conversation_id": id})


def remove_from_ratings_and_tags(removal: Removal) -> None:
    """Remove a secret from the notes of ratings; remove a tag that has it."""
    for row in removal.find(RATINGS):
        note = _blank_label(removal.secret, row.note)
        if note != row.note:
            values = {"key_owner": removal.owner, "key_id": row.conversation_id, "key_seq": row.number}
            removal.connection.execute(_SET_NOTE, {**values, "new_note": note})
            removal.changed_conversations.add(row.conversation_id)
    for row in removal.find(TAGS):
        if removal.secret.replace(row.tag) != row.tag:
            remove_tags(removal.connection, ConversationKey(removal.owner, row.conversation_id), [row.tag])
            removal.changed_conversations.add(row.conversation_id)


def remove_from_requests(removal: Removal) -> None:
    """Remove a secret from what clients of the service say about their completions."""
    for row in removal.find(REQUESTS):
        values = {"key_owner": removal.owner, "key_id": row.conversation_id, "key_seq": row.number}
        new = _blank_json(removal, "metadata", row.metadata)
        removal.connection.execute(_SET_REQUEST_METADATA, {**values, "new_metadata": new})
        removal.changed_turns.add((row.conversation_id, row.number))


def remove_from_conversations(
    removal: Removal, shared: Mapping[str, BlankedMessage | None], blanked: Collection[BlankedMessage]
) -> None:
    """Remove a secret from titles, names, settings and metadata.

    Args:
        shared: the conversations that have a rewritten message and all forks of them, each with the one that its title
            may be made of.
    """
    found = {row.conversation_id for row in removal.find(CONVERSATIONS)}
    for id in sorted(found.union(shared)):
        _change_conversation(removal, id, shared.get(id), is_shared=id in shared)
    for id in sorted({one.key.id for one in blanked if one.turn is None} | removal.changed_conversations):
        removal.connection.execute(_FORGET_CREATION, {"key_owner": removal.owner, "key_id": id})


def _change_conversation(removal: Removal, id: str, first: BlankedMessage | None, *, is_shared: bool) -> None:
    """Remove a secret from the row of a conversation.

    Args:
        first: the rewritten message that its title may be made of.
        is_shared: whether it has a rewritten message, or was forked from one that has.
    """
    row = removal.connection.execute(_CONVERSATION, {"owner": removal.owner, "id": id}).one_or_none()
    if row is None:
        return
    secret = removal.secret
    values: dict[str, Any] = {name: _blank_json(removal, name, getattr(row, name)) for name in ("settings", "metadata")}
    inherited = _read_label(row.inherited_model)
    if inherited is not None and secret.replace(inherited) != inherited and not removal.is_model(inherited):
        values["inherited_model"] = None
    if is_shared:
        values["metadata"] = _forget_source(values["metadata"])
    for name in _LABELS:
        values[name] = _blank_title(secret, getattr(row, name), first)
    # A name is a handle of letters and digits; it cannot have another text in its place.
    values["name"] = None if row.name is not None and secret.replace(row.name) != row.name else row.name
    values = {name: value for name, value in values.items() if value != getattr(row, name)}
    if not values:
        return
    _update(removal, conversations, id, values)
    after = {name: values.get(name, getattr(row, name)) for name in ("title", "name")}
    replace_title(
        removal.connection,
        ConversationKey(removal.owner, id),
        row.created_at,
        (_read_label(row.title), row.name),
        (_read_label(after["title"]), after["name"]),
    )
    removal.changed_conversations.add(id)


def _blank_title(secret: Secret, column: str | None, first: BlankedMessage | None) -> str | None:
    """Return the column of a title; one that is the beginning of a message is made of what is left of that."""
    title = _read_label(column)
    if title is None:
        return column
    if first is not None and is_beginning(title, first.beginning or ""):
        return to_column(first.title or REDACTED_TEXT)
    return _blank_label(secret, column)


def _forget_source(column: str) -> str:
    """Return metadata without the id of the file's conversation, if that is a digest of its first messages."""
    with suppress(*DECODING_ERRORS):  # it is damaged, or has nothing of an import
        metadata = json.loads(column)
        if _DERIVED_ID.fullmatch(metadata["import"]["id"]):
            del metadata["import"]["id"]
            return to_json(metadata)
    return column


def _read_label(column: str | None) -> str | None:
    try:
        return from_column(column)
    except DECODING_ERRORS:
        return column  # it is damaged, and stays so


def _blank_label(secret: Secret, column: str | None) -> str | None:
    text = _read_label(column)
    if text is None:
        return None
    new = secret.replace(text)
    return to_column(new) if new != text else column


def _blank_model(removal: Removal, row: Any) -> dict[str, Any]:
    """Return the new column with the model that a turn asked for, if it has a secret in its place.

    Sums of usage have the names of models, so those of the day are made again.
    """
    model = row.requested_model
    if model is None or removal.secret.replace(model) == model or removal.is_model(model):
        return {}
    forget_sums(removal.connection, ConversationKey(removal.owner, row.conversation_id))
    return {"requested_model": REDACTED_TEXT}


def _blank_json(removal: Removal, name: str, column: str | None) -> str | None:
    """Return a column of JSON without a secret; the same text if it does not have it.

    Args:
        name: the name of the column.
    """
    if column is None:
        return None
    try:
        value = json.loads(column)
    except DECODING_ERRORS:
        return removal.secret.replace(column)  # it is damaged, and stays so
    secret = removal.secret
    new = secret.blank_parameters(value, removal.is_model) if name in _PARAMETERS else secret.blank_value(value)
    return to_json(new) if new != value else column


def _update(removal: Removal, table: Table, id: str, values: Mapping[str, Any], seq: int | None = None) -> None:
    # The names of columns are of this module.
    is_conversation = table is conversations
    chosen = [table.c.owner == removal.owner, (table.c.id if is_conversation else table.c.conversation_id) == id]
    if seq is not None:
        chosen.append(table.c.seq == seq)
    removal.connection.plain.execute(update(table).where(*chosen).values(**values))
