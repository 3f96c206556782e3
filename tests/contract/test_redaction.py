"""Test that a redacted text is in no column of any table, and that everything else still fits together."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest
from sqlalchemy import select, update

from convstore import ConversationBusy, InvalidInput, Store, TurnFailed, tool_result
from convstore.conversations import text_pattern
from convstore.db.tables import attachments, conversations, messages, redactions, tombstones, turns
from convstore.db.verification import verify
from convstore.messages.redacted_message import REDACTED_ARGUMENTS, REDACTED_TEXT
from convstore.testing import ChatServer, Failure, Reply
from tests.contract.conftest import ON_ALL_BACKENDS, ON_THREE_BACKENDS, Backend
from tests.contract.invariants import engine_of
from tests.contract.text_dump import find_digests, find_text

SECRET = "hunter2-Pa55wort"
PATTERN = r"hunter2-\w+"
WHOLE = "please remember the sesame phrase xylophone-quartz for tomorrow"


def find_in(store: Store, text: str) -> list[str]:
    """Return where a text occurs in the database."""
    with engine_of(store).connect() as connection:
        return find_text(connection, text)


def check_verified(store: Store) -> None:
    """Assert that `db verify` finds no damage, and nothing wrong with the search index."""
    found = verify(store._engine.transactions.database, all_terms=True)
    assert found.damages == []
    assert found.search_index.is_complete, found.search_index


def ask(store: Store, server: ChatServer, id: str, message: Any, reply: str, **options: Any) -> None:
    server.script(Reply(reply))
    store.say(id, message, **options)


def test_a_matched_part_is_removed_from_the_message_its_copies_and_the_rows_beside_it(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(
        messages=[{"role": "user", "content": f"login: {SECRET}, thanks"}],
        metadata={"note": f"uses {SECRET}", SECRET: 1},
        id="with-secret",
    ).id
    store.say(id, "And?", idempotency_key="k1", user=SECRET, metadata={"p": SECRET})
    chat_server.script(Failure(400, f"bad input: {SECRET}"))
    with pytest.raises(TurnFailed):
        store.say(id, "Again?", idempotency_key="k2")
    fork = store.fork(id, title=f"about {SECRET}").id
    store.append(fork, "only in the fork")
    ask(store, chat_server, id, "third", "reply three")
    chat_server.script(Reply(f"They used {SECRET} to log in."))
    store.compact(id, keep_last=1)
    store.rate(id, 3, "good", note=f"knows {SECRET}")
    store.tag(id, SECRET)
    before = [record.digest for record in store.tree(fork)]

    done = store.redact(id, 1, match=PATTERN)

    assert [(one.conversation, one.seq) for one in done.redacted] == [(id, 1)]
    assert done.others == ()
    assert done.digests == len({*(one.seq for one in store.tree(id))}) + 1
    assert store.history(id)[0]["content"] == f"login: {REDACTED_TEXT}, thanks"
    assert store.at(fork, 1).message["content"] == f"login: {REDACTED_TEXT}, thanks"
    assert store.get(id).title == f"login: {REDACTED_TEXT}, thanks"
    assert store.get(fork).title == f"about {REDACTED_TEXT}"
    assert store.get(id).metadata == {"note": f"uses {REDACTED_TEXT}", REDACTED_TEXT: 1}
    summary = store.summary(id)
    assert summary is not None
    assert summary.text == f"They used {REDACTED_TEXT} to log in."
    assert [record.redacted_at is not None for record in store.messages(id)][:2] == [True, False]
    assert store.at(fork, 1).redacted_at == done.redacted_at
    assert all(new.digest != old for new, old in zip(store.tree(fork), before, strict=True))
    assert find_in(store, SECRET) == []
    check_verified(store)
    assert not store.search("hunter2").hits
    assert store.search("login").hits
    # The key of a turn is still used, although nobody can tell any more with which input.
    calls = len(chat_server.requests)
    store.say(id, "And?", idempotency_key="k1")
    assert len(chat_server.requests) == calls


def test_a_secret_in_the_place_of_a_model_is_removed_and_the_name_of_a_model_stays(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(messages=[{"role": "user", "content": f"key {SECRET} for test-model"}], model=SECRET).id
    chat_server.script(Failure(404, "no such model"))
    with pytest.raises(TurnFailed):
        store.say(id, "hi")
    fork = store.fork(id).id
    store.say(id, "hi", model="test-model")
    store.redact(id, 1, match=PATTERN)
    assert find_in(store, SECRET) == []
    assert [turn.request["model"] for turn in store.turns(id)] == [REDACTED_TEXT, "test-model"]
    assert store.get(id).settings == {"model": REDACTED_TEXT}
    assert store.get(fork).model == REDACTED_TEXT
    check_verified(store)
    store.redact(id, 1, match="test-model")
    assert [turn.request["model"] for turn in store.turns(id)] == [REDACTED_TEXT, "test-model"]


def test_forks_that_do_not_share_the_message_lose_what_they_took_over(store: Store) -> None:
    first = [{"role": "system", "content": "be kind"}, {"role": "user", "content": f"my pin is {SECRET}"}]
    id = store.new(messages=first, metadata={"pin": SECRET}).id
    forks = [store.fork(id, at=at).id for at in (2, 1, 0)]
    assert [store.get(fork).title for fork in forks] == [f"my pin is {SECRET}", None, None]
    grandchild = store.fork(forks[1], title=f"about {SECRET}").id
    with engine_of(store).begin() as connection:  # as forks were made before
        connection.execute(
            update(conversations).where(conversations.c.id == forks[2]).values(made_title=f"my pin is {SECRET}")
        )

    store.redact(id, 2, match=PATTERN)

    assert find_in(store, SECRET) == []
    titles = [store.get(one).title for one in (*forks, grandchild)]
    assert titles == [f"my pin is {REDACTED_TEXT}", None, f"my pin is {REDACTED_TEXT}", f"about {REDACTED_TEXT}"]
    assert store.get(forks[2]).metadata == {"pin": REDACTED_TEXT}
    store.append(forks[1], "a first question")
    assert store.get(forks[1]).title == "a first question"
    check_verified(store)


def test_a_fork_of_an_edited_path_has_the_title_of_its_own_first_message(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    ask(store, chat_server, id, f"my pin is {SECRET}", "one")
    chat_server.script(Reply("two"))
    store.edit(id, 1, "hello")
    assert store.fork(id).title == "hello"
    assert store.fork(id, title="given").title == "given"


def test_a_whole_message_is_removed_with_the_digests_over_it(store: Store, chat_server: ChatServer) -> None:
    id = store.new(id="mine", messages=[{"role": "user", "content": WHOLE}]).id
    other = store.new().id
    ask(store, chat_server, other, WHOLE, "noted", idempotency_key="once")
    store.append(other, WHOLE, idempotency_key="added")
    guesses: list[dict[str, Any]] = [
        {"role": "user", "content": WHOLE},
        {"append": [{"role": "user", "content": WHOLE}]},
        {
            "name": None,
            "title": None,
            "settings": {},
            "metadata": {},
            "first": [{"role": "user", "content": WHOLE}],
        },
        {
            "messages": [{"role": "user", "content": WHOLE}],
            "parameters": {},
            "history": True,
            "again": False,
        },
    ]
    with engine_of(store).connect() as connection:
        assert len(find_digests(connection, guesses)) == 5

    for one in (id, other):
        store.redact(one, 1)

    assert find_in(store, WHOLE) == find_in(store, "xylophone") == []
    with engine_of(store).connect() as connection:
        assert find_digests(connection, guesses) == []
        assert connection.execute(select(turns.c.input_digest)).scalars().all() == [None, None]
    assert store.get(id).title == REDACTED_TEXT
    assert [message["content"] for message in store.history(other)][::2] == [REDACTED_TEXT, REDACTED_TEXT]
    calls = len(chat_server.requests)
    turn = store.say(other, WHOLE, idempotency_key="once")
    (record,) = store.append(other, WHOLE, idempotency_key="added")
    assert len(chat_server.requests) == calls
    assert turn.text == store.history(other)[1]["content"]
    assert record.message["content"] == REDACTED_TEXT
    check_verified(store)


def test_copies_by_retries_and_edits_are_redacted_and_others_are_listed(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    ask(store, chat_server, id, WHOLE, "one")
    chat_server.script(Reply("two"))
    store.edit(id, 1, WHOLE)  # a sibling with the same text
    store.append(id, "next")
    chat_server.script(Failure(500))
    with pytest.raises(TurnFailed):
        store.say(id, WHOLE)
    store.append(id, "the head moves on")
    chat_server.script(Reply("three"))
    store.retry(id)  # with a copy at the head
    quoting = store.new(messages=[{"role": "user", "content": f"You said: {WHOLE}!"}]).id
    equal = sum(record.message["content"] == WHOLE for record in store.tree(id))
    assert equal >= 3

    would = store.redact(id, 1, dry_run=True)
    assert find_in(store, WHOLE) != []
    done = store.redact(id, 1)

    assert len(done.redacted) == len(would.redacted) == equal
    assert would.redacted == done.redacted
    assert would.others == done.others
    assert [one.conversation for one in done.others] == [quoting]
    assert [record.message["content"] for record in store.tree(id)].count(REDACTED_TEXT) == equal
    assert find_in(store, WHOLE) != []
    check_verified(store)


def test_equal_messages_in_the_shared_past_of_a_fork_are_copies_and_others_of_the_origin_are_not(store: Store) -> None:
    origin = store.new(messages=[{"role": "user", "content": WHOLE}, {"role": "assistant", "content": "ok"}]).id
    fork = store.fork(origin).id
    store.append(fork, WHOLE)
    store.append(origin, WHOLE)
    done = store.redact(fork, 3)
    assert [(one.conversation, one.seq) for one in done.redacted] == [(origin, 1), (fork, 3)]
    assert [(one.conversation, one.seq) for one in done.others] == [(origin, 3)]
    assert [message["content"] for message in store.history(fork)] == [REDACTED_TEXT, "ok", REDACTED_TEXT]
    assert store.get(fork).title == store.get(origin).title == REDACTED_TEXT
    store.redact(origin, 3)
    assert find_in(store, WHOLE) == []
    check_verified(store)


def test_everywhere_redacts_other_conversations_of_the_owner_and_of_nobody_else(
    store: Store, chat_server: ChatServer
) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
    quoting = store.new(title=f"on {SECRET}", messages=[{"role": "assistant", "content": f"You said {SECRET}!"}]).id
    of_fork = store.fork(quoting).id
    store.append(of_fork, "after it")
    deleted = store.new(messages=[{"role": "user", "content": SECRET}]).id
    store.delete(deleted)
    store.new(messages=[{"role": "user", "content": "nothing"}], metadata={"p": SECRET})
    of_other = store.for_owner("other")
    theirs = of_other.new(messages=[{"role": "user", "content": SECRET}]).id

    done = store.redact(id, 1, match=PATTERN, everywhere=True)

    assert sorted(one.conversation for one in done.redacted) == sorted([id, quoting, deleted])
    assert store.history(of_fork)[0]["content"] == f"You said {REDACTED_TEXT}!"
    assert of_other.history(theirs)[0]["content"] == SECRET
    of_other.redact(theirs, 1)
    assert find_in(store, SECRET) == []
    check_verified(store)
    store.restore(deleted)
    assert store.history(deleted)[0]["content"] == REDACTED_TEXT


def test_the_arguments_of_a_tool_call_become_other_json_and_the_call_stays_paired(
    store: Store, chat_server: ChatServer
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "login", "arguments": f'{{"p": "{SECRET}"}}'}}
    broken = {"id": "call_2", "type": "function", "function": {"name": "f", "arguments": {"p": SECRET, "q": "x" * 90}}}
    id = store.new(messages=[{"role": "user", "content": "log me in"}]).id
    store.append(id, {"role": "assistant", "content": None, "tool_calls": [call, broken]})
    store.append(id, tool_result("call_1", f'{{"seen": "{SECRET}"}}'), tool_result("call_2", "ok"))
    store.say(id, "go on")  # its window report says how the arguments were sent
    done = store.redact(id, 2, match=PATTERN)
    assert [one.position for one in done.others] == [3]
    store.redact(id, 3, match=PATTERN)
    assert find_in(store, SECRET) == []
    calls = store.at(id, 2).message["tool_calls"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"p": REDACTED_TEXT}
    assert store.at(id, 3).message["tool_call_id"] == "call_1"
    store.redact(id, 2)
    calls = store.at(id, 2).message["tool_calls"]
    assert [(one["id"], one["function"]["arguments"]) for one in calls] == [
        ("call_1", REDACTED_ARGUMENTS),
        ("call_2", REDACTED_ARGUMENTS),
    ]
    assert find_in(store, "xxxxxxxx") == []
    store.say(id, "and now?")
    sent = chat_server.requests[-1].body["messages"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_1", "call_2"]
    assert [message.get("tool_call_id") for message in sent[2:4]] == ["call_1", "call_2"]
    check_verified(store)


def test_what_a_reply_says_in_other_forms_goes_with_it(store: Store, chat_server: ChatServer) -> None:
    id = store.new().id
    logprobs = {"content": [{"token": "hunt"}, {"token": "er2-Pa55wort"}]}
    message = {
        "role": "assistant",
        "content": f"It is {SECRET}.",
        "reasoning_content": f"They told me {SECRET}.",
        "reasoning_details": [{"type": "reasoning.encrypted", "data": "c2VjcmV0"}],
    }
    chat_server.script(Reply(choices=[{"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}]))
    store.say(id, "what is it?", logprobs=True)
    store.redact(id, 2, match=PATTERN)
    assert find_in(store, SECRET) == find_in(store, "er2-Pa55wort") == find_in(store, "c2VjcmV0") == []
    assert store.history(id, exact=True)[1] == {"role": "assistant", "content": f"It is {REDACTED_TEXT}."}
    check_verified(store)


def test_a_summary_of_a_message_that_is_redacted_whole_is_deleted(store: Store, chat_server: ChatServer) -> None:
    pairs = [{"role": role, "content": f"{role} {number}"} for number in range(4) for role in ("user", "assistant")]
    id = store.new(messages=pairs).id
    chat_server.script(Reply("first summary"))
    (first,) = store.compact(id, keep_last=3)
    store.append(id, {"role": "user", "content": WHOLE}, {"role": "assistant", "content": "fine"})
    for text in ("second summary", "third summary"):
        store.append(id, {"role": "user", "content": "more"}, {"role": "assistant", "content": "and more"})
        chat_server.script(Reply(f"{text}, they want to open something"))
        store.compact(id, keep_last=1)
    fork = store.fork(id).id
    done = store.redact(id, 9)
    assert done.summaries == 2
    assert find_in(store, "they want to open") == []
    assert store.summary(id) == store.summary(fork) == first
    assert "first summary" in str(store.preview(fork, "x")["messages"])
    check_verified(store)


def test_errors_of_later_turns_may_quote_a_message_that_is_redacted_whole(
    store: Store, chat_server: ChatServer
) -> None:
    before = store.new(messages=[{"role": "user", "content": "hello"}]).id
    chat_server.script(Failure(400, "bad: hello"))
    with pytest.raises(TurnFailed):
        store.say(before, "first")
    id = store.fork(before).id
    store.append(id, [{"role": "user", "content": WHOLE}, {"role": "assistant", "content": "ok"}])
    later = store.fork(id).id
    for one in (id, later):
        chat_server.script(Failure(400, f"flagged: {WHOLE[:30]}"))
        with pytest.raises(TurnFailed):
            store.say(one, "next")
    assert find_in(store, WHOLE[:30]) != []
    store.redact(id, len(store.history(before)) + 1)
    assert find_in(store, WHOLE[:30]) == []
    errors = [str(store.turns(one)[-1].error) for one in (before, id, later)]
    assert ["flagged" in error for error in errors] == [False] * 3
    assert [REDACTED_TEXT in error for error in errors] == [False, True, True]
    check_verified(store)


def test_files_go_with_the_message_unless_another_has_them(store: Store) -> None:
    data, shared = (base64.b64encode(bytes([number]) * 6000).decode() for number in (1, 2))
    small = base64.b64encode(b"small secret file " * 8).decode()

    def image(text: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}

    content = [{"type": "text", "text": "look at these pictures"}, image(data), image(shared), image(small)]
    id = store.new(messages=[{"role": "user", "content": content}]).id
    other = store.new(messages=[{"role": "user", "content": [{"type": "text", "text": "again"}, image(shared)]}]).id
    done = store.redact(id, 1)
    assert done.attachments == 1
    assert [one.conversation for one in done.others] == [other]
    assert store.history(id)[0]["content"] == REDACTED_TEXT
    assert store.history(other)[0]["content"][1] == image(shared)
    assert find_in(store, small) == []
    with engine_of(store).connect() as connection:
        assert len(connection.execute(select(attachments)).all()) == 1
    check_verified(store)


def test_everywhere_takes_files_from_other_messages_too(store: Store) -> None:
    shared = base64.b64encode(bytes([2]) * 6000).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{shared}"}}
    contents = [[{"type": "text", "text": f"picture {number}"}, image] for number in (1, 2)]
    ids = [store.new(messages=[{"role": "user", "content": content}]).id for content in contents]
    assert store.redact(ids[0], 1, everywhere=True).attachments == 1
    assert store.history(ids[1])[0]["content"] == [
        {"type": "text", "text": "picture 2"},
        {"type": "text", "text": REDACTED_TEXT},
    ]
    with engine_of(store).connect() as connection:
        assert connection.execute(select(attachments)).all() == []
    check_verified(store)


@ON_ALL_BACKENDS
def test_a_running_turn_in_the_conversation_or_in_a_fork_that_shares_the_message_refuses(
    store: Store, hold: Any, run_in_thread: Any
) -> None:
    id = store.new(messages=[{"role": "user", "content": WHOLE}, {"role": "assistant", "content": "fine"}]).id
    before = store.fork(id, at=0).id
    fork = store.fork(store.fork(id).id).id
    held = hold()
    saying = run_in_thread(lambda: store.say(fork, "slow"))
    held.wait()
    with pytest.raises(ConversationBusy):
        store.redact(id, 1)
    assert store.history(id)[0]["content"] == WHOLE
    held.release()
    saying.result()
    held = hold()
    saying = run_in_thread(lambda: store.say(before, "slow"))
    held.wait()
    store.redact(id, 1)  # this fork does not share it
    held.release()
    saying.result()
    assert find_in(store, WHOLE) == []
    check_verified(store)


def test_short_texts_are_not_looked_for_elsewhere(store: Store) -> None:
    pairs = [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "fine"}] * 2
    id = store.new(messages=pairs, metadata={"answer": "yes"}).id
    done = store.redact(id, 1)
    assert [one.position for one in done.redacted] == [1]
    assert done.others == ()
    assert [message["content"] for message in store.history(id)] == [REDACTED_TEXT, "fine", "yes", "fine"]
    done = store.redact(id, 3, match="e")
    assert store.history(id)[2]["content"] == f"y{REDACTED_TEXT}s"
    assert store.get(id).metadata == {"answer": "yes"}
    check_verified(store)


def test_a_pattern_must_be_one_match_something_and_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ab" * 60 + "!1"
    id = store.new(messages=[{"role": "user", "content": text}]).id
    for pattern, problem in (
        ("(", "not a regular expression"),
        ("", "1 to 1000 characters"),
        ("x" * 1001, "1 to 1000 characters"),
        ("((a{1000}){1000}){1000}", "repeats too much"),
        ("(?:ab){e}", "is no number of repetitions"),  # `regex` would match other texts too
        ("(?:ab){i<=2,e}", "is no number of repetitions"),
        ("[{]", "is no number of repetitions"),
        (r"\{ab\}", "matches nothing"),
        (r"(?:ba){99}\N{DIGIT ONE}{,2}", "matches nothing"),
        ("nowhere", "matches nothing"),
        ("x*", "matches nothing"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            store.redact(id, 1, match=pattern)
    monkeypatch.setattr(text_pattern, "MAX_PATTERN_SECONDS", 0.2)
    with pytest.raises(InvalidInput, match="takes more than"):
        store.redact(id, 1, match=r"(?:(?:a|b|ab)+)+\d$")
    many = store.new(messages=[{"role": "user", "content": " ".join(map(str, range(10_000, 10_200)))}]).id
    with pytest.raises(InvalidInput, match="200 different texts"):
        store.redact(many, 1, match=r"\d+")
    with pytest.raises(InvalidInput, match="no message at position 2"):
        store.redact(id, 2)
    assert store.history(id)[0]["content"] == text
    store.redact(id, 1)
    with pytest.raises(InvalidInput, match="redacted already"):
        store.redact(id, 1)


def test_a_damaged_message_stays_damaged_and_is_named(backend: Backend) -> None:
    store = backend.open()
    pairs = [{"role": "user", "content": f"it is {SECRET}"}, {"role": "user", "content": "one"}]
    id = store.new(messages=[*pairs, {"role": "user", "content": "two"}]).id
    other = store.new(messages=[{"role": "user", "content": [{"type": "text", "text": f"so {SECRET}"}]}]).id
    where = "WHERE conversation_id = :id AND seq = :seq"
    backend.damage(f"UPDATE convstore_messages SET content = 'changed' {where}", id=id, seq=2)
    backend.damage(f"UPDATE convstore_messages SET extra = :extra {where}", id=other, seq=1, extra=f"not JSON {SECRET}")
    before = [damage.problem for damage in verify(store._engine.transactions.database).damages]
    assert len(before) == 2
    done = store.redact(id, 1, match=PATTERN, everywhere=True)
    assert [(one.conversation, one.seq) for one in done.redacted] == [(id, 1)]
    assert [(one.conversation, one.seq) for one in done.others] == [(other, 1)]
    assert done.digests == 1
    assert [damage.problem for damage in verify(store._engine.transactions.database).damages] == before
    assert store.at(id, 1).message["content"] == f"it is {REDACTED_TEXT}"


def test_marks_and_tombstones_are_stored(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}, {"role": "user", "content": WHOLE}]).id
    fork = store.fork(id).id
    store.redact(id, 1, match=PATTERN)
    store.redact(fork, 2)
    with engine_of(store).connect() as connection:
        marks = connection.execute(select(redactions).order_by(redactions.c.seq)).all()
        assert [(row.conversation_id, row.seq, row.extent) for row in marks] == [(id, 1, "part"), (id, 2, "message")]
        graves = connection.execute(select(tombstones)).all()
    assert {(row.conversation_id, row.reason, row.source_kind) for row in graves} == {
        (id, "redacted", None),
        (fork, "redacted", None),
    }


@ON_THREE_BACKENDS
@pytest.mark.parametrize("seed", range(4))
def test_in_random_trees_and_forks_everything_fits_and_nothing_is_left(
    backend: Backend, chat_server: ChatServer, seed: int
) -> None:
    store = backend.open()
    chance = random.Random(seed)
    ids = [store.new(system="Be brief.").id]
    said = [f"the phrase {SECRET} number {number} stays" for number in range(6)]

    def text() -> str:
        return chance.choice(said) if chance.random() < 0.4 else f"plain {chance.random()}"

    for _ in range(50):
        id = chance.choice(ids)
        length = store.get(id).length
        match chance.randrange(8):
            case 0 | 1:
                ask(store, chat_server, id, text(), text())
            case 2:
                store.append(id, {"role": chance.choice(["user", "assistant"]), "content": text()})
            case 3 if length > 1:
                store.checkout(id, chance.choice(store.tree(id)).seq)
                backend.checked_out.add((id, store.get(id).head_seq))
            case 4 if len(ids) < 8:
                ids.append(store.fork(id, at=chance.randint(0, length)).id)
            case 5 if any(message["role"] == "user" for message in store.history(id)):
                places = [record.position for record in store.messages(id) if record.message["role"] == "user"]
                chat_server.script(Reply(text()))
                store.edit(id, chance.choice(places), text())
            case 6 if any(turn.purpose is None for turn in store.turns(id)):
                chat_server.script(Reply(text()))
                store.retry(id)
            case 7:
                store.delete(id) if len(ids) > 2 and chance.random() < 0.2 else store.set(id, title=text())
                ids = [one.id for one in store.list()]
    holding = [
        (id, record.position) for id in ids for record in store.messages(id) if SECRET in str(record.message["content"])
    ]
    id, position = chance.choice(holding)
    whole = store.at(id, position).message["content"]
    before = {one: [record.message["content"] for record in store.tree(one)] for one in ids}

    store.redact(id, position)
    backend.check()
    check_verified(store)
    family = {id}
    for one in ids:
        after = [record.message["content"] for record in store.tree(one)]
        for old, new in zip(before[one], after, strict=True):
            assert new == old or (old == whole and new == REDACTED_TEXT), (one, family)

    holding = [
        (id, record.position) for id in ids for record in store.messages(id) if SECRET in str(record.message["content"])
    ]
    if holding:
        id, position = chance.choice(holding)
        done = store.redact(id, position, match=PATTERN, everywhere=True)
        assert done.others == ()
        backend.check()
        check_verified(store)
        assert find_in(store, SECRET) == []
        for one in ids:
            assert store.preview(one, "x")["messages"]


def test_a_message_of_a_message_row_is_changed_only_where_it_must(store: Store) -> None:
    id = store.new(messages=[{"role": "user", "content": f"it is {SECRET}"}]).id
    store.append(id, "after it")
    with engine_of(store).connect() as connection:
        before = connection.execute(select(messages).order_by(messages.c.seq)).mappings().all()
    store.redact(id, 1, match=PATTERN)
    with engine_of(store).connect() as connection:
        after = connection.execute(select(messages).order_by(messages.c.seq)).mappings().all()
    changed = [{name for name in old if old[name] != new[name]} for old, new in zip(before, after, strict=True)]
    assert changed[1] == {"digest"}
    assert changed[0] <= {"digest", "content", "tokens"}
