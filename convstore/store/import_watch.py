"""Keep bringing in what is new of a file or a folder, until the caller stops."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convstore.errors import DatabaseUnavailable, InvalidInput
from convstore.store.conversation_methods import ConversationMethods
from convstore.transfer.changed_files import ChangedFiles
from convstore.transfer.recognition import recognise_kind
from convstore.transfer.source_lines import INCOMPLETE_LINE
from convstore.values.import_report import ImportProblem, ImportReport

_MOST_REMEMBERED_PROBLEMS = 10_000


@dataclass(frozen=True, slots=True)
class WatchPass:
    """What one look at the files brought in."""

    report: ImportReport
    """What was done; its problems are those that were not reported before."""
    outage: str | None
    """Why the database cannot be used since this pass; None: it can, or was reported."""


def watch_source(
    store: ConversationMethods, source: Path, kind: str | None, every_seconds: float
) -> Iterator[WatchPass]:
    """Look at a file or a folder again and again; yield what each pass brought in, if it is worth telling.

    A database that cannot be used does not end this if it could be used before: the next pass tries again.

    Args:
        kind: the kind of the files; None: it is recognised as soon as there is something to recognise.
        every_seconds: the pause between two passes.

    Raises:
        InvalidInput: the source does not exist at the beginning, or its files are of no kind that can be read.
        DatabaseError: the database cannot be used at the beginning, or not by this release.
    """
    if not source.exists():
        raise InvalidInput(f"{source}: no such file or folder")
    watch = _Watch(store, source, kind)
    while True:
        done = watch.look()
        if done.report.messages or done.report.new or done.report.problems or done.outage:
            yield done
        time.sleep(every_seconds)


class _Watch:
    """What is known of the files from one pass to the next."""

    def __init__(self, store: ConversationMethods, source: Path, kind: str | None) -> None:
        self._store = store
        self._source = source
        self._kind = kind
        self._files: ChangedFiles | None = None
        self._reported: dict[ImportProblem, None] = {}
        self._has_worked = False
        self._is_out = False

    def look(self) -> WatchPass:
        """Bring in what has changed."""
        files = self._find_files()
        reports: list[ImportReport] = []
        outage = None
        for file in files.find() if files is not None else ():
            try:
                reports.append(self._store.import_(file.path, kind=self._kind))
            except DatabaseUnavailable as error:
                if not self._has_worked:
                    raise
                outage = str(error)
                break  # the next pass finds the same files
            except InvalidInput:
                if file.path.exists():
                    raise
                continue  # it was deleted since
            if files is not None:
                files.mark_done(file)
            self._has_worked = True
        news = None if self._is_out else outage
        if reports or outage is not None:  # else it is not known
            self._is_out = outage is not None
        return WatchPass(self._add_up(reports), news)

    def _find_files(self) -> ChangedFiles | None:
        """Return the files; None: nothing is there yet that says which kind they are."""
        if self._files is None:
            if self._kind is None:
                try:
                    self._kind = recognise_kind(self._source)
                except InvalidInput:
                    if not self._source.is_dir() or any(self._source.iterdir()):
                        raise
                    return None
            self._files = ChangedFiles(self._source, self._kind)
        return self._files

    def _add_up(self, reports: list[ImportReport]) -> ImportReport:
        counts = Counter[str]()
        for report in reports:
            for name in ("new", "changed", "unchanged", "deleted", "messages", "not_indexed", "erased"):
                counts[name] += getattr(report, name)
        problems = [problem for report in reports for problem in report.problems if self._is_news(problem)]
        return ImportReport(
            kind=self._kind or "",
            new=counts["new"],
            changed=counts["changed"],
            unchanged=counts["unchanged"],
            deleted=counts["deleted"],
            messages=counts["messages"],
            problems=problems,
            not_indexed=counts["not_indexed"],
            erased=counts["erased"],
        )

    def _is_news(self, problem: ImportProblem) -> bool:
        """Return True for a problem that was not reported before, except that a program is writing a line."""
        if problem in self._reported or problem.reason == INCOMPLETE_LINE:
            return False
        self._reported[problem] = None
        if len(self._reported) > _MOST_REMEMBERED_PROBLEMS:
            del self._reported[next(iter(self._reported))]
        return True
