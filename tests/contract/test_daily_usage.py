"""Test that the sums of past days change no report, and that reports use them."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, make_url, select, text, true, update

from convstore import DamagedRow, Store
from convstore.db import daily_usage, lock_wait, unit_of_work, usage_plan
from convstore.db.connection import Connection
from convstore.db.lease_rows import interrupt_turn
from convstore.db.tables import daily_usage as sums_table
from convstore.db.tables import turns as table
from convstore.db.transactions import OwnTransactions
from convstore.db.unit_of_work import UnitOfWork
from convstore.db.verification import verify
from convstore.errors import DatabaseError
from convstore.values.identifiers import ConversationKey, TurnNumber, make_conversation_id
from tests.contract.conftest import Backend
from tests.contract.invariants import engine_of
from tests.contract.test_usage import (
    DAY_STARTS,
    MICROSECOND,
    MODEL_PRICES,
    check_report,
    insert_turns,
    make_random_turn,
    record_statements,
)

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def sum_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sum days with few turns, in several transactions."""
    monkeypatch.setattr(usage_plan, "MIN_TURNS_TO_SUM", 1)
    monkeypatch.setattr(usage_plan, "_MOST_TURNS_AT_ONCE", 60)


def make_turns(seed: int, count: int = 300) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    return [make_random_turn(dice, dice.choice(["", "", "ann"]), seq) for seq in range(1, count + 1)]


def make_turn(**values: Any) -> dict[str, Any]:
    turn = make_random_turn(random.Random(1), "", 1)
    known = {"status": "completed", "output_seq": 1, "model": "alpha", "prompt_tokens": 5, "completion_tokens": 7}
    return turn | known | {"conversation_id": "one", "started_at": DAY_STARTS[1]} | values


def read_sums(backend: Backend) -> dict[tuple[str, str], str | None]:
    with backend.connect() as connection:
        rows = connection.execute(select(sums_table.c.owner, sums_table.c.day, sums_table.c.sums))
        return {(row.owner, row.day): row.sums for row in rows}


def change(backend: Backend, *statements: Any) -> None:
    backend.is_intact = False
    with backend.connect() as connection, connection.begin():
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_report_from_sums_equals_the_plain_python_model(backend: Backend, seed: int) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = make_turns(seed)
    insert_turns(backend, store, every)
    for owner in ("", "ann"):
        own = [turn for turn in every if turn["owner"] == owner]
        for by in (None, "model", "day"):
            for since, until in (
                (None, None),
                (DAY_STARTS[1], None),
                (None, DAY_STARTS[2]),
                (DAY_STARTS[0] + 5 * HOUR, DAY_STARTS[3] + MICROSECOND),
                (DAY_STARTS[2], DAY_STARTS[1]),
            ):
                within = [
                    turn
                    for turn in own
                    if (since is None or turn["started_at"] >= since) and (until is None or turn["started_at"] < until)
                ]
                report = store.for_owner(owner).usage(since=since, until=until, by=by)
                check_report(report, within, by, is_rounded=True)
    if not backend.is_memory:
        days = {(turn["owner"], turn["started_at"].date().isoformat()) for turn in every}
        assert {key for key, sums in read_sums(backend).items() if sums is not None} == days


def test_a_report_reads_the_sums_and_no_turn_of_their_days(backend: Backend) -> None:
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, make_turns(1))
    store.usage()
    for by in (None, "model", "day"):
        with record_statements(engine_of(store)) as seen:
            store.usage(by=by)
        # One reads the days with sums, and checks them; two look for days before and after them, and two add up the
        # time before and after them.
        assert len(seen) == 5
        bounds = [values for statement, values in seen if "prompt_tokens" in statement]
        assert len(bounds) == 2
        for values in bounds:
            given = [str(value) for value in (values.values() if isinstance(values, dict) else values)]
            assert not any(value.startswith("2026-03-02") for value in given), given


@pytest.mark.parametrize("by", [None, "model", "day"])
def test_a_turn_that_is_added_to_a_summed_day_is_counted(backend: Backend, by: Any) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = [turn for turn in make_turns(1) if turn["owner"] == ""]
    insert_turns(backend, store, every)
    store.usage()
    added = [make_turn(seq=1000, started_at=DAY_STARTS[place] + HOUR) for place in (1, 1, 2)]
    added = [turn | {"seq": 1000 + number} for number, turn in enumerate(added)]
    change(backend, insert(table).values(added))
    for _ in range(2):  # the first report sums the day again
        check_report(store.usage(by=by), every + added, by, is_rounded=True)
    change(backend, delete(table).where(table.c.seq >= 1001))
    for _ in range(2):
        check_report(store.usage(by=by), [*every, added[0]], by, is_rounded=True)


