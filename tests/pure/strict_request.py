"""Check the messages of a request as the strictest server would check them.

The fields and their types come from openai's own request types. The other rules come from the API reference
(https://platform.openai.com/docs/api-reference/chat/create), and from refusals of servers in issues that
`docs/decisions/` names.
"""

import collections.abc
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from openai.types.chat.chat_completion_message_param import ChatCompletionMessageParam
from typing_extensions import is_typeddict

from tests.pure.strategies import find_required_keys

_KINDS: dict[str, Any] = {
    get_args(get_type_hints(kind)["role"])[0]: kind for kind in get_args(ChatCompletionMessageParam)
}


@cache
def _read_hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def find_faults(messages: Sequence[Any], *, extra: Sequence[str] = ()) -> list[str]:
    """Return the faults for which a strict server would refuse the messages.

    Args:
        extra: fields that an assistant's message may have in addition to those of the API.
    """
    try:
        json.dumps(list(messages), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError) as error:
        return [f"no JSON in UTF-8: {error}"]
    faults = [f"{place}: {fault}" for place, message in enumerate(messages) for fault in _check(message, extra)]
    return faults or [*_check_order(messages)]


def _check(message: Any, extra: Sequence[str]) -> Iterator[str]:
    kind = _KINDS.get(str(message.get("role"))) if isinstance(message, dict) else None
    if kind is None:
        yield "no such role"
        return
    if message["role"] == "assistant":
        message = {key: value for key, value in message.items() if key not in extra}
        yield from _check_assistant(message)
    yield from _check_type("", message, kind)


def _check_assistant(message: dict[str, Any]) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls == []:
        yield "tool_calls: an empty array"
    others = calls or message.get("function_call") or message.get("audio")
    if "content" not in message and not others:
        yield "no content"
    if message.get("content") == [] or (not message.get("content") and not others):
        yield "empty content"
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and not part.get("text") and not part.get("refusal"):
            yield "an empty part of the content"
    ids = [call.get("id") for call in calls or [] if isinstance(call, dict)]
    if len(set(map(repr, ids))) < len(ids) or "" in ids:
        yield "tool_calls: ids that are empty or the same"
    functions = [call.get("function") for call in calls or [] if isinstance(call, dict) and "function" in call]
    for function in [*functions, message.get("function_call")]:
        if function is None:
            continue
        if not function.get("name"):
            yield "a call without a name"
        try:
            is_object = isinstance(json.loads(function["arguments"], parse_constant=_refuse), dict)
        except (ValueError, TypeError, KeyError, RecursionError):
            is_object = False
        if not is_object:
            yield "arguments that are no JSON object"


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _check_type(path: str, value: Any, kind: Any) -> Iterator[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if value is None:
        yield f"{path}: null"
    elif is_typeddict(kind):
        yield from _check_object(path, value, kind)
    elif origin is Union:
        alternatives = [list(_check_type(path, value, one)) for one in arguments if one is not type(None)]
        yield from min(alternatives, key=len)
    elif origin in (list, collections.abc.Iterable):
        if not isinstance(value, list):
            yield f"{path}: not an array"
            return
        for number, item in enumerate(value):
            yield from _check_type(f"{path}[{number}]", item, arguments[0])
    elif origin is Literal:
        if value not in arguments:
            yield f"{path}: {value!r}"
    elif not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        yield f"{path}: not {kind.__name__}"


def _check_object(path: str, value: Any, kind: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: not an object"
        return
    hints = _read_hints(kind)
    yield from (f"{path}: no {key}" for key in find_required_keys(kind) - value.keys())
    for key, item in value.items():
        where = f"{path}.{key}".lstrip(".")
        if key in hints:
            yield from _check_type(where, item, hints[key])
        elif "tool_calls" not in path:
            yield f"{where}: an unknown field"
        elif key == "index":  # a provider wants its own fields of a call sent back, such as a signature
            yield f"{where}: a field of a stream's pieces"
        elif _has_null(item):
            yield f"{where}: null"


def _has_null(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and any(map(_has_null, value.values())))


def _check_order(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    waiting: list[str] = []
    before = None
    for place, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                yield f"{place}: a result without its call, or a second one"
            else:
                waiting.remove(message["tool_call_id"])
            before = "tool"
            continue
        if waiting:
            yield f"{place}: calls without results before it"
        waiting = [call["id"] for call in message.get("tool_calls", ())]
        if message["role"] == before == "user":
            yield f"{place}: two messages of a user in a row"
        before = message["role"]
    if waiting:
        yield "calls without results at the end"
