"""Where a retry and an edit belong in the tree, and what they ask."""

from __future__ import annotations

from dataclasses import dataclass, replace

from convstore.db.ancestors import find_ancestors, read_message_at
from convstore.db.connection import Connection
from convstore.db.fork_sharing import Lineage, find_turn_home
from convstore.db.head_rows import read_state
from convstore.db.lease_rows import Claim
from convstore.db.message_rows import read_head, read_messages, read_turn_input
from convstore.db.row_errors import missing_message
from convstore.db.turn_rows import find_latest_request, find_turn
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import HeadMoved, InvalidInput
from convstore.messages.message import Message
from convstore.turns.turn_request import EditTarget, RequestKind, TurnRequest, check_editable
from convstore.values.completion_parameters import merge_parameters
from convstore.values.identifiers import ConversationKey, Seq
from convstore.values.results import MessageRecord, Turn

_INPUT_ROLES = ("user", "system", "developer")
_MAX_INPUT_MESSAGES = 16  # messages that are read to find the input after an edited system message


@dataclass(frozen=True, slots=True)
class PlacedRequest:
    """A request with its place in the tree."""

    request: TurnRequest
    after: Seq
    """The message that its own messages follow; 0: none."""
    records: list[MessageRecord]
    """Its messages, if they are stored already."""


def place_request(connection: Connection, claim: Claim, request: TurnRequest) -> PlacedRequest:
    """Return a request with its place in the tree.

    Raises:
        InvalidInput: there is nothing to ask again.
        HeadMoved: another message is now at the position that an edit names.
    """
    if request.kind is RequestKind.RETRY:
        return _place_retry(connection, claim, request)
    if request.kind is RequestKind.EDIT:
        return _place_edit(connection, claim, request)
    return PlacedRequest(request, claim.head_seq, [])


def _place_retry(connection: Connection, claim: Claim, request: TurnRequest) -> PlacedRequest:
    """Find what to ask again: the request of the latest turn, or after `checkout` the one of the head's turn.

    If the head is where that turn began or where it ended, the request is asked in its old place, and the new reply
    becomes a sibling of the old one. Otherwise the latest request is asked anew, with copies of its messages at the
    head.
    """
    lineage, head = claim.lineage, claim.head_seq
    latest = find_latest_request(connection, lineage.key, before=claim.turn)
    inputs = _read_input(connection, lineage, latest) if latest is not None else []
    if latest is not None and head in (latest.base_seq, latest.output_seq, inputs[0].parent_seq if inputs else head):
        return _repeat(request, latest, inputs)
    record = read_head(connection, lineage, head)
    if record is not None and record.turn is not None:
        turn = find_turn(connection, find_turn_home(connection, lineage, record.turn), record.turn)
        if turn is not None and turn.window is not None and turn.purpose is None:
            follows = turn.last_input_seq if turn.last_input_seq is not None else turn.base_seq
            if follows in (record.seq, record.parent_seq):
                return _repeat(request, turn, _read_input(connection, lineage, turn))
    if latest is None:
        raise InvalidInput(f"conversation {lineage.key.id!r} has no turn to retry; `say` something first")
    if not inputs:
        raise InvalidInput(
            f"conversation {lineage.key.id!r} has moved on since its latest turn, which had no message of its own; "
            f"`say` something, or let the model go on with `complete`"
        )
    return replace(_repeat(request, latest, inputs), after=head, records=[])


def _read_input(connection: Connection, lineage: Lineage, turn: Turn) -> list[MessageRecord]:
    found = read_turn_input(connection, lineage, turn)
    if turn.first_input_seq is not None and not found:
        raise missing_message(lineage.key.id, turn.first_input_seq)
    return found


def _repeat(request: TurnRequest, turn: Turn, inputs: list[MessageRecord]) -> PlacedRequest:
    parameters = {name: value for name, value in turn.request.items() if name not in ("stream", "stream_options")}
    options = turn.window.options.changed() if turn.window is not None else {}
    is_of_earlier_release = turn.window is None or turn.window.tokens is None
    if is_of_earlier_release and inputs and not (turn.window and turn.window.history) and inputs[0].parent_seq != 0:
        options["history"] = False  # that release did not store options
    repeated = replace(
        request,
        kind=RequestKind.SAY if inputs else RequestKind.COMPLETE,
        messages=[record.message for record in inputs],
        parameters=merge_parameters(parameters, request.parameters),
        window={**options, **request.window},
    )
    return PlacedRequest(repeated, inputs[0].parent_seq if inputs else turn.base_seq, inputs)


def find_edit_target(work: UnitOfWork, key: ConversationKey, request: TurnRequest) -> TurnRequest:
    """Return a request with the message that it replaces, as it is now; as it is if it replaces none.

    Raises:
        InvalidInput: the path has no such position, or the message is the model's own.
    """
    if request.target is None or request.target.seq is not None:
        return request
    state = read_state(work.connection, key)
    record = read_message_at(work.connection, state.lineage, state.head.seq, request.target.position)
    check_editable(key.id, record)
    return replace(request, target=replace(request.target, seq=record.seq))


def _place_edit(connection: Connection, claim: Claim, request: TurnRequest) -> PlacedRequest:
    """Find where an edited message goes: beside the one that it replaces."""
    target, lineage = request.target, claim.lineage
    assert target is not None  # noqa: S101 (for the type checker: an edit has one)
    wanted = range(target.position, target.position + _MAX_INPUT_MESSAGES)
    path = find_ancestors(connection, lineage, claim.head_seq, wanted)
    if path.get(target.position) != target.seq:
        raise HeadMoved(
            f"conversation {lineage.key.id!r}: message seq {target.seq} is no longer at position {target.position}: "
            f"another caller has moved the head; read the conversation again and repeat"
        )
    found = read_messages(connection, lineage, path.values())
    messages = [_edit(found[0].message, request.messages[0], target)]
    if found[0].message["role"] in ("system", "developer"):
        # A system message asks nothing: the input that followed it is sent again after the new one.
        following = [record.message for record in found[1:]]
        ends = next(
            (place for place, message in enumerate(following) if message["role"] not in _INPUT_ROLES), len(following)
        )
        messages.extend(following[:ends])
    return PlacedRequest(replace(request, messages=messages), found[0].parent_seq, [])


def _edit(old: Message, new: Message, target: EditTarget) -> Message:
    if not target.replaces_content_only:
        return new
    content, before = new["content"], old.get("content")
    if isinstance(content, str) and isinstance(before, list):  # parts that are not text stay
        others = [part for part in before if not isinstance(part, dict) or part.get("type") != "text"]
        content = [{"type": "text", "text": content}, *others] if others else content
    return {**old, "content": content}