def test_changes_that_hide_each_other_in_a_total_are_found(backend: Backend) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = [make_turn(seq=n, started_at=DAY_STARTS[n % 3] + HOUR) for n in range(1, 31)]
    insert_turns(backend, store, every)
    store.usage()
    moved = [turn | {"seq": 100 + turn["seq"], "started_at": DAY_STARTS[0] + HOUR} for turn in every[:2]]
    change(backend, delete(table).where(table.c.seq <= 2), insert(table).values(moved))
    for _ in range(2):
        check_report(store.usage(by="day"), every[2:] + moved, "day", is_rounded=True)
    cleared = update(sums_table).where(sums_table.c.day == "2026-03-02").values(sums=None)
    change(backend, cleared, delete(table).where(table.c.seq == 3))
    check_report(store.usage(by="day"), every[3:] + moved, "day", is_rounded=True)


def test_many_days_without_sums_are_summed_although_they_have_few_turns(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = [make_turn(seq=day, started_at=DAY_STARTS[0] + day * timedelta(days=1)) for day in range(1, 31)]
    insert_turns(backend, store, every)
    store.usage()
    days = [turn["started_at"].date().isoformat() for turn in every[::2]]
    change(backend, update(sums_table).where(sums_table.c.day.in_(days)).values(sums=None))
    monkeypatch.setattr(usage_plan, "MIN_TURNS_TO_SUM", 25)  # more than these 15 days have, and fewer than all
    check_report(store.usage(), every, None, is_rounded=True)
    if not backend.is_memory:
        assert all(sums is not None for sums in read_sums(backend).values())


def test_a_day_that_another_report_has_just_summed_is_not_written_again(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, [make_turn()])
    written: list[int] = []
    execute_many = Connection.execute_many

    def note(self: Connection, statement: Any, rows: Any) -> None:
        written.append(len(rows))
        execute_many(self, statement, rows)

    monkeypatch.setattr(Connection, "execute_many", note)
    for _ in range(2):
        get_transactions(store).write(daily_usage.sum_days, "", SPAN)
    assert written == [1]


def test_days_with_other_turns_are_read_if_they_may_not_be_summed(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = [make_turn(seq=day, started_at=DAY_STARTS[0] + day * timedelta(days=1)) for day in range(1, 31)]
    insert_turns(backend, store, every)
    store.usage()
    monkeypatch.setattr(usage_plan, "MIN_TURNS_TO_SUM", 10_000)
    for count in (3, 30):  # a few spans, and more than a report reads one by one
        added = [turn | {"seq": 100 + turn["seq"]} for turn in every[:count:2]]
        change(backend, delete(table).where(table.c.seq > 100), insert(table).values(added))
        for by in (None, "model", "day"):
            check_report(store.usage(by=by), every + added, by, is_rounded=True)


def test_a_price_that_changes_in_the_course_of_a_summed_day_is_applied_to_each_turn(backend: Backend) -> None:
    every = [make_turn(seq=n, started_at=DAY_STARTS[1] + n * HOUR, cost=None) for n in range(10)]
    noon = {"since": DAY_STARTS[1] + 5 * HOUR, "prompt": 2_000_000, "completion": 0}
    store = backend.open(prices={"models": {"alpha": [{"prompt": 1_000_000, "completion": 0}, noon]}})
    insert_turns(backend, store, every)
    for by in (None, "model", "day"):
        for _ in range(2):
            report = store.usage(by=by)
            assert report.total.cost == 5 * 5 + 5 * 10
            assert report.total.turns == 10


# --- turns that end late ---


@pytest.fixture
def begin_days_ago(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that sets the host's clock back by some days."""

    def set_back(days: int) -> None:
        clock = SimpleNamespace(now=lambda zone: datetime.now(zone) - timedelta(days=days))
        monkeypatch.setattr(unit_of_work, "datetime", clock)

    yield set_back
    set_back(0)


def test_a_reply_that_comes_days_after_its_turn_began_is_counted(
    backend: Backend, hold: Callable[..., Any], run_in_thread: Any, begin_days_ago: Callable[[int], None]
) -> None:
    store = backend.open(prices=MODEL_PRICES)
    id = store.new().id
    held = hold()
    begin_days_ago(3)
    running = run_in_thread(lambda: store.say(id, "Hi"))
    held.wait()
    begin_days_ago(0)
    assert store.usage().total.turns == store.usage(by="day").total.turns == 0
    held.release()
    running.result(60)
    for _ in range(2):
        assert store.usage().total.turns == 1


def test_a_turn_that_is_interrupted_days_after_it_began_is_counted(backend: Backend) -> None:
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, [make_turn(status="running", output_seq=None)])
    assert store.usage().total.turns == 0
    get_transactions(store).write(interrupt_first_turn)
    for _ in range(2):
        assert store.usage().total.interrupted == 1


def interrupt_first_turn(work: UnitOfWork) -> None:
    key = ConversationKey("", "one")
    interrupt_turn(work.connection, key, TurnNumber(1), reason={"type": "Abandoned"}, output_seq=None, now=work.now)


def get_transactions(store: Store) -> OwnTransactions:
    return store._engine.transactions


SPAN = daily_usage.Span(DAY_STARTS[1], DAY_STARTS[2])
END_TURN = update(table).where(table.c.seq == 1).values(status="failed")


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
@pytest.mark.parametrize("ends_first", [True, False])
def test_a_turn_that_ends_while_its_day_is_summed_is_never_lost(
    backend: Backend, run_in_thread: Any, ends_first: bool
) -> None:
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, [make_turn(status="running", output_seq=None), make_turn(seq=2)])
    ready, go_on = threading.Event(), threading.Event()

    def end_turn(work: UnitOfWork) -> None:
        work.connection.plain.execute(END_TURN)
        daily_usage.forget_day(work.connection, "", DAY_STARTS[1])
        if ends_first:
            ready.set()
            assert go_on.wait(60)

    def sum_day(work: UnitOfWork) -> None:
        daily_usage.sum_days(work, "", SPAN)
        if not ends_first:
            ready.set()
            assert go_on.wait(60)

    first, second = (end_turn, sum_day) if ends_first else (sum_day, end_turn)
    one = run_in_thread(lambda: get_transactions(store).write(first))
    assert ready.wait(60)
    other = run_in_thread(lambda: get_transactions(store).write(second))
    with pytest.raises(TimeoutError):
        other.result(0.3)  # it waits for the row of the day
    go_on.set()
    one.result(60)
    other.result(60)
    assert store.usage().total.turns == 2
    assert store.usage().total.failed == 1


# --- who may sum, and what is checked ---


def test_a_report_in_the_callers_transaction_sums_nothing(backend: Backend) -> None:
    if backend.kind.startswith("async") or backend.is_memory:
        return  # `AsyncStore.using` takes an AsyncConnection, and a database in memory has only one
    store = backend.open(prices=MODEL_PRICES)
    every = make_turns(1)
    insert_turns(backend, store, every)
    with backend.connect() as connection, connection.begin():
        report = store.using(connection).usage(by="model")
    check_report(report, [turn for turn in every if turn["owner"] == ""], "model")
    assert read_sums(backend) == {}


def test_a_report_reads_the_turns_if_sums_cannot_be_stored(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend.is_memory:
        return  # each store has a database of its own
    store = backend.open(prices=MODEL_PRICES)
    every = make_turns(1)
    insert_turns(backend, store, every)

    def refuse(*_: object) -> None:
        raise DatabaseError("the database can only be read")

    monkeypatch.setattr(daily_usage, "sum_days", refuse)
    check_report(store.usage(by="day"), [turn for turn in every if turn["owner"] == ""], "day")
    assert read_sums(backend) == {}


def test_few_turns_are_not_summed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_plan, "MIN_TURNS_TO_SUM", 301)
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, make_turns(1))
    store.usage()
    assert backend.is_memory or read_sums(backend) == {}


