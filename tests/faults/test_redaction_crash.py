"""Test `kill -9` at every statement and commit of a redaction: it is done, or nothing is, and it can be done again."""

from __future__ import annotations

import base64
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, literal, select

from convstore import InvalidInput, Store, TurnFailed
from convstore.db.tables import metadata
from convstore.db.verification import verify
from convstore.messages.redacted_message import REDACTED_TEXT
from convstore.testing import ChatServer, Failure, Reply
from convstore.testing.responses import JSONObject, text_of
from tests.contract.invariants import check_conversation, engine_of
from tests.contract.text_dump import find_text
from tests.faults.clients import open_store
from tests.faults.crashing import Points, run_child
from tests.processes import Channel, Zygote

FEWEST = 60
"""The number of points today is greater on either database: with fewer, the redaction or the matrix has lost some."""


def answer(body: JSONObject) -> Reply | Failure:
    text = text_of(body["messages"][-1])
    if text.startswith("Fail"):
        return Failure(400, f"this is refused: {text}")
    return Reply("A summary." if "Summarise" in text else f"An answer of {len(text)} characters")


SECRET, ID, FORK = "hunter2Pa55wort", "origin", "fork"
FILE = b"filewords " * 600


def prepare(store: Store) -> None:
    """Store a conversation with everything that a redaction changes."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(FILE).decode()}"}}
    content = [{"type": "text", "text": SECRET}, image]
    store.new(id=ID, metadata={"hint": SECRET}, messages=[{"role": "user", "content": content}])
    store.append(ID, {"role": "assistant", "content": f"noted: {SECRET}"})
    store.say(ID, "And?", idempotency_key="k", user=SECRET)
    with pytest.raises(TurnFailed):
        store.say(ID, f"Fail with {SECRET}")
    store.fork(ID, new_id=FORK, title=f"of {SECRET}")
    store.say(FORK, "More?")
    store.compact(ID, keep_last=1)
    store.rate(ID, 2, "good", note=SECRET)
    store.tag(ID, SECRET)


def redact_in_child(channel: Channel, *, url: str, owner: str, kill_at: int) -> None:
    store = Store(url, owner=owner)
    store.list()
    Points(channel, kill_at)
    redact(store)
    channel.send(["done", "redact"])


def redact(store: Store) -> None:
    # Everywhere, because a reply and a turn of the conversation quote the text.
    store.redact(ID, 1, everywhere=True, finish=False)


def count_occurrences(store: Store) -> int:
    with engine_of(store).connect() as connection:
        found = find_text(connection, SECRET, store.owner) + find_text(connection, FILE.decode(), store.owner)
    return len(found)


class Copies:
    """Make a copy of the prepared conversations for each point: a file, or the rows under another owner."""

    def __init__(self, folder: Path, postgres: str | None, base_url: str) -> None:
        self.kind = "sqlite" if postgres is None else "postgresql"
        self._folder = folder
        self._url = postgres or f"sqlite:///{folder}/prepared.db"
        with closing(open_store(self._url, base_url)) as store:
            prepare(store)

    def make(self, number: int) -> tuple[str, str]:
        """Return the URL and the owner of a copy."""
        if self.kind == "sqlite":
            shutil.copy(self._folder / "prepared.db", self._folder / f"{number}.db")
            return f"sqlite:///{self._folder}/{number}.db", ""
        owner = f"owner {number}"
        engine = create_engine(self._url)
        with engine.begin() as connection:
            for table in metadata.sorted_tables:
                if "owner" in table.c:
                    columns = [literal(owner) if name == "owner" else table.c[name] for name in table.c.keys()]  # noqa: SIM118
                    rows = select(*columns).where(table.c.owner == "")
                    connection.execute(insert(table).from_select(table.c.keys(), rows))
        engine.dispose()
        return self._url, owner


@pytest.fixture(params=["sqlite", "postgresql"])
def copies(request: pytest.FixtureRequest, tmp_path: Path, chat_server: ChatServer) -> Copies:
    chat_server.otherwise = answer
    postgres = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return Copies(tmp_path, postgres, chat_server.url)


def test_after_a_kill_at_any_point_a_redaction_is_done_or_is_not(zygote: Zygote, copies: Copies) -> None:
    def run(number: int, kill_at: int) -> tuple[Store, list[str], list[list[Any]]]:
        url, owner = copies.make(number)
        child = zygote.start(redact_in_child, url=url, owner=owner, kill_at=kill_at)
        acknowledged, points = run_child(child, killed=kill_at >= 0)
        return Store(url, owner=owner), acknowledged, points

    store, acknowledged, points = run(999, -1)
    with closing(store):
        assert acknowledged == ["redact"]
        assert count_occurrences(store) == 0
        assert verify(store._engine.transactions.database).damages == []
    done = False
    expected: list[bool] = []
    for _, _, when, what, writing in points:
        done = done or (when, what, writing) == ("after", "COMMIT", True)
        expected.append(done)
    assert done

    def at_point(kill_at: int) -> None:
        store, acknowledged, _ = run(kill_at, kill_at)
        with closing(store):
            is_done = count_occurrences(store) == 0
            assert is_done == expected[kill_at], points[kill_at]
            assert is_done or not acknowledged
            assert (store.history(ID)[0]["content"] == REDACTED_TEXT) == is_done
            if is_done:
                with pytest.raises(InvalidInput, match="redacted already"):
                    redact(store)
            else:
                redact(store)
                assert count_occurrences(store) == 0
            for id in (ID, FORK):
                check_conversation(engine_of(store), store.owner, id)

    # After a statement, the database is as it is before the next one.
    wanted = [place for place, point in enumerate(points) if point[2] == "before" or point[3] == "COMMIT"]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(at_point, wanted))
    print(f"\nredaction, {copies.kind}: killed at {len(wanted)} points")
    assert len(wanted) >= FEWEST
