"""The methods of a store about the keys of the service (`convstore serve`)."""

from __future__ import annotations

import builtins  # `list` is a method
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from convstore.conversations import api_keys
from convstore.errors import InvalidInput, KeyNotFound
from convstore.store.drawer_methods import DrawerMethods
from convstore.values.api_key import ApiKey, KeyCheck, NewApiKey, Right
from convstore.values.identifiers import make_conversation_id
from convstore.values.validation import check_owner, is_key

_SECRET_PREFIX = "cs_"  # noqa: S105 (it lets people and scanners recognise a secret)
_SECRET_BYTES = 32
_LONGEST = timedelta(days=36_500)
_MOST = 10**15


class KeyMethods(DrawerMethods):
    """Keys that open an owner's conversations to clients of the service."""

    def create_key(
        self,
        *,
        name: str | None = None,
        rights: Iterable[str] = ("read", "write"),
        acts_for: str | None = None,
        expires_in: timedelta | None = None,
        max_turns: int | None = None,
        max_tokens_a_day: int | None = None,
    ) -> NewApiKey:
        """Make a key for this owner's conversations, and return it with its secret.

        The secret is not stored and cannot be shown again. With the first key, the service stops serving callers
        without one.

        Args:
            name: a label for people.
            rights: of `read`, `write`, `act-for` and `admin`.
            acts_for: the beginning of the owners that the key may act for, for the right `act-for`; "": all owners.
            expires_in: how long the key is valid; None: until it is revoked.
            max_turns: how many turns of an owner that the key works for may run at one time, through the service; 0:
                any number; None: as the service says.
            max_tokens_a_day: how many tokens such an owner may use on a day in UTC; 0 and None mean the same.

        Raises:
            InvalidInput: a value is not valid, or one of `act-for` and `acts_for` is given without the other.
        """
        granted = _check_rights(rights)
        if (Right.ACT_FOR in granted) != (acts_for is not None):
            raise InvalidInput("the right 'act-for' needs the beginning of the owners, and only that right has one")
        if name is not None and not is_key(name):
            raise InvalidInput(f"the name of a key is 1 to 255 bytes of printable text, not {name!r:.80}")
        if expires_in is not None and not timedelta() < expires_in <= _LONGEST:
            raise InvalidInput("a key is valid for some time, and for 36,500 days at most")
        for limit in (max_turns, max_tokens_a_day):
            if limit is not None and not (type(limit) is int and 0 <= limit <= _MOST):
                raise InvalidInput(f"a limit of a key is a whole number from 0 to {_MOST:,}, not {limit!r:.80}")
        now = datetime.now(UTC)
        key = ApiKey(
            id=make_conversation_id(),
            owner=self._owner,
            name=name,
            rights=granted,
            acts_for=check_owner(acts_for) if acts_for is not None else None,
            created_at=now,
            expires_at=now + expires_in if expires_in is not None else None,
            revoked_at=None,
            last_used_at=None,
            max_turns=max_turns,
            max_tokens_a_day=max_tokens_a_day,
        )
        secret = _SECRET_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        return NewApiKey(self._transactions.write_repeatable(api_keys.create_key, key, secret), secret)

    def list_keys(self, *, all_owners: bool = False) -> builtins.list[ApiKey]:
        """Return the keys of the owner, oldest first, revoked and expired ones too.

        Args:
            all_owners: return the keys of all owners: only for a store without an owner.

        Raises:
            InvalidInput: a store with an owner asks for other owners' keys.
        """
        if all_owners and self._owner:
            raise InvalidInput(f"owner {self._owner!r} may not see other owners; only a store without an owner may")
        return self._transactions.read(api_keys.list_keys, None if all_owners else self._owner)

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key, and return it. A store without an owner may end the keys of all owners.

        Raises:
            KeyNotFound: there is no such key.
        """
        if not isinstance(key_id, str) or not is_key(key_id):
            raise KeyNotFound(f"no key {key_id!r:.80}")
        return self._transactions.write_repeatable(api_keys.revoke_key, key_id, self._owner or None)

    def check_key(self, secret: str) -> KeyCheck:
        """Return the active key with this secret, of any owner, and whether there are keys at all.

        It is for services that check what a client sends; `convstore serve` does.
        """
        return self._transactions.read(api_keys.check_secret, api_keys.digest_secret(secret))

    def note_key_use(self, key_id: str) -> None:
        """Note that a key is used now. Within a minute of the last note, nothing is written."""
        self._transactions.write_repeatable(api_keys.note_use, key_id)


def _check_rights(rights: Iterable[str]) -> frozenset[Right]:
    try:
        granted = frozenset(Right(right) for right in rights)
    except ValueError:
        raise InvalidInput(f"rights are {', '.join(Right)}; not {rights!r:.80}") from None
    if not granted:
        raise InvalidInput(f"name at least one right of {', '.join(Right)}")
    return granted
