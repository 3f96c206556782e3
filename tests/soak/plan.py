"""Define what a soak does: its length, its seed, and who uses which conversations."""

from __future__ import annotations

import random
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DATABASES = ("sqlite", "postgresql")
OWNERS = ("", "owner-2")
CONVERSATIONS = 2
"""Conversations of each owner in use at a time."""
ROUND_SECONDS = 30.0
"""After so long the workers use new conversations, so that none grows until its checks and requests are slow."""
KEY_SECONDS = 3.0
"""For so long all callers of a conversation have the same idempotency keys."""
SYSTEM = "Answer briefly."
HOSTS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What a soak of one database does. Everything random follows from `seed`."""

    database: str
    seed: int
    seconds: float
    folder: str
    """The folder of journals, lock files and, with SQLite, the database."""
    workers: int = 4
    lease: float = 1.5
    """Seconds after which a silent caller of another host counts as dead."""
    began: float = 0.0
    """The time of the begin, by `time.monotonic()`, which all processes of a host share."""

    def make_random(self, *names: object) -> random.Random:
        """Return the random choices of one actor, which are the same in each run with this seed."""
        return random.Random(":".join(map(str, (self.seed, self.database, *names))))

    def find_round(self) -> int:
        return int((time.monotonic() - self.began) // ROUND_SECONDS)

    def find_key_slot(self) -> int:
        return int((time.monotonic() - self.began) // KEY_SECONDS)

    @property
    def url_of_file(self) -> str:
        return f"sqlite:///{Path(self.folder, 'soak.db')}"

    @property
    def journals(self) -> Path:
        return Path(self.folder, "journals")

    def find_host(self, slot: int) -> Path:
        """Return the folder of the lock files of a worker's host. There are two hosts: each cannot see the other."""
        return Path(self.folder, f"host-{slot % HOSTS}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def name_worker(number: int, slot: int) -> str:
    """Return the name of a worker; it tells the worker's host, and so do the names of its lanes and calls."""
    return f"w{number}h{slot % HOSTS}"


def find_host_name(name: str) -> str:
    """Return the host of a worker, a lane or a call by its name; `""`: it has none."""
    found = re.match(r"w\d+(h\d)", name)
    return found[1] if found else ""
