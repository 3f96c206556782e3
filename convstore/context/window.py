"""Which messages the model is to see: the options, and the choice. Pure functions over what was read.

System and developer messages always stay, and so do pinned ones. What is left out is the older part of the path: a
window begins at a user's message, so that an assistant's tool calls and their results stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import floor
from typing import Any

from convstore.errors import ContextTooLong, InvalidInput, InvalidMessage, InvalidParameter
from convstore.messages.codec import Message, to_request
from convstore.messages.token_estimate import REQUEST, Counter, estimate, estimate_json
from convstore.messages.tool_calls import missing_results, placeholder, with_placeholders
from convstore.values.results import MessageRecord, Summary

_CONTEXT_ROLES = ("system", "developer")
# What is sent besides the messages, and counts as they do.
_ALSO_COUNTED = ("tools", "functions", "response_format")
SUMMARY_REQUEST = "Summarise our conversation so far, so that we can go on from your summary."
"""What a summary answers in a window: a user's message, so that the roles alternate as some servers insist."""


KEEP_LAST = 2


@dataclass(frozen=True, slots=True)
class Policy:
    """What decides about a window."""

    history: bool = True
    """Whether anything but the new message is sent."""
    last: int | None = None
    """How many turns of the history are sent at most; None: all."""
    max_context: int | None = None
    """How many tokens the request may have; None: any number."""
    on_overflow: str = "error"
    """What to do when the provider finds the request too long: `"error"`, or `"trim"` it and try once more."""
    fill_missing_tools: bool = False
    """Whether tool calls that were not answered are sent with a placeholder, instead of being an error."""
    send_reasoning: bool = False
    """Whether the model's reasoning is sent back to it."""
    compact_at: int | None = None
    """With how many tokens of a request the conversation compacts itself after the turn; None: never."""
    keep_last: int = KEEP_LAST
    """How many turns are kept out of a summary."""


OPTIONS = frozenset(field.name for field in fields(Policy))
_SWITCHES = frozenset({"history", "fill_missing_tools", "send_reasoning"})


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the window as a caller gave them, checked. A value of None takes a sticky one away.

    Raises:
        InvalidParameter: one breaks a rule, which the message states.
    """
    for name, value in given.items():
        if value is None:
            continue
        if name in _SWITCHES:
            if not isinstance(value, bool):
                raise InvalidParameter(f"{name} must be true or false, not {value!r:.80}")
        elif name == "on_overflow":
            if value not in ("error", "trim"):
                raise InvalidParameter(f'on_overflow must be "error" or "trim", not {value!r:.80}')
        else:
            least = 0 if name in ("last", "keep_last") else 1
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
                raise InvalidParameter(f"{name} must be a whole number of at least {least}, not {value!r:.80}")
    return dict(given)


def merge_options(sticky: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sticky options as changed by checked ones: a new value replaces, None removes."""
    return {key: value for key, value in {**sticky, **given}.items() if value is not None}


def policy(options: Mapping[str, Any]) -> Policy:
    """Return the policy that options make; those of a later release are ignored."""
    return Policy(**{key: value for key, value in options.items() if key in OPTIONS})


def unusual(chosen: Policy) -> dict[str, Any]:
    """Return what a policy has that the default one has not: what is put on record, and asked with again."""
    usual = asdict(Policy())
    return {key: value for key, value in asdict(chosen).items() if value != usual[key]}


@dataclass(frozen=True, slots=True)
class Past:
    """What was read of a path, as far as a window can need it."""

    head: MessageRecord | None = None
    tail: Sequence[MessageRecord] = ()
    """The end of the path; where it was not read whole, with more than fits."""
    context: Sequence[MessageRecord] = ()
    """The system and developer messages before the tail."""
    pinned: Sequence[MessageRecord] = ()
    """The pinned messages of the path, in the tail or before it."""
    summary: Summary | None = None
    """Stands for all that is before the tail."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing but what the summary stands for lies before the tail."""
        before = self.summary.up_to_position if self.summary is not None else 0
        return bool(self.tail) and self.tail[0].position == before + 1


