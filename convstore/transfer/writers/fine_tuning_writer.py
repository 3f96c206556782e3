"""Write examples for supervised fine-tuning: JSON Lines of `{"messages": […], "tools": […]}`.

The form and its rules are OpenAI's: the guide "Supervised fine-tuning", and `FineTuneChatRequestInput` of the API
reference ("text or image content only; audio and file input messages are not supported", images only in messages of a
user, `weight` 0 or 1 for a reply). Other servers that fine-tune read the same form.

A conversation is one example: its path up to the last reply. A reply that a model should not learn has the weight 0:
one that is rated bad, that was cut off, or that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from convstore.transfer.writers.training_messages import (
    NotTrainable,
    find_tools,
    is_without_text,
    make_training_messages,
)
from convstore.transfer.writers.written_text import OnNote, ignore_note, list_path, to_json_line
from convstore.values.exported import ExportedConversation, ExportedMessage
from convstore.values.results import RatingValue, TurnStatus


def write_fine_tuning(conversations: Iterable[ExportedConversation], on_note: OnNote = ignore_note) -> Iterator[bytes]:
    """Yield a line for each conversation that can be an example; a note says why another cannot."""
    for exported in conversations:
        path = list_path(exported)
        replies = [number for number, one in enumerate(path, 1) if one.record.message["role"] == "assistant"]
        if not replies:
            on_note(exported.conversation.id, "not written: it has no reply")
            continue
        try:
            example = _make_example(exported, path[: replies[-1]])
        except NotTrainable as error:
            on_note(exported.conversation.id, f"not written: {error}")
            continue
        left = len(path) - replies[-1]
        if left:
            on_note(exported.conversation.id, f"{left} message{'' if left == 1 else 's'} after its last reply left out")
        yield to_json_line(example)


def _make_example(exported: ExportedConversation, path: list[ExportedMessage]) -> dict[str, Any]:
    messages = make_training_messages(path)
    is_learnt = False
    for one, message in zip(path, messages, strict=True):
        if message["role"] != "assistant":
            continue
        weight = _choose_weight(one)
        if weight is not None:
            message["weight"] = weight
        is_learnt = is_learnt or weight != 0
    if not is_learnt:
        raise NotTrainable("it has no reply to learn: each is rated bad, cut off or empty")
    return {"messages": messages, **find_tools(exported)}


def _choose_weight(one: ExportedMessage) -> int | None:
    given = one.record.message.get("weight")
    if given in (0, 1) and isinstance(given, int):
        return int(given)
    is_bad = one.rating is not None and one.rating.rating is RatingValue.BAD
    is_whole = one.status is None or one.status is TurnStatus.COMPLETED
    return None if is_whole and not is_bad and not is_without_text(one.record.message) else 0
