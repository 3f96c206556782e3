"""Rules that say how long conversations are kept."""

from __future__ import annotations

from dataclasses import replace

from convstore.db import retention_rows
from convstore.db.unit_of_work import UnitOfWork
from convstore.values.retention_rule import Retained, RetentionRule


def set_rule(work: UnitOfWork, rule: RetentionRule) -> RetentionRule:
    """Store a rule; it replaces the one for the same conversations."""
    rule = replace(rule, set_at=work.now)
    retention_rows.set_rule(work.connection, rule)
    return rule


def read_rules(work: UnitOfWork, owner: str) -> list[RetentionRule]:
    """Return the rules of an owner."""
    return retention_rows.read_rules(work.connection, owner)


def remove_rule(work: UnitOfWork, owner: str, covers: Retained) -> bool:
    """Remove a rule; return False if it does not exist."""
    return retention_rows.remove_rule(work.connection, owner, covers)


def list_owners(work: UnitOfWork) -> list[str]:
    """Return the owners that have a rule: for administrators."""
    return retention_rows.list_owners(work.connection)
