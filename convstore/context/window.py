"""Which messages the model sees: the choice, made by pure functions from what was read of the past.

System and developer messages always stay, and so do pinned ones. The older part of the path is left out: a window
begins at a user's message, so that an assistant's tool calls and their results stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import floor
from typing import Any, Protocol

from convstore.errors import ContextTooLong, InvalidInput, InvalidMessage
from convstore.messages.joined_items import goes_on
from convstore.messages.message import Message
from convstore.messages.sendable import Outgoing, Sendable, SendableOptions, make_sendable
from convstore.messages.token_counters import TokenCounter
from convstore.messages.token_estimate import TOKENS_PER_REQUEST, estimate_json, estimate_message
from convstore.messages.tool_calls import find_missing_results, insert_placeholders, make_placeholder
from convstore.values.identifiers import Position, Seq, TurnNumber
from convstore.values.results import MessageRecord, Summary
from convstore.values.window_options import WindowOptions
from convstore.values.window_report import WindowReport

# Less would cut less often; more would leave out less. With turns of at most a fortieth of the budget, ten turns follow
# before the next cut.
_SHARE_AFTER_CUT = 3 / 4
_LEAST_SHARE = 0.5  # of what is not always sent; else the window is cut anew
_CONTEXT_ROLES = ("system", "developer")
_COUNTED_PARAMETERS = ("tools", "functions", "response_format")  # sent besides the messages, and read by the model
SUMMARY_REQUEST = "Summarise our conversation so far, so that we can go on from your summary."
"""The user's message that a summary answers in a window: roles alternate, as some servers insist."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was read of a path, as far as a window can need it."""

    head: MessageRecord | None = None
    tail: Sequence[MessageRecord] = ()
    """The end of the path. If not the whole path was read, this part is larger than what fits into the window."""
    context: Sequence[MessageRecord] = ()
    """The system and developer messages before the tail."""
    pinned: Sequence[MessageRecord] = ()
    """The pinned messages of the path, in the tail or before it."""
    summary: Summary | None = None
    """The summary that replaces everything before the tail."""
    begun: Seq | None = None
    """The message at which the window before began, if this one shall begin there too."""

    @property
    def is_whole(self) -> bool:
        """Whether the tail begins at the first message, or right after what the summary covers."""
        before = self.summary.up_to_position if self.summary is not None else 0
        return bool(self.tail) and self.tail[0].position == before + 1


@dataclass(frozen=True, slots=True)
class NewInput:
    """What is sent besides the past."""

    messages: Sequence[Message]
    """The turn's input, in exact form."""
    parameters: Mapping[str, Any]
    continues: bool = False
    """True: the model goes on with the turn at the end of the path, which then has to be sent."""


@dataclass(frozen=True, slots=True)
class TokenScale:
    """How tokens are counted for a model."""

    count: TokenCounter = estimate_message
    factor: float = 1.0
    """How many of the model's tokens one counted token is."""

    def count_record(self, record: MessageRecord) -> int:
        """Return the counted tokens of a stored message."""
        return record.tokens if record.tokens is not None else self.count(record.message)

    def to_counted(self, tokens: int) -> int:
        """Convert a number of the model's tokens to counted tokens."""
        return floor(tokens / self.factor)

    def to_model(self, counted: int) -> int:
        """Convert counted tokens to the model's tokens."""
        return round(counted * self.factor)


@dataclass(frozen=True, slots=True)
class Window:
    """What the model sees, and everything that it was chosen from."""

    messages: list[Message]
    """In request form."""
    tokens: int
    """Tokens of the whole request by the store's counter."""
    report: WindowReport
    past: Past
    new: NewInput
    options: WindowOptions
    scale: TokenScale
    sendable: Sendable
    """The messages without placeholders, and where each is from."""

    def shrink(self, share: float) -> Window | None:
        """Return a window of at most `share` of the tokens; None if nothing can be left out."""
        most = max(1, floor(self.tokens * self.scale.factor * share))
        options = replace(self.options, max_context=most, cache_stable=False)
        try:
            smaller = choose_window(self.past, self.new, options, self.scale)
        except InvalidInput:
            return None
        if smaller.tokens >= self.tokens:  # a share of a few tokens is as many
            return None
        return replace(smaller, report=replace(smaller.report, options=self.options))


def begins_turn(before: MessageRecord | None, record: MessageRecord) -> bool:
    """Return True if a turn begins with `record`: a user's message that follows no other user's message."""
    return record.message["role"] == "user" and (before is None or before.message["role"] != "user")


