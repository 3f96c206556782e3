"""Test the OpenAI Agents SDK, unchanged, as a client: its runner, with a session in a conversation of the service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import openai
import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIConversationsSession, RunConfig, Runner, function_tool
from agents import set_tracing_disabled as disable_tracing
from agents.run import CallModelData, ModelInputData

from convstore.testing import Reply
from tests.server.conftest import KeyedService

R = TypeVar("R")


@pytest.fixture
def owner() -> str:
    return f"team-{uuid.uuid4()}"


@pytest.fixture
def run(keyed: KeyedService, owner: str) -> Callable[[Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, R]]], R]:
    """Return what runs work of a client of the owner in an event loop."""
    disable_tracing(disabled=True)

    async def use(work: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, R]]) -> R:
        url, headers = f"{keyed.running.url}/v1", {"X-Convstore-Owner": owner}
        async with openai.AsyncOpenAI(base_url=url, api_key=keyed.keys.agent, default_headers=headers) as client:
            return await work(client)

    return lambda work: asyncio.run(use(work))


def make_agent(client: openai.AsyncOpenAI) -> Agent:
    @function_tool
    def look_up(city: str) -> str:
        """Look up the weather of a city."""
        return f"sunny in {city}"

    model = OpenAIChatCompletionsModel("test-model", client)
    return Agent(name="Weather", instructions="Be brief.", model=model, tools=[look_up])


def give_ids(data: CallModelData[Any]) -> ModelInputData:
    """Return the input with ids of messages: the SDK drops those of a session, and then cannot read them itself."""
    given = [{"id": "any", **item} if item.get("type") == "message" else item for item in data.model_data.input]
    return ModelInputData(input=given, instructions=data.model_data.instructions)  # type: ignore[arg-type]


def test_a_runner_goes_on_in_its_session(keyed: KeyedService, owner: str, run: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"city": "Oslo"}'}}
    asks_for_tool = {"role": "assistant", "content": None, "tool_calls": [call]}
    keyed.upstream.script(
        Reply(message=asks_for_tool, finish_reason="tool_calls"),
        Reply("Sunny."),
        Reply("You asked about Oslo."),
    )

    async def talk(client: openai.AsyncOpenAI) -> tuple[str, list[Any]]:
        session = OpenAIConversationsSession(openai_client=client)
        agent = make_agent(client)
        first = await Runner.run(agent, "Weather in Oslo?", session=session)
        assert first.final_output == "Sunny."
        again = OpenAIConversationsSession(conversation_id=session.session_id, openai_client=client)
        config = RunConfig(call_model_input_filter=give_ids)
        second = await Runner.run(agent, "Which city?", session=again, run_config=config)
        assert second.final_output == "You asked about Oslo."
        return session.session_id, await again.get_items()

    id, items = run(talk)
    kinds = [(item["type"], item.get("role")) for item in items]
    assert kinds == [
        ("message", "user"),
        ("function_call", None),
        ("function_call_output", None),
        ("message", "assistant"),
        ("message", "user"),
        ("message", "assistant"),
    ]
    assert len({item["id"] for item in items}) == 6
    asked = keyed.upstream.requests[-1].body["messages"]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool", "assistant", "user"]
    store = keyed.store.for_owner(owner)
    said = ["Weather in Oslo?", None, "sunny in Oslo", "Sunny.", "Which city?", "You asked about Oslo."]
    assert [message.get("content") for message in store.history(id)] == said
    assert store.history(id)[1]["tool_calls"][0]["function"] == call["function"]


def test_the_methods_of_a_session(run: Any, keyed: KeyedService, owner: str) -> None:
    async def use(client: openai.AsyncOpenAI) -> str:
        session = OpenAIConversationsSession(openai_client=client)
        many: list[Any] = [{"role": "user", "content": f"number {number}"} for number in range(45)]
        await session.add_items(many)
        assert [item["content"][0]["text"] for item in await session.get_items()] == [  # type: ignore[typeddict-item,index]
            one["content"] for one in many
        ]
        last = await session.pop_item()
        assert last is not None
        assert (await session.get_items(limit=2))[-1]["content"][0]["text"] == "number 43"  # type: ignore[typeddict-item,index]
        await session.add_items([last])  # as it was given back, with its id
        assert (await session.get_items(limit=1))[0] == last
        id = session.session_id
        await session.clear_session()
        assert await session.get_items() == []
        assert session.session_id != id
        assert await session.pop_item() is None
        return id

    id = run(use)
    assert keyed.store.for_owner(owner).restore(id).length == 45
