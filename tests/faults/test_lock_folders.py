"""Test the folder of lock files beside a SQLite file: callers with other temporary folders see who lives."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convstore import ConversationBusy, Store, TurnStatus
from convstore.leases import lock_folders
from convstore.testing import ChatServer
from tests.cli.program import Program
from tests.contract.invariants import check_conversation
from tests.faults.clients import open_store
from tests.faults.gates import Gate
from tests.processes import PATIENCE

SAYING = """
import sys
from convstore import Store
with Store(sys.argv[1], base_url=sys.argv[2], model="test-model", lease=1) as store:
    print(store.say(sys.argv[3], "held").text)
"""


@pytest.fixture
def store(sqlite_url: str, chat_server: ChatServer) -> Iterator[Store]:
    with open_store(sqlite_url, chat_server.url) as store:
        yield store


@pytest.fixture
def folder(sqlite_url: str) -> Path:
    """Return the folder beside the database."""
    return Path(sqlite_url.removeprefix("sqlite:///") + "-locks")


Start = Callable[[str], tuple[subprocess.Popen[str], Gate]]


@pytest.fixture
def start_in_container(
    tmp_path: Path, sqlite_url: str, chat_server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Return a function that begins a held turn in a process with a temporary folder of its own."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    temporary = tmp_path / "of the container"
    temporary.mkdir()
    started: list[subprocess.Popen[str]] = []

    def start(id: str) -> tuple[subprocess.Popen[str], Gate]:
        gate = Gate(chat_server, lambda text: text == "held")
        environment = {**os.environ, "TMPDIR": str(temporary)}
        command = [sys.executable, "-c", SAYING, sqlite_url, chat_server.url, id]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(child)
        gate.wait()
        return child, gate

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_killed_process_with_another_temporary_folder_is_noticed_at_once(
    store: Store, start_in_container: Start
) -> None:
    id = store.new().id
    child, _ = start_in_container(id)
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)
    child.kill()
    child.wait(PATIENCE)
    assert store.say(id, "next", wait=0).text == "You said: next"
    assert store.turns(id)[0].status is TurnStatus.INTERRUPTED
    check_conversation(store, "", id)


def test_a_process_that_stands_still_with_another_temporary_folder_keeps_its_conversation(
    store: Store, start_in_container: Start
) -> None:
    id = store.new().id
    child, gate = start_in_container(id)
    child.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(ConversationBusy):
            store.say(id, "next", wait=2.5)  # longer than its lease
    finally:
        child.send_signal(signal.SIGCONT)
    gate.open()
    assert child.communicate(timeout=PATIENCE)[0] == "You said: held\n"
    assert store.say(id, "next", wait=5).text == "You said: next"


def test_only_turns_make_the_folder_and_nothing_is_left_of_it(store: Store, folder: Path) -> None:
    id = store.new().id
    store.append(id, "one")
    store.history(id)
    assert not folder.exists()
    store.say(id, "two")
    (file,) = folder.iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, file)] == [0o700, 0o600]
    store.close()
    assert not folder.exists()
    store.say(id, "three")  # a closed store opens again
    assert folder.exists()


def test_the_file_of_a_killed_process_stays_for_a_day(store: Store, folder: Path, start_in_container: Start) -> None:
    id = store.new().id
    child, _ = start_in_container(id)
    child.kill()
    child.wait(PATIENCE)
    (left,) = folder.iterdir()
    store.say(id, "next", wait=0)
    store.close()
    assert list(folder.iterdir()) == [left]
    os.utime(left, times=(time.time() - 90_000,) * 2)
    store.say(id, "after a day")
    store.close()
    assert not folder.exists()


@contextmanager
def make_untrusted(folder: Path, how: str, tmp_path: Path) -> Iterator[str]:
    """Make a folder that is not trusted, and yield what is said about it."""
    lock_folders._warn_untrusted.cache_clear()
    if how == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
        yield "is not a folder"
    elif how == "file":
        folder.write_text("")
        yield "is not a folder"
    elif how == "owner":
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, -1)
        yield "belongs to another user (uid 12345)"
    else:
        folder.mkdir()
        folder.chmod(0o777)
        yield "is open to other users (mode 0777)"


@pytest.mark.parametrize("how", ["open", "link", "file", "owner"])
def test_a_folder_that_is_not_trusted_is_reported_and_not_used(
    store: Store,
    folder: Path,
    how: str,
    tmp_path: Path,
    sqlite_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if how == "owner" and os.geteuid() != 0:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)  # only root may give a folder away
    id = store.new().id
    with make_untrusted(folder, how, tmp_path) as problem, caplog.at_level(logging.WARNING):
        assert store.say(id, "one").text == "You said: one"
        assert store.say(id, "two").text == "You said: two"
        assert [record.getMessage() for record in caplog.records] == [
            f"the folder of lock files {folder} is not a folder of this user alone: it is not used"
        ]
        if how != "file":
            assert not list(folder.iterdir())
        program = Program(monkeypatch, tmp_path)
        program.set(CONVSTORE_DB=sqlite_url)
        ran = program("db", "check")
        assert ran.code == 0
        ran.one_line(f"the folder of lock files {folder} {problem}, and is not used")
        found = program("db", "check", "--json").json
        assert found["lock_folder_problem"] == f"the folder of lock files {folder} {problem}"
