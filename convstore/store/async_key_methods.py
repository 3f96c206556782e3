"""The methods of an async store about keys: those of `KeyMethods`, run elsewhere."""

from __future__ import annotations

import builtins  # `list` is a method
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Concatenate, ParamSpec, TypeVar

from convstore.store.docstrings import documented_as
from convstore.store.key_methods import KeyMethods
from convstore.values.api_key import ApiKey, KeyCheck, NewApiKey

P = ParamSpec("P")
R = TypeVar("R")


class AsyncKeyMethods(ABC):
    """Keys that open an owner's conversations to clients of the service, with `await`."""

    @abstractmethod
    async def _run(
        self, method: Callable[Concatenate[KeyMethods, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...

    @documented_as(KeyMethods.create_key)
    async def create_key(
        self,
        *,
        name: str | None = None,
        rights: Iterable[str] = ("read", "write"),
        acts_for: str | None = None,
        expires_in: timedelta | None = None,
        max_turns: int | None = None,
        max_tokens_a_day: int | None = None,
    ) -> NewApiKey:
        return await self._run(
            KeyMethods.create_key,
            name=name,
            rights=rights,
            acts_for=acts_for,
            expires_in=expires_in,
            max_turns=max_turns,
            max_tokens_a_day=max_tokens_a_day,
        )

    @documented_as(KeyMethods.list_keys)
    async def list_keys(self, *, all_owners: bool = False) -> builtins.list[ApiKey]:
        return await self._run(KeyMethods.list_keys, all_owners=all_owners)

    @documented_as(KeyMethods.revoke_key)
    async def revoke_key(self, key_id: str) -> ApiKey:
        return await self._run(KeyMethods.revoke_key, key_id)

    @documented_as(KeyMethods.check_key)
    async def check_key(self, secret: str) -> KeyCheck:
        return await self._run(KeyMethods.check_key, secret)

    @documented_as(KeyMethods.note_key_use)
    async def note_key_use(self, key_id: str) -> None:
        await self._run(KeyMethods.note_key_use, key_id)
