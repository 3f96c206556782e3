"""Test `convstore models` and `convstore prices`."""

import stat
from pathlib import Path

import pytest

from convstore.testing import ChatServer
from tests.cli.program import Program

SECRET = "sk-do-not-show-1234"


# --- models ---


def test_the_models_of_the_server_are_listed(program: Program, chat_server: ChatServer) -> None:
    assert program("models").out == "test-model\n"
    [found] = program("models", "--json").json
    assert (found["id"], found["owned_by"]) == ("test-model", "convstore")
    assert found["created_at"].startswith("20")
    program.set(OPENAI_BASE_URL=None)
    assert program("models", "--base-url", chat_server.url).out == "test-model\n"


def test_the_models_of_a_profile_are_listed_with_its_key(program: Program, strict_server: str, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "config" / "convstore"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(
        f'[profiles.work]\nbase-url = "{strict_server}"\nkey-command = "echo sk-right"\n'
    )
    assert program("models", "--profile", "work").out == "test-model\n"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/v1", ["http://127.0.0.1:9 cannot be reached", "`convstore doctor`"]),
        ("strict", ["does not accept the key (401)"]),
        ("silent", ["does not list its models (404)"]),
    ],
)
def test_a_server_that_does_not_list_its_models_is_one_error(
    program: Program, strict_server: str, silent_server: str, url: str, words: list[str]
) -> None:
    program.set(OPENAI_API_KEY=SECRET)
    url = {"strict": strict_server, "silent": silent_server}.get(url, url)
    ran = program("models", "--base-url", url).failed(6, *words)
    assert SECRET not in ran.err


def test_models_need_a_server(program: Program) -> None:
    program.set(OPENAI_BASE_URL=None)
    program("models").failed(2, "OPENAI_API_KEY")


# --- prices ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of the price file, which does not exist yet."""
    return tmp_path / "home" / "config" / "convstore" / "prices.toml"


def test_prices_are_set_shown_and_removed(program: Program, file: Path) -> None:
    assert "no prices yet" in program("prices").err
    assert program("prices", "set", "gpt-4o-mini*", "--prompt", "0.15", "--completion", "0.6").code == 0
    assert program("prices", "set", "o9", "--prompt", "15", "--completion", "60", "--reasoning", "50").code == 0
    assert program("prices", "set", "o9", "--prompt", "10", "--completion", "40", "--since", "2026-10-01").code == 0
    assert program("prices").out.splitlines() == [
        "MODEL         PROMPT  CACHED  COMPLETION  REASONING       SINCE",
        "gpt-4o-mini*    0.15    0.15         0.6        0.6           -",
        "o9                10      10          40         40  2026-10-01",
        "o9                15      15          60         50           -",
    ]
    found = program("prices", "--json").json
    assert (found["file"], found["currency"]) == (str(file), "USD")
    assert [(price["model"], price["since"]) for price in found["prices"]] == [
        ("gpt-4o-mini*", None),
        ("o9", "2026-10-01"),
        ("o9", None),
    ]
    assert program("prices", "set", "o9", "--prompt", "1", "--completion", "2", "--since", "2026-10-01").code == 0
    assert program("prices", "--json").json["prices"][1]["prompt"] == 1.0
    assert len(program("prices", "--json").json["prices"]) == 3
    assert program("prices", "unset", "o9").code == 0
    assert len(program("prices", "--json").json["prices"]) == 1
    program("prices", "unset", "o9").failed(2, "no price for 'o9'")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_comments_of_the_price_file_are_kept(program: Program, file: Path) -> None:
    file.parent.mkdir(parents=True)
    before = '# mine\ncurrency = "EUR"  # not dollars\n\n[models."a"]\nprompt = 1  # cheap\ncompletion = 2\n'
    file.write_text(before)
    assert program("prices", "set", "b", "--prompt", "3", "--completion", "4").code == 0
    text = file.read_text()
    assert text.startswith(before)
    assert program("prices", "set", "a", "--prompt", "5", "--completion", "6", "--since", "2026-10-01").code == 0
    text = file.read_text()
    for kept in ("# mine", "# not dollars", "# cheap"):
        assert kept in text
    assert program("prices", "--json").json["currency"] == "EUR"


def test_the_file_that_the_settings_name_is_changed(program: Program, tmp_path: Path) -> None:
    program.set(CONVSTORE_PRICES=str(tmp_path / "mine.toml"))
    assert program("prices", "set", "a", "--prompt", "1", "--completion", "2").code == 0
    assert "models.a" in (tmp_path / "mine.toml").read_text()
    program.set(CONVSTORE_PRICES=str(tmp_path / "missing.toml"))
    program("prices").failed(2, "missing.toml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["a*b", "--prompt", "1", "--completion", "2"], ["* at its end"]),
        (["a", "--prompt", "-1", "--completion", "2"], ["--prompt"]),
        (["a", "--prompt", "nan", "--completion", "2"], ["models"]),
        (["a", "--prompt", "1"], ["--completion"]),
        (["a", "--prompt", "1", "--completion", "2", "--since", "tomorrow"], ["--since"]),
    ],
)
def test_a_wrong_price_changes_nothing(program: Program, file: Path, options: list[str], words: list[str]) -> None:
    program("prices", "set", *options).failed(2, *words)
    assert not file.exists()


def test_check_names_a_mistake_and_models_without_a_price(program: Program, file: Path) -> None:
    program("new")
    program("say", "hi")
    program("prices", "set", "other", "--prompt", "1", "--completion", "2")
    ran = program("prices", "check")
    assert ran.code == 0
    assert ran.out == f"{file}: prices of 1 model, no mistake\n"
    assert ran.err == "convstore: no price for test-model: 1 turn\n"
    assert program("prices", "check", "--json").json == {
        "file": str(file),
        "models_without_price": {"test-model": 1},
    }
    file.write_text("[models.a]\nprompt = 1\n")
    program("prices", "check").failed(2, "completion is missing")
    program("prices").failed(2, "completion is missing")
    program("prices", "set", "b", "--prompt", "1", "--completion", "2").failed(2, "completion is missing")
