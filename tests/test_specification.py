"""Test the dialogues of the specification that convstore was built from, word for word.

The specification holds them by hand: it calls the model, turns the message of the answer into a dict, appends it to a
list, pops what went wrong, and calls again with the whole list. These tests do the same with the library and with the
command line, and compare each request with the hand-made list.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessage

from convstore import Store, Turn
from convstore.errors import TurnFailed
from convstore.testing import ChatServer, Failure, Reply
from tests.cli.program import Program

Message = dict[str, Any]
Say = Callable[..., Turn]

MODEL = "gpt-3.5-turbo"

HELLO = "Hello!"
HELLO_ANSWER = "Hello! How can I help you today?"
JOKE = "1.讲一个程序员才听得懂的冷笑话；2.今天是几号？3.明天星期几？"
JOKE_ANSWER = (
    "1. 为什么程序员喜欢黑色的衣服？\n   因为黑色背景下的代码更容易看清楚！\n\n"
    "2. 今天是几号？请问您的当前时区和具体时间是多少？\n\n"
    "3. 明天星期几？同样需要知道您的当前时区和具体时间是多少。"
)
EXPERT = "你是一个乐于助人的体育界专家。"
WHERE = "2008年奥运会是在哪里举行的？"
WHERE_ANSWER = "2008年夏季奥林匹克运动会是在中国的北京举行的。"
MEDALS = "1.金牌最多的是哪个国家？2.奖牌最多的是哪个国家？"
MEDALS_ANSWER = (
    "1. 2008年北京奥运会中，金牌最多的国家是中国，他们获得了51枚金牌。\n"
    "2. 2008年北京奥运会中，总奖牌数最多的国家同样是中国，共获得100枚奖牌（51枚金牌、21枚银牌、28枚铜牌）。"
)
ALONE_ANSWER = (
    "1. 美国是历届夏季奥运会金牌最多的国家，总共获得了1090枚金牌。\n"
    "2. 美国是历届夏季奥运会奖牌最多的国家，总共获得了2684枚奖牌。"
)

HELLO_REPLY = Reply(
    HELLO_ANSWER,
    id="chatcmpl-96YCmpQzHWNpGUsFGIkiqLIR8Ptbu",
    model="gpt-3.5-turbo-0125",
    system_fingerprint="fp_3bc1b5746c",
    usage={"completion_tokens": 9, "prompt_tokens": 9, "total_tokens": 18},
)


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


OLYMPICS = [system(EXPERT), user(WHERE), assistant(WHERE_ANSWER), user(MEDALS)]


def sent(server: ChatServer) -> list[list[Message]]:
    """Return the messages of every call that reached the server."""
    return [request.body["messages"] for request in server.requests]


@pytest.fixture
def store(database_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with Store(database_url, base_url=chat_server.url) as store:
        yield store


@pytest.fixture(params=["whole", "streamed"])
def say(request: pytest.FixtureRequest, store: Store, chat_server: ChatServer) -> Say:
    """Return `store.say`, and the same with `store.stream`."""

    def streamed(conversation_id: str, message: object, **how: Any) -> Turn:
        with store.stream(conversation_id, message, **how) as reply:
            pieces = list(reply)
        assert "".join(pieces) == reply.turn.text
        assert chat_server.requests[-1].body["stream"] is True
        return reply.turn

    return store.say if request.param == "whole" else streamed


# --- the library ---


def test_hello_and_a_second_round(store: Store, say: Say, chat_server: ChatServer) -> None:
    chat_server.script(HELLO_REPLY, Reply(JOKE_ANSWER))
    conversation = store.new(model=MODEL)

    turn = say(conversation.id, HELLO)
    assert turn.message == assistant(HELLO_ANSWER)
    assert (turn.text, turn.status, turn.finish_reason) == (HELLO_ANSWER, "completed", "stop")
    assert (turn.response_id, turn.model) == ("chatcmpl-96YCmpQzHWNpGUsFGIkiqLIR8Ptbu", "gpt-3.5-turbo-0125")
    assert turn.system_fingerprint == "fp_3bc1b5746c"
    assert turn.usage == {"completion_tokens": 9, "prompt_tokens": 9, "total_tokens": 18}
    assert store.history(conversation.id) == [user(HELLO), assistant(HELLO_ANSWER)]

    assert say(conversation.id, {"role": "user", "content": JOKE}).text == JOKE_ANSWER
    assert sent(chat_server) == [[user(HELLO)], [user(HELLO), assistant(HELLO_ANSWER), user(JOKE)]]
    assert [request.body["model"] for request in chat_server.requests] == [MODEL, MODEL]
    everything = [user(HELLO), assistant(HELLO_ANSWER), user(JOKE), assistant(JOKE_ANSWER)]
    assert store.history(conversation.id) == store.history(conversation.id, exact=True) == everything


def completion(data: ChatCompletion) -> object:
    return data


def message_object(data: ChatCompletion) -> object:
    new_message = data.choices[0].message
    assert type(new_message) is ChatCompletionMessage
    return new_message


def message_dict(data: ChatCompletion) -> object:
    new_message = data.choices[0].message
    return {"role": new_message.role, "content": new_message.content}


def message_as_printed(_: ChatCompletion) -> object:
    """Return the object as the specification prints it, with its nulls."""
    return ChatCompletionMessage(content=HELLO_ANSWER, role="assistant", function_call=None, tool_calls=None)


@pytest.mark.parametrize("form", [completion, message_object, message_dict, message_as_printed])
def test_a_reply_is_appended_in_any_form_and_sent_back_as_a_dict(
    store: Store, say: Say, chat_server: ChatServer, form: Callable[[ChatCompletion], object]
) -> None:
    chat_server.script(HELLO_REPLY, Reply(JOKE_ANSWER))
    client = openai.OpenAI(base_url=chat_server.url, api_key="none", max_retries=0)
    conversation = store.new(model=MODEL)
    store.append(conversation.id, {"role": "user", "content": HELLO})
    messages: Any = store.history(conversation.id)
    data = client.chat.completions.create(model=MODEL, messages=messages)
    client.close()

    (appended,) = store.append(conversation.id, form(data))
    exact = store.history(conversation.id, exact=True)
    if form is message_as_printed:
        assert exact[-1] == {**assistant(HELLO_ANSWER), "function_call": None, "tool_calls": None}
    else:
        assert exact[-1] == assistant(HELLO_ANSWER)
    assert appended.message == exact[-1]
    assert store.history(conversation.id) == [user(HELLO), assistant(HELLO_ANSWER)]
    turns = store.turns(conversation.id)
    if form is completion:
        (turn,) = turns
        assert turn.usage == {"completion_tokens": 9, "prompt_tokens": 9, "total_tokens": 18}
        assert (turn.response_id, turn.model) == (data.id, "gpt-3.5-turbo-0125")
    else:
        assert turns == []

    say(conversation.id, JOKE)
    assert sent(chat_server) == [[user(HELLO)], [user(HELLO), assistant(HELLO_ANSWER), user(JOKE)]]


def test_the_olympics_with_a_system_message_and_a_call_that_fails_at_first(
    store: Store, say: Say, chat_server: ChatServer
) -> None:
    chat_server.script(Reply(WHERE_ANSWER), Failure(500), Reply(MEDALS_ANSWER))
    conversation = store.new("Olympics", system=EXPERT, model=MODEL)
    assert say(conversation.id, WHERE).text == WHERE_ANSWER

    with pytest.raises(TurnFailed):
        say(conversation.id, MEDALS)
    # After that, the specification's list, and its request, hold the message twice.
    assert store.history(conversation.id) == OLYMPICS[:3]
    assert say(conversation.id, MEDALS).text == MEDALS_ANSWER

    assert sent(chat_server) == [OLYMPICS[:2], OLYMPICS, OLYMPICS]
    assert store.history(conversation.id) == [*OLYMPICS, assistant(MEDALS_ANSWER)]
    assert [record.position for record in store.messages(conversation.id)] == [1, 2, 3, 4, 5]
    assert [turn.status for turn in store.turns(conversation.id)] == ["completed", "failed", "completed"]


def test_a_dialogue_given_as_one_list_is_one_turn(store: Store, say: Say, chat_server: ChatServer) -> None:
    chat_server.script(Reply(WHERE_ANSWER))
    conversation = store.new(model=MODEL)
    say(conversation.id, [system(EXPERT), user(WHERE)])
    assert sent(chat_server) == [OLYMPICS[:2]]
    assert store.history(conversation.id) == OLYMPICS[:3]


def test_a_message_without_the_history_is_sent_alone(store: Store, say: Say, chat_server: ChatServer) -> None:
    chat_server.script(Reply(ALONE_ANSWER))
    conversation = store.new(messages=OLYMPICS[:3], model=MODEL)
    assert say(conversation.id, MEDALS, history=False).text == ALONE_ANSWER
    assert sent(chat_server) == [[user(MEDALS)]]
    assert store.history(conversation.id) == [*OLYMPICS, assistant(ALONE_ANSWER)]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"temperature": 0.8, "top_p": 0.5}, "not both"),
        ({"temperature": 2.1}, "from 0 to 2"),
        ({"temperature": -0.1}, "from 0 to 2"),
        ({"name": "小明"}, "letters"),
        ({"name": "x" * 65}, "64"),
    ],
)
def test_the_rules_of_the_parameters_are_those_of_the_specification(
    store: Store, say: Say, chat_server: ChatServer, given: dict[str, Any], rule: str
) -> None:
    conversation = store.new(model=MODEL)
    with pytest.raises(ValueError, match=rule):
        say(conversation.id, HELLO, **given)
    assert (store.history(conversation.id), sent(chat_server)) == ([], [])
    say(conversation.id, HELLO, name="Li_2", temperature=0.2, max_tokens=16)
    assert sent(chat_server) == [[{**user(HELLO), "name": "Li_2"}]]
    assert chat_server.requests[0].body["temperature"] == 0.2
    assert chat_server.requests[0].body["max_tokens"] == 16


# --- the command line ---


@pytest.fixture(params=[[], ["--no-stream"]], ids=["streamed", "whole"])
def mode(request: pytest.FixtureRequest) -> list[str]:
    how: list[str] = request.param
    return how


@pytest.fixture
def convstore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str, chat_server: ChatServer) -> Program:
    program = Program(monkeypatch, tmp_path)
    program.set(CONVSTORE_DB=database_url, OPENAI_BASE_URL=chat_server.url)
    return program


def shown(convstore: Program, reference: str) -> list[Message]:
    """Return the messages that `show` prints."""
    return [record["message"] for record in convstore("show", reference, "--json").json["messages"]]


def test_hello_and_a_second_round_by_command(convstore: Program, mode: list[str], chat_server: ChatServer) -> None:
    chat_server.script(HELLO_REPLY, Reply(JOKE_ANSWER))
    id = convstore("new", "-m", MODEL).out.strip()
    assert convstore("say", *mode, HELLO).out == HELLO_ANSWER + "\n"
    assert convstore("say", *mode, JOKE).out == JOKE_ANSWER + "\n"
    assert sent(chat_server) == [[user(HELLO)], [user(HELLO), assistant(HELLO_ANSWER), user(JOKE)]]
    assert [request.body.get("stream", False) for request in chat_server.requests] == [not mode] * 2
    assert shown(convstore, id) == [user(HELLO), assistant(HELLO_ANSWER), user(JOKE), assistant(JOKE_ANSWER)]


def test_the_olympics_by_command(convstore: Program, mode: list[str], chat_server: ChatServer) -> None:
    chat_server.script(Reply(WHERE_ANSWER), Failure(500), Reply(MEDALS_ANSWER), Reply(ALONE_ANSWER))
    convstore("new", "Olympics", "--name", "games", "--system", EXPERT, "-m", MODEL)
    assert convstore("say", "-c", "games", *mode, WHERE).out == WHERE_ANSWER + "\n"

    failed = convstore("say", "-c", "games", *mode, MEDALS)
    assert (failed.code, failed.out) == (6, "")
    assert shown(convstore, "games") == OLYMPICS[:3]
    assert convstore("say", "-c", "games", "--dry-run", MEDALS).json["messages"] == OLYMPICS
    assert convstore("say", "-c", "games", *mode, MEDALS).out == MEDALS_ANSWER + "\n"
    assert shown(convstore, "games") == [*OLYMPICS, assistant(MEDALS_ANSWER)]

    assert convstore("say", "-c", "games", "--no-history", *mode, MEDALS).out == ALONE_ANSWER + "\n"
    assert sent(chat_server) == [OLYMPICS[:2], OLYMPICS, OLYMPICS, [user(MEDALS)]]
