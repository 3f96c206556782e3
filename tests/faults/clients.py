"""Stores for the tests of faults, made quickly: a new client reads the system's certificates, which costs more."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cache
from typing import Any

import openai

from convstore import Store, TurnFailed

_making = threading.Lock()


def _http_client() -> openai.DefaultHttpxClient:
    with _making:  # or threads that are the first would make several, and all but one be lost without being closed
        return _one_http_client()


@cache
def _one_http_client() -> openai.DefaultHttpxClient:
    return openai.DefaultHttpxClient(trust_env=False)


def prepare() -> None:
    """Do what takes long."""
    _http_client()
    with open_store("sqlite://", "http://127.0.0.1:1/v1", retries=0) as store:  # where nobody answers
        id = store.new(messages=[{"role": "system", "content": "Hi"}]).id
        for key in (None, "k"):
            with suppress(TurnFailed):
                store.say(id, "Hi", idempotency_key=key)
        store.append(id, "Hi", idempotency_key="l")
        store.history(id)


def open_store(url: str, base_url: str, *, mark: str = "", **options: Any) -> Store:
    """A store on a database that speaks to the scripted server; its requests carry `mark` as a header."""
    client = openai.OpenAI(
        api_key="test", base_url=base_url, http_client=_http_client(), default_headers={"X-Mark": mark}
    )
    return Store(url, client=client, model="test-model", **options)
