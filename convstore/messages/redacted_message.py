"""Take a secret out of messages and of other texts: a whole message, or the parts of it that a pattern matches. Pure.

A message that was redacted stays one that every server accepts: it keeps its role, the ids and the names of its tool
calls, and arguments that are JSON. A secret is looked for elsewhere as it is, and as JSON spells it inside a text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from convstore.messages.inline_data import MIN_BASE64_CHARACTERS, decode_base64, digest_attachment
from convstore.messages.message import Message
from convstore.messages.request_form import REASONING_FIELDS
from convstore.messages.tool_calls import repair_arguments

REDACTED_TEXT = "[redacted]"
"""What is stored instead of a text."""
REDACTED_ARGUMENTS = '{"redacted": true}'
"""What is stored instead of the arguments of a call, because they must be a JSON object."""

MIN_MATCH_CHARACTERS, MIN_MESSAGE_CHARACTERS = 4, 8
"""Shorter texts are not looked for elsewhere: a match, and the text of a whole message."""
_MIN_FILE_CHARACTERS = 64

Replace: TypeAlias = Callable[[str], str]

# They say what a message and its parts are, and link calls with their results.
_STRUCTURE = frozenset({"role", "name", "tool_call_id"})
_CALL_STRUCTURE = frozenset({"id", "type", "index"})
_FILE_FIELDS = frozenset({"data", "file_data", "url"})
# In the parameters of a request, another text in their place would be refused. No other values of these keys are kept.
_TYPES = frozenset(
    {
        *("object", "string", "number", "integer", "boolean", "array", "null"),
        *("function", "custom", "allowed_tools", "json_schema", "json_object", "text", "grammar", "content"),
        *("image_url", "input_audio", "file", "approximate", "ephemeral", "enabled", "disabled", "adaptive"),
    }
)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_PART_WORDS = {"type": _TYPES}
_PARAMETER_WORDS = {"type": _TYPES, "role": _ROLES, "tool_choice": frozenset({"auto", "none", "required"})}
_NO_WORDS: Mapping[str, frozenset[str]] = {}


@dataclass(frozen=True, slots=True)
class Secret:
    """What is to be removed."""

    original: Message
    """The message that holds it."""
    blanked: Message
    """The message without it: each copy of the original becomes this."""
    texts: tuple[str, ...]
    """What is looked for in other texts, longest first."""
    files: frozenset[bytes] = frozenset()
    """The digests of files in the message."""
    small_files: tuple[str, ...] = ()
    """The base64 of those that are too small to be stored apart."""

    @property
    def is_distinctive(self) -> bool:
        """Whether an equal message elsewhere is a copy, not the same short word said again."""
        texts = _list_main_texts(self.original)
        return bool(self.files) or any(len(text.strip()) >= MIN_MESSAGE_CHARACTERS for text in texts)

    def replace(self, text: str) -> str:
        """Return a text without the secret."""
        for secret in self.texts:
            for spelling in spell_text(secret):
                text = text.replace(spelling, REDACTED_TEXT)
        return text

    def blank(self, message: Message) -> Message:
        """Return a message without the secret; the message itself if it does not hold it."""
        if message == self.original:
            return self.blanked
        return _replace_in_message(message, self.replace, self._has_file)

    def blank_value(self, value: Any) -> Any:
        """Return a JSON value, such as metadata, without the secret."""
        return _replace_in_value(value, self.replace, _NO_WORDS)

    def blank_parameters(self, value: Any, keeps_model: Callable[[str], bool] = bool) -> Any:
        """Return the parameters of a request without the secret.

        Args:
            keeps_model: returns True if a name is a model's, which stays, and not a secret in the place of one.
        """
        changed = _replace_in_value(value, self.replace, _PARAMETER_WORDS)
        model = value.get("model") if isinstance(value, dict) else None
        if not isinstance(model, str) or (self.replace(model) != model and not keeps_model(model)):
            return changed
        return {**changed, "model": model}

    def _has_file(self, text: str) -> bool:
        found = decode_base64(text, _MIN_FILE_CHARACTERS) if self.files else None
        return found is not None and digest_attachment(found[1]) in self.files


def make_whole_secret(message: Message) -> Secret:
    """Return a message as a secret."""
    texts = {text.strip() for text in _list_main_texts(message)}
    files: set[bytes] = set()
    small: set[str] = set()
    for text in _list_file_texts(message):
        found = decode_base64(text, _MIN_FILE_CHARACTERS)
        if found is not None:
            files.add(digest_attachment(found[1]))
            if len(text) - len(found[0]) < MIN_BASE64_CHARACTERS:
                small.add(text[len(found[0]) :])
    return Secret(
        original=message,
        blanked=_blank_whole(message),
        texts=_choose_sought(texts, MIN_MESSAGE_CHARACTERS),
        files=frozenset(files),
        small_files=tuple(sorted(small)),
    )


def make_matched_secret(message: Message, find: Callable[[str], Iterable[str]], substitute: Replace) -> Secret | None:
    """Return the parts of a message that a pattern matches as a secret; None if it matches nothing.

    Args:
        find: returns the parts of a text that it matches.
        substitute: returns a text with "[redacted]" instead of them.
    """
    matches = {match for text in _list_texts(message) for match in find(text) if match}
    texts = _choose_sought(matches, MIN_MATCH_CHARACTERS)
    secret = Secret(message, message, texts)
    blanked = _replace_in_message(message, lambda text: secret.replace(substitute(text)), _has_no_file)
    return Secret(message, blanked, texts) if blanked != message else None


def spell_text(text: str) -> tuple[str, ...]:
    """Return a text as it may stand inside another: as it is, and as JSON spells it."""
    spellings = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return tuple(sorted(spellings, key=len, reverse=True))


def _choose_sought(texts: Iterable[str], least: int) -> tuple[str, ...]:
    # A part of what replaces it would be found again and again.
    chosen = {text for text in texts if len(text) >= least and text not in REDACTED_TEXT}
    return tuple(sorted(chosen, key=lambda text: (-len(text), text)))


def _has_no_file(_: str) -> bool:
    return False


# --- a whole message ---


def _blank_whole(message: Message) -> Message:
    blanked: Message = {key: message[key] for key in ("role", *sorted(_STRUCTURE - {"role"})) if key in message}
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        blanked["tool_calls"] = [_blank_call(call) for call in calls]
    called = message.get("function_call")
    if isinstance(called, dict):
        blanked["function_call"] = _blank_called(called, "arguments", _blank_arguments(called))
    if message.get("content") is not None or not (blanked.get("tool_calls") or "function_call" in blanked):
        blanked["content"] = REDACTED_TEXT
    elif "content" in message:
        blanked["content"] = None
    return blanked


def _blank_call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        return {}  # a call that is not sent; its number stays
    blanked = {key: call[key] for key in ("id", "type", "index") if key in call}
    if isinstance(call.get("function"), dict):
        blanked["function"] = _blank_called(call["function"], "arguments", _blank_arguments(call["function"]))
    if isinstance(call.get("custom"), dict):
        blanked["custom"] = _blank_called(call["custom"], "input", REDACTED_TEXT)
    return blanked


def _blank_called(called: dict[str, Any], field: str, text: str) -> dict[str, Any]:
    kept = {"name": called["name"]} if isinstance(called.get("name"), str) else {}
    return {**kept, field: text}


def _blank_arguments(called: dict[str, Any]) -> str:
    """Return what replaces the arguments of a call: a call that is not sent, because they are not JSON, stays so."""
    return REDACTED_ARGUMENTS if repair_arguments(called.get("arguments")) is not None else REDACTED_TEXT


def _list_main_texts(message: Message) -> Iterator[str]:
    """Yield the texts of a message that other texts may quote."""
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"text": content}]:
        if isinstance(part, dict):
            yield from _list_strings(part, ("text", "refusal", "thinking"))
            if isinstance(part.get("image_url"), dict):
                yield from (url for url in _list_strings(part["image_url"], ("url",)) if not url.startswith("data:"))
    yield from _list_strings(message, ("refusal", "reasoning", "reasoning_content"))
    if isinstance(message.get("audio"), dict):
        yield from _list_strings(message["audio"], ("transcript",))
    calls = message.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else ()), {"function": message.get("function_call")}]:
        for called in (call.get("function"), call.get("custom")) if isinstance(call, dict) else ():
            if isinstance(called, dict):
                yield from _list_strings(called, ("arguments", "input"))


def _list_strings(fields: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    yield from (fields[name] for name in names if isinstance(fields.get(name), str))


# --- a part of a message ---


def _list_texts(message: Message) -> list[str]:
    """Return every text of a message in which something may be replaced."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _replace_in_message(message, note, _has_no_file)
    return found


