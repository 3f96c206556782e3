"""Write conversations as Markdown that reads well and can be imported again, exactly.

A conversation begins with front matter. Before each message is a comment with the JSON of what its text does not say:

    <!-- convstore: {"message": 2, "role": "assistant", "model": "gpt-4o"} -->
    ## Assistant · gpt-4o

    In Beijing.

The text of a message is written as it is. A line that a reader would take for a comment of this form gets a backslash:
lengths or digests instead would make each file that a person edited a damaged one.
What a message has besides its text is in the comment (`fields`), or if it is long, in a folded block of JSON under
the text. A content that is no plain text is in there too, and the text above is only a `preview`.
`transfer.markdown_transcript` reads all this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from convstore.messages.message import Message, extract_text
from convstore.messages.tool_calls import list_calls
from convstore.transfer.markdown_marks import (
    BRANCHES_MARK,
    FIELDS_MARK,
    FORM_VERSION,
    escape_line,
    make_end_mark,
    make_mark,
    to_comment_json,
)
from convstore.transfer.writers.written_text import (
    CONTROL_CHARACTERS,
    OnNote,
    ignore_note,
    make_one_line,
    replace_lone_surrogates,
    show_control_characters,
    to_json_text,
)
from convstore.values.exported import ExportedConversation, ExportedMessage
from convstore.values.results import TurnStatus

_MOST_INLINE_CHARACTERS = 300  # of fields in a comment
_MOST_SHOWN_ARGUMENTS = 200
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")


def write_markdown(conversations: Iterable[ExportedConversation], on_note: OnNote = ignore_note) -> Iterator[bytes]:
    """Yield the Markdown of conversations: the path of each, and after it the other branches that are given."""
    for number, exported in enumerate(conversations):
        front_matter = "\n".join(["---", *_list_front_matter(exported), "---"])
        # Only the first lines of a file are front matter to other programs; later ones are hidden from them.
        yield f"{front_matter}\n\n".encode() if number == 0 else f"\n<!--\n{front_matter}\n-->\n\n".encode()
        title = make_one_line(exported.conversation.title or "")
        yield f"# {title or 'Conversation'}\n\n".encode()
        if not exported.messages:
            on_note(exported.conversation.id, "it has no messages; an import leaves it out")
        yield from _write_messages(exported)
        yield f"{make_end_mark(len(exported.messages))}\n".encode()


def _list_front_matter(exported: ExportedConversation) -> Iterator[str]:
    conversation = exported.conversation
    yield f"convstore: {FORM_VERSION}"
    yield f"id: {to_comment_json(conversation.id)}"
    labels: dict[str, Any] = {
        "title": conversation.given_title,
        "name": conversation.name,
        "tags": list(conversation.tags),
    }
    labels |= {"model": conversation.model, "metadata": conversation.metadata}
    for key, value in labels.items():
        if value:
            yield f"{key}: {to_comment_json(value)}"
    yield f"created_at: {conversation.created_at.isoformat()}"


def _write_messages(exported: ExportedConversation) -> Iterator[bytes]:
    path = [one for one in exported.messages if one.on_path]
    for one in path:
        yield _write_message(one, None)
    others = [one for one in exported.messages if not one.on_path]
    if others:
        yield f"{BRANCHES_MARK}\n# Other branches\n\n".encode()
    for one in others:
        yield _write_message(one, one.record.parent_seq)


def _write_message(exported: ExportedMessage, parent: int | None) -> bytes:
    message = exported.record.message
    fields = {key: value for key, value in message.items() if key not in ("role", "content")}
    content = message.get("content")
    is_text = isinstance(content, str) and _is_writable(content)
    facts: dict[str, Any] = {"message": exported.record.seq}
    if parent is not None:
        facts["parent"] = parent
    facts["role"] = message["role"]
    if is_text:
        lines = str(content).split("\n")
    else:
        facts["preview"] = True
        fields |= {"content": content} if "content" in message else {}
        lines = _preview(message).split("\n")
    closing = _close_fence(lines)
    if closing is not None:
        facts["added_lines"] = 1
        lines.append(closing)
    is_inline = len(to_json_text(fields)) <= _MOST_INLINE_CHARACTERS
    if fields and is_inline:
        facts["fields"] = fields
    facts |= _list_facts(exported)
    block = "" if is_inline else _write_fields(fields)
    text = "\n".join(map(escape_line, lines))
    return f"{make_mark(facts)}\n## {_make_heading(exported)}\n\n{text}\n\n{block}".encode()


def _is_writable(text: str) -> bool:
    """Return True if the text can stand in a file as it is: no control characters, no halves of characters."""
    return not CONTROL_CHARACTERS.search(text) and replace_lone_surrogates(text) == text


def _list_facts(exported: ExportedMessage) -> dict[str, Any]:
    facts: dict[str, Any] = {"model": exported.model} if exported.model else {}
    if exported.status is not None and exported.status is not TurnStatus.COMPLETED:
        facts["status"] = exported.status.value
    if exported.rating is not None:
        facts["rating"] = exported.rating.rating.value
        facts |= {"note": exported.rating.note} if exported.rating.note else {}
    return facts | {"created_at": exported.record.created_at.isoformat()}


def _make_heading(exported: ExportedMessage) -> str:
    """Return the line above a message; it is for people, and is not read."""
    message = exported.record.message
    role = str(message["role"])
    parts = [role.capitalize() if role in _ROLES else role]
    parts += [name] if isinstance(name := message.get("name"), str) else []
    parts += [exported.model] if exported.model else []
    if exported.status is not None and exported.status is not TurnStatus.COMPLETED:
        parts.append(exported.status.value)
    parts += [f"rated {exported.rating.rating.value}"] if exported.rating is not None else []
    return " · ".join(make_one_line(part) for part in parts)


def _write_fields(fields: dict[str, Any]) -> str:
    block = f"```json\n{to_json_text(fields, indent=2)}\n```"
    return f"{FIELDS_MARK}\n<details><summary>More of this message, as JSON</summary>\n\n{block}\n\n</details>\n\n"


def _preview(message: Message) -> str:
    """Return what there is to read of a message if its content is not in the text."""
    lines = [show_control_characters(extract_text(message))]
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in ("text", "refusal"):
            lines.append(f"*[{make_one_line(kind)}]*")
    for call in list_calls(message):
        function = call.get("function")
        called = function if isinstance(function, dict) else {}
        text = make_one_line(f"{called.get('name')}({called.get('arguments')})").replace("`", "'")
        lines.append(f"calls `{text[:_MOST_SHOWN_ARGUMENTS]}`")
    return "\n\n".join(line for line in lines if line) or "*no text*"


def _close_fence(lines: list[str]) -> str | None:
    """Return the line that closes a block of code that the text leaves open, or None.

    Without it, a renderer would show all that follows as code.
    """
    fence = ""
    for line in lines:
        found = _FENCE.match(line)
        if found is None:
            continue
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return fence or None
