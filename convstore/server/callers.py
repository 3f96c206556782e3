"""Who sends a request: the key of its Authorization header, and the owner that it works for."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from starlette.datastructures import Headers
from starlette.types import Scope

from convstore.errors import ConvstoreError
from convstore.server.request_checks import check_not_forwarded
from convstore.server.request_rates import RequestRates
from convstore.server.service_errors import ServiceError
from convstore.server.service_settings import is_loopback_address
from convstore.store.async_store import AsyncStore
from convstore.values.api_key import ApiKey, Right, TurnAllowance
from convstore.values.validation import is_key

_logger = logging.getLogger(__name__)

OWNER_HEADERS = ("x-convstore-owner", "x-openwebui-user-id", "x-user-id")
"""Headers that name the owner to act for, for keys with the right `act-for`."""
_USE_IS_NOTED_AFTER = timedelta(minutes=1)
_BEGIN_SECONDS = 5.0
_WITHOUT_KEY = frozenset({Right.READ, Right.WRITE, Right.ADMIN})
"""Rights of whoever is on this machine, while no key was made: such a service is run for one person."""
_AUTHENTICATE = {"www-authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    owner: str
    """The owner that it works for."""
    rights: frozenset[Right]
    key_id: str
    """'': no key, on a machine where none was made."""
    allowance: TurnAllowance = field(default_factory=TurnAllowance)
    """What its key says about how much it may ask of models."""

    def check_right(self, right: Right) -> None:
        """Check that the caller has a right.

        Raises:
            ServiceError: 403.
        """
        if right not in self.rights:
            raise ServiceError(403, f"this key has no right {right.value!r}", "insufficient_permissions")


@dataclass
class Callers:
    """Finds out who sends a request."""

    store: AsyncStore
    rates: RequestRates
    _has_keys: bool = False
    """Whether a key was ever seen: then this process serves nobody without one, even if all were removed since."""
    _noting: set[asyncio.Task[None]] = field(default_factory=set)
    _noted_ids: set[str] = field(default_factory=set)

    async def begin(self) -> None:
        """Learn whether there are keys, so that they count from the start, also if all are removed before a request."""
        try:
            async with asyncio.timeout(_BEGIN_SECONDS):
                self._has_keys = (await self.store.check_key("")).has_keys
        except (ConvstoreError, TimeoutError) as error:  # the first request asks again
            _logger.warning("whether there are keys is not known yet (%s)", type(error).__name__)

    async def identify(self, scope: Scope, headers: Headers) -> Caller:
        """Return who sends a request.

        Raises:
            ServiceError: 401: no key or a wrong one; 403: not from this machine, or another owner out of reach; 429.
        """
        address = (scope.get("client") or ("",))[0]
        secret = _read_secret(headers)
        if secret is None and self._has_keys:
            raise ServiceError(
                401, "this service needs a key: Authorization: Bearer …", "missing_key", headers=_AUTHENTICATE
            )
        check = await self.store.check_key(secret or "")
        self._has_keys = self._has_keys or check.has_keys
        if check.key is not None:
            self.rates.count_request(check.key.id)
            self._note_use(check.key)
            return _choose_owner(check.key, headers)
        if self._has_keys:
            self.rates.count_failure(address)
            raise ServiceError(401, "this key is not valid", "invalid_api_key", headers=_AUTHENTICATE)
        if not is_loopback_address(address):
            raise ServiceError(
                401, "this service needs a key: Authorization: Bearer …", "missing_key", headers=_AUTHENTICATE
            )
        check_not_forwarded(headers)
        if any(name in headers for name in OWNER_HEADERS):
            raise ServiceError(
                403, "acting for an owner needs a key with the right 'act-for'", "insufficient_permissions"
            )
        self.rates.count_request("")
        return Caller("", _WITHOUT_KEY, "")

    def _note_use(self, key: ApiKey) -> None:
        """Note that a key is used, if that was not done for a minute; the request does not wait for it."""
        is_noted = key.last_used_at is not None and datetime.now(UTC) - key.last_used_at < _USE_IS_NOTED_AFTER
        if is_noted or key.id in self._noted_ids:
            return
        self._noted_ids.add(key.id)
        task = asyncio.create_task(self._write_use(key.id))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _write_use(self, key_id: str) -> None:
        try:
            await self.store.note_key_use(key_id)
        except ConvstoreError as error:  # the database is busy, or may only be read
            _logger.info("key %s: its use was not noted (%s)", key_id, type(error).__name__)
        finally:
            self._noted_ids.discard(key_id)

    async def finish(self) -> None:
        """Wait until all uses of keys are noted."""
        await asyncio.gather(*self._noting)


def _read_secret(headers: Headers) -> str | None:
    """Return what stands after `Bearer`; None: there is no such header."""
    found = headers.getlist("authorization")
    if len(found) != 1:
        return None if not found else ""
    scheme, _, secret = found[0].partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _choose_owner(key: ApiKey, headers: Headers) -> Caller:
    named = {value for name in OWNER_HEADERS for value in headers.getlist(name)}
    if not named:
        return _make_caller(key, key.owner)
    if len(named) > 1:
        raise ServiceError(400, "the request names several owners", "invalid_owner")
    owner = _decode_owner(named.pop())
    if Right.ACT_FOR not in key.rights or not key.reaches(owner):
        raise ServiceError(403, "this key may not act for that owner", "insufficient_permissions")
    return _make_caller(key, owner)


def _make_caller(key: ApiKey, owner: str) -> Caller:
    return Caller(owner, key.rights, key.id, TurnAllowance(key.max_turns, key.max_tokens_a_day))


def _decode_owner(value: str) -> str:
    """Return the owner that a header names; its bytes are UTF-8, which Starlette reads as Latin-1.

    Raises:
        ServiceError: 400.
    """
    try:
        owner = value.encode("latin-1").decode()
    except UnicodeError:
        owner = ""
    if not is_key(owner):
        raise ServiceError(400, "an owner is 1 to 255 bytes of printable text", "invalid_owner")
    return owner
