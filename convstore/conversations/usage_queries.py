"""Reading what turns used: one owner's, one conversation's, or every owner's."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from convstore.db.head_rows import read_head_seq
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.identifiers import ConversationKey

if TYPE_CHECKING:
    from convstore.db.daily_usage import Span
    from convstore.db.usage_plan import UsagePlan
    from convstore.usage.usage_report import UsageReport


def plan_usage(work: UnitOfWork, owner: str, *, since: datetime | None, until: datetime | None) -> UsagePlan:
    """Return from where a report takes its numbers: which past days have sums, and which should be summed first."""
    from convstore.db import usage_plan

    return usage_plan.plan_usage(work, owner, since, until)


def sum_days(work: UnitOfWork, owner: str, span: Span) -> None:
    """Store the sums of each day of a span, for the reports to come."""
    from convstore.db import daily_usage

    daily_usage.sum_days(work, owner, span)


def read_usage(
    work: UnitOfWork,
    owner: str,
    conversation_id: str | None,
    *,
    since: datetime | None,
    until: datetime | None,
    by: str | None,
    plan: UsagePlan | None = None,
) -> UsageReport:
    """Return what an owner's turns used, or one conversation's.

    Args:
        plan: the result of `plan_usage` for the same time; None: all turns are read.

    Raises:
        ConversationNotFound: the owner has no such conversation.
    """
    from convstore.db.usage_sums import report, report_days

    prices = work.get_prices()
    if plan is not None and plan.days:
        return report_days(work.connection, owner, prices, plan, since=since, until=until, by=by)
    found = report(
        work.connection,
        owner,
        prices,
        conversation_id=conversation_id,
        since=since,
        until=until,
        by=by,
    )
    if conversation_id is not None and not found.total.turns:
        read_head_seq(work.connection, ConversationKey(owner, conversation_id))  # raises if it does not exist
    return found


def read_usage_by_owner(work: UnitOfWork, *, since: datetime | None, until: datetime | None) -> UsageReport:
    """Return what the turns of all owners used."""
    from convstore.db.usage_sums import report

    return report(work.connection, None, work.get_prices(), since=since, until=until, by="owner")
