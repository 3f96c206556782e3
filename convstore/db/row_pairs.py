"""Compare two tables, row by row, in the order of their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Row = tuple[Any, ...]


def pair_rows(source: Iterable[Row], target: Iterable[Row], key_columns: int) -> Iterator[tuple[Row | None, Row | None]]:
    """Yield the rows of two tables that have the same key, and None for a row that only one of them has.

    Args:
        source: rows in the order of their keys.
        target: the same.
        key_columns: how many of the first columns are the key.
    """
    left, right = iter(source), iter(target)
    one, other = next(left, None), next(right, None)
    while one is not None and other is not None:
        key, other_key = one[:key_columns], other[:key_columns]
        if key == other_key:
            yield one, other
            one, other = next(left, None), next(right, None)
        elif key < other_key:
            yield one, None
            one = next(left, None)
        else:
            yield None, other
            other = next(right, None)
    while one is not None:
        yield one, None
        one = next(left, None)
    while other is not None:
        yield None, other
        other = next(right, None)
