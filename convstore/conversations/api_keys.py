"""Keys of the service: made, checked, listed, revoked."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

from convstore.db import api_key_rows
from convstore.db.unit_of_work import UnitOfWork
from convstore.errors import KeyNotFound
from convstore.values.api_key import ApiKey, KeyCheck

_USE_IS_NOTED_EVERY = timedelta(minutes=1)


def digest_secret(secret: str) -> bytes:
    """Return what is stored of a secret.

    A plain digest is enough: a secret has 256 random bits, which nobody finds by trying. It is looked up in an index;
    how long that takes tells at most how digests begin, and nobody can choose a secret by the beginning of its digest.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def create_key(work: UnitOfWork, key: ApiKey, secret: str) -> ApiKey:
    """Store a new key; of its secret, only the digest."""
    digest = digest_secret(secret)
    stored = api_key_rows.find_by_digest(work.connection, digest)
    if stored is not None:
        return stored  # the transaction was repeated, and had been committed
    api_key_rows.insert_key(work.connection, key, digest)
    return key


def check_secret(work: UnitOfWork, digest: bytes) -> KeyCheck:
    """Return the active key with this digest, and whether any keys exist."""
    key = api_key_rows.find_by_digest(work.connection, digest)
    if key is None:
        return KeyCheck(None, api_key_rows.has_any(work.connection))
    return KeyCheck(key if key.is_active(work.now) else None, has_keys=True)


def note_use(work: UnitOfWork, id: str) -> None:
    """Note that a key is used now; at most once a minute."""
    api_key_rows.note_use(work.connection, id, work.now - _USE_IS_NOTED_EVERY, work.now)


def list_keys(work: UnitOfWork, owner: str | None) -> list[ApiKey]:
    """Return the keys of an owner, oldest first; None: of all owners."""
    return api_key_rows.list_keys(work.connection, owner)


def revoke_key(work: UnitOfWork, id: str, owner: str | None) -> ApiKey:
    """End a key, and return it; a key that ended before stays as it is.

    Args:
        owner: the owner of the key; None: any.

    Raises:
        KeyNotFound: there is no such key.
    """
    key = api_key_rows.find_by_id(work.connection, id)
    if key is None or (owner is not None and key.owner != owner):
        raise KeyNotFound(f"no key {id!r:.80}")
    if key.revoked_at is not None:
        return key
    api_key_rows.revoke_key(work.connection, id, work.now)
    return replace(key, revoked_at=work.now)
