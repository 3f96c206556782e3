"""The soak of one database: workers and chaos for some time, then calm, then the last check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from tests.processes import Zygote
from tests.soak.chaos import Chaos
from tests.soak.checker import Checker, list_places
from tests.soak.databases import Database, open_database, open_snapshots, write_rows
from tests.soak.model_server import serve_model
from tests.soak.plan import Plan
from tests.soak.report import Figures
from tests.soak.workers import settle_all

CHECK_SECONDS, TELL_SECONDS = 20.0, 30.0
_TICK = 0.05


def soak(plan: Plan, zygote: Zygote, tell: Callable[[str], object]) -> Figures:
    """Run the soak of one database, and return what happened.

    Args:
        tell: called with a line of progress every half minute.
    """
    plan.journals.mkdir(parents=True)
    with open_database(plan) as database, _running_model(plan, zygote) as base_url:
        checker = Checker(plan, database.url)
        chaos = Chaos(plan, zygote, database, base_url)
        chaos.start()
        _let_it_happen(plan, chaos, checker, tell)
        chaos.end()
        told = _settle_all(plan, zygote, database, base_url)
        checker.check(at_end=True)
        figures = _collect(plan, chaos, checker)
        figures.violations += told
        _keep_evidence(plan, database, figures)
    return figures


def _let_it_happen(plan: Plan, chaos: Chaos, checker: Checker, tell: Callable[[str], object]) -> None:
    """Let the workers and the chaos run, and check meanwhile."""
    ends_at = plan.began + plan.seconds
    check_at = plan.began + min(CHECK_SECONDS, plan.seconds / 2)
    tell_at = plan.began + TELL_SECONDS
    while (now := time.monotonic()) < ends_at:
        chaos.act()
        if now >= check_at:
            chaos.continue_all()
            checker.check(at_end=False)
            # A check must not take most of the time: nothing is killed during one.
            check_at = time.monotonic() + max(CHECK_SECONDS, 4 * checker.seconds / checker.checks)
        if now >= tell_at:
            tell(_collect(plan, chaos, checker).format_line())
            tell_at += TELL_SECONDS
        time.sleep(_TICK)


@contextmanager
def _running_model(plan: Plan, zygote: Zygote) -> Iterator[str]:
    """Yield the URL of the model server, which runs in a process of its own."""
    child = zygote.start(serve_model, plan=plan.to_json())
    try:
        yield child.receive("url")
    finally:
        with suppress(OSError):  # it has ended already
            child.send("end")
        status = child.wait()
    if status != 0:
        raise RuntimeError(f"the model server ended with status {status}: what it reported is lost")


def _settle_all(plan: Plan, zygote: Zygote, database: Database, base_url: str) -> list[str]:
    """Use every conversation once more in a new process, and return what should not have been told.

    Turns of killed workers are taken over by that.
    """
    places = list_places(database.url)
    child = zygote.start(
        settle_all,
        host=plan.find_host(0),
        plan=plan.to_json(),
        url=database.url,
        base_url=base_url,
        places=[(owner, id, is_deleted) for (owner, id), is_deleted in places.items()],
    )
    try:
        told = [child.receive("told") for _ in places]
    except AssertionError as error:  # it reported an exception
        return [f"after the chaos: {error}"]
    child.wait()
    return [f"after the chaos: {error}" for errors in told for error in errors]


def _collect(plan: Plan, chaos: Chaos, checker: Checker) -> Figures:
    checker.reader.read_told()
    evidence = checker.reader.evidence
    return Figures(
        database=plan.database,
        seconds=time.monotonic() - plan.began,
        operations=len(evidence.calls),
        outcomes=evidence.count_outcomes(),
        requests=len(evidence.requests),
        troubled=sum(not request.is_whole for request in evidence.requests.values()),
        repeated=evidence.count_repeated(),
        events=chaos.counts,
        takeovers=checker.takeovers,
        messages=checker.messages,
        checks=checker.checks,
        violations=[*chaos.troubles, *checker.violations],
    )


def _keep_evidence(plan: Plan, database: Database, figures: Figures) -> None:
    """After violations, write them and the rows of a server's database into the folder, which is kept then."""
    if not figures.violations:
        return
    Path(plan.folder, "violations").write_text("\n".join(figures.violations) + "\n")
    if database.server is not None:
        with suppress(SQLAlchemyError), open_snapshots(database.url) as engine:
            write_rows(engine, Path(plan.folder, "rows.jsonl"))
