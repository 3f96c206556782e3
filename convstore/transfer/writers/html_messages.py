"""Render a message as HTML: its text, its tool calls, images and other parts."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from convstore.messages.message import Message, extract_text
from convstore.messages.request_form import REASONING_FIELDS
from convstore.messages.tool_calls import list_calls
from convstore.transfer.writers.html_markdown import is_link, is_raster_image, render_markdown, render_plain
from convstore.transfer.writers.written_text import make_one_line, show_control_characters, to_json_text
from convstore.values.exported import ExportedMessage
from convstore.values.results import TurnStatus

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_SHOWN_FIELDS = frozenset({"role", "content", "name", "tool_calls", "function_call", "tool_call_id", "refusal"})
_MAX_OPEN_RESULT_CHARACTERS = 500  # longer results of tools are folded


def escape(value: object) -> str:
    """Return a value as text in HTML, also inside an attribute."""
    return html.escape(show_control_characters(str(value)))


def render_message(one: ExportedMessage, anchor: str) -> str:
    """Return a message as HTML.

    Args:
        anchor: the id of its element, unique in the page.
    """
    message = one.record.message
    role = message["role"] if message["role"] in _ROLES else "other"
    body = "".join(_render_body(message)) or '<p class="empty">(no text)</p>\n'
    return (
        f'<section class="message {role}" id="{anchor}">\n<header>{_render_header(one, anchor)}</header>\n'
        f'<div class="body" dir="auto">\n{body}</div>\n</section>\n'
    )


def render_time(moment: datetime) -> str:
    """Return a time as HTML."""
    moment = moment.astimezone(UTC)
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M} UTC</time>'


def _render_header(one: ExportedMessage, anchor: str) -> str:
    message = one.record.message
    role = str(message["role"])
    parts = [f"<b>{escape(role.capitalize() if role in _ROLES else role)}</b>"]
    parts += [f"<span>{escape(name)}</span>"] if isinstance(name := message.get("name"), str) else []
    parts += [f"<span>{escape(one.model)}</span>"] if one.model else []
    if one.status is not None and one.status is not TurnStatus.COMPLETED:
        parts.append(f'<span class="{one.status.value}">{one.status.value}</span>')
    if one.rating is not None:
        note = f": {escape(make_one_line(one.rating.note))}" if one.rating.note else ""
        parts.append(f'<span class="{one.rating.rating.value}">rated {one.rating.rating.value}{note}</span>')
    if one.record.redacted_at is not None:
        parts.append(f"<span>redacted {render_time(one.record.redacted_at)}</span>")
    parts.append(render_time(one.record.created_at))
    parts.append(f'<a class="number" href="#{anchor}">{one.record.position}</a>')
    return " ".join(parts)


def _render_body(message: Message) -> Iterator[str]:
    for key in sorted(REASONING_FIELDS & message.keys()):
        if message[key]:
            text = message[key] if isinstance(message[key], str) else None
            yield _fold("Reasoning", render_markdown(text) if text is not None else _render_json(message[key]))
    yield from _render_content(message)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal and extract_text(message) != refusal:
        yield f'<p class="label">refusal</p>\n{render_markdown(refusal)}'
    for call in list_calls(message):
        yield _render_call(call.get("function", call.get("custom")))
    if isinstance(message.get("function_call"), dict):
        yield _render_call(message["function_call"])
    hidden = _SHOWN_FIELDS | REASONING_FIELDS
    others = {key: value for key, value in message.items() if key not in hidden and value not in (None, [], {}, "")}
    calls = message.get("tool_calls")
    others |= {"tool_calls": calls} if calls and list_calls(message) != calls else {}
    if others:
        yield _fold("Other fields", _render_json(others))


def _render_content(message: Message) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            yield _render_part(part)
    elif content is not None and not isinstance(content, str):
        yield _render_json(content)
    elif text := extract_text(message):
        if message["role"] not in ("tool", "function"):
            yield render_markdown(text)
        elif len(text) <= _MAX_OPEN_RESULT_CHARACTERS:
            yield render_plain(text)
        else:
            yield _fold(f"Result, {len(text):,} characters", render_plain(text))


def _render_part(part: Any) -> str:
    if not isinstance(part, dict):
        return _render_json(part)
    kind = part.get("type")
    for key in ("text", "refusal"):
        if kind == key and isinstance(part.get(key), str):
            return render_markdown(part[key])
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        return _render_image(url) if isinstance(url, str) else _label("image")
    if kind == "input_audio":
        sound = part.get("input_audio")
        form = sound.get("format") if isinstance(sound, dict) else ""
        return _label(f"audio {form or ''}")
    if kind == "file":
        file = part.get("file")
        name = file.get("filename") or file.get("file_id") if isinstance(file, dict) else ""
        return _label(f"file {name or ''}")
    return _fold(f"Part of the type {kind}", _render_json(part))


def _render_image(url: str) -> str:
    if is_raster_image(url):
        return f'<img src="{url}" alt="image">\n'
    if is_link(url):
        address = escape(url)
        return f'<p class="label">image: <a href="{address}" rel="noopener noreferrer nofollow">{address}</a></p>\n'
    return _label(f"image {url[:40]}{'…' if len(url) > 40 else ''}")


def _render_call(called: Any) -> str:
    if not isinstance(called, dict):
        return _label("a call that is not whole")
    given = called.get("arguments", called.get("input"))
    text = given if isinstance(given, str) else to_json_text(given)
    with suppress(ValueError, RecursionError):  # what is no JSON is shown as it is
        text = to_json_text(json.loads(text), indent=2)
    return _fold(f"Calls {called.get('name')}", f"<pre>{escape(text)}</pre>\n")


def _label(text: str) -> str:
    return f'<p class="label">[{escape(make_one_line(text))}]</p>\n'


def _fold(summary: str, inner: str) -> str:
    return f'<details class="more"><summary>{escape(make_one_line(summary))}</summary>\n{inner}</details>\n'


def _render_json(value: Any) -> str:
    return f"<pre>{escape(to_json_text(value, indent=2))}</pre>\n"
