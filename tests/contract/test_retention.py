"""Test retention: rules say how long conversations are kept, and nothing is purged until they are run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from convstore import InvalidInput, Retained, Store
from tests.contract.conftest import Backend
from tests.contract.test_purge import make_older

DAY = timedelta(days=1)


def add(store: Store, *ids: str) -> None:
    for id in ids:
        store.new(id=id, messages=[{"role": "user", "content": id}])


def list_ids(store: Store) -> list[str]:
    return sorted(one.id for one in (*store.list(), *store.list(deleted=True)))


def test_nothing_is_kept_for_a_limited_time_unless_a_rule_says_so(store: Store, backend: Backend) -> None:
    add(store, "old")
    make_older(backend, "old")
    assert store.retention() == []
    assert store.run_retention() == []
    assert list_ids(store) == ["old"]


def test_a_rule_is_set_replaced_and_removed(store: Store) -> None:
    rule = store.set_retention(365 * DAY)
    assert (rule.owner, rule.covers, rule.keep) == ("", Retained.ALL, 365 * DAY)
    assert store.retention() == [rule]
    deleted = store.set_retention(30 * DAY, covers="deleted")
    again = store.set_retention(90 * DAY)
    assert store.retention() == [again, deleted]
    assert store.for_owner("ada").retention() == []
    assert store.unset_retention() is True
    assert store.unset_retention() is False
    assert store.retention() == [deleted]


@pytest.mark.parametrize("wrong", [{"keep": timedelta()}, {"keep": -DAY}, {"keep": 99_999 * DAY}])
def test_a_wrong_time_is_refused(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="an hour at least"):
        store.set_retention(**wrong)
    with pytest.raises(InvalidInput, match="'all' or 'deleted'"):
        store.set_retention(DAY, covers="some")  # type: ignore[arg-type]
    assert store.retention() == []


def test_setting_a_rule_purges_nothing_and_running_it_does(store: Store, backend: Backend) -> None:
    add(store, "old", "new", "old-deleted", "new-deleted")
    store.fork("old", new_id="fork")
    for id in ("old-deleted", "new-deleted"):
        store.delete(id)
    ada = store.for_owner("ada")
    add(ada, "old")
    make_older(backend, "old", "old-deleted")
    store.set_retention(30 * DAY, covers="deleted")
    assert list_ids(store) == ["fork", "new", "new-deleted", "old", "old-deleted"]
    planned = store.run_retention(dry_run=True)
    assert [receipt.conversation_id for receipt in planned] == ["old-deleted"]
    done = store.run_retention()
    assert [receipt.conversation_id for receipt in done] == ["old-deleted"]
    store.set_retention(90 * DAY)
    done = store.run_retention()
    assert [(receipt.conversation_id, receipt.kept_by[0].fork_id) for receipt in done] == [("old", "fork")]
    assert list_ids(store) == ["fork", "new", "new-deleted"]
    assert list_ids(ada) == ["old"]
    assert store.history("fork") == [{"role": "user", "content": "old"}]
    assert store.run_retention() == []


@pytest.mark.parametrize("runs", ["older", "rule"])
def test_what_was_restored_or_changed_meanwhile_is_left(store: Store, backend: Backend, runs: str) -> None:
    add(store, "a", "b", "c")
    for id in ("a", "b", "c"):
        store.delete(id)
    make_older(backend, "a", "b", "c")
    store.set_retention(30 * DAY, covers="deleted")

    def bring_back(count: int) -> None:
        if count == 1 and store.list(deleted=True):
            store.restore("b")
            store.restore("c")
            store.append("c", {"role": "user", "content": "I need this"})

    if runs == "rule":
        done = store.run_retention(on_progress=bring_back)
    else:
        done = store.purge_older_than(30 * DAY, deleted=True, on_progress=bring_back)
    assert [receipt.conversation_id for receipt in done] == ["a"]
    assert list_ids(store) == ["b", "c"]
    assert len(store.history("c")) == 2


def test_only_those_that_were_named_are_purged(store: Store, backend: Backend) -> None:
    add(store, "a", "b", "c")
    make_older(backend, "a", "b")
    store.set_retention(30 * DAY)
    before = datetime.now(UTC) - 30 * DAY
    assert [one.conversation_id for one in store.purge_older_than(before, ids=["a", "c"])] == ["a"]
    assert store.run_retention(ids=["c"]) == []
    assert [one.conversation_id for one in store.run_retention(ids=["b"])] == ["b"]
    with pytest.raises(InvalidInput, match="time zone"):
        store.purge_older_than(datetime(2020, 1, 1))  # noqa: DTZ001


def test_only_a_store_without_an_owner_lists_the_owners_with_rules(store: Store) -> None:
    store.set_retention(DAY)
    store.for_owner("ada").set_retention(DAY)
    assert store.list_retention_owners() == ["", "ada"]
    with pytest.raises(InvalidInput, match="may not see other owners"):
        store.for_owner("ada").list_retention_owners()
