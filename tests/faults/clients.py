"""Make stores for the tests of faults quickly: they share one HTTP client, because making one takes long."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache
from typing import Any

import openai

from convstore import Store, TurnFailed

_making = threading.Lock()


def _http_client() -> openai.DefaultHttpxClient:
    with _making:  # else several threads would make one each, and all but one would never be closed
        return _one_http_client()


@cache
def _one_http_client() -> openai.DefaultHttpxClient:
    return openai.DefaultHttpxClient(trust_env=False)


def prepare() -> None:
    """Do once what takes long."""
    _http_client()
    with open_store("sqlite://", "http://127.0.0.1:1/v1", retries=0) as store:  # no server listens here
        id = store.new(messages=[{"role": "system", "content": "Hi"}]).id
        for key in (None, "k"):
            with suppress(TurnFailed):
                store.say(id, "Hi", idempotency_key=key)
        store.append(id, "Hi", idempotency_key="l")
        store.history(id)


def open_store(url: str, base_url: str, *, mark: str = "", **options: Any) -> Store:
    """Return a store that calls the scripted server; its requests have `mark` as a header."""
    client = openai.OpenAI(
        api_key="test", base_url=base_url, http_client=_http_client(), default_headers={"X-Mark": mark}
    )
    return Store(url, client=client, model="test-model", **options)
