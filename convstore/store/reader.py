"""Read conversations without what asks a model: for programs that must start fast, such as `convstore show`."""

from __future__ import annotations

from convstore.store.finder import Finder
from convstore.store.read_methods import ReadMethods


class Reader(Finder, ReadMethods):
    """Conversations in a database, to be found and read; the arguments are those of `Finder`."""
