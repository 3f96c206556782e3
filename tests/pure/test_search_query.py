"""Test what a search query means: folding, boundaries of words, terms, snippets."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from convstore import InvalidInput
from convstore.search.folded_text import SEPARATOR, find_source, fold
from convstore.search.query import LONGEST_QUERY, Query, parse_query
from convstore.search.searched_text import extract_searched_text
from convstore.search.snippet import cut_snippet
from convstore.search.terms import LONGEST_TERM, find_terms

FOUND = [
    ("user", "user_id"),
    ("C++", "I like C++20"),
    ("don't", "I don’t know"),
    ("don’t", "don't"),
    ("foo-bar", "a FOO‑BAR."),
    ("AND", "you and me"),
    ('a"b', 'xx a"b yy'),
    ("/etc/hosts", "see /etc/hosts, please"),
    ("用户", "这个用户名"),
    ("天", "今天"),
    ("天气", "北京天气很好"),
    ("の", "日本の首都"),
    ("สวัสดี", "คำว่าสวัสดีครับ"),
    ("api", "用api接口"),
    ("привет", "приветhello"),
    ("migrat*", "Migrations"),
    ("C*", "see Cat"),
    ("한국*", "한국어"),
    ("naive", "NAÏVE"),
    ("naïve", "nai\u0308ve"),
    ("ABC", "ＡＢＣ"),
    ("ｱ", "ア"),
    ("strasse", "Straße"),
    ("istanbul", "İSTANBUL"),
    ("сад", "САД"),
    ("->", "a -> b"),
    ("👍", "ok 👍🏽"),
    ("❤", "I ❤️ it"),
    ("$5", "it costs $5"),
    ('"hello  world"', "hello\n\tworld"),
    ('"b c" a', "a b c"),
    ("hello -world", "hello there"),
    ('a -"b c"', "a c b"),
    ("x -5", "x 6"),
    ("co\u00adoperate", "cooperate"),
    ("a*b", "a*b"),
    ("٣", "رقم ٣"),
]
NOT_FOUND = [
    ("user", "users"),
    ("user", "superuser"),
    ("user", "user2"),
    ("C++", "C+"),
    ("migrat*", "immigration"),
    ("한국", "한국어"),
    ("か", "が"),
    ("hello -world", "Hello WORLD"),
    ('"a b"', "a\nc b"),
    ('a -"b c"', "a b  c"),
    ("сад", "сады"),
    ("2", "20"),
    ("foo bar", "foo"),
]


@pytest.mark.parametrize(("query", "text"), FOUND)
def test_a_text_that_has_all_pieces_matches(query: str, text: str) -> None:
    assert parse_query(query).matches(fold(text))
    assert _may_be_candidate(parse_query(query), text)


@pytest.mark.parametrize(("query", "text"), NOT_FOUND)
def test_a_text_that_lacks_a_piece_does_not_match(query: str, text: str) -> None:
    assert not parse_query(query).matches(fold(text))


def _may_be_candidate(query: Query, text: str) -> bool:
    terms = find_terms(fold(text))
    return query.terms <= terms and all(any(term.startswith(word) for term in terms) for word in query.prefixes)


LETTERS = st.sampled_from([*"ab1_-'\"* +.éİß用户がかกา한бﬁ¨👍\u200b\u0301\n"])
TEXTS = st.text(LETTERS, max_size=30)


@given(TEXTS, st.integers(0, 30), st.integers(1, 12))
@example("a'b", 0, 3)
def test_a_text_that_matches_has_the_terms_of_the_query(text: str, begin: int, length: int) -> None:
    """The index would lose a message otherwise; the piece is cut out of the text, so that many match."""
    for query_text in (text[begin : begin + length], f'"{text[begin : begin + length]}"', f"{text[begin:][:length]}*"):
        try:
            query = parse_query(query_text)
        except InvalidInput:
            continue
        if query.matches(fold(text)):
            assert _may_be_candidate(query, text), (query_text, text)


@given(st.text(max_size=40))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@given(st.text(max_size=30))
def test_folding_does_not_depend_on_how_letters_are_composed(text: str) -> None:
    assert fold(unicodedata.normalize("NFD", text)) == fold(unicodedata.normalize("NFC", text))


@given(TEXTS, TEXTS, TEXTS)
@example("", "¨", " a")
@example(" ", "ﬁ", "\u0301")
def test_the_place_of_a_match_is_found_in_the_text_as_it_was_written(before: str, match: str, after: str) -> None:
    text = f"{before} x{match}x {after}"
    folded = fold(text)
    begin = folded.index(fold(f"x{match}x"))
    end = begin + len(fold(f"x{match}x"))
    part, places, first = find_source(text, begin, end, 0)
    assert text[first : first + len(part)] == part
    assert len(places) == len(part)
    assert fold(part) == folded[begin:end]


def test_the_place_of_a_match_is_found_far_into_a_long_text() -> None:
    for filler in ("word and ", "用户天气", "é\u0301 \n ", "한국어"):
        text = filler * 5_000 + "needle" + filler * 5_000
        begin = fold(text).index("needle")
        part, _, first = find_source(text, begin, begin + 6, 0)
        assert (part, text[first : first + 6]) == ("needle", "needle"), filler


def test_a_snippet_is_one_line_around_the_match_with_the_match_marked() -> None:
    text = "before " * 40 + "the  Naïve\nidea" + " after" * 40
    snippet = cut_snippet(text, parse_query("naive"))
    assert [snippet.text[begin:end] for begin, end in snippet.marks] == ["Naïve"]
    assert snippet.text.startswith("…")
    assert snippet.text.endswith("…")
    assert "\n" not in snippet.text
    assert "the Naïve idea" in snippet.text
    assert len(snippet.text) < 200
    whole = cut_snippet("  hello\n\nworld ", parse_query("world hello"))
    assert (whole.text, whole.marks) == ("hello world", ((0, 5), (6, 11)))


def test_a_term_has_a_limited_length_and_long_words_are_still_found() -> None:
    word = "x" * 500
    assert find_terms(word) == {"x" * LONGEST_TERM}
    assert _may_be_candidate(parse_query(word), f"a {word} b")
    assert _may_be_candidate(parse_query(f"{word[:200]}*"), f"a {word} b")


@pytest.mark.parametrize("query", ["", "  ", "\u200b", '"  "', "\u0301"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(InvalidInput, match="query is empty"):
        parse_query(query)


def test_a_query_has_a_limited_length() -> None:
    parse_query("x" * LONGEST_QUERY)
    with pytest.raises(InvalidInput, match="1,001 characters; at most 1,000"):
        parse_query("x" * (LONGEST_QUERY + 1))


def test_text_refusal_and_tool_calls_are_searched_and_reasoning_is_not() -> None:
    message = {
        "role": "assistant",
        "content": [{"type": "text", "text": "one"}, {"type": "refusal", "refusal": "two"}, "odd", {"text": 3}],
        "refusal": "three",
        "reasoning_content": "hidden",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "look_up", "arguments": '{"city": "\\u5317\\u4eac"}'},
            },
            {"id": "c2", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}},
            "odd",
        ],
        "function_call": {"name": "old", "arguments": "{broken \\"},
    }
    text = extract_searched_text(message)
    for query in ("one", "two", "three", "look_up", "北京", "shell", '"ls -l"', "old", "broken"):
        assert parse_query(query).matches(fold(text)), query
    assert not parse_query("hidden").matches(fold(text))
    assert not parse_query('"one two"').matches(fold(text)), "a phrase does not span two texts"
    assert SEPARATOR in text
    assert extract_searched_text({"role": "user", "content": None}) == ""
