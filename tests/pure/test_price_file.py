"""Test that a price file is read and an invalid one is refused with a reason."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from convstore.errors import InvalidInput
from convstore.usage.price_file import make_price_loader, parse_prices, read_price_file
from convstore.usage.prices import NO_PRICES, Price

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


def test_a_file_states_prices_by_model_and_day(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(TEXT)
    stated = read_price_file(path)
    assert stated.currency == "EUR"
    assert stated.find_price("gpt-4o-mini-2024-07-18", "gpt-4o-mini", NOW) == Price(
        0.15, 0.6, cached=0.075, reasoning=1.0
    )
    begins = datetime(2026, 10, 1, tzinfo=UTC)
    assert stated.find_price("gpt-4o", None, begins) == Price(2.5, 10.0, cached=2.5, reasoning=10.0, since=begins)
    assert stated.find_price("gpt-4o", None, begins - timedelta(microseconds=1)) == Price(
        5.0, 15.0, cached=5.0, reasoning=15.0
    )
    assert stated.change_moments == [begins]


def test_a_mapping_of_the_same_form_is_read_too() -> None:
    stated = make_price_loader({"models": {"local": {"prompt": 0, "completion": 0, "since": date(2026, 1, 1)}}})()
    assert stated.currency == "USD"
    assert stated.find_price("local", None, NOW) == Price(
        0, 0, cached=0, reasoning=0, since=datetime(2026, 1, 1, tzinfo=UTC)
    )


def test_a_moment_without_a_time_zone_is_utc() -> None:
    east = timezone(timedelta(hours=2))
    naive = {"prompt": 1, "completion": 1, "since": datetime(2026, 11, 22, 12)}  # noqa: DTZ001 (as in a file)
    aware = {"prompt": 1, "completion": 1, "since": datetime(2026, 11, 22, 14, tzinfo=east)}
    stated = parse_prices({"models": {"naive": naive, "aware": aware}}, "prices")
    for name in ("naive", "aware"):
        price = stated.find_price(name, None, NOW)
        assert price is not None
        assert price.prompt == 1
        assert stated.find_price(name, None, NOW - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt = ", "is not TOML"),
        ("models = 3", "models must be tables"),
        ("[model.x]\nprompt = 1", "unknown key 'model'; the known keys are currency, models"),
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
        (
            "[models.x]\nprompt = 1\ncompletion = 1\noutput = 1",
            "unknown key 'output'; the known keys are prompt, cached",
        ),
        ('[models.x]\nprompt = 1\ncompletion = 1\nsince = "2026-10-01"', "such as 2026-10-01 without quotes"),
        ("[models.x]\nprompt = 1\ncompletion = 1\nsince = 10:00:00", "since must be a date"),
        ("[models.x]\nprompt = 1\ncompletion = 1\nsince = 0001-01-01T00:00:00+10:00", "since must be a date"),
        ('[models."gpt-*-mini"]\nprompt = 1\ncompletion = 1', "may have a * at its end only"),
        ("[models]\nx = 1", 'models."x" must be a table with prompt and completion, or an array of such tables, not 1'),
        ("[models]\nx = [1]", 'models."x" must be a table'),
        ("[[models.x]]\nprompt = 1\ncompletion = 1\n[[models.x]]\nprompt = 2\ncompletion = 1", "its own `since`"),
        (
            "[[models.x]]\nprompt = 1\ncompletion = 1\nsince = 2026-10-01\n"
            "[[models.x]]\nprompt = 2\ncompletion = 1\nsince = 2026-10-01T02:00:00+02:00",
            "its own `since`",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_the_key_and_the_expected_value(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "my prices.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_price_file(path)
    message = str(refused.value)
    assert str(path) in message
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"currency = '\xff'")
    for name, words in (("none.toml", "No such file"), (".", "not a regular file"), ("latin", "is not TOML")):
        with pytest.raises(InvalidInput, match=words):
            read_price_file(tmp_path / name)


def test_a_wrong_mapping_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput, match=r'^prices: models\."x"\.completion is missing'):
        make_price_loader({"models": {"x": {"prompt": 1}}})
    with pytest.raises(InvalidInput, match="may have a"):
        make_price_loader({"models": {3: {"prompt": 1, "completion": 0}}})


def test_the_price_file_is_the_one_that_the_environment_names_else_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_price_loader(None)() == NO_PRICES
    own = Path(os.environ["XDG_CONFIG_HOME"], "convstore", "prices.toml")
    own.parent.mkdir(parents=True)
    own.write_text('currency = "own"')
    assert make_price_loader(None)().currency == "own"
    (tmp_path / "named.toml").write_text('currency = "named"')
    monkeypatch.setenv("CONVSTORE_PRICES", str(tmp_path / "named.toml"))
    assert make_price_loader(None)().currency == "named"
    monkeypatch.setenv("CONVSTORE_PRICES", str(tmp_path / "gone.toml"))
    with pytest.raises(InvalidInput, match=r"gone\.toml' cannot be read: No such file"):
        make_price_loader(None)()
    monkeypatch.setenv("CONVSTORE_PRICES", "")
    assert make_price_loader(None)().currency == "own"
    assert make_price_loader(tmp_path / "named.toml")().currency == "named"
    assert make_price_loader(str(tmp_path / "named.toml"))().currency == "named"


def test_a_file_that_is_a_pipe_or_endless_is_refused(tmp_path: Path) -> None:
    pipe, huge = tmp_path / "pipe", tmp_path / "huge"
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(17 * 1024**2)
    for path, reason in (
        (pipe, "not a regular file"),
        (Path("/dev/zero"), "not a regular"),
        (huge, "larger than 16 MiB"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            read_price_file(path)
