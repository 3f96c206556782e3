"""Print a reply as it arrives, when it is complete, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from signal import SIGINT
from typing import TYPE_CHECKING

from convstore.cli.render.json_forms import turn_to_json, unstored_reply_to_json
from convstore.cli.render.output_streams import write_answer, write_json, write_note
from convstore.cli.render.text_output import make_text_writer, write_text
from convstore.cli.render.waiting_sign import WaitingSign
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
    start_stream: Callable[[], ReplyStream],
    make_turn: Callable[[], Turn],
    *,
    as_stream: bool,
    as_json: bool,
    is_plain: bool = False,
) -> Turn:
    """Call the model, print its reply, and return the turn.

    Args:
        start_stream: starts the turn; used if `as_stream` is True.
        make_turn: makes the whole turn; used if `as_stream` is False.
        as_stream: True: print the reply as it arrives; False: when it is complete.
        as_json: True: print the turn as JSON; `as_stream` must be False.
        is_plain: True: no Markdown is rendered, on a terminal neither, and no sign shows that the model is awaited.
    """
    from convstore.cli.render.log_output import show_waiting  # here, because it imports logging

    with show_waiting(), WaitingSign(is_shown=not is_plain) as sign:
        if as_stream:
            turn = _print_stream(start_stream, sign, is_plain=is_plain)
        else:
            turn = _make_turn(make_turn, sign, as_json=as_json)
            if as_json:
                write_json(turn_to_json(turn))
                return turn
            if turn.text:
                write_text(turn.text, is_plain=is_plain)
        _note_finish(turn)
        return turn


def _make_turn(make_turn: Callable[[], Turn], sign: WaitingSign, *, as_json: bool) -> Turn:
    try:
        return make_turn()
    except SystemExit as error:
        sign.remove()
        _note_interruption("", is_message_kept=_is_message_kept(error))
        raise
    except (TurnFailed, LeaseLost, ReplyNotStored) as error:
        sign.remove()
        _print_rescued_reply(error, as_json=as_json)
        raise
    finally:
        sign.remove()


class _ReplyPrinter:
    """Prints the pieces of a reply. Pieces that arrive together are written together."""

    def __init__(self, *, is_plain: bool) -> None:
        self._writer = make_text_writer(is_plain=is_plain)
        self._pieces: list[str] = []
        self.knows_waits = False
        """Whether `write_before_wait` is called; otherwise each piece is written at once."""
        self._failure: OSError | None = None
        self.printed = 0
        """Characters of the reply that were given to this printer."""

    def add(self, piece: str) -> None:
        """Print a piece, at the latest when the reply waits for the next one.

        Raises:
            BrokenPipeError: the program that reads stdout has ended, so nobody wants the rest of the reply.
        """
        self.printed += len(piece)  # before it is printed: Ctrl-C may come at once
        self._pieces.append(piece)
        if not self.knows_waits:
            self._write()
        self._check_pipe()

    def write_before_wait(self) -> None:
        """Write what has come, because nothing more is here now."""
        if self._pieces:
            self._write()

    def end(self) -> None:
        """Write the rest of the reply.

        Raises:
            BrokenPipeError: as for `add`.
        """
        self._write()
        self._write_text(self._writer.end())
        self._check_pipe()

    def check(self) -> None:
        """Check that everything could be written; it is asked at the end, because the whole reply is stored then.

        Raises:
            OSError: something could not be written.
        """
        if self._failure is not None:
            raise self._failure

    def _check_pipe(self) -> None:
        if isinstance(self._failure, BrokenPipeError):
            raise self._failure

    def _write(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        self._write_text(self._writer.add(text))

    def _write_text(self, text: str) -> None:
        if not text or self._failure is not None:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            self._failure = error


def _print_stream(start_stream: Callable[[], ReplyStream], sign: WaitingSign, *, is_plain: bool) -> Turn:
    from convstore.store.reply_stream import call_before_waits

    reply: ReplyStream | None = None
    printer = _ReplyPrinter(is_plain=is_plain)
    try:
        reply = start_stream()
        with reply:
            printer.knows_waits = call_before_waits(reply, printer.write_before_wait)
            for piece in reply:
                sign.remove()
                printer.add(piece)
    except SystemExit as error:
        sign.remove()
        text = reply.text if reply is not None else ""
        printer.add(text[printer.printed :])  # print a last piece too, because it is stored
        printer.end()
        _note_interruption(text, is_message_kept=_is_message_kept(error))
        raise
    except ConvstoreError:
        sign.remove()
        printer.end()
        raise
    sign.remove()
    printer.end()
    printer.check()
    if reply.turn.status.value == "interrupted":  # by `convstore stop`; the exit code is that of Ctrl-C
        _note_interruption(reply.text, " by `convstore stop`", is_message_kept=True)
        raise SystemExit(128 + SIGINT)
    if not reply.text and reply.turn.text:  # a refusal does not arrive as pieces of text
        write_text(reply.turn.text, is_plain=is_plain)
    return reply.turn


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
    write_note(f"stopped{cause}; {kept}")


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
        write_note(f"{note} (turn {turn.seq}; see `convstore show`)")
