"""Print the log on stderr, one line for each record."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from convstore.cli.render.output_streams import write_detail, write_note

AccessLog: TypeAlias = Literal["json", "text", "none"]
_REQUESTS = "convstore.server.request_guard"


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


def begin_log(level: int, access: AccessLog | None = None) -> None:
    """Print the records of the logger "convstore" on stderr from now on, for a process that only does this.

    Args:
        level: the lowest level that is printed, of the module `logging`.
        access: how a line for each request of the service is printed; None: as `level` says, as text. With "json",
            every record is a JSON object on a line.
    """
    logger, requests = logging.getLogger("convstore"), logging.getLogger(_REQUESTS)
    kind = _JsonHandler if access == "json" else _NoteHandler
    for handler in [one for one in logger.handlers if isinstance(one, (_NoteHandler, _JsonHandler))]:
        logger.removeHandler(handler)
    logger.addHandler(kind())
    logger.setLevel(level)
    if access is not None:
        requests.setLevel(logging.INFO if access != "none" else logging.WARNING)
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
            write_note("waiting for a running turn of this conversation; Ctrl-C gives up")


class _NoteHandler(logging.Handler):
    """Writes each record as a note on the present `sys.stderr`."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        reason = f": {type(error).__name__}: {error}" if error is not None else ""
        with suppress(OSError):  # a closed stderr must not end a turn
            write_detail(f"{record.name}: {record.levelname.lower()}: {record.getMessage()}{reason}")


class _JsonHandler(logging.Handler):
    """Writes each record as one line of JSON; one about a request has its facts as names."""

    def emit(self, record: logging.LogRecord) -> None:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, Any] = {"time": time}
        facts = record.args
        if record.name == _REQUESTS and isinstance(facts, Mapping):
            line |= {name: None if value == "-" else value for name, value in facts.items()}
        else:
            line |= {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = type(record.exc_info[1]).__name__
        with suppress(OSError):  # a closed stderr must not end a turn
            write_detail(json.dumps(line))
