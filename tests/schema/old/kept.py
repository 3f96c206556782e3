"""The files of this folder, put back as databases, and what those that made them read from them."""

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
"""Conversations in which a turn has no error that should have one: 0001 forgot it when a reply came too late."""


@dataclass(frozen=True)
class Old:
    """A database that an earlier release left."""

    revision: str
    url: str
    read: dict[str, list[dict[str, Any]]]
    """What that release read from it: of each owner, each conversation."""

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def upgrade(self) -> None:
        """As people do: a SQLite file is merely used."""
        if self.is_sqlite:
            with Store(self.url) as store:
                store.list()
        else:
            schema_upgrade.upgrade(self.url)

    def conversations(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Each owner, id, and what was read."""
        return [(owner, it["conversation"]["id"], it) for owner, found in self.read.items() for it in found]


def unpacked(name: str) -> bytes:
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def restored(revision: str, kind: str, url: str) -> Old:
    """Put back what a release left, where there is nothing yet: a SQLite file ("db") or a PostgreSQL one ("sql")."""
    name = f"{revision}.{kind}"
    if kind == "db":
        Path(url.removeprefix("sqlite:///")).write_bytes(unpacked(name))
    else:
        with opened(url) as database, database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.autocommit = True
            driver.execute(unpacked(name))
    return Old(revision, url, json.loads(unpacked(f"{name}.json")))
