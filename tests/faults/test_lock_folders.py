"""Test the lock files beside a SQLite file: all who share it see which processes live, whatever their `/tmp` is."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convstore import ConversationBusy, Store, TurnStatus
from convstore.leases import lock_folders, process_locks
from convstore.leases.process_locks import close_lock, is_alive, make_token, release_token
from convstore.testing import ChatServer
from tests.cli.program import Program
from tests.contract.invariants import check_conversation
from tests.faults.clients import open_store
from tests.faults.gates import Gate
from tests.processes import PATIENCE, Channel, Child, Zygote

LEASE = 0.5  # seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a SQLite file that does not exist yet, alone in its folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "chat.db"


@pytest.fixture
def store(zygote: Zygote, path: Path, chat_server: ChatServer) -> Iterator[Store]:
    with open_store(str(path), chat_server.url) as store:
        yield store


@pytest.fixture(autouse=True)
def warn_again() -> None:
    lock_folders._warn_untrusted.cache_clear()
    process_locks._warn_without_folder.cache_clear()


def locks_of(path: Path) -> Path:
    return path.with_name(path.name + "-locks")


def names_beside(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def say_in_container(
    channel: Channel, *, path: str, base_url: str, id: str, tmpdir: str, lease: float = LEASE, closes: bool = True
) -> None:
    """Say one message in a process that shares only the database's folder, and report how it ended."""
    tempfile.tempdir = tmpdir
    store = open_store(path, base_url, lease=lease)
    turn = store.say(id, "held")
    if closes:
        store.close()
    channel.send(["ended", [turn.status, turn.text]])


def start_container(
    zygote: Zygote, tmp_path: Path, store: Store, server: ChatServer, id: str, **options: Any
) -> tuple[Child, Gate]:
    """Begin a held turn in a process with another temporary folder."""
    other = tmp_path / "another-tmp"
    other.mkdir()
    gate = Gate(server, lambda text: text == "held")
    database = store._engine.transactions.database.path
    child = zygote.start(say_in_container, path=str(database), base_url=server.url, id=id, tmpdir=str(other), **options)
    gate.wait()
    assert list(other.iterdir()) == []
    return child, gate


# --- containers that share the file ---


def test_a_killed_process_with_another_temporary_folder_is_taken_over_at_once(
    zygote: Zygote, tmp_path: Path, store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    child, _ = start_container(zygote, tmp_path, store, chat_server, id, lease=600.0)
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)
    child.kill()
    assert store.say(id, "next", wait=0).text == "You said: next"
    assert store.turns(id)[0].status is TurnStatus.INTERRUPTED
    check_conversation(store, "", id)


def test_a_frozen_process_with_another_temporary_folder_keeps_its_conversation_after_its_lease(
    zygote: Zygote, tmp_path: Path, store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    child, gate = start_container(zygote, tmp_path, store, chat_server, id)
    child.signal(signal.SIGSTOP)  # no more heartbeats
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=4 * LEASE)
    child.signal(signal.SIGCONT)
    gate.open()
    assert child.receive("ended") == ["completed", "You said: held"]
    assert store.say(id, "next", wait=0).text == "You said: next"


def test_a_command_sees_that_a_killed_process_with_another_temporary_folder_is_dead(
    monkeypatch: pytest.MonkeyPatch,
    zygote: Zygote,
    tmp_path: Path,
    path: Path,
    store: Store,
    chat_server: ChatServer,
) -> None:
    program = Program(monkeypatch, tmp_path)
    program.set(CONVSTORE_DB=str(path), OPENAI_BASE_URL=chat_server.url, CONVSTORE_MODEL="test-model")
    id = store.new().id
    child, _ = start_container(zygote, tmp_path, store, chat_server, id, lease=600.0)
    program("say", "-c", id, "next", "--wait", "0").failed(5, "is busy")
    child.kill()
    ran = program("say", "-c", id, "next", "--wait", "0")
    assert (ran.code, ran.out) == (0, "You said: next\n")


