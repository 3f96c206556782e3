"""Documents an async method in the words of the sync one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def documented_as(twin: Any) -> Callable[[F], F]:
    """Return a decorator that gives a method the docstring of another one."""

    def document(method: F) -> F:
        method.__doc__ = twin.__doc__
        return method

    return document
