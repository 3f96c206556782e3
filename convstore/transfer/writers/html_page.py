"""Write conversations as one page of HTML that needs nothing else: no script, no font, no image from elsewhere.

Branches beside the path are folded where they begin. The page follows the light or dark setting of the reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from convstore.messages.message import extract_text
from convstore.transfer.writers.html_messages import escape, render_message, render_time
from convstore.transfer.writers.html_style import POLICY, STYLE
from convstore.transfer.writers.written_text import OnNote, ignore_note, make_one_line
from convstore.values.exported import ExportedConversation, ExportedMessage
from convstore.values.results import Conversation

_MOST_WORDS_CHARACTERS = 60


def write_html(
    conversations: Iterable[ExportedConversation],
    on_note: OnNote = ignore_note,  # noqa: ARG001
) -> Iterator[bytes]:
    """Yield a page with all conversations, the first one unfolded; nothing needs a note."""
    number = 0
    for number, exported in enumerate(conversations, 1):
        title = make_one_line(exported.conversation.title or "") or "Conversation"
        if number == 1:
            yield _begin_page(title).encode()
        is_open = " open" if number == 1 else ""
        yield f'<details class="conversation"{is_open}>\n<summary>{escape(title)}</summary>\n'.encode()
        yield _render_facts(exported.conversation).encode()
        yield from (piece.encode() for piece in _render_tree(exported.messages, f"c{number}"))
        yield b"</details>\n"
    if number == 0:
        yield _begin_page("No conversations").encode()
        yield b'<p class="empty">There are no conversations.</p>\n'
    yield b"</main>\n</body>\n</html>\n"


def _begin_page(title: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )


def _render_facts(conversation: Conversation) -> str:
    facts = [escape(make_one_line(conversation.id))]
    facts += [escape(conversation.name)] if conversation.name else []
    facts += [f"#{escape(tag)}" for tag in conversation.tags]
    facts += [escape(make_one_line(conversation.model))] if conversation.model else []
    count = f"{conversation.length:,} message{'' if conversation.length == 1 else 's'}"
    return f'<p class="facts">{" · ".join([*facts, count, render_time(conversation.created_at)])}</p>\n'


def _render_tree(messages: Sequence[ExportedMessage], page_part: str) -> Iterator[str]:
    """Yield the messages of the path, each followed by the folded branches that leave it there."""
    branches = _group_branches(messages)
    yield from _render_branches(branches.get(0, ()), page_part)
    for one in messages:
        if one.on_path:
            yield render_message(one, f"{page_part}-m{one.record.seq}")
            yield from _render_branches(branches.get(one.record.seq, ()), page_part)


def _group_branches(messages: Sequence[ExportedMessage]) -> Mapping[int, list[list[ExportedMessage]]]:
    """Return the branches by the message of the path that they leave.

    A branch goes on with the latest answer to each of its messages; the others begin branches of their own, beside it
    and not inside it, because a tree may be deeper than a page can nest.
    """
    by_seq = {one.record.seq: one for one in messages}
    latest: dict[int, int] = {}
    for one in messages:
        latest[one.record.parent_seq] = one.record.seq
    leaves: dict[int, int] = {}  # of each message beside the path: where its branch leaves it
    runs: dict[int, list[ExportedMessage]] = {}  # by the last message of each
    grouped: dict[int, list[list[ExportedMessage]]] = {}
    for one in messages:
        if one.on_path:
            continue
        parent = one.record.parent_seq
        before = by_seq.get(parent)
        is_first = before is None or before.on_path
        place = leaves[one.record.seq] = parent if is_first else leaves[parent]
        if not is_first and latest[parent] == one.record.seq and parent in runs:
            run = runs.pop(parent)
            run.append(one)
        else:
            run = [one]
            grouped.setdefault(place, []).append(run)
        runs[one.record.seq] = run
    return grouped


def _render_branches(branches: Iterable[Sequence[ExportedMessage]], page_part: str) -> Iterator[str]:
    for run in branches:
        count = f"{len(run):,} message{'' if len(run) == 1 else 's'}"
        words = make_one_line(extract_text(run[0].record.message)[: 4 * _MOST_WORDS_CHARACTERS])
        words = words[:_MOST_WORDS_CHARACTERS] + ("…" if len(words) > _MOST_WORDS_CHARACTERS else "")
        quoted = f": {escape(words)}" if words else ""
        yield f'<details class="branch"><summary>Another branch, {count}{quoted}</summary>\n'
        parent = run[0].record.parent_seq
        if run[0].record.position > 1:
            link = f'<a href="#{page_part}-m{parent}">message {run[0].record.position - 1}</a>'
            yield f'<p class="empty">It follows {link}.</p>\n'
        for one in run:
            yield render_message(one, f"{page_part}-m{one.record.seq}")
        yield "</details>\n"
