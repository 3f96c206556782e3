"""Define the steps that a flow yields and a runner performs.

A flow is a generator that decides what happens in a turn, and does nothing else. So it serves threads and asyncio. A
runner performs its steps. It sends the result of a step into the generator, or throws an error, Ctrl-C or the
cancellation of a task into it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class DatabaseWork:
    """Do database work, and finish it even if the caller is cancelled meanwhile."""

    work: Callable[[], Any]
    undo: Callable[[Any], object] | None = None
    """Takes the result of the work and undoes the work, if the caller was cancelled meanwhile."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitForSignal:
    """Wait until a signal is given, but no longer than some seconds."""

    signal: Future[None]
    seconds: float


@dataclass(frozen=True, slots=True)
class GetClient:
    """Return the openai client."""


@dataclass(frozen=True, slots=True)
class CallModel:
    """Call `chat.completions.create`, and return what the provider sent.

    This is a completion, a stream of chunks, or a `RawAnswer`.
    """

    client: Any
    arguments: dict[str, Any]
    stop: Any = None
    """A `StopSignal` that ends the call, or None."""


@dataclass(frozen=True, slots=True)
class NextChunk:
    """Return the next chunk of a stream, or `END_OF_STREAM`."""

    chunks: Any


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Return the whole body of an answer that is not a stream of events."""

    answer: Any


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection of a stream, so that the provider stops generating."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Piece:
    """Hand a piece of text to the reader of a reply."""

    text: str


Step: TypeAlias = DatabaseWork | Pause | WaitForSignal | GetClient | CallModel | NextChunk | ReadBody | HangUp | Piece
Steps: TypeAlias = Generator[Step, Any, R]
"""A flow that ends with an `R`."""

END_OF_STREAM = object()
