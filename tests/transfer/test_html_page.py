"""Test that a page of HTML is whole, shows everything, and does nothing that a model wrote."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.transfer.writers.html_markdown import MAX_RENDERED_CHARACTERS, render_markdown
from convstore.transfer.writers.html_page import write_html
from convstore.values.exported import ExportedConversation
from convstore.values.results import TurnStatus
from tests.pure.strategies import ODD
from tests.transfer.exported import (
    CALL,
    HELLO,
    HI,
    PHOTO,
    PIXEL,
    RESULT,
    any_tree,
    join,
    make_exported,
    make_path,
    read_crosswoz,
    read_mt_bench,
)

VOID = {"meta", "br", "hr", "img"}
# Every element and attribute that a page may have.
ALLOWED: dict[str, set[str]] = {
    **{
        tag: set()
        for tag in [
            "html",
            "head",
            "title",
            "style",
            "body",
            "main",
            "header",
            "b",
            "p",
            "em",
            "strong",
            "s",
            "br",
            "hr",
            "ul",
            "li",
        ]
    },
    **{
        tag: set()
        for tag in ["h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "table", "thead", "tbody", "tr", "summary"]
    },
    "html": {"lang"},
    "meta": {"charset", "http-equiv", "name", "content"},
    "details": {"class", "open"},
    "section": {"class", "id"},
    "div": {"class", "dir"},
    "span": {"class"},
    "p": {"class"},
    "time": {"datetime"},
    "a": {"class", "href", "rel", "title"},
    "img": {"src", "alt"},
    "code": {"class"},
    "pre": {"class"},
    "ol": {"start"},
    "th": {"class"},
    "td": {"class"},
}


class Page(HTMLParser):
    """A page, parsed; each element and attribute is one that a page may have."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.deepest = 0
        self.texts: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(data.decode())
        self.close()
        assert self.open == []

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag in ALLOWED, tag
        assert given.keys() <= ALLOWED[tag], (tag, given)
        if "href" in given:
            assert re.match(r"(https?:|mailto:|#c\d+-m\d+$)", str(given["href"])), given
        if "src" in given:
            assert re.match(r"data:image/(png|jpeg|gif|webp);base64,", str(given["src"])), given
        self.found.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
            self.deepest = max(self.deepest, len(self.open))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def list_all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def write(*exported: ExportedConversation) -> Page:
    return Page(join(write_html(exported)))


def write_text(text: str, role: str = "assistant") -> Page:
    return write(make_path({"role": role, "content": text}))


def test_a_page_allows_its_own_style_and_nothing_else() -> None:
    data = join(write_html([make_path(HELLO, HI)])).decode()

    style = re.findall(r"<style>(.*?)</style>", data, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert len(style) == 1
    assert (
        '<meta http-equiv="Content-Security-Policy" content="'
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'\">"
    ) in data
    assert "prefers-color-scheme: dark" in style[0]
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_markdown_is_rendered() -> None:
    page = write_text(
        "# Sky\n\nIt is **blue**, *mostly*, ~~red~~ `x < 1`.\nOn a new line.\n\n- a\n- b\n\n3. c\n\n> said\n\n"
        '| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\nprint("<b>")\n```\n\n[site](https://example.com "t") '
        "<mailto:a@b.c>"
    )

    names = {tag for tag, _ in page.found}
    assert {"h1", "strong", "em", "s", "code", "br", "ul", "ol", "blockquote", "table", "pre", "a"} <= names
    assert 'print("<b>")' in page.text
    assert {"class": "language-python"} in page.list_all("code")
    assert [one.get("class") for one in page.list_all("th")] == [None, "right"]
    assert [one["href"] for one in page.list_all("a")][1:] == ["https://example.com", "mailto:a@b.c"]
    assert page.list_all("ol") == [{"start": "3"}]


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></div></section><script>alert(1)</script>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](  javascript:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](java\tscript:alert(1))",
    "[a](vbscript:x) [b](file:///etc/passwd) [c](data:text/html,x) [d](//evil.example/x) [e](/x) [f](#x)",
    "<javascript:alert(1)>",
    '[a](https://example.com/"onmouseover="alert(1))',
    '[a](https://example.com "x\\" onmouseover=\\"alert(1)")',
    "![a](https://example.com/pixel.png)",
    '![a"onerror="alert(1)](https://example.com/pixel.png)',
    f"[a]({PIXEL})",
    "![a](data:image/svg+xml;base64,PHN2Zz4=)",
    "[a]: javascript:alert(1)\n\n[a]",
    '```"><script>alert(1)</script>\nx\n```',
    "```\n</code></pre><script>",
    "`<b>`",
    "&lt;script&gt;",
    "<!-- <script> -->",
    "<![CDATA[<script>]]>",
    "<style>*{display:none}</style>",
    '<a href="https://example.com">x</a>',
    "|<script>|\n|---|\n|<img src=x>|",
    "\x1b[2J\x9b\0\ud800",
]


ANY_MARKDOWN = st.text(alphabet="[]()<>!*_`~|-#>&;:\"'\\ \n\ta1.=/", max_size=60)
ANY_MARKDOWN |= st.lists(ODD | st.sampled_from(HOSTILE)).map("".join)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_wrote_is_shown_and_not_obeyed(text: str) -> None:
    every_place: dict[str, Any] = {
        "role": text,
        "name": text,
        "content": [{"type": "text", "text": text}, {"type": text}, {"type": "image_url", "image_url": {"url": text}}],
        "refusal": text,
        "reasoning": text,
        "tool_calls": [{"function": {"name": text, "arguments": text}}],
        text: text,
    }
    for role in ("user", "assistant", "tool"):
        write_text(text, role)
    page = write(
        make_exported(
            [(0, every_place), (0, every_place)],
            title=text,
            id=text,
            model=text,
            models={1: text, 2: text},
            ratings={1: "good"},
        )
    )
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f]", "".join(page.texts))


