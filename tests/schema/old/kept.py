"""Restore the files of this folder as databases, with what the old releases read from them."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convstore import Store
from convstore.db import schema_upgrade
from tests.schema.support import opened

FOLDER = Path(__file__).parent
OLDER = [f"{number:04}" for number in range(1, int(schema_upgrade.HEAD))]

UNEXPLAINED = {("0001", "late")}
"""Conversations with a turn that lacks its error: 0001 forgot it if a reply came too late."""


@dataclass(frozen=True)
class Old:
    """A database of an earlier release."""

    revision: str
    url: str
    read: dict[str, list[dict[str, Any]]]
    """What that release read from it: the conversations of each owner."""

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def upgrade(self) -> None:
        """Upgrade as people do: a SQLite file is only used."""
        if self.is_sqlite:
            with Store(self.url) as store:
                store.list()
        else:
            schema_upgrade.upgrade(self.url)

    def conversations(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Yield each conversation: owner, id, and what the release read."""
        return [(owner, it["conversation"]["id"], it) for owner, found in self.read.items() for it in found]


def unpacked(name: str) -> bytes:
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def restored(revision: str, kind: str, url: str) -> Old:
    """Restore a release's database into an empty place: a SQLite file ("db") or a PostgreSQL database ("sql")."""
    name = f"{revision}.{kind}"
    if kind == "db":
        Path(url.removeprefix("sqlite:///")).write_bytes(unpacked(name))
    else:
        with opened(url) as database, database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.autocommit = True
            driver.execute(unpacked(name))
    return Old(revision, url, json.loads(unpacked(f"{name}.json")))
