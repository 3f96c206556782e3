"""Test convstore where something is missing: a home, a folder for temporary files."""

from __future__ import annotations

import logging
import pwd
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from convstore import DatabaseUnavailable, NotConfigured, Store, TurnStatus
from convstore.config import settings
from convstore.leases import lock_folders, process_locks
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
    assert settings.find_price_file() is None
    assert list(no_home.iterdir()) == []


def test_without_a_home_the_default_database_is_an_error_that_says_so(no_home: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="home directory is unknown"):
        Store()
    assert list(no_home.iterdir()) == []


def test_without_a_folder_for_temporary_files_turns_work_and_one_warning_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    sqlite_url: str,
    chat_server: ChatServer,
) -> None:
    def fail() -> NoReturn:
        raise FileNotFoundError(2, "No usable temporary directory found")

    no_folder = tmp_path / "missing"

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    monkeypatch.setattr(lock_folders, "find_folder_beside", lambda _: no_folder / "beside")
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


# --- settings of other programs ---


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"ALL_PROXY": "socks5://user:secret@localhost:1080"}, "SOCKS proxy is set (ALL_PROXY), which needs"),
        ({"https_proxy": "nonsense://user:secret@x"}, "one of https_proxy is not the URL of a proxy"),
        ({"SSL_CERT_FILE": "/no/such/file.pem"}, "SSL_CERT_FILE names '/no/such/file.pem', which is not a file"),
        ({"OPENAI_ORG_ID": "örg"}, "OPENAI_ORG_ID has a character that no HTTP header can carry"),
        ({"OPENAI_PROJECT_ID": "a\nb"}, "OPENAI_PROJECT_ID has a character"),
        ({"OPENAI_BASE_URL": "localhost:8080/v1"}, "the base URL (OPENAI_BASE_URL) is not a URL such as"),
        ({"OPENAI_BASE_URL": "http://user:secret@host:port/v1"}, "is not a URL such as"),
        ({"OPENAI_BASE_URL": "http://[::1/v1"}, "is not a URL such as"),
        ({"OPENAI_BASE_URL": "file:///etc/passwd"}, "is not a URL such as"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_used_is_named_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str, settings: dict[str, str], reason: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with Store(sqlite_url, model="m") as store:
        id = store.new().id
        with pytest.raises(NotConfigured) as caught:
            store.say(id, "Hi")
        assert reason in str(caught.value)
        assert "secret" not in str(caught.value)
        assert store.history(id) == []


def test_empty_settings_are_as_if_they_were_not_set(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str, chat_server: ChatServer
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "SSL_CERT_FILE", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "")
    for name in ("CONVSTORE_MODEL", "CONVSTORE_OWNER", "CONVSTORE_PRICES", "CONVSTORE_CONVERSATION"):
        monkeypatch.setenv(name, "")
    with Store(sqlite_url, base_url=chat_server.url, model="m") as store:
        assert store.say(store.new().id, "Hi").status is TurnStatus.COMPLETED
