"""Performs the steps of a flow in the caller's thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import wait
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

from convstore.provider.model_clients import ModelClients
from convstore.provider.raw_answer import RawAnswer, call_model
from convstore.values.steps import (
    END_OF_STREAM,
    CallModel,
    DatabaseWork,
    GetClient,
    HangUp,
    NextChunk,
    Pause,
    Piece,
    ReadBody,
    Step,
    Steps,
    WaitForSignal,
)

R = TypeVar("R")


class SyncRunner:
    """Runs flows.

    Args:
        clients: gives the client; None: the flows call no model.
    """

    def __init__(self, clients: ModelClients | None = None) -> None:
        self._clients = clients

    def run(self, steps: Steps[R]) -> R:
        """Perform all steps, and return the result of the flow."""
        try:
            while self.advance(steps) is not None:
                pass
        except StopIteration as end:
            result: R = end.value
            return result
        raise AssertionError("unreachable")

    def iterate(self, steps: Steps[None]) -> Iterator[str]:
        """Yield the pieces of text of a flow."""
        try:
            while True:
                yield self.advance(steps)
        except StopIteration:
            return

    def advance(self, steps: Steps[Any], failure: BaseException | None = None) -> str:
        """Perform steps up to the next piece of text, and return it.

        Args:
            failure: thrown into the flow at the step where it stands.

        Raises:
            StopIteration: the flow has ended; its value is the result.
        """
        try:
            return self._advance(steps, failure)
        except BaseException as error:
            if getgeneratorstate(steps) == GEN_CLOSED:
                raise
            return self._advance(steps, error)  # Ctrl-C came between two steps: the flow decides about it too

    def _advance(self, steps: Steps[Any], failure: BaseException | None) -> str:
        result: Any = None
        while True:
            try:
                step = steps.send(result) if failure is None else steps.throw(failure)
                failure = None
                if isinstance(step, Piece):
                    return step.text
                result = self._perform(step)
            except BaseException as error:
                if getgeneratorstate(steps) == GEN_CLOSED:  # the flow has ended: this is its own result or error
                    raise
                result, failure = None, error

    def _perform(self, step: Step) -> Any:
        match step:
            case NextChunk():
                return next(step.chunks, END_OF_STREAM)
            case DatabaseWork():
                return step.work()
            case CallModel():
                return call_model(step.client, step.arguments, step.stop)
            case Pause():
                time.sleep(step.seconds)
            case WaitForSignal():
                wait([step.signal], step.seconds)
            case GetClient():
                return self._clients.get() if self._clients is not None else None
            case ReadBody():
                if isinstance(step.answer, RawAnswer):
                    return step.answer.read_body()
                return step.answer.response.read()
            case HangUp():
                close = getattr(step.stream, "close", None)
                if close is not None:
                    close()
        return None
