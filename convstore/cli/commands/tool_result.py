"""`convstore tool-result`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from convstore.cli.options import shared_options
from convstore.cli.options.target import find_conversation, open_store
from convstore.cli.render import output
from convstore.errors import HeadMoved, InvalidInput

if TYPE_CHECKING:
    from convstore.store.store import Store
    from convstore.values.results import MessageRecord

_LOOKED_AT = 200  # messages before the end: a call that is answered already stands near it


@click.command(
    "tool-result",
    epilog=shared_options.example(
        'convstore tool-result call_1 "21 degrees"',
        "./weather Beijing | convstore tool-result call_1 && convstore say --continue",
    ),
)
@click.argument("call_id")
@click.argument("text", required=False)
@shared_options.conversation_option
@shared_options.head_option
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    help="How long to wait while a turn runs.  [default: 30]",
)
@click.option("--no-wait", is_flag=True, help="Do not wait: exit with 5 while a turn runs.")
@shared_options.json_option
@shared_options.store_options
def tool_result(
    call_id: str,
    text: str | None,
    ref: str | None,
    expected_head: int | None,
    no_wait: bool,
    wait: float,
    as_json: bool,
    db: str | None,
    owner: str,
) -> None:
    """Give the result of a tool that the model has called.

    CALL_ID is the call's id, which `show` has with it. TEXT missing, or -, is read from standard input. When all calls
    are answered, `convstore say --continue` lets the model go on.
    """
    if text is None or text == "-":
        text = shared_options.read_typed()
    with open_store(db, owner) as store:
        target = find_conversation(store, ref).id
        record = _answered(store, target, call_id, text, expected_head, 0.0 if no_wait else wait)
        pending = store.pending_calls(target)
    if as_json:
        from convstore.cli.render.json_forms import message_form

        output.write_json({"conversation": target, **message_form(record), "pending": pending})
    elif pending:
        output.note_on_terminal(f"still without a result: {_named(pending)}")
    else:
        output.note_on_terminal("all calls have their results; `convstore say --continue` lets the model go on")


def _answered(
    store: Store, target: str, call_id: str, text: str, expected_head: int | None, wait: float
) -> MessageRecord:
    """Append the result, once: also where others give results at the same time."""
    from convstore.messages.tool_calls import tool_result as made

    while True:
        head = store.get(target).head_seq if expected_head is None else expected_head
        _check_pending(store, target, call_id)
        try:
            return store.append(target, made(call_id, text), expected_head=head, wait=wait)[0]
        except HeadMoved:
            if expected_head is not None:
                raise


def _check_pending(store: Store, target: str, call_id: str) -> None:
    pending = store.pending_calls(target)
    if any(call.get("id") == call_id for call in pending):
        return
    for record in store.messages(target, limit=_LOOKED_AT):
        if record.message["role"] == "tool" and record.message.get("tool_call_id") == call_id:
            raise InvalidInput(
                f"conversation {target}: call {call_id} has its result already, at position {record.position}"
            )
    what = f"these wait for one: {_named(pending)}" if pending else "none waits for one"
    raise InvalidInput(f"conversation {target} has no call {call_id} that waits for a result; {what}")


def _named(calls: list[dict[str, Any]]) -> str:
    from convstore.messages.tool_calls import name

    return ", ".join(f"{call.get('id')} ({name(call)})" for call in calls)