@dataclass(frozen=True, slots=True)
class Sending:
    """What is to be sent besides the past."""

    new: Sequence[Message]
    """The turn's input, in exact form."""
    parameters: Mapping[str, Any]
    continues: bool = False
    """Whether the model is to go on with the turn at the end of the path: that turn then has to be sent."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How tokens are counted for a model."""

    count: Counter = estimate
    factor: float = 1.0
    """How many of the model's tokens one counted token is."""

    def of(self, message: Message) -> int:
        """Return the counted tokens of a message."""
        return self.count(message)

    def of_record(self, record: MessageRecord) -> int:
        return record.tokens if record.tokens is not None else self.of(record.message)

    def counted(self, tokens: int) -> int:
        """Return how many counted tokens are at most so many of the model's."""
        return floor(tokens / self.factor)


@dataclass(frozen=True, slots=True)
class Window:
    """What the model is to see."""

    messages: list[Message]
    """In request form."""
    tokens: int
    """What the store's counter makes of all of it."""
    facts: dict[str, Any]
    """What is put on record about the choice; see `choose`."""


def begins_turn(before: MessageRecord | None, record: MessageRecord) -> bool:
    """Whether a turn of the conversation begins with `record`: a user's message that no other comes right before."""
    return record.message["role"] == "user" and (before is None or before.message["role"] != "user")


def turn_beginnings(records: Sequence[MessageRecord], *, from_the_first: bool) -> list[int]:
    """Return the places in `records` where turns begin; at the first of them only if nothing comes before it."""
    return [
        place
        for place, record in enumerate(records)
        if (place or from_the_first) and begins_turn(records[place - 1] if place else None, record)
    ]


def choose(past: Past, sending: Sending, chosen: Policy, scale: Scale) -> Window:
    """Return the messages to send: of the past as much as the policy allows, then the new ones.

    The facts of the window: `history`, how many messages of the path are sent; `from_seq`, where the part begins from
    which on all are sent (None: nothing is); `tokens`, the estimate for this model; and where there are any,
    `left_out`, how many messages are not sent; `context` and `pinned`, the `seq` of those that are sent although they
    stand before `from_seq`; `summary`, the turn that wrote the summary that is sent; `filled`, the ids of tool calls
    that a placeholder answers; `options`, the policy where it is not the usual one.

    Raises:
        ContextTooLong: what has to be sent is more than `max_context` by itself.
        UnansweredToolCalls: an assistant's message is sent whose tool calls have no results.
        InvalidMessage: there is nothing to send.
    """
    kept_anyway = {record.seq for record in past.pinned}
    extra = REQUEST + sum(
        estimate_json(sending.parameters[key]) for key in _ALSO_COUNTED if sending.parameters.get(key)
    )
    stand_in = summary_messages(past.summary.text) if past.summary is not None else []
    fixed = extra + sum(scale.of(message) for message in sending.new)
    fixed += past.summary.tokens if past.summary is not None else 0
    before = _ordered((*past.context, *(record for record in past.pinned if _is_before(record, past.tail))))
    fixed += sum(scale.of_record(record) for record in before)
    budget = scale.counted(chosen.max_context) if chosen.max_context is not None else None

    counts = [scale.of_record(record) for record in past.tail]
    if chosen.fill_missing_tools:  # each placeholder is sent with what it follows
        read = [record.message for record in (*before, *past.tail)]
        for end, calls in missing_results([*read, *sending.new]):
            place, tokens = end - 1 - len(before), sum(scale.of(placeholder(call)) for call in calls)
            if place < 0:
                fixed += tokens
            elif place < len(counts):
                counts[place] += tokens

    begin, total = _beginning(past, sending, chosen, scale, kept_anyway, counts, fixed, budget)
    dropped, tail = past.tail[:begin], past.tail[begin:]
    before = [*before, *(record for record in dropped if _stays(record, kept_anyway))]
    leading = next((n for n, record in enumerate(before) if not _is_context(record)), len(before))
    exact = [
        *(record.message for record in before[:leading]),
        *stand_in,
        *(record.message for record in before[leading:]),
        *(record.message for record in tail),
        *sending.new,
    ]
    if not exact:
        raise InvalidMessage("there is nothing to send")
    exact, filled = with_placeholders(exact, fill=chosen.fill_missing_tools)
    sent = len(before) + len(tail)
    length = past.head.position if past.head is not None else 0
    facts: dict[str, Any] = {"history": sent, "from_seq": tail[0].seq if tail else None}
    more = {
        "left_out": length - sent,
        "context": [record.seq for record in before if _is_context(record)],
        "pinned": [record.seq for record in before if not _is_context(record)],
        "summary": past.summary.turn if past.summary is not None else None,
        "filled": filled,
        "options": unusual(chosen),
    }
    facts |= {key: value for key, value in more.items() if value}
    facts["tokens"] = round(total * scale.factor)
    return Window([to_request(message, reasoning=chosen.send_reasoning) for message in exact], total, facts)


