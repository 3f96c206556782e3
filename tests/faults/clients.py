"""Make stores for the tests of faults quickly: they share one HTTP client, because making one takes long."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache
from typing import Any

import openai

from convstore import Store, TurnFailed
from convstore.testing import ChatServer, Failure

_making = threading.Lock()


def _http_client() -> openai.DefaultHttpxClient:
    with _making:  # else several threads would make one each, and all but one would never be closed
        return _one_http_client()


@cache
def _one_http_client() -> openai.DefaultHttpxClient:
    return openai.DefaultHttpxClient(trust_env=False)


def prepare() -> None:
    """Do once what takes long: the first reply and the first stream of a process also build openai's types."""
    _http_client()
    with (
        ChatServer() as server,
        openai.DefaultHttpxClient(trust_env=False) as http,  # no child may share a connection with another
        open_store("sqlite://", server.url, http=http) as store,
    ):
        id = store.new(messages=[{"role": "system", "content": "Hi"}]).id
        for key in (None, "k"):
            store.say(id, "Hi", idempotency_key=key)
        with store.stream(id, "Hi") as reply:
            list(reply)
        store.append(id, "Hi", idempotency_key="l")
        store.history(id)
        server.script(Failure(400))
        with suppress(TurnFailed):
            store.say(id, "Hi")


def open_store(url: str, base_url: str, *, mark: str = "", http: Any = None, **options: Any) -> Store:
    """Return a store that calls the scripted server; its requests have `mark` as a header."""
    client = openai.OpenAI(
        api_key="test", base_url=base_url, http_client=http or _http_client(), default_headers={"X-Mark": mark}
    )
    return Store(url, client=client, model="test-model", **options)
