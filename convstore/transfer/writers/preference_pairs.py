"""Write pairs of replies for preference training: JSON Lines of `{"prompt": […], "chosen": […], "rejected": […]}`.

A pair is a reply that is rated good and one that is rated bad, both to the same message: the siblings that `retry`
leaves. So this format needs the whole tree.

The form is the conversational preference format of TRL (https://huggingface.co/docs/trl/dataset_formats). Open trainers
read it, and any two replies fit into it. OpenAI's form for direct preference optimization has the same three lists
under other names: `{"input": {"messages": prompt}, "preferred_output": chosen, "non_preferred_output": rejected}`.
As TRL asks, the arguments of tool calls are objects, not texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from convstore.messages.message import Message
from convstore.messages.tool_calls import list_calls
from convstore.transfer.writers.training_messages import (
    NotTrainable,
    find_tools,
    is_without_text,
    make_training_messages,
    parse_arguments,
)
from convstore.transfer.writers.written_text import OnNote, ignore_note, to_json_line
from convstore.values.exported import ExportedConversation, ExportedMessage
from convstore.values.results import RatingValue


def write_preferences(conversations: Iterable[ExportedConversation], on_note: OnNote = ignore_note) -> Iterator[bytes]:
    """Yield a line for each pair of replies; a note says why rated replies make none."""
    for exported in conversations:
        by_seq = {int(one.record.seq): one for one in exported.messages}
        rated: dict[int, list[ExportedMessage]] = {}
        for one in exported.messages:
            if one.rating is not None:
                rated.setdefault(one.record.parent_seq, []).append(one)
        pairs = 0
        for parent, replies in rated.items():
            good = [one for one in replies if one.rating and one.rating.rating is RatingValue.GOOD]
            bad = [one for one in replies if one.rating and one.rating.rating is RatingValue.BAD]
            prompt = _list_ancestors(by_seq, parent)
            for chosen, rejected in product(good, bad):
                pairs += 1
                try:
                    yield to_json_line(_make_pair(exported, prompt, chosen, rejected))
                except NotTrainable as error:
                    names = f"messages {chosen.record.seq} and {rejected.record.seq}"
                    on_note(exported.conversation.id, f"the pair of {names} is not written: {error}")
        if rated and not pairs:
            reason = "its rated replies make no pair: no good and bad one answer the same message"
            on_note(exported.conversation.id, reason)


def _list_ancestors(by_seq: Mapping[int, ExportedMessage], seq: int) -> list[ExportedMessage]:
    """Return the path that ends with a message."""
    path = []
    while seq:
        path.append(by_seq[seq])
        seq = by_seq[seq].record.parent_seq
    return path[::-1]


def _make_pair(
    exported: ExportedConversation, prompt: list[ExportedMessage], chosen: ExportedMessage, rejected: ExportedMessage
) -> dict[str, Any]:
    if not prompt:
        raise NotTrainable("there is no message before them")
    for reply in (chosen, rejected):
        if is_without_text(reply.record.message):
            raise NotTrainable(f"message {reply.record.seq} says nothing")
    *before, good = map(_parse_arguments, make_training_messages([*prompt, chosen]))
    bad = _parse_arguments(make_training_messages([*prompt, rejected])[-1])
    return {
        "prompt": before,
        "chosen": [good],
        "rejected": [bad],
        **find_tools(exported),
        "conversation": exported.conversation.id,
        "position": chosen.record.position,
        "chosen_seq": chosen.record.seq,
        "rejected_seq": rejected.record.seq,
    }


def _parse_arguments(message: Message) -> Message:
    """Return the message with the arguments of its calls as objects."""
    calls = [
        {**call, "function": {**call["function"], "arguments": parse_arguments(call["function"]["arguments"])}}
        if isinstance(call.get("function"), dict)
        else call
        for call in list_calls(message)
    ]
    return {**message, "tool_calls": calls} if calls else message
