"""Test that each turn stores its cost, and that `usage` adds correctly."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine, event, insert

from convstore import ConversationNotFound, InvalidInput, Store, TurnFailed, UsageReport, UsageRow
from convstore.db.tables import turns as table
from convstore.messages.completion import Usage
from convstore.messages.storable_text import from_column, to_column
from convstore.testing import ChatServer, Failure, Reply
from convstore.usage.price_file import parse_prices
from convstore.usage.prices import compute_cost
from tests.contract.conftest import ON_ALL_BACKENDS, ON_THREE_BACKENDS, Backend
from tests.contract.invariants import engine_of

TOKENS = {
    "prompt_tokens": 1000,
    "completion_tokens": 200,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 50},
}
PRICES = {"models": {"test-model*": {"prompt": 10, "cached": 5, "completion": 100, "reasoning": 200}}}
COST = 0.006 + 0.002 + 0.015 + 0.01
COMPLETION = {
    "id": "chatcmpl-1",
    "model": "test-model-2026",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
    "usage": TOKENS,
}


def make_reply(**options: Any) -> Reply:
    return Reply("Yes.", usage=TOKENS, model="test-model-2026", **options)


# --- the end of a turn stores its cost ---


def test_a_turn_stores_its_cost(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(make_reply(), make_reply(), Failure(400), make_reply(), Reply("Free.", model="other"))
    said = store.say(id, "Hi")
    with store.stream(id, "Hi") as streamed:
        list(streamed)
    with pytest.raises(TurnFailed) as failed:
        store.say(id, "Hi")
    store.retry(id)
    unpriced = store.say(id, "Hi", model="other")
    store.append(id, COMPLETION)
    assert said.cost == streamed.turn.cost == pytest.approx(COST)
    assert (failed.value.turn.cost, unpriced.cost) == (None, None)
    recorded = [turn.cost for turn in store.turns(id)]
    assert recorded == [said.cost, said.cost, None, said.cost, None, said.cost]


def test_a_partial_reply_costs_its_reported_usage(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(make_reply(finish_reason=None))
    with pytest.raises(TurnFailed) as broken:
        store.say(id, "Hi")
    assert broken.value.turn.cost == pytest.approx(COST)
    assert store.usage(id).total.cost == pytest.approx(COST)


def test_the_turn_of_a_summary_stores_its_cost(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(make_reply(), make_reply(), make_reply(), make_reply())
    for _ in range(3):
        store.say(id, "Hi")
    assert len(store.compact(id, keep_last=1)) == 1
    total = store.usage(id).total
    assert (total.turns, total.prompt_tokens) == (4, 4000)
    assert [turn.cost for turn in store.turns(id)] == [pytest.approx(COST)] * 4
    assert total.cost == pytest.approx(4 * COST)


def test_stored_costs_stay_and_missing_costs_use_the_prices_at_the_time_of_the_turn(
    backend: Backend, chat_server: ChatServer
) -> None:
    if backend.is_memory:
        return  # in memory, each store has its own database
    chat_server.script(make_reply(), make_reply())
    priced, unpriced = backend.open(prices=PRICES), backend.open(prices={})
    id = priced.new().id
    priced.say(id, "Hi")
    begun = unpriced.say(id, "Hi").started_at
    assert unpriced.usage(id).total.cost == pytest.approx(COST)
    assert unpriced.usage(id).total.turns_without_price == 1
    assert not unpriced.usage(id).total.is_cost_whole
    second = timedelta(seconds=1)
    for since, prompt in ((begun, 2.0), (begun + second, 1.0), (begun - second, 2.0)):
        later = {"prompt": 2, "completion": 0, "since": since}
        store = backend.open(prices={"models": {"test-model*": [{"prompt": 1, "completion": 0}, later]}})
        total = store.usage(id).total
        assert total.cost == pytest.approx(COST + prompt / 1000)
        assert total.is_cost_whole


# --- which turns count ---


@ON_ALL_BACKENDS
def test_usage_counts_completed_failed_and_interrupted_turns(
    backend: Backend, chat_server: ChatServer, hold: Callable[..., Any], run_in_thread: Any
) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(make_reply(), Failure(400), Reply(pieces=["a", "b"]))
    store.say(id, "Hi")
    with pytest.raises(TurnFailed):
        store.say(id, "Hi")
    with store.stream(id, "Hi") as stopped:
        next(stopped)
    store.append(id, COMPLETION)
    store.append(id, "Only a key.", idempotency_key="k")  # makes a turn without a model call
    held = hold()
    running = run_in_thread(lambda: store.say(id, "Hi"))
    held.wait()
    total = store.usage(id).total
    held.release()
    running.result(60)
    assert (total.turns, total.failed, total.interrupted) == (4, 1, 1)
    assert (total.turns_without_usage, total.turns_without_price) == (1, 0)  # the turn that was stopped
    assert (total.prompt_tokens, total.cached_tokens) == (2000, 800)
    assert (total.completion_tokens, total.reasoning_tokens) == (400, 100)
    assert total.cost == pytest.approx(2 * COST)
    assert not total.is_cost_whole
    assert total.latency_median == total.latency_p95 == store.turns(id)[0].latency  # failed turns do not count
    store.delete(id)
    assert store.usage().total.turns == 5


def test_usage_without_turns_is_zero(store: Store) -> None:
    id = store.new().id
    for report in (store.usage(), store.usage(id), store.usage(by="day"), store.usage_by_owner()):
        assert report.rows == ()
        assert report.total == UsageRow(None, None, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, None, None)
        assert report.total.is_cost_whole


def test_usage_raises_conversation_not_found_for_an_unknown_id(store: Store) -> None:
    for id in ("nothere", ""):
        with pytest.raises(ConversationNotFound, match=f"no conversation '{id}'"):
            store.usage(id)


def test_usage_of_a_fork_counts_only_its_own_turns(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    origin = store.new(name="origin", title="Title").id
    chat_server.script(make_reply(), make_reply(), make_reply())
    store.say(origin, "Hi")
    store.say(origin, "Hi")
    fork = store.fork(origin, title="\0 wild").id
    store.say(fork, "Hi")
    assert [store.usage(id).total.turns for id in (origin, fork)] == [2, 1]
    rows = store.usage(by="conversation").rows
    assert [(row.key, row.label, row.turns) for row in rows] == [(origin, "origin", 2), (fork, "\0 wild", 1)]


def test_no_owner_sees_the_usage_of_another_owner(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    chat_server.script(*(make_reply() for _ in range(6)))
    for owner, count in (("", 1), ("ann", 2), ("bob", 3)):
        view = store.for_owner(owner)
        id = view.new(id="same").id
        for _ in range(count):
            view.say(id, "Hi")
        assert view.usage().total.turns == view.usage("same").total.turns == count
        assert [row.turns for row in view.usage(by="conversation").rows] == [count]
    every = store.usage_by_owner()
    assert every.total.turns == 6
    assert [(row.key, row.turns) for row in every.rows] == [("bob", 3), ("ann", 2), ("", 1)]
    with pytest.raises(InvalidInput, match="owner 'ann' may not see"):
        store.for_owner("ann").usage_by_owner()


def test_usage_refuses_invalid_arguments(store: Store) -> None:
    with pytest.raises(InvalidInput, match='by must be one of "model", "day", "conversation", not \'owner\''):
        store.usage(by="owner")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="since needs a time zone"):
        store.usage(since=datetime(2026, 1, 1))  # noqa: DTZ001 (that is the point)
    with pytest.raises(InvalidInput, match="until must be a datetime or a date, not str"):
        store.usage(until="2026-01-01")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="since is out of range"):
        store.usage(since=datetime.min.replace(tzinfo=timezone(timedelta(hours=5))))


def test_a_report_of_the_first_or_the_last_moments_of_all_time_is_empty(store: Store) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for since in (first, first + MICROSECOND, last - MICROSECOND, last):
        for until in (None, first, first + MICROSECOND, last):
            for by in (None, "day"):
                assert store.usage(since=since, until=until, by=by).total.turns == 0


# --- invalid prices ---


def test_invalid_prices_are_found_before_a_call_and_never_when_a_reply_is_stored(
    backend: Backend, chat_server: ChatServer, tmp_path: Path
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[models.x]\nprompt = 1\n")
    store = backend.open(prices=path)
    id = store.new().id
    for attempt in (
        lambda: store.say(id, "Hi"),
        lambda: list(store.stream(id, "Hi")),
        lambda: store.append(id, COMPLETION),
        store.usage,
    ):
        with pytest.raises(InvalidInput, match=r"prices\.toml: models\.\"x\"\.completion is missing"):
            attempt()
    assert (chat_server.requests, store.messages(id), store.turns(id)) == ([], [], [])
    store.append(id, "A message alone costs nothing.")

    def spoil(_: dict[str, Any]) -> Reply:
        path.write_text("neither TOML")
        return make_reply()

    path.write_text('[models."test-model*"]\nprompt = 1\ncompletion = 0\n')
    chat_server.otherwise = spoil
    assert store.say(id, "Hi").cost == 0.001
    assert store.say(id, "Hi").cost == 0.001  # the store read the file only once


def test_a_store_without_prices_uses_the_configured_prices(
    backend: Backend, chat_server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prices.toml").write_text('currency = "EUR"\n[models."*"]\nprompt = 1\ncompletion = 0\n')
    monkeypatch.setenv("CONVSTORE_PRICES", str(tmp_path / "prices.toml"))
    chat_server.script(make_reply())
    store = backend.open()
    assert store.say(store.new().id, "Hi").cost == 0.001
    assert store.usage().currency == "EUR"


# --- sums, compared with plain Python ---

DAY_STARTS = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=day) for day in (0, 1, 2, 3)]
MICROSECOND = timedelta(microseconds=1)
MODELS = ["alpha", "alpha-2026", "beta", "x\0y", "gamma", None]
MODEL_PRICES = {
    "models": {
        "alpha": [{"prompt": 1, "completion": 2}, {"since": DAY_STARTS[1], "prompt": 3, "cached": 1, "completion": 4}],
        "alpha*": {"prompt": 7, "completion": 7, "reasoning": 9},
        "beta": {"since": DAY_STARTS[2], "prompt": 5, "completion": 6},
        "x\0y": {"prompt": 11, "completion": 0},
    }
}
Turn = dict[str, Any]


def make_random_turn(dice: random.Random, owner: str, seq: int) -> Turn:
    status = dice.choice(["completed"] * 5 + ["failed", "interrupted", "running"])
    counts = [dice.choice([None, 0, 1, dice.randrange(100_000), -1]) for _ in range(4)]
    at = dice.choice(DAY_STARTS) + dice.choice(
        [timedelta(), -MICROSECOND, MICROSECOND, timedelta(hours=dice.randrange(24))]
    )
    return {
        "owner": owner,
        "conversation_id": dice.choice(["one", "two", "three"]),
        "seq": seq,
        "status": status,
        "base_seq": 0,
        "output_seq": dice.choice([None, 1]),
        "purpose": dice.choice([None, None, None, "summary"]),
        "request": "{}",
        "requested_model": to_column(dice.choice(MODELS)),
        "model": to_column(dice.choice(MODELS)),
        "prompt_tokens": counts[0],
        "completion_tokens": counts[1],
        "cached_tokens": counts[2],
        "reasoning_tokens": counts[3],
        "cost": dice.choice([None, None, 0.0, 0.125, 12.5]),
        "latency_ms": dice.choice([None, *(dice.choice([7, 70, 700, dice.randrange(2000)]) for _ in range(4))]),
        "started_at": at,
    }


def insert_turns(backend: Backend, store: Store, rows: list[Turn]) -> None:
    """Insert many turns at once, without a store."""
    for owner in sorted({row["owner"] for row in rows}):
        for id in sorted({row["conversation_id"] for row in rows}):
            store.for_owner(owner).new(id=id)
    backend.is_intact = False
    with backend.connect() as connection, connection.begin():
        connection.execute(insert(table), rows)


def make_usage(turn: Turn) -> Usage:
    return Usage(
        {
            "prompt_tokens": turn["prompt_tokens"],
            "completion_tokens": turn["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": turn["cached_tokens"]},
            "completion_tokens_details": {"reasoning_tokens": turn["reasoning_tokens"]},
        }
    )


def compute_row(turns: list[Turn], key: str | None, *, is_rounded: bool = False) -> UsageRow:
    """Return the expected row of a report, computed in Python.

    Args:
        is_rounded: whether latencies may differ by as much as those in the sums of past days.
    """
    prices = parse_prices(MODEL_PRICES, "test")
    costs, unpriced, unreported = [], 0, 0
    sums: dict[str, list[int]] = {name: [] for name in ("prompt", "cached", "completion", "reasoning")}
    for turn in turns:
        usage = make_usage(turn)
        model, requested = from_column(turn["model"]), from_column(turn["requested_model"])
        own = turn["cost"]
        if own is None:
            own = compute_cost(usage, prices.find_price(model, requested, turn["started_at"]))
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        has_tokens = prompt is not None and completion is not None and min(prompt, completion) >= 0
        if own is not None:
            costs.append(own)
        elif has_tokens:
            unpriced += 1
        unreported += not has_tokens and turn["status"] != "failed"
        for name, whole, part in (
            ("cached", prompt, usage.cached_tokens),
            ("reasoning", completion, usage.reasoning_tokens),
        ):
            if part is not None and (whole is not None or part <= 0):
                sums[name].append(min(part, whole) if whole is not None and part > whole else max(part, 0))
            elif part is not None:
                sums[name].append(part)
        sums["prompt"] += [prompt] if prompt is not None else []
        sums["completion"] += [completion] if completion is not None else []
    taken = sorted(t["latency_ms"] for t in turns if t["status"] == "completed" and t["latency_ms"] is not None)
    nothing = 0 if not turns else None
    return UsageRow(
        key=key,
        label=None,
        turns=len(turns),
        failed=sum(turn["status"] == "failed" for turn in turns),
        interrupted=sum(turn["status"] == "interrupted" for turn in turns),
        prompt_tokens=sum(sums["prompt"]) if sums["prompt"] else nothing,
        cached_tokens=sum(sums["cached"]) if sums["cached"] else nothing,
        completion_tokens=sum(sums["completion"]) if sums["completion"] else nothing,
        reasoning_tokens=sum(sums["reasoning"]) if sums["reasoning"] else nothing,
        turns_without_usage=unreported,
        cost=approximate(sum(costs)) if costs else nothing,
        turns_without_price=unpriced,
        latency_median=find_latency(taken, 50, is_rounded),
        latency_p95=find_latency(taken, 95, is_rounded),
    )


def find_latency(taken: list[int], percent: int, is_rounded: bool) -> float | None:
    if not taken:
        return None
    latency = taken[-(-len(taken) * percent // 100) - 1] / 1000
    return cast("float", pytest.approx(latency, rel=0.0125)) if is_rounded else latency


def approximate(number: float) -> float:
    """Return an approximate number, because each database adds in its own order."""
    return cast("float", pytest.approx(number, abs=1e-6))


def is_counted(turn: Turn) -> bool:
    asked_nobody = turn["status"] == "completed" and turn["output_seq"] is None and turn["purpose"] is None
    return turn["status"] != "running" and not asked_nobody


GROUP_KEYS: dict[str | None, Callable[[Turn], str | None]] = {
    None: lambda _: None,
    "model": lambda turn: from_column(turn["model"]) or from_column(turn["requested_model"]),
    "day": lambda turn: turn["started_at"].date().isoformat(),
    "conversation": lambda turn: turn["conversation_id"],
    "owner": lambda turn: turn["owner"],
}


def check_report(report: UsageReport, turns: Iterable[Turn], by: str | None, *, is_rounded: bool = False) -> None:
    counted = [turn for turn in turns if is_counted(turn)]
    groups: dict[str | None, list[Turn]] = {}
    for turn in counted:
        groups.setdefault(GROUP_KEYS[by](turn), []).append(turn)
    assert report.total == compute_row(counted, None, is_rounded=is_rounded)
    found = {row.key: row for row in report.rows}
    assert len(found) == len(report.rows)
    expected = {key: compute_row(group, key, is_rounded=is_rounded) for key, group in groups.items()}
    assert found == (expected if by is not None else {})
    if by == "day":
        assert list(found) == sorted(found)  # type: ignore[type-var]
    else:
        assert [row.cost or 0 for row in report.rows] == sorted((row.cost or 0 for row in report.rows), reverse=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_report_equals_the_plain_python_model(backend: Backend, seed: int) -> None:
    dice = random.Random(seed)
    store = backend.open(prices=MODEL_PRICES)
    every = [make_random_turn(dice, dice.choice(["", "", "ann"]), seq) for seq in range(1, 301)]
    insert_turns(backend, store, every)
    for owner in ("", "ann"):
        view, own = store.for_owner(owner), [turn for turn in every if turn["owner"] == owner]
        for by in ("model", "day", "conversation", None):
            check_report(view.usage(by=by), own, by)
        here = [turn for turn in own if turn["conversation_id"] == "two"]
        check_report(view.usage("two", by="model"), here, "model")
    for since, until in [
        (DAY_STARTS[1], None),
        (None, DAY_STARTS[2]),
        (DAY_STARTS[1], DAY_STARTS[2]),
        (DAY_STARTS[2], DAY_STARTS[1]),
    ]:
        within = [
            turn
            for turn in every
            if (since is None or turn["started_at"] >= since) and (until is None or turn["started_at"] < until)
        ]
        own = [turn for turn in within if turn["owner"] == ""]
        east = timezone(timedelta(hours=9))
        check_report(store.usage(since=since and since.astimezone(east), until=until, by="day"), own, "day")
        check_report(store.usage(since=since and since.date(), until=until and until.date()), own, None)
        check_report(store.usage_by_owner(since=since, until=until), within, "owner")


def test_token_sums_above_64_bits_are_reported(backend: Backend) -> None:
    store = backend.open(prices={"models": {"*": {"prompt": 1, "completion": 1}}})
    most = 2**63 - 1
    turn = make_random_turn(random.Random(1), "", 1) | {"status": "completed", "output_seq": 1, "cost": None}
    huge = {"prompt_tokens": most, "cached_tokens": -most, "completion_tokens": most, "reasoning_tokens": most}
    insert_turns(backend, store, [turn | huge | {"seq": seq} for seq in range(1, 5)])
    for by in (None, "model"):
        total = store.usage(by=by).total
        assert (total.prompt_tokens, total.cached_tokens) == (2**65, 0)
        assert total.cost == pytest.approx(2**66 / 1e6)


@ON_THREE_BACKENDS
def test_more_models_than_fit_in_one_statement_are_priced(backend: Backend) -> None:
    count = 1100
    store = backend.open(
        prices={"models": {"m*": {"prompt": 1_000_000, "completion": 0}, "m7": {"prompt": 0, "completion": 0}}}
    )
    turn = make_random_turn(random.Random(1), "", 1) | {"status": "completed", "output_seq": 1, "cost": None}
    one = {"prompt_tokens": 1, "cached_tokens": None, "completion_tokens": 1, "reasoning_tokens": None}
    insert_turns(
        backend,
        store,
        [turn | one | {"seq": seq, "model": f"m{seq}", "requested_model": None} for seq in range(1, count + 1)],
    )
    total = store.usage().total
    assert (total.cost, total.turns_without_price) == (count - 1, 0)
    assert len(store.usage(by="model").rows) == count


# --- the work of the database ---


@contextmanager
def record_statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def record(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            seen.append((statement, parameters if isinstance(parameters, dict) else tuple(parameters)))

    event.listen(engine, "before_cursor_execute", record)
    yield seen
    event.remove(engine, "before_cursor_execute", record)


@pytest.mark.parametrize("count", [1, 300])
def test_a_report_takes_two_statements_and_two_more_if_costs_are_not_stored(backend: Backend, count: int) -> None:
    store = backend.open(prices=MODEL_PRICES)
    dice = random.Random(1)
    known = {"status": "completed", "output_seq": 1, "model": "alpha", "prompt_tokens": 1, "completion_tokens": 1}
    rows = [make_random_turn(dice, "", seq) | known | {"cost": 1.0} for seq in range(1, count + 1)]
    insert_turns(backend, store, rows + [row | {"owner": "ann", "cost": None} for row in rows])
    for owner, expected in (("", 2), ("ann", 4)):
        for by in (None, "model", "day", "conversation"):
            with record_statements(engine_of(store)) as seen:
                store.for_owner(owner).usage(by=by)
            # Two more look for past days with sums. A report by conversation uses no sums.
            assert len(seen) == expected + (0 if by == "conversation" else 2)


def test_a_report_uses_the_index_by_time_or_the_key_of_the_conversation(
    backend: Backend,
) -> None:
    if backend.is_postgres:
        return  # the query plans of PostgreSQL depend on the number of rows
    store = backend.open(prices=MODEL_PRICES)
    insert_turns(backend, store, [make_random_turn(random.Random(seq), "", seq) for seq in range(1, 300)])
    for how, index in (
        ({}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"by": "model"}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"by": "conversation"}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"since": DAY_STARTS[1], "by": "day"}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"conversation_id": "two"}, "(owner=? AND conversation_id=?)"),
        ({"conversation_id": "two", "since": DAY_STARTS[1]}, "(owner=? AND conversation_id=?)"),
    ):
        with record_statements(engine_of(store)) as seen:
            store.usage(**how)
        with backend.connect() as connection:
            for statement, parameters in seen:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                read = [row[3] for row in plan if "convstore_turns" in row[3] or "daily_usage" in row[3]]
                if "convstore_daily_usage" in statement:  # the days with sums, and what is known of each by the index
                    assert read[0].endswith("(owner=? AND day>? AND day<?)")
                    by_time = "SEARCH convstore_turns USING COVERING INDEX convstore_turns_owner_started_at_idx"
                    assert read[1:] == [
                        f"{by_time} (owner=? AND started_at>? AND started_at<?)",
                        f"{by_time} (owner=? AND started_at>?)",
                    ]
                else:
                    assert len(read) == 1, read
                    assert read[0].endswith(index), read


@ON_ALL_BACKENDS
def test_a_report_reads_in_the_callers_transaction(backend: Backend, chat_server: ChatServer) -> None:
    if backend.kind.startswith("async") or backend.is_memory:
        return  # `AsyncStore.using` takes an AsyncConnection, and a database in memory has only one
    store = backend.open(prices=PRICES)
    with backend.connect() as connection, connection.begin() as transaction:
        ours = store.using(connection)
        id = ours.new().id
        ours.append(id, COMPLETION)
        assert ours.usage(id).total.cost == pytest.approx(COST)
        assert ours.turns(id)[0].cost == pytest.approx(COST)
        transaction.rollback()
    assert store.usage().total.turns == 0


def test_days_in_a_report_are_utc_days(backend: Backend) -> None:
    store = backend.open(prices=MODEL_PRICES)
    turn = make_random_turn(random.Random(1), "", 1) | {"status": "failed"}
    insert_turns(backend, store, [turn | {"seq": n, "started_at": DAY_STARTS[1] + n * MICROSECOND} for n in (-1, 0, 1)])
    assert [(row.key, row.turns) for row in store.usage(by="day").rows] == [("2026-03-01", 1), ("2026-03-02", 2)]
    assert store.usage(since=date(2026, 3, 2)).total.turns == 2
    assert store.usage(until=date(2026, 3, 2)).total.turns == 1
