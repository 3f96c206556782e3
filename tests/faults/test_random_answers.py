"""Random damaged answers, whole and streamed, through a store: each is kept, and the next request is a strict one."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convstore import Store, TurnStatus, tool_result
from convstore.messages.message import Message
from tests.contract.invariants import check_all
from tests.faults.driven import engine_of
from tests.pure.strategies import json_value
from tests.pure.strict_request import find_faults
from tests.pure.test_strict_requests import damaged_reply

fields = st.dictionaries(st.sampled_from(["created", "citations", "x"]), json_value | st.just(float("nan")), max_size=2)
finish = st.sampled_from(["stop", "length", "tool_calls", "eos"])


class ScriptedClient:
    """A client that answers with a damaged reply, then with a plain one, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[list[Message]] = []
        self.chat = self.completions = self

    def create(self, **request: Any) -> Any:
        self.requests.append(request["messages"])
        return self.answers.pop(0)


@pytest.fixture(scope="module")
def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def store(client: ScriptedClient) -> Any:
    with Store("sqlite://", client=cast(Any, client), model="m") as store:
        yield store
        check_all(engine_of(store))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@given(reply=damaged_reply, other=fields, reason=finish)
def test_any_answer_is_kept_and_the_next_request_is_one_that_a_strict_server_takes(
    store: Store, client: ScriptedClient, streamed: bool, reply: Message, other: dict[str, Any], reason: str
) -> None:
    choice = {"index": 0, "finish_reason": reason}
    plain = {"choices": [{"index": 0, "message": {"content": "Fine"}, "finish_reason": "stop"}]}
    id = store.new(fill_missing_tools=True).id
    if streamed:
        client.answers[:] = [[{**other, "choices": [{**choice, "delta": reply}]}], plain]
        with store.stream(id, "Hi") as pieces:
            list(pieces)
        turn = pieces.turn
    else:
        client.answers[:] = [{**other, "choices": [{**choice, "message": reply}]}, plain]
        turn = store.say(id, "Hi")
    assert (turn.status, turn.finish_reason) == (TurnStatus.COMPLETED, reason)
    assert turn.response_fields.keys() == {key for key, value in other.items() if value is not None}
    json.dumps([turn.message, turn.response_fields], allow_nan=False)
    assert store.turns(id)[-1] == turn
    for call in store.pending_calls(id)[:1]:  # the others get placeholders
        store.append(id, tool_result(call["id"], "21"))
    preview = store.preview(id, "On")
    store.say(id, "On")
    assert find_faults(client.requests[-1]) == []
    assert preview["messages"] == client.requests[-1]
    assert [message["role"] for message in client.requests[-1] if message["role"] != "tool"] == [
        "user",
        "assistant",
        "user",
    ]
    assert store.history(id)[-1] == {"role": "assistant", "content": "Fine"}