def test_a_remote_image_is_a_link_and_an_image_in_the_text_is_shown() -> None:
    page = write_text(f"![far](https://example.com/a.png) ![near *it*]({PIXEL})")

    assert page.list_all("img") == [{"src": PIXEL, "alt": "near it"}]
    assert page.list_all("a")[1]["href"] == "https://example.com/a.png"


def test_every_part_of_a_message_is_shown() -> None:
    page = write(
        make_path(
            PHOTO,
            CALL | {"reasoning_content": "I think so."},
            RESULT,
            {"role": "assistant", "content": None, "refusal": "I will not."},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                    {"type": "file", "file": {"filename": "report.pdf", "file_data": "data:application/pdf;base64,A"}},
                    {"type": "odd", "odd": [1]},
                    "bare",
                ],
                "vendor": {"key": "value"},
            },
            {"role": "tool", "tool_call_id": "x", "content": "long " * 200},
            {"role": "assistant", "content": None, "function_call": {"name": "old", "arguments": "{not json"}},
            {"role": "user"},
            ratings={2: "bad"},
            models={2: "gpt-4o"},
            statuses={2: TurnStatus.INTERRUPTED},
        )
    )

    for text in (
        "What is on it?",
        "I think so.",
        "Calls look",
        '{ "at": "sky" }',
        "blue",
        "I will not.",
        "https://example.com/x.png",
        "[audio wav]",
        "[file report.pdf]",
        "Part of the type odd",
        '"bare"',
        '{ "vendor": { "key": "value" } }',
        "Result, 1,000 characters",
        "Calls old",
        "{not json",
        "(no text)",
        "gpt-4o interrupted rated bad: so it is",
    ):
        assert text in page.text, text
    assert [one["src"] for one in page.list_all("img")] == [PIXEL]


def test_branches_are_folded_where_they_leave_the_path() -> None:
    texts = ["q", "first", "second", "more", "other", "deep", "deeper"]
    tree = [(0, 0), (1, 1), (1, 2), (2, 3), (2, 4), (4, 5), (6, 6)]
    data = join(
        write_html([make_exported([(parent, {"role": "user", "content": texts[at]}) for parent, at in tree], head=3)])
    ).decode()

    shown = re.findall(r"<details class=\"branch\"><summary>(.*?)</summary>|<p>(.*?)</p>|(</details>)", data)
    assert ["".join(one) for one in shown] == [
        "q",
        *["Another branch, 2 messages: first", "first", "other", "</details>"],
        *["Another branch, 3 messages: more", "more", "deep", "deeper", "</details>"],
        "second",
        "</details>",
    ]
    assert 'It follows <a href="#c1-m2">message 2</a>' in data


@settings(max_examples=40, deadline=None)
@given(st.lists(any_tree(), max_size=3))
def test_pages_of_random_trees_are_whole_and_show_each_message_once(exported: list[ExportedConversation]) -> None:
    page = write(*exported)

    expected = [f"c{number}-m{one.record.seq}" for number, each in enumerate(exported, 1) for one in each.messages]
    assert sorted(str(one["id"]) for one in page.list_all("section")) == sorted(expected)


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="[]()<>!*_`~|-#>&;:\"'\\ \n\ta1.=/", max_size=60)
    | st.lists(ODD | st.sampled_from(HOSTILE)).map("".join)
)
def test_any_text_is_harmless(text: str) -> None:
    write_text(text)


def test_a_tree_of_any_depth_does_not_nest() -> None:
    parents = [0, *(at for step in range(500) for at in (2 * step + 1, 2 * step + 1))]
    page = write(make_exported([(parent, HELLO) for parent in parents], head=1))

    assert page.deepest < 15
    assert len(page.list_all("section")) == 1001


@pytest.mark.parametrize(
    "text", [">" * 100 + " deep", "- " * 100 + "deep", "".join("  " * at + "- x\n" for at in range(100)) + "deep"]
)
def test_a_text_that_nests_too_deeply_is_shown_as_it_is(text: str) -> None:
    page = write_text(text)

    assert {"class": "text"} in page.list_all("pre")
    assert "deep" in page.text


@pytest.mark.parametrize("text", ["word " * (MAX_RENDERED_CHARACTERS // 5 + 1), "[" * 100_000])
def test_a_text_that_would_take_long_is_shown_as_it_is(text: str) -> None:
    assert render_markdown(text).startswith('<pre class="text">')


def test_a_page_without_conversations_is_whole() -> None:
    assert "There are no conversations." in write().text


def test_pages_of_the_data_sets_show_every_text(shared_data: Path) -> None:
    exported = [*islice(read_crosswoz(shared_data), 60), *islice(read_mt_bench(shared_data), 60, 80)]
    page = write(*exported)

    assert len(page.list_all("section")) == sum(len(one.messages) for one in exported)
    said = [one.record.message["content"] for each in exported[:60] for one in each.messages]
    assert [text for text in said if " ".join(text.split()) not in page.text and not set("*_`~<[\\#") & set(text)] == []