def _replace_in_message(message: Message, replace: Replace, is_secret_file: Callable[[str], bool]) -> Message:
    """Return a message with its texts replaced; the message itself if none changes.

    Args:
        is_secret_file: returns True if a part with this file must not stay.
    """
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str):
        new = replace(content)
        return message if new == content else {**message, "content": new}
    changed: Message = {}
    for key, value in message.items():
        if key in _STRUCTURE:
            changed[key] = value
        elif key == "content" and isinstance(value, list):
            changed[key] = [_replace_in_part(part, replace, is_secret_file) for part in value]
        elif key == "tool_calls" and isinstance(value, list):
            changed[key] = [_replace_in_call(call, replace) for call in value]
        elif key == "function_call" and isinstance(value, dict):
            changed[key] = _replace_in_called(value, replace)
        else:
            changed[replace(key)] = _replace_in_value(value, replace, _NO_WORDS, is_secret_file)
    if changed == message:
        return message
    return _drop_sealed(message, changed)


def _replace_in_part(part: Any, replace: Replace, is_secret_file: Callable[[str], bool]) -> Any:
    if isinstance(part, dict) and any(is_secret_file(text) for text in _list_file_texts(part)):
        return {"type": "text", "text": REDACTED_TEXT}
    changed = _replace_in_value(part, replace, _PART_WORDS, is_secret_file)
    return {**changed, "type": part["type"]} if isinstance(part, dict) and "type" in part else changed


