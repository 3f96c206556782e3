"""Print the log on stderr, one line for each record."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from convstore.cli.render.output_streams import write_note


@contextmanager
def show_log(verbosity: int) -> Iterator[None]:
    """Print the records of the logger "convstore" on stderr.

    Args:
        verbosity: 1 for the level INFO and above; 2 or more for DEBUG too.
    """
    logger = logging.getLogger("convstore")
    level_before = logger.level
    handler = _NoteHandler()
    logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)


def begin_log(level: int) -> None:
    """Print the records of the logger "convstore" on stderr from now on, for a process that only does this.

    Args:
        level: the lowest level that is printed, of the module `logging`.
    """
    logger = logging.getLogger("convstore")
    if not any(isinstance(handler, _NoteHandler) for handler in logger.handlers):
        logger.setLevel(level)
        logger.addHandler(_NoteHandler())
    # It warns of each request that is no HTTP, and anybody can send those.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


@contextmanager
def show_waiting() -> Iterator[None]:
    """Print once, on a terminal, that a call waits for a running turn."""
    logger = logging.getLogger("convstore.leases.waiting")
    if not sys.stderr.isatty() or logger.isEnabledFor(logging.INFO):
        yield
        return
    handler = _WaitingHandler()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


class _WaitingHandler(logging.Handler):
    """Prints that the command waits."""

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        with suppress(OSError):  # a closed stderr must not end a turn
            write_note("convstore: waiting for a running turn of this conversation; Ctrl-C gives up")


class _NoteHandler(logging.Handler):
    """Writes each record as a note on the present `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        reason = f": {type(error).__name__}: {error}" if error is not None else ""
        with suppress(OSError):  # a closed stderr must not end a turn
            write_note(f"{record.name}: {record.levelname.lower()}: {record.getMessage()}{reason}")
