"""What a run measures, and its form in JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self


@dataclass(slots=True)
class Times:
    """Medians, in seconds."""

    wall: float
    cpu: float
    """CPU time of the store's process: without a server's."""

    @classmethod
    def from_samples(cls, samples: list[dict[str, Any]]) -> Self:
        return cls(median(one["wall"] for one in samples), median(one["cpu"] for one in samples))


@dataclass(slots=True)
class StoreResults:
    """What was measured of one store."""

    name: str
    reads: str
    versions: dict[str, str]
    acts: dict[str, dict[int, Times]] = field(default_factory=dict)
    """Times by act ("turn", "read", "load") and length of the conversation."""
    fills: dict[int, Times] = field(default_factory=dict)
    stopped: str = ""
    """Why there are no longer lengths."""
    bytes_per_character: float | None = None
    trials: dict[str, str] = field(default_factory=dict)
    """The outcome of each trial of a guarantee."""


@dataclass(slots=True)
class Results:
    """What a run measured."""

    about: list[str]
    """Lines about the machine and the run."""
    lengths: list[int]
    sections: dict[str, list[StoreResults]]
    """The stores by database, the bare driver first."""
    listings: dict[str, Times] = field(default_factory=dict)
    """Times of the commands that list conversations."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        found = json.loads(path.read_text())
        sections = {name: [_read_store(store) for store in stores] for name, stores in found["sections"].items()}
        listings = {command: Times(**times) for command, times in found.get("listings", {}).items()}
        return cls(found["about"], found["lengths"], sections, listings)


def _read_store(found: dict[str, Any]) -> StoreResults:
    acts = {act: _read_times(lengths) for act, lengths in found.pop("acts").items()}
    return StoreResults(**{**found, "acts": acts, "fills": _read_times(found["fills"])})


def _read_times(found: dict[str, Any]) -> dict[int, Times]:
    return {int(length): Times(**times) for length, times in found.items()}
