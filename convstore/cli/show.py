"""`convstore show`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from convstore.cli import output, style
from convstore.cli.target import describe, find_conversation, open_store

if TYPE_CHECKING:
    from convstore.messages import Message
    from convstore.records import Conversation, MessageRecord, Turn


@click.command(
    epilog=style.example("convstore show", "convstore show games --last 4", "convstore show 3kx9 --json > games.json")
)
@click.argument("ref", required=False)
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N messages.")
@style.json_option
@style.store_options
def show(ref: str | None, last: int | None, as_json: bool, db: str | None, owner: str) -> None:
    """Print a conversation: its messages, and at the end what was asked and not answered."""
    with open_store(db, owner) as store:
        conversation = find_conversation(store, ref)
        records = store.messages(conversation.id, limit=last)
        unanswered = [(turn, store.input_of(turn)) for turn in store.unanswered(conversation.id)]
    if as_json:
        from convstore.cli.forms import conversation_form, message_form

        form = conversation_form(conversation)
        form["messages"] = [message_form(record) for record in records]
        form["unanswered"] = [
            {"turn": turn.seq, "status": turn.status.value, "error": turn.error, "messages": [r.message for r in asked]}
            for turn, asked in unanswered
        ]
        output.write_json(form, indent=2)
        return
    _print_heading(conversation)
    for record in records:
        _print_message(f"{record.position}", record)
    for turn, asked in unanswered:
        for record in asked:
            _print_message("–", record, remark=_remark(turn))


def _print_heading(conversation: Conversation) -> None:
    settings = " · ".join(f"{key} {_value(value)}" for key, value in conversation.settings.items())
    output.answer(_styled(output.one_line(describe(conversation)), bold=True))
    if settings:
        output.answer(_styled(output.one_line(settings), dim=True))


def _print_message(position: str, record: MessageRecord, remark: str = "") -> None:
    name = record.message.get("name")
    heading = " ".join(part for part in (position, record.message["role"], str(name) if name else "", remark) if part)
    output.answer("")
    sys.stdout.write(_styled(output.one_line(heading), bold=True) + "\n")
    output.answer(readable(record.message))


def _styled(text: str, **how: Any) -> str:
    return click.style(text, **how) if output.colours(sys.stdout) else text


def _remark(turn: Turn) -> str:
    if turn.status.value == "running":
        return f"(turn {turn.seq}: being answered)"
    problem = (turn.error or {}).get("message", "no reply")
    return f"(turn {turn.seq}: not answered: {problem})"


def _value(value: object) -> str:
    return value if isinstance(value, str) else output.json_text(value)


def readable(message: Message) -> str:
    """Return a message as a person reads it: its text, and what else it holds, named in brackets."""
    lines = []
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            lines.append(part["text"])
        elif isinstance(part, dict) and part.get("type") != "text":
            lines.append(f"[{part.get('type', 'part')}]")
    if isinstance(message.get("refusal"), str):
        lines.append(message["refusal"])
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            lines.append(f"[calls {function.get('name')}({function.get('arguments')}) as {call.get('id')}]")
        else:
            lines.append("[calls a tool]")
    if "audio" in message and message["audio"] is not None:
        lines.append("[audio]")
    return "\n".join(lines) or "[no text]"
