"""A model that answers at once: the measured time is the store's."""

from typing import Any

from openai.types.chat import ChatCompletion

ANSWER = "The 2008 Summer Olympics were held in Beijing, China, from 8 to 24 August. " * 3
QUESTION = "Where were the Olympic games of 2008 held, and where were the ones that followed? "
MODEL = "fake-model"

_COMPLETION = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []},
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 66,
        "total_tokens": 85,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
}


class FakeClient:
    """The part of `openai.OpenAI` that a store calls, `.chat.completions.create`, as a plain function call."""

    def __init__(self) -> None:
        self.chat = self.completions = self
        self._completion = ChatCompletion.model_validate(_COMPLETION)

    def create(self, **_: Any) -> ChatCompletion:
        return self._completion


def dialogue(length: int) -> list[dict[str, str]]:
    """Return `length` messages, user and assistant in turn."""
    pair = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    return [pair[place % 2] for place in range(length)]


class AsyncFakeClient:
    """The same for `openai.AsyncOpenAI`."""

    def __init__(self) -> None:
        self.chat = self.completions = self
        self._completion = ChatCompletion.model_validate(_COMPLETION)

    async def create(self, **_: Any) -> ChatCompletion:
        return self._completion
