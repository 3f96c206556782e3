"""Test that a completion is read equally from an openai object and from a dict."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from convstore.messages.completion import Completion, NotACompletion, Usage, find_error_text, read_completion

JSON = dict[str, Any]

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2},
    "cost": 0.5,
}


def make_body(*choices: JSON, **more: Any) -> JSON:
    """Return the body of a response."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "system_fingerprint": "fp",
        "choices": list(choices) or [make_choice("Hi")],
        "usage": USAGE,
        **more,
    }


def make_choice(content: str | None, index: int = 0, finish: str | None = "stop", **message: Any) -> JSON:
    """Return one choice of a response."""
    return {
        "index": index,
        "finish_reason": finish,
        "logprobs": None,
        "message": {"role": "assistant", "content": content, **message},
    }


@pytest.mark.parametrize("make", [dict, lambda given: ChatCompletion.construct(**given), ChatCompletion.model_validate])
def test_a_completion_is_read_from_a_dict_and_from_openais_objects(make: Any) -> None:
    answer = make_body(make_choice("Hi", refusal=None, reasoning_content="x"), service_tier="default")
    assert read_completion(make(answer)) == Completion(
        messages=({"role": "assistant", "content": "Hi", "refusal": None, "reasoning_content": "x"},),
        finish_reason="stop",
        response_id="chatcmpl-1",
        model="m-1",
        system_fingerprint="fp",
        usage=Usage(USAGE),
        fields={"created": 1, "service_tier": "default"},
    )


def test_choices_are_read_in_the_order_of_their_indexes() -> None:
    completion = read_completion(make_body(make_choice("b", 1, "length"), make_choice("a", 0)))
    assert [message["content"] for message in completion.messages] == ["a", "b"]
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("finish", [None, ""])
def test_a_completion_has_not_ended_if_one_choice_has_not(finish: str | None) -> None:
    assert read_completion(make_body(make_choice("a", 0), make_choice("b", 1, finish))).finish_reason is None
    assert read_completion(make_body(make_choice("a", 0, finish), make_choice("b", 1))).finish_reason is None


@pytest.mark.parametrize("role", [None, "", 3])
def test_a_reply_without_a_role_gets_the_role_assistant(role: object) -> None:
    answer = make_body({"index": 0, "finish_reason": "stop", "message": {"role": role, "content": "Hi"}})
    assert read_completion(answer).messages == ({"role": "assistant", "content": "Hi"},)
    del answer["choices"][0]["message"]["role"]
    assert read_completion(answer).messages == ({"role": "assistant", "content": "Hi"},)


def test_facts_that_a_server_leaves_out_are_none() -> None:
    completion = read_completion({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]})
    assert completion == Completion(({"role": "assistant", "content": "Hi"},), "stop")
    assert read_completion(make_body(id="", model=3, system_fingerprint=None, usage={})).usage is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("<html>", "not JSON"),
        (b"<html>", "not JSON"),
        (None, "not a completion"),
        (3, "not a completion"),
        ([], "not a completion"),
        (object(), "not a completion"),
        ({"choices": float("nan")}, "no choices"),
        ({}, "no choices"),
        ({"choices": []}, "no choices"),
        ({"choices": None, "error": {"message": "Overloaded", "code": 502}}, "Overloaded"),
        ({"error": "Overloaded"}, "Overloaded"),
        ({"choices": [{}]}, "no message"),
        ({"choices": [{"message": None}]}, "no message"),
        ({"choices": ["Hi"]}, "no message"),
        ({"choices": [{"message": {"content": "a"}}, {"message": "b"}]}, "no message"),
    ],
)
def test_an_answer_that_is_no_completion_is_refused_with_the_reason(answer: object, why: str) -> None:
    with pytest.raises(NotACompletion, match=why):
        read_completion(answer)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({}, None),
        ({"error": None}, None),
        ({"error": ""}, None),
        ({"error": "no"}, "no"),
        ({"error": {"message": "no"}}, "no"),
        ({"error": {"code": 5}}, "{'code': 5}"),
    ],
)
def test_the_text_of_an_error_under_status_200_is_found(answer: JSON, text: str | None) -> None:
    assert find_error_text(answer) == text


def test_usage_keeps_every_count_and_names_the_usual_ones() -> None:
    usage = Usage(USAGE)
    assert usage == USAGE
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    assert (*counts, usage.cached_tokens, usage.reasoning_tokens) == (9, 3, 12, 4, 2)


@pytest.mark.parametrize("given", [{}, {"prompt_tokens": None, "prompt_tokens_details": None}, {"prompt_tokens": "9"}])
def test_counts_that_a_server_leaves_out_are_none(given: JSON) -> None:
    usage = Usage(given)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.reasoning_tokens) == (None, None, None)
    assert Usage(prompt_tokens=True).prompt_tokens is None


def test_a_count_too_large_for_a_database_stays_in_the_report_only() -> None:
    usage = Usage({"prompt_tokens": 2**63, "completion_tokens": 2**63 - 1})
    assert usage.prompt_tokens is None
    assert usage.completion_tokens == 2**63 - 1
    assert usage["prompt_tokens"] == 2**63


@pytest.mark.parametrize("error", [{"message": "Lost it", "code": 502}, "Lost it"])
def test_an_error_next_to_choices_is_kept_with_their_messages(error: Any) -> None:
    choice = {"message": {"role": "assistant", "content": "Hal"}, "finish_reason": "stop"}
    completion = read_completion({"choices": [choice], "error": error})
    assert completion.messages[0]["content"] == "Hal"
    assert completion.error is not None
    assert completion.error["message"] == "Lost it"
    assert read_completion({"choices": [choice], "error": None}).error is None
