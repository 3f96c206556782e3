"""What a soak prints: a line now and then, and a table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

MOST_PRINTED = 20
"""Violations that are printed of each database; all of them are in the file `violations` of the kept folder."""


@dataclass(slots=True)
class Figures:
    """What happened on one database."""

    database: str
    seconds: float
    operations: int
    outcomes: Counter[str]
    """Operations by how they ended: `ok`, or the error."""
    requests: int
    troubled: int
    """Requests that were not answered by a complete reply."""
    repeated: int
    """Calls that got what another call with the same idempotency key had stored."""
    events: Counter[str]
    takeovers: int
    messages: int
    checks: int
    violations: list[str]

    def format_line(self) -> str:
        """Return a line of progress."""
        events = self.events
        return (
            f"{self.database:<10} {self.seconds:4.0f} s  {self.operations:,} operations, {events['kill']} kills, "
            f"{events['stop']} stops, {events['restart a worker']} worker restarts, "
            f"{events['restart the server']} server restarts, {self.takeovers} takeovers, "
            f"{len(self.violations)} violations"
        )


def format_table(all_figures: Iterable[Figures]) -> str:
    """Return the table of the end, with a column for each database."""
    columns = list(all_figures)
    errors = sorted({name for figures in columns for name in figures.outcomes} - {"ok"})
    rows = [
        ("", [figures.database for figures in columns]),
        ("seconds", [f"{figures.seconds:.0f}" for figures in columns]),
        ("operations", [f"{figures.operations:,}" for figures in columns]),
        ("  done", [f"{figures.outcomes['ok']:,}" for figures in columns]),
        *((f"  {name}", [f"{figures.outcomes[name]:,}" for figures in columns]) for name in errors),
        ("  cut off by a kill", [f"{f.operations - f.outcomes.total():,}" for f in columns]),
        ("requests to the model", [f"{figures.requests:,}" for figures in columns]),
        ("  with trouble", [f"{figures.troubled:,}" for figures in columns]),
        ("answered by a used key", [f"{figures.repeated:,}" for figures in columns]),
        ("messages stored", [f"{figures.messages:,}" for figures in columns]),
        ("kills", [f"{figures.events['kill']:,}" for figures in columns]),
        ("stops", [f"{figures.events['stop']:,}" for figures in columns]),
        ("worker restarts", [f"{figures.events['restart a worker']:,}" for figures in columns]),
        ("server restarts", [f"{figures.events['restart the server']:,}" for figures in columns]),
        ("takeovers", [f"{figures.takeovers:,}" for figures in columns]),
        ("checks", [f"{figures.checks:,}" for figures in columns]),
        ("violations", [f"{len(figures.violations):,}" for figures in columns]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}" + "".join(f"{value:>12}" for value in values) for name, values in rows)
