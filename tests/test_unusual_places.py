"""Test convstore where something is missing: a home, a folder for temporary files."""

from __future__ import annotations

import logging
import pwd
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from convstore import DatabaseUnavailable, Store, TurnStatus, config
from convstore.leases import process_locks
from convstore.provider.retry_policy import compute_retry_delay
from convstore.testing import ChatServer


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Take the home directory away, and return the working folder."""

    def fail(_: object) -> NoReturn:
        raise KeyError

    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", fail)
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_without_a_home_a_named_database_works(no_home: Path, sqlite_url: str, chat_server: ChatServer) -> None:
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        assert store.say(store.new().id, "Hi").status is TurnStatus.COMPLETED
    assert config.find_price_file() is None
    assert list(no_home.iterdir()) == []


def test_without_a_home_the_default_database_is_an_error_that_says_so(no_home: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="home directory is unknown"):
        Store()
    assert list(no_home.iterdir()) == []


def test_without_a_folder_for_temporary_files_turns_work_and_one_warning_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sqlite_url: str, chat_server: ChatServer
) -> None:
    def fail() -> NoReturn:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    monkeypatch.setattr(process_locks, "_name", None)
    monkeypatch.setattr(process_locks, "_descriptor", None)
    process_locks._warn_without_folder.cache_clear()
    with caplog.at_level(logging.WARNING), Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        id = store.new().id
        assert [store.say(id, "Hi").status for _ in range(2)] == [TurnStatus.COMPLETED] * 2
    assert [record.name for record in caplog.records] == ["convstore.leases.process_locks"]


@pytest.mark.parametrize("value", ["-5", "nan", "inf", "1_0", "0x10", "", "soon", "9" * 400])
def test_a_retry_after_that_is_not_a_time_is_ignored(value: str) -> None:
    class Refusal(Exception):
        status_code = 429
        response: Any = type("Response", (), {"headers": {"retry-after": value}})

    delay = compute_retry_delay(Refusal(), 0)
    assert delay is not None
    assert 0.3 < delay < 0.7


def test_an_empty_base_url_is_none(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    with Store(sqlite_url, model="m") as store:
        assert str(store.client.base_url) == "https://api.openai.com/v1/"