def _beginning(
    past: Past,
    sending: Sending,
    chosen: Policy,
    scale: Scale,
    kept_anyway: set[int],
    counts: list[int],
    fixed: int,
    budget: int | None,
) -> tuple[int, int]:
    """Return the place in the tail from which on all is sent, and the counted tokens of the whole request."""
    tail = past.tail
    beginnings = turn_beginnings(tail, from_the_first=past.is_whole)
    places = [0, *beginnings] if past.is_whole else beginnings
    if not (sending.continues and tail):
        places = [*places, len(tail)]
    # Else what has to be sent begins in the tail, or before all that was read, which was more than fits.
    if chosen.last is not None:
        wanted = chosen.last + sending.continues
        earliest = len(tail) if wanted == 0 else beginnings[-wanted] if len(beginnings) >= wanted else 0
        places = [place for place in places if place >= earliest]
    total = fixed + sum(counts)
    at = 0
    for place in sorted(set(places)):
        for number in range(at, place):
            if not _stays(tail[number], kept_anyway):
                total -= counts[number]
        at = place
        if budget is None or total <= budget:
            return place, total
    raise ContextTooLong(
        f"what has to be sent is about {round(total * scale.factor)} tokens or more (the new message, system messages, "
        f"pinned ones, tools), and max_context is {chosen.max_context}"
    )


def narrowed(past: Past, sending: Sending, chosen: Policy, scale: Scale, window: Window, share: float) -> Window | None:
    """Return a window of at most `share` of the tokens of `window`; None where nothing can be left out."""
    most = max(1, floor(window.tokens * scale.factor * share))
    try:
        smaller = choose(past, sending, replace(chosen, max_context=most), scale)
    except InvalidInput:
        return None
    if smaller.tokens >= window.tokens:  # of a few tokens, a share is as many
        return None
    smaller.facts["options"] = unusual(chosen)
    return smaller


def summary_messages(text: str) -> list[Message]:
    """Return what stands in a window for the messages that a summary is of."""
    return [{"role": "user", "content": SUMMARY_REQUEST}, {"role": "assistant", "content": text}]


def _is_context(record: MessageRecord) -> bool:
    return record.message["role"] in _CONTEXT_ROLES


def _stays(record: MessageRecord, kept_anyway: set[int]) -> bool:
    return _is_context(record) or record.seq in kept_anyway


def _is_before(record: MessageRecord, tail: Sequence[MessageRecord]) -> bool:
    return not tail or record.position < tail[0].position


def _ordered(found: Iterable[MessageRecord]) -> list[MessageRecord]:
    return sorted({record.seq: record for record in found}.values(), key=lambda record: record.position)
