"""Test how Markdown is rendered while it arrives."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convstore.cli.render.code_colours import make_colouring
from tests.cli.rendered import find_looks, look, read, render

SAMPLE = """\
# Sorting in Python

There are **two** ways to sort a list: the method `list.sort()`, which changes the list, and the *function* `sorted()`,
which returns a new one. See [the documentation](https://docs.python.org/3/howto/sorting.html) or https://example.org.

1. Use `sorted` when you need the old list too. This is a long item that needs more than a line on the terminal.
   - nested one
   - nested **two**
2. Use `sort` otherwise:

   ```python
   def f(x):
       \"\"\"A docstring that goes
       over two lines.\"\"\"
       return sorted(x, key=lambda pair: pair[1])  # comment
   ```

3. Done.

> A quotation with *emphasis* that is long enough to be wrapped at the width of the terminal, twice perhaps.
> second line

| Method | In place | Cost |
|--------|:--------:|-----:|
| `sort` | yes | O(n log n) |
| `sorted` | **no** | O(n log n) |

---

地铁在哪里？我们可以坐地铁去天安门广场，然后再坐公共汽车回来，这样最快，也最便宜，你说好不好？
A formula \\( a_1 * b_1 \\) and 5 * 3 * 2, snake_case_name, *args and **kwargs.

```
plain   code
```

* **Bold lead**: text
* ~~struck~~ & &amp; <b>html</b>

The last line
"""
STYLES = re.compile(r"\x1b\[[0-9;]*m")


# --- the same however it arrives ---


@pytest.mark.parametrize("width", [40, 70, 120])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 17, 400])
def test_the_screen_is_the_same_in_whatever_pieces_the_text_comes(step: int, width: int) -> None:
    assert look(render(SAMPLE, width, step=step), width) == look(render(SAMPLE, width), width)


@pytest.mark.parametrize("width", [20, 40, 70])
def test_nothing_is_ever_repainted(width: int) -> None:
    # The only control sequences are styles, so the cursor never moves back: what has scrolled is as it should be.
    for step in (1, None):
        written = render(SAMPLE, width, step=step)
        assert "\x1b" not in STYLES.sub("", written)
        assert "\r" not in written


TEXT = st.lists(
    st.sampled_from(
        [
            *(
                "word",
                "second",
                "地铁",
                "é",
                " ",
                "  ",
                "\n",
                "\n\n",
                "*",
                "**",
                "_",
                "`",
                "```",
                "~~",
                "[",
                "]",
                "(",
                ")",
            ),
            *(
                "|",
                "|-|\n",
                "# ",
                "- ",
                "1. ",
                "> ",
                "<",
                ">",
                "&",
                "&lt;",
                "\\",
                "---",
                "    ",
                "\t",
                "!",
                "http://x.y",
            ),
        ]
    ),
    max_size=40,
).map("".join)


@given(TEXT, st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_any_text_is_shown_with_all_its_words_in_order(text: str, step: int) -> None:
    written = render(text, 60, step=step)
    shown = STYLES.sub("", written)
    assert "\x1b" not in shown
    kept = re.findall(r"word|second|地|铁|é", shown)
    assert kept == re.findall(r"word|second|地|铁|é", text) or "|" in text or "[" in text


@given(TEXT, st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_any_text_looks_the_same_in_pieces(text: str, step: int) -> None:
    text = re.sub(r"[地铁é\\~]", "", text)  # what stands before a mark decides about it in corners of the rules
    assert look(render(text, 60, step=step), 60) == look(render(text, 60), 60)


def test_each_word_is_shown_when_the_next_begins() -> None:
    from convstore.cli.render.markdown_stream import MarkdownStream

    stream = MarkdownStream(lambda: 60, has_colours=True)
    assert stream.add("A lo") == "A"
    assert stream.add("ng **bold ") == " long"  # held until the markup is closed
    assert STYLES.sub("", stream.add("word** and")) == " bold word"
    assert STYLES.sub("", stream.end()) == " and\n"


def test_markup_that_is_never_closed_is_shown_as_it_is() -> None:
    text = "*never closed " + "word " * 400
    from convstore.cli.render.markdown_stream import MarkdownStream

    stream = MarkdownStream(lambda: 60, has_colours=True)
    written = stream.add(text)
    assert written.count("word") > 100  # long before the end
    assert "*never" in written
    assert (written + stream.end()).count("word") == 400


# --- the looks ---


def test_headings_lists_quotations_and_rules_have_their_forms() -> None:
    lines = read(SAMPLE)
    assert lines[0] == "Sorting in Python"
    assert "1. Use sorted when you need the old list too. This is a long item that" in lines
    assert "   needs more than a line on the terminal." in lines
    assert "   • nested one" in lines
    assert "│ A quotation with emphasis that is long enough to be wrapped at the" in lines
    assert "│ width of the terminal, twice perhaps." in lines
    assert "─" * 40 in lines
    assert "A formula \\( a_1 * b_1 \\) and 5 * 3 * 2, snake_case_name, *args and" in lines
    assert "• struck & & <b>html</b>" in lines


def test_words_have_their_styles() -> None:
    written = render(SAMPLE)
    assert find_looks(written, "Sorting in") == {"bold", "underlined"}
    assert find_looks(written, "two") == {"bold"}
    assert find_looks(written, "function") == {"italic"}
    assert find_looks(written, "list.sort()") == {"cyan"}
    assert find_looks(written, "the documentation") == {"underlined"}
    assert find_looks(written, "struck") == {"struck"}
    assert find_looks(written, "def") == {"magenta"}
    assert find_looks(written, "There are") == set()


def test_without_colours_bold_and_italic_stay() -> None:
    written = render(SAMPLE, has_colours=False)
    assert set(re.findall(r"\x1b\[([0-9;]*)m", written)) <= {"0", "1", "2", "3", "4", "9", "1;4"}
    assert find_looks(written, "two") == {"bold"}
    assert find_looks(written, "function") == {"italic"}


def test_the_state_of_a_language_lasts_over_lines() -> None:
    colour = make_colouring("python")
    first, second, third = (colour(line) for line in ('x = """one', "two # three", '"""; y = 1  # four'))
    assert first.count("\x1b[32m") == 1
    assert second == "\x1b[32mtwo # three\x1b[0m"  # not a comment
    assert "\x1b[2m# four\x1b[0m" in third
    assert make_colouring("no such language")("if x:") == "if x:"


def test_chinese_is_broken_between_characters_and_punctuation_stays_with_its_word() -> None:
    lines = [line for line in read("地铁在哪里？" * 12, 41) if line]
    assert len(lines) > 2
    assert all(not line.startswith("？") for line in lines)


# --- what can be copied ---


def test_code_is_copied_as_it_was_written() -> None:
    code = "def f(x):\n\tif x:   # tab, spaces\n        return 'a' * 200 + '" + "b" * 200 + "'\n\n    # end   \n"
    for fence in ("```python\n{}```\n", "1. An item:\n\n   ```python\n{}   ```\n", "~~~\n{}~~~\n"):
        indented = "".join(f"{'   ' if 'item' in fence else ''}{line}" for line in code.splitlines(keepends=True))
        shown = STYLES.sub("", render(f"Text\n\n{fence.format(indented)}\nMore text\n", 40))
        assert code in shown


def test_no_line_has_spaces_at_its_end() -> None:
    shown = STYLES.sub("", render(SAMPLE))
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []


def test_a_long_address_is_not_broken() -> None:
    address = "https://example.org/" + "path/" * 30
    assert address in STYLES.sub("", render(f"See {address} for more of it.", 40))


# --- narrow terminals ---


def test_a_table_that_does_not_fit_becomes_a_list_of_its_cells() -> None:
    table = "| " + " | ".join(f"head{n}" for n in range(8)) + " |\n" + "|---" * 8 + "|\n"
    table += "| " + " | ".join(f"cell{n}" for n in range(8)) + " |\n"
    assert "head0   head1" in STYLES.sub("", render(table, 120))
    lines = read(table, 40)
    assert lines[:3] == ["head0: cell0", "head1: cell1", "head2: cell2"]


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_what_follows_a_table_at_once_is_shown_after_it(step: int) -> None:
    shown = STYLES.sub("", render("before\n| a |\n|---|\n| b |\nword after\n\n| no table |\nlast", step=step))
    words = shown.split()
    assert [word for word in words if word.strip("─|")] == ["before", "a", "b", "word", "after", "no", "table", "last"]


@pytest.mark.parametrize("width", [20, 30, 40])
def test_no_line_of_text_is_wider_than_the_terminal(width: int) -> None:
    text = SAMPLE.replace("https://docs.python.org/3/howto/sorting.html", "x.y")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for line in STYLES.sub("", render(text, width)).splitlines():
        assert sum(2 if "⺀" <= character <= "￯" else 1 for character in line) <= width, line


# --- nothing drives the terminal ---

WILD = [
    "\x1b]0;owned\x07 \x1b[2J \x9b31m \x08 \r \x7f",
    "[link](http://x/\x1b]8;;evil\x07)",
    "&#27;]0;owned&#7; &#x9b;31m &#8238;reversed &#x202e; <\x1b[2J>",
    "```\x1b[31m\n\x1b[2J code \x9b\n```",
    "| a\x1b[2J | b |\n|---|---|\n| &#27;[2J | &#x202e;x |",
    "# \x1b[2J heading",
    "> \x1b[2J quoted",
    "- \x1b[2J item",
    "![\x1b[2J](\x1b[2J)",
    '[a](&#27;[2J "t") [b]: \x1b[2J',
]


@pytest.mark.parametrize("text", WILD)
@pytest.mark.parametrize("step", [1, 1000])
def test_no_markup_brings_a_control_sequence_to_the_terminal(text: str, step: int) -> None:
    for wild in (text, f"word {text} word", f"**{text}**", f"`{text}`"):
        written = render(wild, step=step)
        assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", STYLES.sub("", written)) is None


def test_a_link_shows_where_it_leads_and_is_no_link_of_the_terminal() -> None:
    written = render("[https://bank.example](https://evil.example) and [x](y) and <https://same.example>")
    assert "https://bank.example (https://evil.example) and x (y) and https://same.example" in " ".join(
        STYLES.sub("", written).split()
    )
    assert "\x1b]" not in written


# --- the cost ---


@pytest.mark.parametrize("unit", [SAMPLE, "word " * 50, "`" * 50, "*a ", "[a", "<a ", "| a | b |\n", "a" * 100, "\\"])
def test_the_work_grows_as_the_text_does(unit: str) -> None:
    def measure(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        taken = []
        for _ in range(3):
            began = time.thread_time()
            render(text, step=4)
            taken.append(time.thread_time() - began)
        return min(taken)

    measure(2_000)
    assert measure(24_000) < 25 * measure(3_000)  # 8 times as much, and the disturbance of a busy machine
