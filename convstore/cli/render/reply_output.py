"""Print a reply as it arrives, when it is complete, or as JSON."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGINT
from typing import TYPE_CHECKING

from convstore.cli.render.json_forms import turn_to_json, unstored_reply_to_json
from convstore.cli.render.output_streams import end_line, write_answer, write_json, write_note
from convstore.errors import ConvstoreError, LeaseLost, ReplyNotStored, TurnFailed

if TYPE_CHECKING:
    from convstore.store.reply_stream import ReplyStream
    from convstore.values.results import Turn

_FINISH_NOTES = {
    "length": "the reply was cut off at its length limit (max_tokens, or the model's own)",
    "content_filter": "the provider's content filter cut the reply",
    "tool_calls": "the reply calls tools; give their results with `convstore tool-result`",
    "function_call": "the reply calls a function",
}
"""The note for each `finish_reason` other than the usual end of a reply."""


def print_reply(
    start_stream: Callable[[], ReplyStream], make_turn: Callable[[], Turn], *, as_stream: bool, as_json: bool
) -> Turn:
    """Call the model, print its reply, and return the turn.

    Args:
        start_stream: starts the turn; used if `as_stream` is True.
        make_turn: makes the whole turn; used if `as_stream` is False.
        as_stream: True: print the reply as it arrives; False: when it is complete.
        as_json: True: print the turn as JSON; `as_stream` must be False.
    """
    from convstore.cli.render.log_output import show_waiting  # here, because it imports logging

    with show_waiting():
        return _print_reply(start_stream, make_turn, as_stream=as_stream, as_json=as_json)


def _print_reply(
    start_stream: Callable[[], ReplyStream], make_turn: Callable[[], Turn], *, as_stream: bool, as_json: bool
) -> Turn:
    if as_stream:
        turn = _print_stream(start_stream)
    else:
        turn = _make_turn(make_turn, as_json=as_json)
        if as_json:
            write_json(turn_to_json(turn))
            return turn
        if turn.text:
            write_answer(turn.text)
    _note_finish(turn)
    return turn


def _make_turn(make_turn: Callable[[], Turn], *, as_json: bool) -> Turn:
    try:
        return make_turn()
    except SystemExit as error:
        _note_interruption("", is_message_kept=_is_message_kept(error))
        raise
    except (TurnFailed, LeaseLost, ReplyNotStored) as error:
        _print_rescued_reply(error, as_json=as_json)
        raise


def _print_stream(start_stream: Callable[[], ReplyStream]) -> Turn:
    reply: ReplyStream | None = None
    printed = 0
    failure: OSError | None = None
    try:
        reply = start_stream()
        with reply:
            for piece in reply:
                printed += len(piece)  # before it is printed: Ctrl-C may come at once
                if failure is None:
                    failure = _try_to_write(piece)
    except SystemExit as error:
        text = reply.text if reply is not None else ""
        write_answer(text[printed:], newline=False)  # print a last piece too, because it is stored
        end_line(text)
        _note_interruption(text, is_message_kept=_is_message_kept(error))
        raise
    except ConvstoreError:
        end_line(reply.text if reply is not None else "")
        raise
    if failure is not None:
        raise failure  # now, because the whole reply is stored
    end_line(reply.text)
    if reply.turn.status.value == "interrupted":  # by `convstore stop`; the exit code is that of Ctrl-C
        _note_interruption(reply.text, " by `convstore stop`", is_message_kept=True)
        raise SystemExit(128 + SIGINT)
    if not reply.text and reply.turn.text:  # a refusal does not arrive as pieces of text
        write_answer(reply.turn.text)
    return reply.turn


def _try_to_write(piece: str) -> OSError | None:
    """Write a piece of a reply to stdout, and return the error if stdout cannot be written.

    Raises:
        BrokenPipeError: the program that reads stdout has ended, so nobody wants the rest of the reply.
    """
    try:
        write_answer(piece, newline=False)
    except BrokenPipeError:
        raise
    except OSError as error:
        return error
    return None


def _is_message_kept(error: SystemExit) -> bool:
    """Return True if the turn's message is stored; the library's note tells so."""
    return any("its message is stored" in note for note in getattr(error, "__notes__", ()))


def _note_interruption(text: str, cause: str = "", *, is_message_kept: bool) -> None:
    """Print on stderr that a reply was stopped, and what is kept.

    Args:
        text: the partial reply; "" if nothing was received.
        cause: what stopped the reply, if not a signal to this process.
    """
    kept = "nothing was stored"
    if text:
        kept = "the partial reply is kept"
    elif is_message_kept:
        kept = "your message is kept; `convstore retry` asks again"
    write_note(f"convstore: stopped{cause}; {kept}")


def _print_rescued_reply(error: TurnFailed | LeaseLost | ReplyNotStored, *, as_json: bool) -> None:
    """Print the turn of an error as JSON, or the complete reply that the error holds.

    Such a reply is stored off the path, or is not stored.
    """
    from convstore.messages.message import extract_text

    if isinstance(error, ReplyNotStored):
        if as_json:
            write_json(unstored_reply_to_json(error.completion))
        else:
            write_answer(extract_text(error.completion.messages[0]))
    elif as_json:
        write_json(turn_to_json(error.turn))
    elif isinstance(error, LeaseLost):
        write_answer(error.turn.text)


def _note_finish(turn: Turn) -> None:
    """Print on stderr that a reply is empty, or did not end in the usual way."""
    note = _FINISH_NOTES.get(turn.finish_reason or "")
    if note is None and not turn.text:
        note = "the reply has no text"
    if note is not None:
        write_note(f"convstore: {note} (turn {turn.seq}; see `convstore show`)")