def find_turn_beginnings(records: Sequence[MessageRecord], *, from_the_first: bool) -> list[int]:
    """Return the indexes in `records` at which turns begin.

    Args:
        from_the_first: whether nothing comes before the first record.
    """
    return [
        place
        for place, record in enumerate(records)
        if (place or from_the_first) and begins_turn(records[place - 1] if place else None, record)
    ]


def choose_window(past: Past, new: NewInput, options: WindowOptions, scale: TokenScale) -> Window:
    """Return the messages to send: as much of the past as the options allow, then the new ones.

    Raises:
        ContextTooLong: what must be sent is more than `max_context`.
        UnansweredToolCalls: an assistant's message would be sent without results of its tool calls.
        InvalidMessage: there is nothing to send.
    """
    pinned = {record.seq for record in past.pinned}
    extra = TOKENS_PER_REQUEST + sum(
        estimate_json(new.parameters[name]) for name in _COUNTED_PARAMETERS if new.parameters.get(name)
    )
    summary = make_summary_messages(past.summary.text) if past.summary is not None else []
    fixed = extra + sum(scale.count(message) for message in new.messages)
    fixed += past.summary.tokens if past.summary is not None else 0
    before = _sort((*past.context, *(record for record in past.pinned if _is_before(record, past.tail))))
    fixed += sum(scale.count_record(record) for record in before)

    counts = [scale.count_record(record) for record in past.tail]
    if options.fill_missing_tools:  # each placeholder is sent together with the message that it follows
        read = [record.message for record in (*before, *past.tail)]
        for end, calls in find_missing_results([*read, *new.messages]):
            place, tokens = end - 1 - len(before), sum(scale.count(make_placeholder(call)) for call in calls)
            if place < 0:
                fixed += tokens
            elif place < len(counts):
                counts[place] += tokens

    places = _list_possible_beginnings(past, new, options)
    stays = [_is_context(record) or record.seq in pinned for record in past.tail]
    budget = scale.to_counted(options.max_context) if options.max_context is not None else None
    costs = _Costs(counts, stays, fixed)
    begin, total = costs.find_beginning(places, budget)
    if begin is not None and budget is not None and options.keeps_beginning and not (past.is_whole and begin == 0):
        begin, total = _keep_beginning([place for place in places if place >= begin], past, costs, budget)
    if begin is None:
        raise ContextTooLong(
            f"what must be sent is about {scale.to_model(total)} tokens or more (the new message, system messages, "
            f"pinned ones, tools), and max_context is {options.max_context}"
        )
    tail = past.tail[begin:]
    before = [*before, *(record for place, record in enumerate(past.tail[:begin]) if stays[place])]
    leading = next((place for place, record in enumerate(before) if not _is_context(record)), len(before))
    outgoing = [
        *list_outgoing(before[:leading]),
        *map(Outgoing, summary),
        *list_outgoing(before[leading:]),
        *list_outgoing(tail),
        *map(Outgoing, new.messages),
    ]
    if not outgoing:
        raise InvalidMessage("there is nothing to send")
    sendable = make_sendable(outgoing, SendableOptions(options.send_reasoning, options.send_extra))
    messages, filled = insert_placeholders(sendable.messages, fill=options.fill_missing_tools)
    sent = len(before) + len(tail)
    report = WindowReport(
        history=sent,
        from_seq=tail[0].seq if tail else None,
        tokens=scale.to_model(total),
        left_out=(past.head.position if past.head is not None else 0) - sent,
        context=tuple(record.seq for record in before if _is_context(record)),
        pinned=tuple(record.seq for record in before if not _is_context(record)),
        summary=past.summary.turn if past.summary is not None else None,
        filled=tuple(filled),
        changes=tuple(sendable.changes),
        options=options,
    )
    return Window(messages, total, report, past, new, options, scale, sendable)


class Stored(Protocol):
    """What is needed of a stored message to send it."""

    @property
    def message(self) -> Message: ...

    @property
    def position(self) -> Position: ...

    @property
    def turn(self) -> TurnNumber | None: ...


def list_outgoing(records: Sequence[Stored]) -> Iterator[Outgoing]:
    """Yield stored messages to send. The last message of a turn is the model's reply if its role is `assistant`."""
    for record, after in zip_longest(records, records[1:]):
        is_last = record.turn is not None and (after is None or after.turn != record.turn)
        yield Outgoing(record.message, record.position, is_reply=is_last and record.message["role"] == "assistant")


