"""Test keys of the service: only digests are stored, and a key opens what its rights say."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from convstore import InvalidInput, KeyNotFound, Right, Store
from tests.contract.conftest import Backend
from tests.contract.invariants import engine_of


def test_a_key_has_32_random_bytes_and_only_its_digest_is_stored(store: Store, backend: Backend) -> None:
    made = store.create_key(name="laptop")
    assert made.secret.startswith("cs_")
    assert len(base64.urlsafe_b64decode(made.secret.removeprefix("cs_") + "=")) == 32
    assert made.secret not in repr(made)
    assert store.create_key().secret != made.secret
    with engine_of(store).connect() as connection:
        rows = [tuple(row) for row in connection.execute(text("SELECT * FROM convstore_api_keys"))]
    assert len(rows) == 2
    assert made.secret not in str(rows)
    assert made.secret.encode() not in b"".join(bytes(row[0]) for row in rows)


def test_a_secret_finds_its_key_until_it_is_revoked(store: Store) -> None:
    assert store.check_key("cs_none").has_keys is False
    owner = store.for_owner("ada")
    made = owner.create_key(rights=["read"])
    check = store.check_key(made.secret)
    assert (check.key, check.has_keys) == (made.key, True)
    assert (made.key.owner, made.key.rights) == ("ada", frozenset({Right.READ}))
    assert store.check_key(made.secret + "x").key is None
    revoked = owner.revoke_key(made.key.id)
    assert revoked.revoked_at is not None
    assert owner.revoke_key(made.key.id) == revoked
    check = store.check_key(made.secret)
    assert (check.key, check.has_keys) == (None, True)


def test_a_key_may_expire(store: Store) -> None:
    lasting, ended = store.create_key(expires_in=timedelta(days=90)), store.create_key(expires_in=timedelta(0, 0, 1))
    assert lasting.key.expires_at == lasting.key.created_at + timedelta(days=90)
    assert store.check_key(lasting.secret).key == lasting.key
    assert store.check_key(ended.secret).key is None


def test_an_owner_sees_and_revokes_its_own_keys(store: Store) -> None:
    ada, bob = store.for_owner("ada"), store.for_owner("bob")
    mine, other = ada.create_key(name="用户 7").key, bob.create_key().key
    assert (ada.list_keys(), bob.list_keys(), store.list_keys()) == ([mine], [other], [])
    assert store.list_keys(all_owners=True) == [mine, other]
    with pytest.raises(InvalidInput, match="other owners"):
        ada.list_keys(all_owners=True)
    for id in (other.id, "nothing", "", "\0"):
        with pytest.raises(KeyNotFound):
            ada.revoke_key(id)
    assert bob.list_keys() == [other]
    assert store.revoke_key(other.id).revoked_at is not None


def test_the_last_use_is_noted_once_a_minute(store: Store, backend: Backend) -> None:
    made = store.create_key()
    store.note_key_use(made.key.id)
    (noted,) = store.list_keys()
    assert noted.last_used_at is not None
    store.note_key_use(made.key.id)
    assert store.list_keys() == [noted]
    with engine_of(store).begin() as connection:
        earlier = noted.last_used_at - timedelta(seconds=61)
        moment = f"'{earlier.isoformat(' ')[:26]}'" if not backend.is_postgres else f"'{earlier.isoformat()}'"
        connection.execute(text(f"UPDATE convstore_api_keys SET last_used_at = {moment}"))
    store.note_key_use(made.key.id)
    (again,) = store.list_keys()
    assert again.last_used_at is not None
    assert again.last_used_at >= noted.last_used_at


@pytest.mark.parametrize(
    ("rights", "acts_for", "owner", "reached"),
    [
        (["read"], None, "team-1", False),
        (["read", "act-for"], "team-", "team-1", True),
        (["read", "act-for"], "team-", "team", False),
        (["read", "act-for"], "team-", "Team-1", False),
        (["read", "act-for"], "", "anybody", True),
        (["read"], None, "ada", True),
    ],
)
def test_a_key_reaches_owners_that_begin_with_its_prefix(
    store: Store, rights: list[str], acts_for: str | None, owner: str, reached: bool
) -> None:
    made = store.for_owner("ada").create_key(rights=rights, acts_for=acts_for)
    found = store.check_key(made.secret).key
    assert found is not None
    assert found.reaches(owner) is reached


def test_what_a_key_cannot_be_is_refused(store: Store) -> None:
    cases: tuple[dict[str, Any], ...] = (
        {"rights": []},
        {"rights": ["root"]},
        {"rights": ["act-for"]},
        {"acts_for": "x"},
        {"name": ""},
        {"name": "a\nb"},
        {"expires_in": timedelta()},
        {"expires_in": timedelta(days=40_000)},
    )
    for wrong in cases:
        with pytest.raises(InvalidInput):
            store.create_key(**wrong)
    assert store.list_keys() == []


def test_the_keys_of_an_owner_end_with_the_owner(store: Store) -> None:
    ada, bob = store.for_owner("ada"), store.for_owner("bob")
    mine, other = ada.create_key(), bob.create_key()
    ada.purge_owner(finish=False)
    assert store.check_key(mine.secret).key is None
    assert store.check_key(other.secret).key == other.key
    assert store.list_keys(all_owners=True) == [other.key]


def test_purging_the_owner_of_the_only_key_does_not_open_the_service(store: Store) -> None:
    gateway = store.for_owner("gateway")
    secret = gateway.create_key().secret
    for _ in range(2):
        gateway.purge_owner()
        check = store.check_key(secret)
        assert (check.key, check.has_keys) == (None, True)
    assert store.list_keys(all_owners=True) == store.list_keys() == []
    with pytest.raises(KeyNotFound):
        store.revoke_key("purged")
    store.create_key()
    store.purge_owner()
    assert store.check_key(secret).has_keys is True
    store.for_owner("other").purge_owner()
    assert store.list_keys(all_owners=True) == []
