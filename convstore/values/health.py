"""Define what `convstore doctor` finds: one finding for each thing that it checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HealthStatus(StrEnum):
    """Whether a thing is as it should be."""

    OK = "ok"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


class HealthTopic(StrEnum):
    """What a finding is about."""

    SETTINGS = "settings"
    DATABASE = "database"
    PROVIDER = "provider"
    TERMINAL = "terminal"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one thing, without keys, passwords and texts of messages."""

    topic: HealthTopic
    subject: str
    """The thing, in a word or two."""
    status: HealthStatus
    text: str
    remedy: str | None = None
    """What to do about a problem."""


def report_ok(topic: HealthTopic, subject: str, text: str) -> Finding:
    """Return the finding that a thing is as it should be."""
    return Finding(topic, subject, HealthStatus.OK, text)


def report_problem(topic: HealthTopic, subject: str, text: str, remedy: str) -> Finding:
    """Return the finding that a thing has a problem."""
    return Finding(topic, subject, HealthStatus.PROBLEM, text, remedy)


def report_unchecked(topic: HealthTopic, subject: str, text: str) -> Finding:
    """Return the finding that a thing could not be checked, and why."""
    return Finding(topic, subject, HealthStatus.NOT_CHECKED, text)