def _list_file_texts(value: Any, field: str | None = None) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _list_file_texts(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from _list_file_texts(item, field)
    elif isinstance(value, str) and _is_file_text(field, value):
        yield value


def _is_file_text(field: str | None, text: str) -> bool:
    """Return True if a text is the bytes of a file: a part of it cannot be replaced."""
    return field in _FILE_FIELDS and decode_base64(text, _MIN_FILE_CHARACTERS) is not None


def _replace_in_value(
    value: Any,
    replace: Replace,
    words: Mapping[str, frozenset[str]],
    is_secret_file: Callable[[str], bool] = _has_no_file,
    field: str | None = None,
) -> Any:
    """Return a JSON value with its texts and keys replaced.

    Args:
        words: keys that stay, each with the words that stay as its value.
        field: the key of the value.
    """
    if isinstance(value, str):
        if _is_file_text(field, value):
            return REDACTED_TEXT if is_secret_file(value) else value
        return replace(value)
    if isinstance(value, dict):
        return {
            (key if key in words else replace(key)): (
                item
                if _is_known(words.get(key), item)
                else _replace_in_value(item, replace, words, is_secret_file, key)
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_replace_in_value(item, replace, words, is_secret_file, field) for item in value]
    return value


def _is_known(words: frozenset[str] | None, value: Any) -> bool:
    """Return True if a value is one of some words, or a list of them."""
    texts = value if isinstance(value, list) else [value]
    return words is not None and all(isinstance(text, str) and text in words for text in texts)


def _replace_in_call(call: Any, replace: Replace) -> Any:
    if not isinstance(call, dict):
        return _replace_in_value(call, replace, _NO_WORDS)
    changed: dict[str, Any] = {}
    for key, value in call.items():
        if key in _CALL_STRUCTURE:
            changed[key] = value
        elif key in ("function", "custom") and isinstance(value, dict):
            changed[key] = _replace_in_called(value, replace)
        else:
            changed[replace(key)] = _replace_in_value(value, replace, _NO_WORDS)
    return changed


def _replace_in_called(called: dict[str, Any], replace: Replace) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in called.items():
        if key == "name":
            changed[key] = value
        elif key == "arguments" and isinstance(value, str):
            changed[key] = _replace_in_arguments(value, replace)
        else:
            changed[key] = _replace_in_value(value, replace, _NO_WORDS)
    return changed


def _replace_in_arguments(arguments: str, replace: Replace) -> str:
    """Return the arguments of a call with their texts replaced; JSON stays JSON."""
    parsed = _parse_json(arguments)
    text = arguments
    if parsed is not None:
        changed = _replace_in_value(parsed, replace, _NO_WORDS)
        if changed != parsed:
            text = json.dumps(changed, ensure_ascii=False)
    replaced = replace(text)
    if replaced != text and parsed is not None and _parse_json(replaced) is None:
        return REDACTED_ARGUMENTS
    return replaced


def _parse_json(text: str) -> dict[str, Any] | list[Any] | None:
    with suppress(ValueError, RecursionError):
        parsed = json.loads(text)
        if isinstance(parsed, dict | list):
            return parsed
    return None


def _drop_sealed(message: Message, changed: Message) -> Message:
    """Return a changed message without what holds the secret too, and cannot be changed.

    A provider may have signed or encrypted the reasoning, and refuses it if it was changed. A reply's audio speaks its
    transcript.
    """
    content, before = changed.get("content"), message.get("content")
    thinking_changed = isinstance(content, list) and any(
        _is_thinking(part) and part != old for part, old in zip(content, before or (), strict=False)
    )
    if thinking_changed or any(changed.get(key) != message.get(key) for key in REASONING_FIELDS):
        changed = {key: value for key, value in changed.items() if key not in REASONING_FIELDS}
        if isinstance(content, list):
            kept = [part for part in content if not _is_thinking(part)]
            changed["content"] = kept or REDACTED_TEXT
    audio = changed.get("audio")
    if isinstance(audio, dict) and audio != message.get("audio"):
        changed = {key: value for key, value in changed.items() if key != "audio"}
        if not changed.get("content"):
            changed["content"] = str(audio.get("transcript") or REDACTED_TEXT)
    if not changed.get("content") and message["role"] == "assistant" and set(changed) <= {"role", "name", "content"}:
        changed["content"] = REDACTED_TEXT
    return changed


def _is_thinking(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "thinking"
