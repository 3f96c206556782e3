"""Test that attachments are stored once, and sent and returned unchanged."""

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
from tests.contract.conftest import OWN_ENGINE_KINDS, Backend
from tests.contract.invariants import engine_of

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 16
SOUND = bytes(reversed(range(256))) * 20
PDF = b"%PDF-1.7\n" + bytes(range(256)) * 16
ON_OWN_ENGINES = pytest.mark.parametrize("backend", OWN_ENGINE_KINDS, indirect=True)

Part = dict[str, Any]


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make_image(data: bytes = IMAGE) -> Part:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encode(data)}", "detail": "low"}}


def make_sound(data: bytes = SOUND) -> Part:
    return {"type": "input_audio", "input_audio": {"data": encode(data), "format": "wav"}}


def make_pdf(data: bytes = PDF) -> Part:
    return {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{encode(data)}"}}


def make_text(text: str = "What is it?") -> Part:
    return {"type": "text", "text": text}


VENDOR_MESSAGE = {
    "role": "user",
    "content": "See.",
    "x_vendor": {"deep": [[{"image": encode(IMAGE)}], "\0", "\ud83d"], "wrapped": encode(IMAGE) + "\n"},
}


def read_attachments(store: Store) -> list[tuple[str, bytes]]:
    """Return the owner and the bytes of each stored attachment."""
    with engine_of(store).connect() as connection:
        rows = connection.execute(select(attachments)).all()
    assert [bytes(row.digest) for row in rows] == [digest_attachment(bytes(row.data)) for row in rows]
    return sorted((row.owner, bytes(row.data)) for row in rows)


@contextmanager
def record_statements(store: Store) -> Iterator[list[str]]:
    """Yield a list that receives the statements of the block."""
    seen: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(engine_of(store), "before_cursor_execute", record)
    try:
        yield seen
    finally:
        event.remove(engine_of(store), "before_cursor_execute", record)


def test_attachments_are_stored_and_sent_exactly(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Look.").id
    question = [
        make_text(),
        make_image(),
        make_sound(),
        make_pdf(),
        make_image(),
        {"type": "x", "x": encode(SOUND)[:-1]},
    ]
    store.say(id, question)
    store.say(id, "And now?")
    asked = {"role": "user", "content": question}
    assert store.history(id, exact=True)[1] == asked
    assert store.history(id)[1] == asked
    assert store.messages(id)[1].message == asked
    assert [request.body["messages"][1] for request in chat_server.requests] == [asked, asked]
    assert read_attachments(store) == sorted([("", IMAGE), ("", SOUND), ("", PDF)])


@ON_OWN_ENGINES
def test_an_attachment_is_stored_once_however_often_it_is_used(store: Store) -> None:
    first = {"role": "user", "content": [make_text(), make_image()]}
    answer = {"role": "assistant", "content": "A cat."}
    id = store.new(messages=[first, answer, first]).id
    store.append(id, answer, first, answer, VENDOR_MESSAGE, answer)
    for _ in range(3):
        store.say(id, [make_text(), make_image(), make_image()])
        with store.stream(id, [make_image()]) as reply:
            list(reply)
    store.retry(id)
    store.say(store.new(messages=[first]).id, [make_image()])
    assert store.history(id, exact=True)[:3] == [first, answer, first]
    assert store.history(id, exact=True)[6] == VENDOR_MESSAGE
    assert read_attachments(store) == [("", IMAGE)]
    rows = "SELECT max(length(extra)) FROM convstore_messages WHERE extra LIKE '%image_url%'"
    with engine_of(store).connect() as connection:
        assert (connection.scalar(text(rows)) or 0) < 600


@ON_OWN_ENGINES
def test_a_message_with_attachments_is_a_json_array_that_earlier_releases_refuse(store: Store) -> None:
    id = store.new().id
    plain = {"role": "user", "content": [make_text(), {"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}
    store.append(id, plain, {"role": "user", "content": [make_image()]})
    with engine_of(store).connect() as connection:
        one, other = connection.scalars(select(messages.c.extra).order_by(messages.c.seq))
    assert isinstance(json.loads(one or ""), dict)  # the form that earlier releases read
    assert json.loads(other or "") == [
        {"content": [{"type": "image_url", "image_url": {"url": None, "detail": "low"}}]},
        [[["content", 0, "image_url", "url"], "data:image/png;base64,", digest_attachment(IMAGE).hex(), len(IMAGE)]],
    ]


@ON_OWN_ENGINES
def test_attachments_in_replies_are_stored(store: Store, chat_server: ChatServer) -> None:
    audio = {"id": "audio_1", "data": encode(SOUND), "expires_at": 1, "transcript": "Hello."}
    spoken = {"role": "assistant", "content": None, "audio": audio}
    drawn = {"role": "assistant", "content": "Here.", "images": [make_image()]}
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
    assert chat_server.requests[-1].body["messages"][3] == {"role": "assistant", "content": "Here."}
    store.say(id, "Send the image too.", send_extra=["images"])
    assert chat_server.requests[-1].body["messages"][3] == drawn
    store.undo(id)
    chat_server.script(Reply(message=drawn))
    store.retry(id)
    assert store.turns(id)[-1].message == drawn
    assert read_attachments(store) == sorted([("", SOUND), ("", IMAGE)])


@ON_OWN_ENGINES
def test_the_input_of_a_failed_turn_keeps_its_attachments_for_a_retry(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    chat_server.script(Failure(400), Reply("A cat."))
    with pytest.raises(TurnFailed):
        store.say(id, [make_image()])
    assert store.history(id) == []
    (failed,) = store.unanswered(id)
    assert [record.message for record in store.input_of(failed)] == [{"role": "user", "content": [make_image()]}]
    store.retry(id)
    assert chat_server.requests[0].body["messages"] == chat_server.requests[1].body["messages"]
    assert store.history(id)[0] == {"role": "user", "content": [make_image()]}
    assert read_attachments(store) == [("", IMAGE)]


@ON_OWN_ENGINES
def test_an_idempotency_key_finds_the_stored_attachments(store: Store, chat_server: ChatServer) -> None:
    drawn = {"role": "assistant", "content": None, "images": [make_image()]}
    chat_server.script(Reply(message=drawn))
    id = store.new().id
    turns = [store.say(id, [make_sound()], idempotency_key="once") for _ in range(2)]
    assert [turn.message for turn in turns] == [drawn, drawn]
    added = [store.append(id, {"role": "user", "content": [make_pdf()]}, idempotency_key="add") for _ in range(2)]
    assert [[record.message for record in records] for records in added] == [
        [{"role": "user", "content": [make_pdf()]}]
    ] * 2
    assert len(chat_server.requests) == 1


@ON_OWN_ENGINES
def test_each_owner_reads_only_its_own_attachments(store: Store, backend: Backend) -> None:
    ann, bob = store.for_owner("ann"), store.for_owner("bob")
    for owner in (ann, bob):
        owner.new(id="photos", messages=[{"role": "user", "content": [make_image()]}])
    assert read_attachments(store) == [("ann", IMAGE), ("bob", IMAGE)]
    backend.damage("DELETE FROM convstore_attachments WHERE owner = 'bob'")
    assert ann.history("photos") == [{"role": "user", "content": [make_image()]}]
    with pytest.raises(DamagedRow, match="photos"):
        bob.history("photos")


@ON_OWN_ENGINES
@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM convstore_attachments WHERE digest = :digest",
        "UPDATE convstore_attachments SET data = :other WHERE digest = :digest",
        "UPDATE convstore_attachments SET data = :empty WHERE digest = :digest",
        "UPDATE convstore_attachments SET owner = 'x' WHERE digest = :digest",
    ],
)
def test_a_missing_or_damaged_attachment_raises_an_error_that_names_the_message(
    store: Store, backend: Backend, chat_server: ChatServer, damage: str
) -> None:
    drawn = {"role": "assistant", "content": None, "images": [make_image()]}
    chat_server.script(Reply(message=drawn))
    id = store.new().id
    turn = store.say(id, [make_pdf()])
    other = store.new(messages=[{"role": "user", "content": [make_pdf()]}]).id
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
    assert store.history(other)[0] == {"role": "user", "content": [make_pdf()]}
    assert [record.message for record in store.input_of(turn)] == [{"role": "user", "content": [make_pdf()]}]
    assert store.history(store.fork(id, at=1).id) == [{"role": "user", "content": [make_pdf()]}]


def test_reading_or_storing_attachments_takes_one_more_statement(store: Store) -> None:
    plain, one, many = (store.new(f"{number}").id for number in range(3))
    for number in range(60):
        store.append(plain, {"role": "user", "content": [make_text(f"{number}")]})
    store.append(
        one, *({"role": "user", "content": "Hi"} for _ in range(59)), {"role": "user", "content": [make_image()]}
    )
    pictures = [IMAGE + bytes([number]) * 3 for number in range(60)]
    store.append(many, *({"role": "user", "content": [make_image(data), make_image()]} for data in pictures))
    costs = []
    for id in (plain, one, many):
        with record_statements(store) as seen:
            found = store.history(id)
        costs.append(len(seen))
        assert len(found) == 60
    assert [cost - costs[0] for cost in costs] == [0, 1, 1]
    assert found == [{"role": "user", "content": [make_image(data), make_image()]} for data in pictures]
    with record_statements(store) as seen:
        store.append(plain, *({"role": "user", "content": "Hi"} for _ in pictures))
    without = len(seen)
    with record_statements(store) as seen:
        store.append(plain, *({"role": "user", "content": [make_image(data), make_image()]} for data in pictures))
    assert len(seen) - without == 1


@ON_OWN_ENGINES
def test_several_callers_can_store_the_same_attachments_at_once(store: Store, run_in_thread: Any) -> None:
    ids = [store.new().id for _ in range(4)]
    pictures = [IMAGE + bytes([number]) * 3 for number in range(20)]

    def add(number: int) -> None:
        turned = pictures[5 * number :] + pictures[: 5 * number]
        for _ in range(5):
            store.append(ids[number], *({"role": "user", "content": [make_image(data)]} for data in turned))

    for waiting in [run_in_thread(lambda number=number: add(number)) for number in range(4)]:
        waiting.result()
    assert read_attachments(store) == sorted(("", data) for data in pictures)
    assert all(len(store.history(id)) == 100 for id in ids)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_attachments_are_inserted_in_digest_order_to_prevent_deadlocks(store: Store) -> None:
    stored: list[bytes] = []

    def record(_connection: Any, statement: Any, many: list[dict[str, Any]], *_: Any) -> None:
        if getattr(statement, "table", None) is attachments:
            stored.extend(row["digest"] for row in many)

    id = store.new().id
    pictures = sorted((IMAGE + bytes([number]) * 3 for number in range(20)), key=digest_attachment, reverse=True)
    event.listen(engine_of(store), "before_execute", record)
    store.append(id, *({"role": "user", "content": [make_image(data)]} for data in pictures))
    assert len(stored) == 20
    assert stored == sorted(stored)


@pytest.mark.parametrize("backend", ["sqlite-engine", "postgresql-engine"], indirect=True)
def test_the_callers_transaction_commits_or_rolls_back_attachments(store: Store) -> None:
    id = store.new().id
    for keep in (False, True):
        with engine_of(store).connect() as connection:
            store.using(connection).append(id, {"role": "user", "content": [make_image()]})
            assert store.using(connection).history(id)[0]["content"] == [make_image()]
            connection.commit() if keep else connection.rollback()
        assert read_attachments(store) == ([("", IMAGE)] if keep else [])
    assert len(store.history(id)) == 1


@ON_OWN_ENGINES
def test_forks_keep_shared_attachments_after_the_origin_is_deleted(store: Store, chat_server: ChatServer) -> None:
    question, answer = (
        {"role": "user", "content": [make_text(), make_image()]},
        {"role": "assistant", "content": "A cat."},
    )
    id = store.new(messages=[question, answer]).id
    fork = store.fork(id).id
    further = store.fork(fork, at=1).id
    store.say(fork, [make_image(), make_pdf()])
    store.append(further, answer)
    store.say(further, [make_image()])
    store.delete(id)
    assert [store.history(fork)[place]["content"] for place in (0, 2)] == [
        [make_text(), make_image()],
        [make_image(), make_pdf()],
    ]
    assert [store.history(further)[place]["content"] for place in (0, 2)] == [
        [make_text(), make_image()],
        [make_image()],
    ]
    assert [request.body["messages"][0] for request in chat_server.requests] == [question, question]
    assert read_attachments(store) == sorted([("", IMAGE), ("", PDF)])


@ON_OWN_ENGINES
def test_undo_redo_and_edit_keep_attachments(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Look.").id
    store.say(id, [make_image()])
    store.say(id, [make_pdf()])
    store.undo(id)
    assert store.history(id)[1]["content"] == [make_image()]
    assert len(store.history(id)) == 3
    store.redo(id)
    assert store.history(id)[3]["content"] == [make_pdf()]
    store.edit(id, 2, [make_sound()])
    assert [message["content"] for message in store.history(id)[1:2]] == [[make_sound()]]
    assert [node.message["content"] for node in store.tree(id) if node.message["role"] == "user"] == [
        [make_image()],
        [make_pdf()],
        [make_sound()],
    ]
    assert store.at(id, 2).message["content"] == [make_sound()]
    assert read_attachments(store) == sorted([("", IMAGE), ("", SOUND), ("", PDF)])


@ON_OWN_ENGINES
def test_a_window_reads_the_attachments_that_it_sends(store: Store, chat_server: ChatServer) -> None:
    id = store.new(system="Look.").id
    for data in (IMAGE, PDF, SOUND):
        store.say(id, [make_image(data)])
    store.pin(id, 2)
    store.say(id, "And?", last=1)
    sent = chat_server.requests[-1].body["messages"]
    pictures = [message["content"] for message in sent if isinstance(message["content"], list)]
    assert pictures == [[make_image(IMAGE)], [make_image(SOUND)]]
