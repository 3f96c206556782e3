"""Test the rule that tells whether a lease has ended, by a clock that may not be its holder's."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convstore.leases.lease_watch import LeaseWatch, has_ended

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
SPAN = 30.0

# The clocks of a holder and of an observer differ by less than a day.
offsets = st.floats(-86_000, 86_000)
spans = st.floats(0.5, 600)
shares = st.floats(0, 1)


def look(watch: LeaseWatch, monkeypatch: pytest.MonkeyPatch, at: float, expires_at: datetime | None) -> float:
    """Look at a lease at a moment of the monotonic clock, and return for how long it is known to be unchanged."""
    monkeypatch.setattr(time, "monotonic", lambda: at)
    return watch.measure("token", expires_at, at)


@given(
    offset=offsets,
    span=spans,
    intervals=st.lists(st.floats(0.01, 0.45), min_size=1, max_size=8),
    looks=st.lists(shares, max_size=20),
)
def test_a_holder_that_renews_its_lease_is_never_taken_for_dead(
    offset: float, span: float, intervals: list[float], looks: list[float]
) -> None:
    """Renewals come every third of the span, or a little later."""
    renewed_at = [0.0]
    for interval in intervals:
        renewed_at.append(renewed_at[-1] + interval * span)
    end = renewed_at[-1]
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch = LeaseWatch()
        for at in sorted(share * end for share in looks):
            latest = max(moment for moment in renewed_at if moment <= at)
            expires_at = NOW + timedelta(seconds=latest + offset + span)  # by the holder's clock
            watched = look(watch, monkeypatch, at, expires_at)
            assert not has_ended(expires_at, span, NOW + timedelta(seconds=at), watched)


@given(offset=offsets, span=spans, silent=st.floats(0, 5000))
def test_a_holder_that_stopped_is_dead_after_its_span_of_watching_at_most(
    offset: float, span: float, silent: float
) -> None:
    """`silent`: for how long it has been dead at the first look."""
    expires_at = NOW + timedelta(seconds=span + offset - silent)
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch = LeaseWatch()
        assert look(watch, monkeypatch, 100, expires_at) == 0
        watched = look(watch, monkeypatch, 100 + span, expires_at)
        assert has_ended(expires_at, span, NOW + timedelta(seconds=span), watched + 1e-6)


@given(span=spans, silent=st.floats(0, 5000))
def test_with_one_clock_a_dead_holder_waits_for_its_expiry_and_half_a_span_of_watching_at_most(
    span: float, silent: float
) -> None:
    expires_at = NOW + timedelta(seconds=span - silent)
    dead_at = max(span - silent, span / 2) + 0.001
    assert has_ended(expires_at, span, NOW + timedelta(seconds=dead_at), dead_at)
    if silent < span / 2 - 0.01:
        before = span - silent - 0.005
        assert not has_ended(expires_at, span, NOW + timedelta(seconds=before), before)


@pytest.mark.parametrize(
    ("expires_in", "watched", "ended"),
    [
        (-1, 0, False),  # a living holder with a clock that is behind looks like this
        (-1, 14.9, False),
        (-1, 15, True),
        (-18_000, 14.9, False),
        (-18_000, 15, True),
        (-86_399, 0, False),
        (-86_401, 0, True),  # no clock is believed to be so wrong
        (5, 25, False),  # believed: it expires soon
        (5, 26.1, True),  # not believed
        (5, 30, True),
        (18_000, 22.4, False),
        (18_000, 22.5, True),  # not believed: it is further ahead than its span
        (None, 29.9, False),
        (None, 30, True),
    ],
)
def test_the_rule(expires_in: float | None, watched: float, ended: bool) -> None:
    expires_at = NOW + timedelta(seconds=expires_in) if expires_in is not None else None
    assert has_ended(expires_at, SPAN, NOW, watched) is ended


def test_a_caller_that_waits_for_one_span_takes_over_from_any_clock_that_is_ahead() -> None:
    for ahead in (1.01, 5, 14, 29, 31, 3600, 18_000):
        expires_at = NOW + timedelta(seconds=ahead + SPAN)
        assert has_ended(expires_at, SPAN, NOW + timedelta(seconds=0.9 * SPAN), 0.9 * SPAN)


def test_a_changed_expiry_begins_a_new_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LeaseWatch()
    later = NOW + timedelta(seconds=1)
    assert look(watch, monkeypatch, 10, NOW) == 0
    assert look(watch, monkeypatch, 17, NOW) == 7
    assert look(watch, monkeypatch, 18, later) == 0
    assert look(watch, monkeypatch, 20, later) == 2


def test_time_that_passes_after_the_row_was_read_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may stand still between a read and the rule."""
    watch = LeaseWatch()
    look(watch, monkeypatch, 10, NOW)
    monkeypatch.setattr(time, "monotonic", lambda: 500.0)
    assert watch.measure("token", NOW, read_after=11) == 1
    assert watch.measure("other", NOW, read_after=11) == 0
    monkeypatch.setattr(time, "monotonic", lambda: 501.0)
    assert watch.measure("other", NOW, read_after=501) == 1


def test_the_watch_forgets_what_was_not_looked_at_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LeaseWatch(max_leases=2)
    moment = 0.0

    def measure(token: str) -> float:
        nonlocal moment
        moment += 1
        monkeypatch.setattr(time, "monotonic", lambda: moment)
        return watch.measure(token, NOW, moment)

    assert [measure(token) for token in ("a", "b", "a", "c", "a", "b")] == [0, 0, 2, 0, 4, 0]
    assert len(watch._seen) == 2