def test_the_last_two_days_are_never_summed(backend: Backend) -> None:
    store = backend.open(prices=MODEL_PRICES)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    every = [make_turn(seq=n, started_at=today - n * timedelta(days=1)) for n in range(5)]
    insert_turns(backend, store, every)
    check_report(store.usage(by="day"), every, "day", is_rounded=True)
    check_report(store.usage(by="day"), every, "day", is_rounded=True)
    if not backend.is_memory:
        summed = {date.fromisoformat(day) for _, day in read_sums(backend)}
        assert summed == {(today - n * timedelta(days=1)).date() for n in (2, 3, 4)}


@pytest.mark.parametrize(
    ("sums", "problem"),
    [
        ("[]", "the sums of usage of 2026-03-02 do not fit its turns"),
        ("{not json", "the sums of usage of 2026-03-02 do not fit its turns"),
    ],
)
def test_verify_finds_sums_that_do_not_fit_the_turns(backend: Backend, sums: str, problem: str) -> None:
    if backend.is_memory:
        return  # there is no second connection to damage it
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, [turn for turn in make_turns(1) if turn["owner"] == "ann"])
    store.for_owner("ann").usage()
    database = get_transactions(store).database

    def find_problems() -> list[str]:
        return [damage.problem for damage in verify(database).damages if "usage" in damage.problem]

    assert find_problems() == []
    change(backend, update(sums_table).where(sums_table.c.day == "2026-03-02").values(sums=sums))
    assert find_problems() == [problem]


