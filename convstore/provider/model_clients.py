"""Keep the openai client of one store.

It is the caller's own, or one made from the environment at the first call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from convstore.provider.openai_client import disable_retries


class ModelClients:
    """Make and keep the client; safe to share between threads.

    Args:
        given: the caller's own client, sync or async; None if `make` shall make one.
    """

    def __init__(self, given: Any, make: Callable[[], Any]) -> None:
        self._given = disable_retries(given) if given is not None else None
        self._make = make
        self._made: Any = None
        self._loop: object = None
        self._lock = threading.Lock()

    def get(self, loop: object = None) -> Any:
        """Return the client that calls the model.

        Args:
            loop: the event loop that will use it: a client made here and used in another loop is replaced, because
                its connections belong to that loop.

        Raises:
            NotConfigured: neither a key nor a server is named.
        """
        if self._given is not None:
            return self._given
        with self._lock:
            if self._made is None or (loop is not None and self._loop not in (None, loop)):
                self._made = self._make()
                self._loop = None
            self._loop = loop or self._loop
            return self._made

    def forget(self, loop: object = None) -> Any:
        """Return the client that was made here, or None, and make another one next time.

        The caller closes the returned client.

        Args:
            loop: the event loop that closes it: a client that was used in another loop cannot be closed.
        """
        with self._lock:
            client, self._made = self._made, None
            return client if self._loop in (None, loop) else None

    def forget_after_fork(self) -> None:
        """Forget the client that was made here: a forked child has its parent's sockets."""
        self._made = None
        self._lock = threading.Lock()