def test_every_path_to_a_file_leads_to_one_folder(
    monkeypatch: pytest.MonkeyPatch, zygote: Zygote, tmp_path: Path, path: Path
) -> None:
    path.touch()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    token = make_token(link)
    assert names_beside(path) == ["chat.db", "chat.db-locks"]
    assert names_beside(link) == ["data", "host", "link.db"]
    with monkeypatch.context() as other:
        other.setattr(process_locks, "_named", {})  # as another process sees it
        assert is_alive(token, path) is True
        fcntl.flock(process_locks._files[link].descriptor, fcntl.LOCK_UN)
        assert is_alive(token, path) is is_alive(token, link) is False
    release_token(token)
    close_lock(link)
    assert names_beside(path) == ["chat.db"]


# --- which files there are ---


def test_the_folder_is_private_and_is_there_only_while_a_store_that_had_a_turn_is_open(
    store: Store, path: Path, chat_server: ChatServer
) -> None:
    id = store.new().id
    store.append(id, "added")
    store.history(id)
    store.list()
    assert not locks_of(path).exists()
    for _ in range(2):
        store.say(id, "Hi")
        assert locks_of(path).stat().st_mode & 0o777 == 0o700
        (file,) = locks_of(path).iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        store.close()
        assert names_beside(path) == ["chat.db"]
    assert list((path.parent.parent / "host").iterdir()) == []


def test_a_store_that_is_closed_leaves_the_file_of_one_that_has_a_turn(
    store: Store, path: Path, chat_server: ChatServer
) -> None:
    id = store.new().id
    with store.stream(id, "Hi") as reply:
        next(reply)
        with open_store(str(path), chat_server.url) as other:
            other.say(other.new().id, "Hi")
        assert len(list(locks_of(path).iterdir())) == 1
        list(reply)
    assert store.turns(id)[0].status is TurnStatus.COMPLETED


def test_a_process_that_ends_without_closing_its_store_leaves_no_file(
    zygote: Zygote, tmp_path: Path, path: Path, store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    child, gate = start_container(zygote, tmp_path, store, chat_server, id, closes=False)
    assert len(list(locks_of(path).iterdir())) == 1
    gate.open()
    assert child.receive("ended") == ["completed", "You said: held"]
    assert child.wait() == 0
    assert not locks_of(path).exists()


def test_a_dropped_store_leaves_no_file(path: Path, zygote: Zygote, chat_server: ChatServer) -> None:
    store = open_store(str(path), chat_server.url, lease=0.3)
    store.say(store.new().id, "Hi")
    engine = store._engine.transactions.database.engine
    assert locks_of(path).exists()
    del store
    deadline = time.monotonic() + PATIENCE
    while locks_of(path).exists():  # its heartbeat holds it for a moment
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.01)
    engine.dispose()