class SendableBuffer:
    """Makes stored messages sendable one after another.

    A reply is held until the results of its tool calls and the beginning of the next turn are known.
    """

    def __init__(self) -> None:
        self._held: list[MessageRecord] = []

    def add(self, record: MessageRecord) -> list[Message]:
        """Add the next message of the path, and return the messages that are ready."""
        ready: list[Message] = []
        before = self._held[-1] if self._held else record
        begins = before.turn is None or before.turn != record.turn
        if record.message["role"] != "tool" and begins and not goes_on(before.message, record.message):
            ready = self.take_rest()
        self._held.append(record)
        return ready

    def take_rest(self) -> list[Message]:
        """Return the messages that were held."""
        held, self._held = self._held, []
        return make_records_sendable(held)


def make_records_sendable(records: Sequence[Stored]) -> list[Message]:
    """Return stored messages as they are sent."""
    return make_sendable(list(list_outgoing(records))).messages


def _list_possible_beginnings(past: Past, new: NewInput, options: WindowOptions) -> list[int]:
    """Return the indexes in the tail at which the part that is sent may begin, in order."""
    tail = past.tail
    beginnings = find_turn_beginnings(tail, from_the_first=past.is_whole)
    places = [0, *beginnings] if past.is_whole else beginnings
    # With `continues`, the last turn must be sent: it begins in the tail, or before all that was read, which was more
    # than fits.
    if not (new.continues and tail):
        places = [*places, len(tail)]
    if options.last is not None:
        wanted = options.last + new.continues
        earliest = len(tail) if wanted == 0 else beginnings[-wanted] if len(beginnings) >= wanted else 0
        places = [place for place in places if place >= earliest]
    return sorted(set(places))


@dataclass(frozen=True, slots=True)
class _Costs:
    """The counted tokens of what may be sent."""

    counts: Sequence[int]
    """Of each message of the tail."""
    stays: Sequence[bool]
    """Whether each of them is sent even if the window begins after it."""
    fixed: int
    """Of everything else."""

    def find_beginning(self, places: Sequence[int], budget: int | None) -> tuple[int | None, int]:
        """Return the earliest place from which everything fits, and the tokens of the whole request.

        Return None and the least number of tokens if nothing fits.
        """
        total = self.fixed + sum(self.counts)
        at = 0
        for place in places:
            total -= sum(self.counts[number] for number in range(at, place) if not self.stays[number])
            at = place
            if budget is None or total <= budget:
                return place, total
        return None, total


def _keep_beginning(places: Sequence[int], past: Past, costs: _Costs, budget: int) -> tuple[int | None, int]:
    """Return where the window before began; or a later place that leaves room for some turns to come.

    Where it began is left if that fills less than half of the room, and something earlier fits: after a turn with a
    much smaller window (`last=1`, many tools, another model), the history would come back only turn by turn.
    The last turn is always sent if it fits.

    Args:
        places: the possible beginnings from which everything fits, earliest first.
    """
    within = [place for place in places if place < len(past.tail)] or places
    begun = next((place for place in within if place < len(past.tail) and past.tail[place].seq == past.begun), None)
    always = costs.fixed + sum(count for count, stays in zip(costs.counts, costs.stays, strict=True) if stays)
    if begun is not None:
        kept, total = costs.find_beginning([begun], budget)
        if begun == within[0] or total - always >= (budget - always) * _LEAST_SHARE:
            return kept, total
    room = always + floor((budget - always) * _SHARE_AFTER_CUT)
    found, total = costs.find_beginning(within, room)
    return (found, total) if found is not None else costs.find_beginning(within[-1:], budget)


def make_summary_messages(text: str) -> list[Message]:
    """Return the messages that are sent instead of those that a summary covers."""
    return [{"role": "user", "content": SUMMARY_REQUEST}, {"role": "assistant", "content": text}]


def _is_context(record: MessageRecord) -> bool:
    return record.message["role"] in _CONTEXT_ROLES


def _is_before(record: MessageRecord, tail: Sequence[MessageRecord]) -> bool:
    return not tail or record.position < tail[0].position


def _sort(records: Iterable[MessageRecord]) -> list[MessageRecord]:
    return sorted({record.seq: record for record in records}.values(), key=lambda record: record.position)
