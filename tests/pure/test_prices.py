"""Prices: what a file of them may say, what is refused and in which words, and what a call cost."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convstore.errors import InvalidInput
from convstore.messages.completion import Usage
from convstore.usage.prices import NO_PRICES, Price, Prices, cost, parse, price_source, read

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
TEXT = """
currency = "EUR"

[models."gpt-4o-mini*"]
prompt = 0.15
cached = 0.075
completion = 0.60
reasoning = 1

[[models."gpt-4o"]]
since = 2026-10-01
prompt = 2.50
completion = 10

[[models."gpt-4o"]]
prompt = 5
completion = 15
"""


def prices(**models: Any) -> Prices:
    return parse({"models": models}, "prices")


def rate(prompt: float) -> dict[str, float]:
    return {"prompt": prompt, "completion": 0}


def found(all_of_them: Prices, model: str | None, requested: str | None, at: datetime = NOW) -> float | None:
    """The price of a prompt's tokens: enough to tell which entry was found."""
    price = all_of_them.of(model, requested, at)
    return price.prompt if price is not None else None


def usage(prompt: Any = 1_000_000, completion: Any = 0, cached: Any = None, reasoning: Any = None) -> Usage:
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached is not None else {}
    more = {"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning is not None else {}
    return Usage({"prompt_tokens": prompt, "completion_tokens": completion, **details, **more})


# --- a file of them ---


def test_a_file_states_prices_by_model_and_day(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(TEXT)
    stated = read(path)
    assert stated.currency == "EUR"
    assert stated.of("gpt-4o-mini-2024-07-18", "gpt-4o-mini", NOW) == Price(0.15, 0.6, cached=0.075, reasoning=1.0)
    begins = datetime(2026, 10, 1, tzinfo=UTC)
    assert stated.of("gpt-4o", None, begins) == Price(2.5, 10.0, cached=2.5, reasoning=10.0, since=begins)
    assert stated.of("gpt-4o", None, begins - timedelta(microseconds=1)) == Price(5.0, 15.0, cached=5.0, reasoning=15.0)
    assert stated.changes == [begins]


def test_a_mapping_of_the_same_form_serves_as_well() -> None:
    stated = price_source({"models": {"local": {"prompt": 0, "completion": 0, "since": date(2026, 1, 1)}}})()
    assert stated.currency == "USD"
    assert stated.of("local", None, NOW) == Price(0, 0, cached=0, reasoning=0, since=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_moment_without_a_zone_is_utc_and_one_with_a_zone_is_that_moment() -> None:
    east = timezone(timedelta(hours=2))
    stated = prices(
        naive={"prompt": 1, "completion": 1, "since": datetime(2026, 11, 22, 12)},  # noqa: DTZ001 (as in a file)
        aware={"prompt": 1, "completion": 1, "since": datetime(2026, 11, 22, 14, tzinfo=east)},
    )
    for name in ("naive", "aware"):
        assert found(stated, name, None, NOW) == 1
        assert found(stated, name, None, NOW - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt = ", "is not TOML"),
        ("models = 3", "models must be tables"),
        ("[model.x]\nprompt = 1", "unknown key 'model'; there are currency, models"),
        ("currency = 1", 'currency must be a text, such as "USD", not 1'),
        ('currency = " "', "currency must be a text"),
        ("[models.x]\nprompt = 1", 'models."x".completion is missing: the price of a million tokens'),
        ("[models.x]\ncompletion = 1", 'models."x".prompt is missing'),
        ('[models.x]\nprompt = "1"\ncompletion = 1', 'models."x".prompt must be the price of a million tokens'),
        ("[models.x]\nprompt = 1\ncompletion = -1", "completion must be the price of a million tokens, a number of at"),
        ("[models.x]\nprompt = true\ncompletion = 1", "not True"),
        ("[models.x]\nprompt = nan\ncompletion = 1", "not nan"),
        ("[models.x]\nprompt = inf\ncompletion = 1", "not inf"),
        (f"[models.x]\nprompt = {'9' * 5000}\ncompletion = 1", "is not TOML"),
        ("[models.x]\nprompt = 1\ncompletion = 1\noutput = 1", "unknown key 'output'; there are prompt, cached"),
        ('[models.x]\nprompt = 1\ncompletion = 1\nsince = "2026-10-01"', "such as 2026-10-01 without quotes"),
        ("[models.x]\nprompt = 1\ncompletion = 1\nsince = 10:00:00", "since must be a date"),
        ("[models.x]\nprompt = 1\ncompletion = 1\nsince = 0001-01-01T00:00:00+10:00", "since must be a date"),
        ('[models."gpt-*-mini"]\nprompt = 1\ncompletion = 1', "may have a * at its end, and nowhere else"),
        ("[models]\nx = 1", 'models."x" must be a table with prompt and completion, or an array of such, not 1'),
        ("[models]\nx = [1]", 'models."x" must be a table'),
        ("[[models.x]]\nprompt = 1\ncompletion = 1\n[[models.x]]\nprompt = 2\ncompletion = 1", "another `since`"),
        (
            "[[models.x]]\nprompt = 1\ncompletion = 1\nsince = 2026-10-01\n"
            "[[models.x]]\nprompt = 2\ncompletion = 1\nsince = 2026-10-01T02:00:00+02:00",
            "another `since`",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it_the_key_and_what_is_expected(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "my prices.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read(path)
    message = str(refused.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"currency = '\xff'")
    for name, words in (("none.toml", "No such file"), (".", "directory"), ("latin", "is not TOML")):
        with pytest.raises(InvalidInput, match=words):
            read(tmp_path / name)


def test_a_wrong_mapping_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match=r'^prices: models\."x"\.completion is missing'):
        price_source({"models": {"x": {"prompt": 1}}})
    with pytest.raises(InvalidInput, match="may have a"):
        price_source({"models": {3: rate(1)}})


# --- where it is ---


def test_the_configuration_is_what_the_environment_names_else_the_users_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert price_source(None)() == NO_PRICES
    own = Path(os.environ["XDG_CONFIG_HOME"], "convstore", "prices.toml")
    own.parent.mkdir(parents=True)
    own.write_text('currency = "own"')
    assert price_source(None)().currency == "own"
    (tmp_path / "named.toml").write_text('currency = "named"')
    monkeypatch.setenv("CONVSTORE_PRICES", str(tmp_path / "named.toml"))
    assert price_source(None)().currency == "named"
    monkeypatch.setenv("CONVSTORE_PRICES", str(tmp_path / "gone.toml"))
    with pytest.raises(InvalidInput, match=r"gone\.toml cannot be read: No such file"):
        price_source(None)()
    monkeypatch.setenv("CONVSTORE_PRICES", "")
    assert price_source(None)().currency == "own"
    assert price_source(tmp_path / "named.toml")().currency == "named"
    assert price_source(str(tmp_path / "named.toml"))().currency == "named"


# --- which price ---


def test_the_model_that_answered_comes_before_the_one_that_was_asked_and_both_before_beginnings() -> None:
    stated = prices(**{"a": rate(1), "a-2024": rate(2), "a*": rate(3), "a-2*": rate(4), "*": rate(5)})
    assert found(stated, "a-2024", "a") == 2
    assert found(stated, "a-2025", "a") == 1
    assert found(stated, "a-2025", "a-latest") == 4
    assert found(stated, "ab", "abc") == 3
    assert found(stated, "b", "c") == 5
    assert found(stated, None, "a") == 1
    assert found(stated, "a", None) == 1
    assert found(stated, None, None) is None
    assert found(NO_PRICES, "a", "a") is None


def test_a_price_that_is_not_yet_in_effect_is_passed_over() -> None:
    later = {"prompt": 1, "completion": 1, "since": date(2026, 12, 1)}
    stated = prices(**{"a": later, "a*": rate(3)})
    assert found(stated, "a", None) == 3
    assert found(stated, "a", None, NOW + timedelta(days=30)) == 1
    assert found(prices(a=later), "a", None) is None


# --- what it costs ---


def test_a_call_costs_what_its_tokens_cost() -> None:
    price = Price(prompt=2, completion=8, cached=1, reasoning=4)
    assert cost(usage(1_000_000, 1_000_000), price) == 10
    assert cost(usage(1_000_000, 0, cached=400_000), price) == 1.6
    assert cost(usage(0, 1_000_000, reasoning=500_000), price) == 6
    assert cost(usage(1, 1), price) == 0.00001
    assert cost(usage(0, 0), price) == 0


def test_what_is_unknown_is_never_zero() -> None:
    price = Price(1, 1, cached=1, reasoning=1)
    assert cost(None, price) is None
    assert cost(usage(), None) is None
    for prompt, completion in ((None, 1), (1, None), ("1", 1), (-1, 1), (1, -1), (True, 1)):
        assert cost(usage(prompt, completion), price) is None


def test_nonsense_of_a_provider_has_no_cost_rather_than_one_that_no_column_holds() -> None:
    assert cost(usage(2**62, 2**62), Price(15, 60, cached=1, reasoning=1)) is None
    assert cost(usage(2**64, 1), Price(0, 0, cached=0, reasoning=0)) is None


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(-(10**8), 10**8), st.integers(-(10**8), 10**8))
def test_no_count_of_parts_makes_a_call_cost_less_than_nothing_or_more_than_the_dearest_price(
    prompt: int, completion: int, cached: int, reasoning: int
) -> None:
    price = Price(prompt=3, completion=5, cached=1, reasoning=7)
    found = cost(usage(prompt, completion, cached, reasoning), price)
    assert found is not None
    assert round((prompt * 1 + completion * 5) / 1e6, 9) <= found <= round((prompt * 3 + completion * 7) / 1e6, 9)
