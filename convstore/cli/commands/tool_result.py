"""`convstore tool-result`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options.call_options import wait_options
from convstore.cli.options.conversation_option import conversation_option, expected_head_option, find_conversation
from convstore.cli.options.help_text import format_examples
from convstore.cli.options.output_options import json_option
from convstore.cli.options.store_options import StoreChoice, open_store, store_options
from convstore.cli.options.text_input import read_typed_text
from convstore.cli.render.json_forms import message_to_json
from convstore.cli.render.output_streams import write_json, write_terminal_note
from convstore.errors import HeadMoved, InvalidInput

if TYPE_CHECKING:
    from convstore.messages.message import Message
    from convstore.store.store import Store
    from convstore.values.results import MessageRecord

_SEARCHED_MESSAGES = 200  # at the end of the path, because the results of pending calls are near it


@click.command(
    "tool-result",
    epilog=format_examples(
        'convstore tool-result call_1 "21 degrees"',
        "./weather Beijing | convstore tool-result call_1 && convstore say --continue",
    ),
)
@click.argument("call_id")
@click.argument("text", required=False)
@conversation_option
@expected_head_option
@wait_options
@json_option
@store_options
def tool_result(
    call_id: str,
    text: str | None,
    ref: str | None,
    expected_head: int | None,
    wait: float,
    as_json: bool,
    store_choice: StoreChoice,
) -> None:
    """Give the result of a tool call.

    CALL_ID is the id of the call in `show`. Without TEXT, or with -, the result is read from standard input. If every
    call has a result, get the reply with `convstore say --continue`.
    """
    from convstore.messages.tool_calls import tool_result as make_message

    if text is None or text == "-":
        text = read_typed_text()
    with open_store(store_choice) as store:
        target = find_conversation(store, ref).id
        record = _append_once(store, target, make_message(call_id, text), expected_head, wait)
        pending = store.pending_calls(target)
    if as_json:
        write_json({"conversation": target, **message_to_json(record), "pending": pending})
    elif pending:
        write_terminal_note(f"calls still without a result: {_list_calls(pending)}")
    else:
        write_terminal_note("every call has a result; continue with `convstore say --continue`")


def _append_once(store: Store, target: str, result: Message, expected_head: int | None, wait: float) -> MessageRecord:
    """Append a result, but only once, even if others append results at the same time."""
    while True:
        head = store.get(target).head_seq if expected_head is None else expected_head
        _check_pending(store, target, result["tool_call_id"])
        try:
            return store.append(target, result, expected_head=head, wait=wait)[0]
        except HeadMoved:
            if expected_head is not None:
                raise


def _check_pending(store: Store, target: str, call_id: str) -> None:
    """Check that a call has no result yet.

    Raises:
        InvalidInput: the call has a result, or the model made no such call.
    """
    pending = store.pending_calls(target)
    if any(call.get("id") == call_id for call in pending):
        return
    for record in store.messages(target, limit=_SEARCHED_MESSAGES):
        if record.message["role"] == "tool" and record.message.get("tool_call_id") == call_id:
            raise InvalidInput(
                f"conversation '{target}': call '{call_id}' already has a result, at position {record.position}"
            )
    others = f"calls without a result: {_list_calls(pending)}" if pending else "every call has a result"
    raise InvalidInput(f"conversation '{target}' has no call '{call_id}' without a result; {others}")


def _list_calls(calls: list[dict[str, Any]]) -> str:
    from convstore.messages.tool_calls import get_call_name

    return ", ".join(f"{call.get('id')} ({get_call_name(call)})" for call in calls)
