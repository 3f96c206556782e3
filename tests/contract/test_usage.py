"""`usage`: what turns cost is recorded as they end; sums, by the database, against a plain model of them."""

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
from tests.contract.conftest import OF_EACH_SORT, ON_CALLERS_ENGINES_TOO, Backend
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


def reply(**options: Any) -> Reply:
    return Reply("Yes.", usage=TOKENS, model="test-model-2026", **options)


# --- what a turn cost is recorded as it ends ---


def test_a_turn_records_what_it_cost(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(reply(), reply(), Failure(400), reply(), Reply("Free.", model="other"))
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


def test_what_came_of_a_reply_that_broke_off_costs_what_was_reported(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(reply(finish_reason=None))
    with pytest.raises(TurnFailed) as broken:
        store.say(id, "Hi")
    assert broken.value.turn.cost == pytest.approx(COST)
    assert store.usage(id).total.cost == pytest.approx(COST)


def test_a_summary_costs_too(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(reply(), reply(), reply(), reply())
    for _ in range(3):
        store.say(id, "Hi")
    assert len(store.compact(id, keep_last=1)) == 1
    total = store.usage(id).total
    assert (total.turns, total.prompt_tokens) == (4, 4000)
    assert [turn.cost for turn in store.turns(id)] == [pytest.approx(COST)] * 4
    assert total.cost == pytest.approx(4 * COST)


def test_the_cost_on_record_stays_when_prices_change_and_the_rest_is_counted_by_those_of_its_time(
    backend: Backend, chat_server: ChatServer
) -> None:
    if backend.is_memory:
        return  # each store there has a database of its own
    chat_server.script(reply(), reply())
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


@ON_CALLERS_ENGINES_TOO
def test_what_is_counted(backend: Backend, chat_server: ChatServer, hold: Callable[..., Any], elsewhere: Any) -> None:
    store = backend.open(prices=PRICES)
    id = store.new().id
    chat_server.script(reply(), Failure(400), Reply(pieces=["a", "b"]))
    store.say(id, "Hi")
    with pytest.raises(TurnFailed):
        store.say(id, "Hi")
    with store.stream(id, "Hi") as stopped:
        next(stopped)
    store.append(id, COMPLETION)
    store.append(id, "Only a key.", idempotency_key="k")  # a turn that asked nobody
    held = hold()
    running = elsewhere(lambda: store.say(id, "Hi"))
    held.wait()
    total = store.usage(id).total
    held.let_go()
    running.result(10)
    assert (total.turns, total.failed, total.interrupted) == (4, 1, 1)
    assert (total.turns_without_usage, total.turns_without_price) == (1, 0)  # the one that was stopped
    assert (total.prompt_tokens, total.cached_tokens) == (2000, 800)
    assert (total.completion_tokens, total.reasoning_tokens) == (400, 100)
    assert total.cost == pytest.approx(2 * COST)
    assert not total.is_cost_whole
    assert total.latency_median == total.latency_p95 == store.turns(id)[0].latency  # not of those that failed
    store.delete(id)
    assert store.usage().total.turns == 5


def test_nothing_costs_nothing(store: Store) -> None:
    id = store.new().id
    for report in (store.usage(), store.usage(id), store.usage(by="day"), store.usage_by_owner()):
        assert report.rows == ()
        assert report.total == UsageRow(None, None, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, None, None)
        assert report.total.is_cost_whole


def test_a_conversation_that_is_not_there_is_not_taken_for_an_empty_one(store: Store) -> None:
    for id in ("nothere", ""):
        with pytest.raises(ConversationNotFound, match=f"no conversation '{id}'"):
            store.usage(id)


def test_a_fork_counts_its_own_turns_alone(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    origin = store.new(name="origin", title="Title").id
    chat_server.script(reply(), reply(), reply())
    store.say(origin, "Hi")
    store.say(origin, "Hi")
    fork = store.fork(origin, title="\0 wild").id
    store.say(fork, "Hi")
    assert [store.usage(id).total.turns for id in (origin, fork)] == [2, 1]
    rows = store.usage(by="conversation").rows
    assert [(row.key, row.label, row.turns) for row in rows] == [(origin, "origin", 2), (fork, "\0 wild", 1)]


def test_no_owner_sees_what_another_used(backend: Backend, chat_server: ChatServer) -> None:
    store = backend.open(prices=PRICES)
    chat_server.script(*(reply() for _ in range(6)))
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


def test_what_is_asked_wrongly_is_refused(store: Store) -> None:
    with pytest.raises(InvalidInput, match='by must be one of "model", "day", "conversation", not \'owner\''):
        store.usage(by="owner")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="since needs a time zone"):
        store.usage(since=datetime(2026, 1, 1))  # noqa: DTZ001 (that is the point)
    with pytest.raises(InvalidInput, match="until must be a datetime or a date, not str"):
        store.usage(until="2026-01-01")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="since is out of range"):
        store.usage(since=datetime.min.replace(tzinfo=timezone(timedelta(hours=5))))


# --- prices that are wrong ---


def test_wrong_prices_are_found_before_anything_is_sent_and_never_when_a_reply_is_to_be_kept(
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
        return reply()

    path.write_text('[models."test-model*"]\nprompt = 1\ncompletion = 0\n')
    chat_server.otherwise = spoil
    assert store.say(id, "Hi").cost == 0.001
    assert store.say(id, "Hi").cost == 0.001  # it was read once


def test_the_prices_of_the_configuration_are_those_of_a_store_that_is_given_none(
    backend: Backend, chat_server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prices.toml").write_text('currency = "EUR"\n[models."*"]\nprompt = 1\ncompletion = 0\n')
    monkeypatch.setenv("CONVSTORE_PRICES", str(tmp_path / "prices.toml"))
    chat_server.script(reply())
    store = backend.open()
    assert store.say(store.new().id, "Hi").cost == 0.001
    assert store.usage().currency == "EUR"


# --- sums against a plain model ---

BORDERS = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=day) for day in (0, 1, 2, 3)]
INSTANT = timedelta(microseconds=1)
MODELS = ["alpha", "alpha-2026", "beta", "x\0y", "gamma", None]
STATED = {
    "models": {
        "alpha": [{"prompt": 1, "completion": 2}, {"since": BORDERS[1], "prompt": 3, "cached": 1, "completion": 4}],
        "alpha*": {"prompt": 7, "completion": 7, "reasoning": 9},
        "beta": {"since": BORDERS[2], "prompt": 5, "completion": 6},
        "x\0y": {"prompt": 11, "completion": 0},
    }
}
Turn = dict[str, Any]


def random_turn(dice: random.Random, owner: str, seq: int) -> Turn:
    status = dice.choice(["completed"] * 5 + ["failed", "interrupted", "running"])
    counts = [dice.choice([None, 0, 1, dice.randrange(100_000), -1]) for _ in range(4)]
    at = dice.choice(BORDERS) + dice.choice([timedelta(), -INSTANT, INSTANT, timedelta(hours=dice.randrange(24))])
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


def put(backend: Backend, store: Store, rows: list[Turn]) -> None:
    """Turns as no store would have begun them, all at once."""
    for owner in sorted({row["owner"] for row in rows}):
        for id in sorted({row["conversation_id"] for row in rows}):
            store.for_owner(owner).new(id=id)
    backend.whole = False
    with backend.connect() as connection, connection.begin():
        connection.execute(insert(table), rows)


def usage_of(turn: Turn) -> Usage:
    return Usage(
        {
            "prompt_tokens": turn["prompt_tokens"],
            "completion_tokens": turn["completion_tokens"],
            "prompt_tokens_details": {"cached_tokens": turn["cached_tokens"]},
            "completion_tokens_details": {"reasoning_tokens": turn["reasoning_tokens"]},
        }
    )


def modelled(turns: list[Turn], key: str | None, label: str | None = None) -> UsageRow:
    """What a report should say of these turns: one turn at a time, in Python."""
    prices = parse_prices(STATED, "test")
    costs, unpriced, unreported = [], 0, 0
    sums: dict[str, list[int]] = {name: [] for name in ("prompt", "cached", "completion", "reasoning")}
    for turn in turns:
        usage = usage_of(turn)
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
        label=label,
        turns=len(turns),
        failed=sum(turn["status"] == "failed" for turn in turns),
        interrupted=sum(turn["status"] == "interrupted" for turn in turns),
        prompt_tokens=sum(sums["prompt"]) if sums["prompt"] else nothing,
        cached_tokens=sum(sums["cached"]) if sums["cached"] else nothing,
        completion_tokens=sum(sums["completion"]) if sums["completion"] else nothing,
        reasoning_tokens=sum(sums["reasoning"]) if sums["reasoning"] else nothing,
        turns_without_usage=unreported,
        cost=about(sum(costs)) if costs else nothing,
        turns_without_price=unpriced,
        latency_median=taken[-(-len(taken) * 50 // 100) - 1] / 1000 if taken else None,
        latency_p95=taken[-(-len(taken) * 95 // 100) - 1] / 1000 if taken else None,
    )


def about(number: float) -> float:
    """One that is equal to what the databases make of it, each adding in its own order."""
    return cast("float", pytest.approx(number, abs=1e-6))


def is_counted(turn: Turn) -> bool:
    asked_nobody = turn["status"] == "completed" and turn["output_seq"] is None and turn["purpose"] is None
    return turn["status"] != "running" and not asked_nobody


KEYS: dict[str | None, Callable[[Turn], str | None]] = {
    None: lambda _: None,
    "model": lambda turn: from_column(turn["model"]) or from_column(turn["requested_model"]),
    "day": lambda turn: turn["started_at"].date().isoformat(),
    "conversation": lambda turn: turn["conversation_id"],
    "owner": lambda turn: turn["owner"],
}


def check(report: UsageReport, turns: Iterable[Turn], by: str | None) -> None:
    counted = [turn for turn in turns if is_counted(turn)]
    groups: dict[str | None, list[Turn]] = {}
    for turn in counted:
        groups.setdefault(KEYS[by](turn), []).append(turn)
    assert report.total == modelled(counted, None)
    found = {row.key: row for row in report.rows}
    assert len(found) == len(report.rows)
    assert found == ({key: modelled(group, key) for key, group in groups.items()} if by is not None else {})
    if by == "day":
        assert list(found) == sorted(found)  # type: ignore[type-var]
    else:
        assert [row.cost or 0 for row in report.rows] == sorted((row.cost or 0 for row in report.rows), reverse=True)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_report_is_what_a_plain_model_makes_of_the_turns(backend: Backend, seed: int) -> None:
    dice = random.Random(seed)
    store = backend.open(prices=STATED)
    every = [random_turn(dice, dice.choice(["", "", "ann"]), seq) for seq in range(1, 301)]
    put(backend, store, every)
    for owner in ("", "ann"):
        view, own = store.for_owner(owner), [turn for turn in every if turn["owner"] == owner]
        for by in ("model", "day", "conversation", None):
            check(view.usage(by=by), own, by)
        here = [turn for turn in own if turn["conversation_id"] == "two"]
        check(view.usage("two", by="model"), here, "model")
    for since, until in [(BORDERS[1], None), (None, BORDERS[2]), (BORDERS[1], BORDERS[2]), (BORDERS[2], BORDERS[1])]:
        within = [
            turn
            for turn in every
            if (since is None or turn["started_at"] >= since) and (until is None or turn["started_at"] < until)
        ]
        own = [turn for turn in within if turn["owner"] == ""]
        east = timezone(timedelta(hours=9))
        check(store.usage(since=since and since.astimezone(east), until=until, by="day"), own, "day")
        check(store.usage(since=since and since.date(), until=until and until.date()), own, None)
        check(store.usage_by_owner(since=since, until=until), within, "owner")


def test_counts_that_no_sum_of_integers_would_hold_are_no_error(backend: Backend) -> None:
    store = backend.open(prices={"models": {"*": {"prompt": 1, "completion": 1}}})
    most = 2**63 - 1
    turn = random_turn(random.Random(1), "", 1) | {"status": "completed", "output_seq": 1, "cost": None}
    huge = {"prompt_tokens": most, "cached_tokens": -most, "completion_tokens": most, "reasoning_tokens": most}
    put(backend, store, [turn | huge | {"seq": seq} for seq in range(1, 5)])
    for by in (None, "model"):
        total = store.usage(by=by).total
        assert (total.prompt_tokens, total.cached_tokens) == (2**65, 0)
        assert total.cost == pytest.approx(2**66 / 1e6)


@OF_EACH_SORT
def test_more_models_than_one_statement_has_room_for_are_priced_all_the_same(backend: Backend) -> None:
    count = 1100
    store = backend.open(
        prices={"models": {"m*": {"prompt": 1_000_000, "completion": 0}, "m7": {"prompt": 0, "completion": 0}}}
    )
    turn = random_turn(random.Random(1), "", 1) | {"status": "completed", "output_seq": 1, "cost": None}
    one = {"prompt_tokens": 1, "cached_tokens": None, "completion_tokens": 1, "reasoning_tokens": None}
    put(
        backend,
        store,
        [turn | one | {"seq": seq, "model": f"m{seq}", "requested_model": None} for seq in range(1, count + 1)],
    )
    total = store.usage().total
    assert (total.cost, total.turns_without_price) == (count - 1, 0)
    assert len(store.usage(by="model").rows) == count


# --- what it costs the database ---


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize("count", [1, 300])
def test_a_report_is_two_statements_and_two_more_where_costs_are_not_on_record(backend: Backend, count: int) -> None:
    store = backend.open(prices=STATED)
    dice = random.Random(1)
    known = {"status": "completed", "output_seq": 1, "model": "alpha", "prompt_tokens": 1, "completion_tokens": 1}
    rows = [random_turn(dice, "", seq) | known | {"cost": 1.0} for seq in range(1, count + 1)]
    put(backend, store, rows + [row | {"owner": "ann", "cost": None} for row in rows])
    for owner, expected in (("", 2), ("ann", 4)):
        for by in (None, "model", "day", "conversation"):
            with statements(engine_of(store)) as seen:
                store.for_owner(owner).usage(by=by)
            assert len(seen) == expected


def test_a_report_goes_by_time_through_the_turns_of_its_owner_or_by_the_key_through_those_of_one_conversation(
    backend: Backend,
) -> None:
    if backend.is_postgres:
        return  # whose plans depend on how many rows there are
    store = backend.open(prices=STATED)
    put(backend, store, [random_turn(random.Random(seq), "", seq) for seq in range(1, 300)])
    for how, index in (
        ({}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"by": "model"}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"by": "conversation"}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"since": BORDERS[1], "by": "day"}, "(owner=? AND started_at>? AND started_at<?)"),
        ({"conversation_id": "two"}, "(owner=? AND conversation_id=?)"),
        ({"conversation_id": "two", "since": BORDERS[1]}, "(owner=? AND conversation_id=?)"),
    ):
        with statements(engine_of(store)) as seen:
            store.usage(**how)
        with backend.connect() as connection:
            for statement, parameters in seen:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                read = [row[3] for row in plan if "convstore_turns" in row[3]]
                assert len(read) == 1, read
                assert read[0].endswith(index), read


@ON_CALLERS_ENGINES_TOO
def test_a_report_is_made_in_the_callers_own_transaction(backend: Backend, chat_server: ChatServer) -> None:
    if backend.kind.startswith("async") or backend.is_memory:
        return  # its `using` takes an AsyncConnection; a database in memory has one connection
    store = backend.open(prices=PRICES)
    with backend.connect() as connection, connection.begin() as transaction:
        ours = store.using(connection)
        id = ours.new().id
        ours.append(id, COMPLETION)
        assert ours.usage(id).total.cost == pytest.approx(COST)
        assert ours.turns(id)[0].cost == pytest.approx(COST)
        transaction.rollback()
    assert store.usage().total.turns == 0


def test_a_day_is_a_day_of_utc(backend: Backend) -> None:
    store = backend.open(prices=STATED)
    turn = random_turn(random.Random(1), "", 1) | {"status": "failed"}
    put(backend, store, [turn | {"seq": n, "started_at": BORDERS[1] + n * INSTANT} for n in (-1, 0, 1)])
    assert [(row.key, row.turns) for row in store.usage(by="day").rows] == [("2026-03-01", 1), ("2026-03-02", 2)]
    assert store.usage(since=date(2026, 3, 2)).total.turns == 2
    assert store.usage(until=date(2026, 3, 2)).total.turns == 1
