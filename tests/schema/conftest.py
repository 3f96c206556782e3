"""Fixtures: databases of earlier releases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from convstore.db import schema_upgrade
from convstore.leases import lease_watch
from tests.cli.conftest import bare
from tests.schema.old.kept import OLDER, Old, restored

__all__ = ["bare"]


@pytest.fixture(params=["db", "sql"])
def restore(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Old]:
    """Return a function that restores a database of a release: a SQLite file, or a PostgreSQL database.

    The leases in it count as expired for longer than clocks may differ. They do so from a day after the file was made;
    on that day, each would be watched for 15 seconds. `test_differing_clocks.py` tests those watches.
    """
    monkeypatch.setattr(lease_watch, "MAX_CLOCK_DIFFERENCE", timedelta(0))
    url: str = request.getfixturevalue("sqlite_url" if request.param == "db" else "postgres_empty_url")
    return lambda revision: restored(revision, request.param, url)


@pytest.fixture(params=OLDER)
def old(request: pytest.FixtureRequest, restore: Callable[[str], Old]) -> Old:
    """Return the database of each earlier release, on each backend in turn."""
    return restore(request.param)


@pytest.fixture
def tenants_url(postgres_empty_url: str) -> str:
    """Return a database with convstore's tables in the schemas `t1` and `t2` and in `public`."""
    for schema in ("t1", "t2", "public"):
        schema_upgrade.upgrade(postgres_empty_url, schema)
    return postgres_empty_url