def test_the_file_of_a_killed_process_stays_for_a_day_after_its_last_turn(
    zygote: Zygote, tmp_path: Path, path: Path, store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    child, _ = start_container(zygote, tmp_path, store, chat_server, id)
    child.kill()
    (left,) = locks_of(path).iterdir()
    store.say(id, "next", wait=0)
    store.close()
    assert list(locks_of(path).iterdir()) == [left]
    long_ago = time.time() - 86_500
    os.utime(left, (long_ago, long_ago))
    store.say(id, "next", wait=0)
    store.close()
    assert names_beside(path) == ["chat.db"]


def test_a_turn_marks_the_file_as_used(store: Store, path: Path) -> None:
    id = store.new().id
    store.say(id, "Hi")
    (file,) = locks_of(path).iterdir()
    os.utime(file, (1000, 1000))
    store.say(id, "Hi")
    assert abs(file.stat().st_mtime - time.time()) < 60


def test_a_folder_that_somebody_removes_is_made_again(store: Store, path: Path, chat_server: ChatServer) -> None:
    id, other = store.new().id, store.new().id
    with store.stream(id, "Hi") as reply:
        next(reply)
        for file in locks_of(path).iterdir():
            file.unlink()
        locks_of(path).rmdir()
        store.say(other, "Hi")
        assert len(list(locks_of(path).iterdir())) == 1
        assert len(process_locks._named) == 2
        list(reply)
    assert store.turns(id)[0].status is TurnStatus.COMPLETED
    assert len(process_locks._named) == 1


def make_and_remove(channel: Channel, *, path: str, times: int) -> None:
    """Make and remove a lock file many times, and report how often it was not in the folder."""
    database, missed = Path(path), 0
    channel.send(["ready", None])
    channel.receive()
    for _ in range(times):
        token = make_token(database)
        file = process_locks._files[database].path
        missed += file is None or file.parent != locks_of(database) or not file.exists()
        release_token(token)
        close_lock(database)
    channel.send(["missed", missed])


def test_processes_that_make_and_remove_the_folder_at_once_do_not_disturb_each_other(
    zygote: Zygote, path: Path
) -> None:
    path.touch()
    children = [zygote.start(make_and_remove, path=str(path), times=300) for _ in range(4)]
    for child in children:
        child.receive("ready")
    for child in children:
        child.send("go")
    assert [child.receive("missed") for child in children] == [0] * 4
    assert [child.wait() for child in children] == [0] * 4
    assert names_beside(path) == ["chat.db"]


def test_a_forked_child_has_its_own_file_and_leaves_that_of_its_parent(
    zygote: Zygote, store: Store, path: Path
) -> None:
    id = store.new().id
    store.say(id, "Hi")
    (ours,) = locks_of(path).iterdir()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.say(id, "in the child")
            (own,) = set(locks_of(path).iterdir()) - {ours}
            store.close()
            status = int(own.exists())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert list(locks_of(path).iterdir()) == [ours]


def test_a_backup_and_a_restore_leave_the_folder_alone(store: Store, path: Path, tmp_path: Path) -> None:
    from convstore.db.engine import open_database
    from convstore.db.sqlite_backup import back_up, restore

    id = store.new().id
    store.say(id, "Hi")
    held = list(locks_of(path).iterdir())
    opened = open_database(str(path))
    back_up(opened, tmp_path / "backup.db")
    restore(opened, tmp_path / "backup.db")
    opened.close()
    assert list(locks_of(path).iterdir()) == held
    assert not locks_of(tmp_path / "backup.db").exists()
    store.say(id, "Hi")
    assert list(locks_of(path).iterdir()) == held


# --- folders that are not used ---


def make_public(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def make_link(folder: Path) -> None:
    target = folder.with_name("target")
    target.mkdir(mode=0o700)
    folder.symlink_to(target)


def make_file(folder: Path) -> None:
    folder.touch(mode=0o600)


def make_anothers(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


UNTRUSTED = {
    "is open to other users (mode 0777)": make_public,
    "is not a folder": make_file,
    "is not a folder\0": make_link,
}
if os.geteuid() == 0:  # the next test is for everybody else
    UNTRUSTED["belongs to another user (uid 65534)"] = make_anothers


@pytest.mark.parametrize("problem", UNTRUSTED)
def test_a_folder_that_is_not_trusted_is_not_used_and_is_reported(
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    path: Path,
    store: Store,
    chat_server: ChatServer,
) -> None:
    program = Program(monkeypatch, tmp_path)
    program.set(CONVSTORE_DB=str(path))
    id = store.new().id
    checked = program("db", "check", "--json")
    assert (checked.code, checked.json["lock_folder_problem"]) == (0, None)
    UNTRUSTED[problem](locks_of(path))
    before = locks_of(path).lstat()
    with caplog.at_level(logging.WARNING, logger="convstore"):
        for number in range(2):
            assert store.say(id, f"{number}", wait=0).text == f"You said: {number}"
    assert [record.getMessage() for record in caplog.records] == [
        f"the folder of lock files {locks_of(path)} is not a folder of this user alone: it is not used"
    ]
    assert (before.st_ino, before.st_mode) == (locks_of(path).lstat().st_ino, locks_of(path).lstat().st_mode)
    if locks_of(path).is_dir():
        assert list(locks_of(path).iterdir()) == []
    (temporary,) = (tmp_path / "host").iterdir()
    assert len(list(temporary.iterdir())) == 1

    expected = f"the folder of lock files {locks_of(path)} {problem.rstrip(chr(0))}"
    assert program("db", "check", "--json").json["lock_folder_problem"] == expected
    checked = program("db", "check")
    assert (checked.code, checked.out.endswith("ready\n")) == (0, True)
    checked.one_line(expected, "not used", "remove it")


def test_a_folder_of_another_user_is_reported(
    monkeypatch: pytest.MonkeyPatch, path: Path, store: Store, chat_server: ChatServer
) -> None:
    """Only root can make such a folder, so this test is another user."""
    store.say(store.new().id, "Hi")
    assert lock_folders.find_problem_beside(path) is None
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert (
        lock_folders.find_problem_beside(path)
        == f"the folder of lock files {locks_of(path)} belongs to another user (uid {owner})"
    )


def test_the_answers_of_a_folder_that_others_may_write_are_not_believed(store: Store, path: Path) -> None:
    """Otherwise another user could have a living turn taken for dead."""
    make_public(locks_of(path))
    name = "0" * 32
    (locks_of(path) / name).touch()
    assert is_alive(f"{name}.0", path) is None
    locks_of(path).chmod(0o700)
    assert is_alive(f"{name}.0", path) is False


def test_processes_that_do_not_trust_the_folder_see_each_other_in_the_temporary_folder(
    zygote: Zygote, tmp_path: Path, path: Path, store: Store, chat_server: ChatServer
) -> None:
    id = store.new().id
    make_public(locks_of(path))
    gate = Gate(chat_server, lambda text: text == "held")
    child = zygote.start(
        say_in_container, path=str(path), base_url=chat_server.url, id=id, tmpdir=str(tmp_path / "host"), lease=600.0
    )
    gate.wait()
    with pytest.raises(ConversationBusy):
        store.say(id, "next", wait=0)
    child.kill()
    assert store.say(id, "next", wait=0).text == "You said: next"


@pytest.mark.parametrize("failure", ["read-only", "no locks", "no modes"])
def test_where_the_folder_cannot_be_used_the_temporary_one_is(
    failure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Path, store: Store
) -> None:
    mkdir, flock = Path.mkdir, fcntl.flock

    def make(folder: Path, *args: Any, **kwargs: Any) -> None:
        if folder == locks_of(path):
            if failure == "read-only":
                raise OSError(errno.EROFS, "Read-only file system")
            kwargs["mode"] = 0o700 if failure == "no locks" else 0o755
        mkdir(folder, *args, **kwargs)

    def lock(descriptor: int, operation: int) -> None:
        if failure == "no locks" and str(locks_of(path)) in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOLCK, "No locks available")
        flock(descriptor, operation)

    monkeypatch.setattr(Path, "mkdir", make)
    monkeypatch.setattr(fcntl, "flock", lock)
    id = store.new().id
    assert store.say(id, "Hi").text == "You said: Hi"
    assert not locks_of(path).exists()
    (temporary,) = (tmp_path / "host").iterdir()
    (file,) = temporary.iterdir()
    with monkeypatch.context() as other:
        other.setattr(process_locks, "_named", {})  # as another process sees it
        assert is_alive(f"{file.name}.0", path) is True


def test_a_database_on_a_server_and_one_in_memory_use_the_temporary_folder(
    zygote: Zygote, tmp_path: Path, postgres_url: str, chat_server: ChatServer
) -> None:
    for url in (postgres_url, "sqlite://"):
        with open_store(url, chat_server.url) as store:
            store.say(store.new().id, "Hi")
            (temporary,) = (tmp_path / "host").iterdir()
            assert len(list(temporary.iterdir())) == 1
        assert list(temporary.iterdir()) == []
