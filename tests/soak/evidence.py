"""What is known without the database: what callers were told, and what the model server was asked and sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.invariants import CheckedOut
from tests.soak.journal import Entry, JournalReader
from tests.soak.model_server import LOG
from tests.soak.plan import Plan

WHOLE = ("", "slow")
"""The kinds of answer that are a complete reply."""


@dataclass(slots=True)
class Call:
    """A call that a lane made."""

    name: str
    does: str
    owner: str
    conversation: str
    text: str | None
    key: str | None
    began: float
    told: Entry | None = None
    """What the caller was told at the end; None: it has not ended, or its process was killed."""

    @property
    def error(self) -> str | None:
        return self.told.get("error") if self.told is not None else None

    @property
    def where(self) -> str:
        return f"call {self.name} ({self.does}, owner {self.owner!r}, conversation {self.conversation!r})"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the model server got, and its answer."""

    number: int
    call: str
    at: float
    """The time of its arrival, by `time.time()`, as the turns have it."""
    trouble: str
    reply: str | None

    @property
    def is_whole(self) -> bool:
        return self.reply is not None and self.trouble in WHOLE


@dataclass(frozen=True, slots=True)
class Take:
    """A turn that a worker took for dead."""

    conversation: str
    turn: int
    by: str
    """The name of the worker."""


@dataclass(slots=True)
class Evidence:
    """All calls and requests so far."""

    calls: dict[str, Call] = field(default_factory=dict)
    takes: list[Take] = field(default_factory=list)
    requests: dict[int, Asked] = field(default_factory=dict)

    def list_told(self) -> Iterator[tuple[Call, Entry]]:
        """Yield each call that ended, with what its caller was told."""
        for call in self.calls.values():
            if call.told is not None:
                yield call, call.told

    def list_checked_out(self) -> set[CheckedOut]:
        """Return the messages to which calls moved heads, or may have: a process may be killed before it is told."""
        calls = (call for call in self.calls.values() if call.does == "checkout" and call.text is not None)
        return {(call.conversation, int(call.text or 0)) for call in calls}

    def count_outcomes(self) -> Counter[str]:
        """Count the calls by how they ended: `ok`, or the error."""
        return Counter(call.error or "ok" for call, _ in self.list_told())

    def count_repeated(self) -> int:
        """Count the calls that got what another call with the same idempotency key had stored."""
        told = [
            (call.owner, call.conversation, call.key, entry.get("turn"))
            for call, entry in self.list_told()
            if call.key is not None and call.error is None
        ]
        return len(told) - len(set(told))


class EvidenceReader:
    """Reads journals and the server's log while they are written.

    What callers were told is read before the database, which must hold all of it. What was asked is read after the
    database, which can hold nothing else.
    """

    def __init__(self, plan: Plan) -> None:
        self._journals = JournalReader(plan.journals, "*.jsonl")
        self._log = JournalReader(Path(plan.folder), LOG)
        self._told: list[Entry] = []
        self.evidence = Evidence()

    def read_told(self) -> None:
        """Read what callers were told."""
        self._read_calls()
        for entry in self._told:
            self.evidence.calls[entry["call"]].told = entry
        self._told.clear()

    def read_asked(self) -> None:
        """Read which calls have begun, and what the server was asked and sent."""
        self._read_calls()
        for entry in self._log.read_new():
            self.evidence.requests[entry["request"]] = Asked(
                entry["request"], entry["call"], entry["at"], entry["trouble"], entry["reply"]
            )

    def _read_calls(self) -> None:
        for entry in self._journals.read_new():
            if "does" in entry:
                name = entry.pop("call")
                self.evidence.calls[name] = Call(name, **entry)
            elif "took" in entry:
                self.evidence.takes.append(Take(entry["conversation"], entry["took"], entry["by"]))
            else:
                self._told.append(entry)