@pytest.mark.parametrize(("more", "is_damage"), [(1e-12, False), (0.01, True)])
def test_verify_allows_another_order_of_additions_and_no_other_cost(
    backend: Backend, more: float, is_damage: bool
) -> None:
    if backend.is_memory:
        return  # there is no second connection to change it
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, [make_turn(cost=12.5)])
    store.usage()
    (sums,) = read_sums(backend).values()
    assert sums is not None
    changed = sums.replace("12.5", repr(12.5 + more))
    assert changed != sums
    change(backend, update(sums_table).values(sums=changed))
    damages = verify(get_transactions(store).database).damages
    assert any("usage" in damage.problem for damage in damages) == is_damage


@pytest.mark.parametrize("backend", ["sqlite-file", "async-sqlite-file"], indirect=True)
@pytest.mark.parametrize(
    "values",
    [
        "started_at = '2026-03-0x 01:00:00.000000'",
        "started_at = '2026-03-02'",
        "model = x'ff00'",
        "model = CAST(x'ff61' AS TEXT)",
        "latency_ms = 'slow'",
        "latency_ms = 3.5",
        "latency_ms = 9e999",
        "prompt_tokens = 9e999",
        "prompt_tokens = 'many'",
        "cost = 9e999",
    ],
)
@pytest.mark.parametrize("is_summed", [True, False])
def test_a_damaged_turn_of_a_past_day_is_counted_or_named(backend: Backend, values: str, is_summed: bool) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = [make_turn(seq=n, started_at=DAY_STARTS[n % 3] + HOUR, cost=1.0) for n in range(1, 31)]
    insert_turns(backend, store, every)
    if is_summed:
        store.usage()
    change(backend, text(f"UPDATE convstore_turns SET {values} WHERE seq = 4"))
    for by in (None, "model", "day"):
        with contextlib.suppress(DamagedRow):
            assert store.usage(by=by).total.turns >= 29
    verified = verify(get_transactions(store).database)  # it goes on to the end
    assert (verified.turns, verified.conversations) == (30, 1)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_report_does_not_wait_for_ever_for_the_row_of_a_day(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_wait, "_LIMIT", select(func.set_config("lock_timeout", "100ms", true())))
    store = backend.open(prices=MODEL_PRICES)
    every = [make_turn(seq=n) for n in range(1, 4)]
    insert_turns(backend, store, every)
    with backend.connect() as connection, connection.begin():
        connection.execute(insert(sums_table).values(owner="", day="2026-03-02", turns=0))
        check_report(store.usage(), every, None)  # it reads the turns
    check_report(store.usage(), every, None, is_rounded=True)
    assert read_sums(backend)["", "2026-03-02"] is not None


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_role_that_may_not_use_sums_reads_the_turns_and_ends_late_ones(backend: Backend) -> None:
    owner = backend.open(prices=MODEL_PRICES)
    every = [make_turn(seq=n, status="failed") for n in range(1, 4)]
    insert_turns(backend, owner, [*every[1:], make_turn(seq=1, status="running", output_seq=None)])
    role = f"clerk_{make_conversation_id()}"
    change(
        backend,
        text(f"CREATE ROLE {role} LOGIN"),
        text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
        text(f"REVOKE ALL ON convstore_daily_usage FROM {role}"),
    )
    try:
        url = make_url(backend.url).set(username=role)
        with Store(url.render_as_string(hide_password=False), prices=MODEL_PRICES) as store:
            check_report(store.usage(), every[1:], None)
            get_transactions(store).write(interrupt_first_turn)
            assert store.usage().total.turns == 3
    finally:
        change(backend, text(f"DROP OWNED BY {role}"), text(f"DROP ROLE {role}"))


@pytest.mark.parametrize("sums", ["{not json", "[1]", '[{"model": 1}]', "7"])
def test_sums_that_cannot_be_decoded_are_a_damaged_row_that_can_be_deleted(backend: Backend, sums: str) -> None:
    store = backend.open(prices=MODEL_PRICES)
    every = [turn for turn in make_turns(1) if turn["owner"] == ""]
    insert_turns(backend, store, every)
    store.usage()
    change(backend, update(sums_table).where(sums_table.c.day == "2026-03-02").values(sums=sums))
    with pytest.raises(DamagedRow, match=r"the sums of usage of '2026-03-02' cannot be decoded .*delete this row"):
        store.usage()
    change(backend, delete(sums_table).where(sums_table.c.day == "2026-03-02"))
    check_report(store.usage(), every, None, is_rounded=True)
