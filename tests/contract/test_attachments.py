"""Images, sounds and files: kept once, as bytes; sent and handed out as the very characters that went in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select, text

from convstore import DamagedRow, Store, TurnFailed
from convstore.db.tables import attachments, messages
from convstore.messages.inline_data import digest_attachment
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import STORES_OWN, Backend
from tests.contract.invariants import engine_of

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 16
SOUND = bytes(reversed(range(256))) * 20
OTHER = b"%PDF-1.7\n" + bytes(range(256)) * 16
EVERY = pytest.mark.parametrize("backend", STORES_OWN, indirect=True)

Part = dict[str, Any]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes = IMAGE) -> Part:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(data)}", "detail": "low"}}


def sound(data: bytes = SOUND) -> Part:
    return {"type": "input_audio", "input_audio": {"data": encoded(data), "format": "wav"}}


def paper(data: bytes = OTHER) -> Part:
    return {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{encoded(data)}"}}


def words(text: str = "What is it?") -> Part:
    return {"type": "text", "text": text}


VENDOR = {
    "role": "user",
    "content": "See.",
    "x_vendor": {"deep": [[{"image": encoded(IMAGE)}], "\0", "\ud83d"], "wrapped": encoded(IMAGE) + "\n"},
}


def kept(store: Store) -> list[tuple[str, bytes]]:
    """Whose attachments there are, and what they are."""
    with engine_of(store).connect() as connection:
        rows = connection.execute(select(attachments)).all()
    assert [bytes(row.digest) for row in rows] == [digest_attachment(bytes(row.data)) for row in rows]
    return sorted((row.owner, bytes(row.data)) for row in rows)


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """What goes to the database meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(engine_of(store), "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine_of(store), "before_cursor_execute", note)


def test_what_was_said_comes_back_byte_for_byte_and_goes_to_the_model_as_it_is(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(system="Look.").id
    question = [words(), image(), sound(), paper(), image(), {"type": "x", "x": encoded(SOUND)[:-1]}]
    store.say(id, question)
    store.say(id, "And now?")
    asked = {"role": "user", "content": question}
    assert store.history(id, exact=True)[1] == asked
    assert store.history(id)[1] == asked
    assert store.messages(id)[1].message == asked
    assert [request.body["messages"][1] for request in chat_server.requests] == [asked, asked]
    assert kept(store) == sorted([("", IMAGE), ("", SOUND), ("", OTHER)])


@EVERY
def test_it_is_kept_once_however_often_it_is_said_appended_or_begun_with(store: Store) -> None:
    first = {"role": "user", "content": [words(), image()]}
    answer = {"role": "assistant", "content": "A cat."}
    id = store.new(messages=[first, answer, first]).id
    store.append(id, answer, first, answer, VENDOR, answer)
    for _ in range(3):
        store.say(id, [words(), image(), image()])
        with store.stream(id, [image()]) as reply:
            list(reply)
    store.retry(id)
    store.say(store.new(messages=[first]).id, [image()])
    assert store.history(id, exact=True)[:3] == [first, answer, first]
    assert store.history(id, exact=True)[6] == VENDOR
    assert kept(store) == [("", IMAGE)]
    rows = "SELECT max(length(extra)) FROM convstore_messages WHERE extra LIKE '%image_url%'"
    with engine_of(store).connect() as connection:
        assert (connection.scalar(text(rows)) or 0) < 600


@EVERY
def test_the_row_is_an_array_which_earlier_releases_refuse(store: Store) -> None:
    id = store.new().id
    plain = {"role": "user", "content": [words(), {"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}
    store.append(id, plain, {"role": "user", "content": [image()]})
    with engine_of(store).connect() as connection:
        one, other = connection.scalars(select(messages.c.extra).order_by(messages.c.seq))
    assert isinstance(json.loads(one or ""), dict)  # as ever
    assert json.loads(other or "") == [
        {"content": [{"type": "image_url", "image_url": {"url": None, "detail": "low"}}]},
        [[["content", 0, "image_url", "url"], "data:image/png;base64,", digest_attachment(IMAGE).hex(), len(IMAGE)]],
    ]


@EVERY
def test_replies_may_have_them_whole_streamed_and_off_the_path(store: Store, chat_server: ChatServer) -> None:
    audio = {"id": "audio_1", "data": encoded(SOUND), "expires_at": 1, "transcript": "Hello."}
    spoken = {"role": "assistant", "content": None, "audio": audio}
    drawn = {"role": "assistant", "content": "Here.", "images": [image()]}
    id = store.new().id
    chat_server.script(Reply(message=spoken), Reply(message=drawn), Reply("ok"))
    turn = store.say(id, "Speak.")
    assert turn.message == spoken
    with store.stream(id, "Draw.") as reply:
        list(reply)
    store.say(id, "Thanks.")
    assert [store.history(id, exact=True)[place] for place in (1, 3)] == [spoken, drawn]
    assert [found.message for found in store.turns(id)][:2] == [spoken, drawn]
    assert chat_server.requests[-1].body["messages"][1] == {"role": "assistant", "audio": {"id": "audio_1"}}
    assert chat_server.requests[-1].body["messages"][3] == drawn
    chat_server.script(Reply(message=drawn))
    store.retry(id)
    assert store.turns(id)[-1].message == drawn
    assert kept(store) == sorted([("", SOUND), ("", IMAGE)])


@EVERY
def test_a_failed_question_keeps_them_and_can_be_asked_again(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(400), Reply("A cat."))
    with pytest.raises(TurnFailed):
        store.say(id, [image()])
    assert store.history(id) == []
    (failed,) = store.unanswered(id)
    assert [record.message for record in store.input_of(failed)] == [{"role": "user", "content": [image()]}]
    store.retry(id)
    assert chat_server.requests[0].body["messages"] == chat_server.requests[1].body["messages"]
    assert store.history(id)[0] == {"role": "user", "content": [image()]}
    assert kept(store) == [("", IMAGE)]


@EVERY
def test_a_key_finds_the_reply_with_what_it_carries(store: Store, chat_server: ChatServer) -> None:
    drawn = {"role": "assistant", "content": None, "images": [image()]}
    chat_server.script(Reply(message=drawn))
    id = store.new().id
    turns = [store.say(id, [sound()], idempotency_key="once") for _ in range(2)]
    assert [turn.message for turn in turns] == [drawn, drawn]
    added = [store.append(id, {"role": "user", "content": [paper()]}, idempotency_key="add") for _ in range(2)]
    assert [[record.message for record in records] for records in added] == [
        [{"role": "user", "content": [paper()]}]
    ] * 2
    assert len(chat_server.requests) == 1


@EVERY
def test_each_owner_has_a_row_and_reaches_no_other(store: Store, backend: Backend) -> None:
    ann, bob = store.for_owner("ann"), store.for_owner("bob")
    for owner in (ann, bob):
        owner.new(id="photos", messages=[{"role": "user", "content": [image()]}])
    assert kept(store) == [("ann", IMAGE), ("bob", IMAGE)]
    backend.damage("DELETE FROM convstore_attachments WHERE owner = 'bob'")
    assert ann.history("photos") == [{"role": "user", "content": [image()]}]
    with pytest.raises(DamagedRow, match="photos"):
        bob.history("photos")


@EVERY
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM convstore_attachments WHERE digest = :digest",
        "UPDATE convstore_attachments SET data = :other WHERE digest = :digest",
        "UPDATE convstore_attachments SET data = :empty WHERE digest = :digest",
        "UPDATE convstore_attachments SET owner = 'x' WHERE digest = :digest",
    ],
)
def test_one_that_is_missing_or_damaged_is_an_error_that_names_the_message(
    store: Store, backend: Backend, chat_server: ChatServer, damage: str
) -> None:
    drawn = {"role": "assistant", "content": None, "images": [image()]}
    chat_server.script(Reply(message=drawn))
    id = store.new().id
    turn = store.say(id, [paper()])
    other = store.new(messages=[{"role": "user", "content": [paper()]}]).id
    values = {"digest": digest_attachment(IMAGE), "other": IMAGE[:-1] + b"x", "empty": b""}
    backend.damage(damage, **{key: value for key, value in values.items() if f":{key}" in damage})
    named = f"{id}': message seq 2 .*{digest_attachment(IMAGE).hex()}.*{len(IMAGE)} bytes.*restore"
    for call in (
        lambda: store.history(id),
        lambda: store.messages(id, limit=1),
        lambda: store.turns(id),
        lambda: store.say(id, "Go on"),
        lambda: store.preview(id, "Go on"),
        lambda: store.append(id, "Go on"),
    ):
        with pytest.raises(DamagedRow, match=named):
            call()
    assert len(chat_server.requests) == 1
    assert store.history(other)[0] == {"role": "user", "content": [paper()]}
    assert [record.message for record in store.input_of(turn)] == [{"role": "user", "content": [paper()]}]
    assert store.history(store.fork(id, at=1).id) == [{"role": "user", "content": [paper()]}]


def test_a_reading_costs_one_statement_more_and_none_where_there_is_nothing(store: Store) -> None:
    plain, one, many = (store.new(f"{number}").id for number in range(3))
    for number in range(60):
        store.append(plain, {"role": "user", "content": [words(f"{number}")]})
    store.append(one, *({"role": "user", "content": "Hi"} for _ in range(59)), {"role": "user", "content": [image()]})
    pictures = [IMAGE + bytes([number]) * 3 for number in range(60)]
    store.append(many, *({"role": "user", "content": [image(data), image()]} for data in pictures))
    costs = []
    for id in (plain, one, many):
        with statements(store) as seen:
            found = store.history(id)
        costs.append(len(seen))
        assert len(found) == 60
    assert [cost - costs[0] for cost in costs] == [0, 1, 1]
    assert found == [{"role": "user", "content": [image(data), image()]} for data in pictures]
    with statements(store) as seen:
        store.append(plain, "Hi")
    without = len(seen)
    with statements(store) as seen:
        store.append(plain, *({"role": "user", "content": [image(data), image()]} for data in pictures))
    assert len(seen) - without == 1


@EVERY
def test_several_may_store_the_same_at_once(store: Store, elsewhere: Any) -> None:
    ids = [store.new().id for _ in range(4)]
    pictures = [IMAGE + bytes([number]) * 3 for number in range(20)]

    def add(number: int) -> None:
        turned = pictures[5 * number :] + pictures[: 5 * number]
        for _ in range(5):
            store.append(ids[number], *({"role": "user", "content": [image(data)]} for data in turned))

    for waiting in [elsewhere(lambda number=number: add(number)) for number in range(4)]:
        waiting.result()
    assert kept(store) == sorted(("", data) for data in pictures)
    assert all(len(store.history(id)) == 100 for id in ids)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_they_are_stored_in_one_order_so_that_two_callers_never_wait_for_each_other(store: Store) -> None:
    stored: list[bytes] = []

    def note(_connection: Any, statement: Any, many: list[dict[str, Any]], *_: Any) -> None:
        if getattr(statement, "table", None) is attachments:
            stored.extend(row["digest"] for row in many)

    id = store.new().id
    pictures = sorted((IMAGE + bytes([number]) * 3 for number in range(20)), key=digest_attachment, reverse=True)
    event.listen(engine_of(store), "before_execute", note)
    store.append(id, *({"role": "user", "content": [image(data)]} for data in pictures))
    assert len(stored) == 20
    assert stored == sorted(stored)


@pytest.mark.parametrize("backend", ["sqlite-engine", "postgresql-engine"], indirect=True)
def test_a_callers_own_transaction_keeps_or_drops_them_with_itself(store: Store) -> None:
    id = store.new().id
    for keep in (False, True):
        with engine_of(store).connect() as connection:
            store.using(connection).append(id, {"role": "user", "content": [image()]})
            assert store.using(connection).history(id)[0]["content"] == [image()]
            connection.commit() if keep else connection.rollback()
        assert kept(store) == ([("", IMAGE)] if keep else [])
    assert len(store.history(id)) == 1


@EVERY
def test_forks_and_forks_of_forks_share_them_and_outlive_the_origin(store: Store, chat_server: ChatServer) -> None:
    question, answer = {"role": "user", "content": [words(), image()]}, {"role": "assistant", "content": "A cat."}
    id = store.new(messages=[question, answer]).id
    fork = store.fork(id).id
    further = store.fork(fork, at=1).id
    store.say(fork, [image(), paper()])
    store.append(further, answer)
    store.say(further, [image()])
    store.delete(id)
    assert [store.history(fork)[place]["content"] for place in (0, 2)] == [[words(), image()], [image(), paper()]]
    assert [store.history(further)[place]["content"] for place in (0, 2)] == [[words(), image()], [image()]]
    assert [request.body["messages"][0] for request in chat_server.requests] == [question, question]
    assert kept(store) == sorted([("", IMAGE), ("", OTHER)])


@EVERY
def test_what_moves_the_head_keeps_them(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Look.").id
    store.say(id, [image()])
    store.say(id, [paper()])
    store.undo(id)
    assert store.history(id)[1]["content"] == [image()]
    assert len(store.history(id)) == 3
    store.redo(id)
    assert store.history(id)[3]["content"] == [paper()]
    store.edit(id, 2, [sound()])
    assert [message["content"] for message in store.history(id)[1:2]] == [[sound()]]
    assert [node.message["content"] for node in store.tree(id) if node.message["role"] == "user"] == [
        [image()],
        [paper()],
        [sound()],
    ]
    assert store.at(id, 2).message["content"] == [sound()]
    assert kept(store) == sorted([("", IMAGE), ("", SOUND), ("", OTHER)])


@EVERY
def test_a_window_reads_those_that_it_sends(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Look.").id
    for data in (IMAGE, OTHER, SOUND):
        store.say(id, [image(data)])
    store.pin(id, 2)
    store.say(id, "And?", last=1)
    sent = chat_server.requests[-1].body["messages"]
    pictures = [message["content"] for message in sent if isinstance(message["content"], list)]
    assert pictures == [[image(IMAGE)], [image(SOUND)]]
