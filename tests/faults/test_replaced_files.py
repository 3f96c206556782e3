"""Replace, copy, back up and restore SQLite files, in every order of stopping, copying, moving and starting."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from convstore import ConvstoreError, DatabaseUnavailable, InvalidInput, ReplyNotStored, SchemaTooNew, Store
from convstore.db import sqlite_engine, sqlite_log_mark
from convstore.db.engine import open_database
from convstore.db.schema_upgrade import HEAD
from convstore.db.sqlite_backup import back_up, restore
from convstore.testing import ChatServer, Reply
from tests.faults.clients import open_store
from tests.faults.driven import engine_of
from tests.processes import Channel, Zygote
from tests.schema.old.kept import OLDER, restored


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database in a folder of its own."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "chat.db"


@pytest.fixture
def backup(path: Path, tmp_path: Path) -> Path:
    """Return a backup that SQLite made. It has the conversation `old`; the database has `new` too, made after it."""
    with Store(path) as store:
        store.new(id="old")
        store.append("old", "from the backup")
        file = tmp_path / "backup.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(file)) as copy:
            source.backup(copy)
        store.new(id="new")
        store.append("new", "after the backup")
    return file


def list_ids(path: Path) -> set[str]:
    with Store(path) as store:
        return {found.id for found in store.list()}


def read_files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}


def write_and_wait(channel: Channel, path: str) -> None:
    """Write a message, and wait with the file open."""
    with Store(path) as store:
        store.append("new", "in the log")
        channel.send(["written", None])
        channel.receive()


@pytest.fixture(params=["is running", "was killed"])
def service(request: pytest.FixtureRequest, zygote: Zygote, path: Path, backup: Path) -> Iterator[str]:
    """A service that wrote to the file, and is running or was killed: its log holds what it wrote."""
    child = zygote.start(write_and_wait, path=str(path))
    child.receive("written")
    if request.param == "was killed":
        child.kill()
    assert Path(f"{path}-wal").stat().st_size > 0
    yield request.param
    if request.param == "is running":
        child.send("end")
        child.wait()


def test_a_backup_moved_over_a_file_with_a_log_is_refused_and_nothing_is_changed(
    service: str, path: Path, backup: Path
) -> None:
    data = backup.read_bytes()
    away = path.with_name("away.db")
    path.rename(away)
    backup.rename(path)
    before = read_files(path)
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=r"its file was replaced, but the log .*chat\.db-wal belongs to"):
            list_ids(path)
    assert read_files(path) == before
    assert path.read_bytes() == data

    # As the message says, with the log away, the backup is opened; with the file back at its log, nothing is lost.
    if service == "was killed":
        log = path.with_name("kept")
        log.mkdir()
        for suffix in ("-wal", "-shm", "-convstore"):
            Path(f"{path}{suffix}").rename(log / f"chat.db{suffix}")
        assert list_ids(path) == {"old"}
        path.unlink()
        away.rename(path)
        for file in log.iterdir():
            file.rename(path.parent / file.name)
        with Store(path) as store:
            assert store.history("new")[-1]["content"] == "in the log"


def test_a_running_store_refuses_a_file_that_was_replaced_under_it(path: Path, backup: Path) -> None:
    with Store(path) as store:
        store.append("new", "in the log")
        path.unlink()
        backup.rename(path)
        data = path.read_bytes()
        for call in (store.list, lambda: store.append("old", "x")):
            with pytest.raises(DatabaseUnavailable, match="its file was replaced"):
                call()
        assert path.read_bytes() == data


def test_a_backup_moved_over_a_file_that_was_closed_is_opened(path: Path, backup: Path) -> None:
    assert [file.name for file in path.parent.iterdir()] == ["chat.db"]  # closing leaves no log
    backup.rename(path)
    assert list_ids(path) == {"old"}


def test_the_database_its_log_and_its_mark_may_be_copied_together(service: str, path: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(path.parent, there)
    with Store(there / "chat.db") as store:
        assert store.history("new")[-1]["content"] == "in the log"
        store.append("new", "in the copy")
    with Store(path) as store:
        assert store.history("new")[-1]["content"] == "in the log"


def test_a_log_without_a_mark_is_used(service: str, path: Path) -> None:
    Path(f"{path}-convstore").unlink()  # a release without marks wrote the log
    with Store(path) as store:
        assert store.history("new")[-1]["content"] == "in the log"


def test_a_file_that_is_replaced_between_its_check_and_a_commit_is_noticed(path: Path, backup: Path) -> None:
    with Store(path) as store:
        engine = engine_of(store)

        @event.listens_for(engine, "before_cursor_execute")
        def replace(_c: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("INSERT INTO convstore_messages"):
                backup.rename(path)

        with pytest.raises(DatabaseUnavailable, match="its file was replaced while it was written"):
            store.append("new", "into the file before")


# --- backup ---


def test_a_backup_is_the_database_at_one_moment_and_private(service: str, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    database = open_database(str(path))
    back_up(database, copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(file.name for file in tmp_path.glob("copy.db*")) == ["copy.db"]
    with Store(copy) as store:
        assert store.history("new")[-1]["content"] == "in the log"
    with pytest.raises(DatabaseUnavailable, match="exists already"):
        back_up(database, copy)
    database.close()


def test_only_sqlite_files_are_backed_up(postgres_url: str, tmp_path: Path) -> None:
    for url, reason in ((postgres_url, "on a PostgreSQL server"), ("sqlite://", "in memory")):
        database = open_database(url)
        for copy in (back_up, restore):
            with pytest.raises(InvalidInput, match=reason):
                copy(database, tmp_path / "x.db")
        database.close()
    with pytest.raises(DatabaseUnavailable, match="no such file"):
        back_up(open_database(str(tmp_path / "none.db")), tmp_path / "x.db")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_fails_leaves_no_file(path: Path, backup: Path, tmp_path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 4)
        file.write(b"\xff" * 4096)
    with pytest.raises(DatabaseUnavailable, match=r"damaged|malformed"):
        back_up(open_database(str(path)), tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


# --- restore ---


def restore_file(path: Path, source: Path) -> Path | None:
    database = open_database(str(path))
    try:
        return restore(database, source)
    finally:
        database.close()


def test_a_restored_database_is_seen_by_stores_that_have_it_open_and_the_data_before_are_kept(
    service: str, path: Path, backup: Path
) -> None:
    with Store(path) as store:
        assert {found.id for found in store.list()} == {"old", "new"}
        kept = restore_file(path, backup)
        assert {found.id for found in store.list()} == {"old"}
        store.append("old", "goes on")
    assert kept is not None
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert backup.exists()
    with Store(kept) as store:
        assert store.history("new")[-1]["content"] == "in the log"
    assert restore_file(path, kept) is not None
    assert list_ids(path) == {"old", "new"}


def test_a_missing_database_is_restored(path: Path, backup: Path) -> None:
    path.unlink()
    assert restore_file(path, backup) is None
    assert list_ids(path) == {"old"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_turn_in_flight_ends_with_its_reply_in_the_error(
    path: Path, backup: Path, chat_server: ChatServer, elsewhere: Callable[..., Future[Any]]
) -> None:
    go, begun = threading.Event(), threading.Event()
    chat_server.script(Reply("Paid for.", hold=go, started=begun), Reply("Paid for."))
    with open_store(f"sqlite:///{path}", chat_server.url) as store:
        said = elsewhere(store.say, "old", "Hi")
        assert begun.wait(60)
        restore_file(path, backup)
        go.set()
        with pytest.raises(ReplyNotStored) as caught:
            said.result(60)
        assert caught.value.completion.messages[0]["content"] == "Paid for."
        assert [message["content"] for message in store.history("old")] == ["from the backup"]
        assert store.say("old", "Again").text == "Paid for."


@pytest.mark.parametrize("revision", OLDER)
def test_a_backup_of_an_older_schema_is_upgraded(revision: str, path: Path, backup: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    restored(revision, "db", f"sqlite:///{old}")
    data = old.read_bytes()
    with Store(path) as store:
        before = len(store.list(limit=None))
        restore_file(path, old)
        assert len(store.list(limit=None)) != before
        store.append(store.new().id, "works")
    assert old.read_bytes() == data


def _make_newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"UPDATE convstore_version SET version_num = '{int(HEAD) + 1:04}'")
        connection.execute(f"UPDATE convstore_compatibility SET minimum_version = '{int(HEAD) + 1:04}'")


def _make_foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE diary (entry)")


def _damage(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(4096 * 4)
        opened.write(b"\xff" * 4096)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (_make_newer, SchemaTooNew, r"backup\.db has schema"),
        (_make_foreign, DatabaseUnavailable, "is not a database of convstore"),
        (_damage, DatabaseUnavailable, "damaged|malformed"),
        (
            lambda file: file.write_text("no database, but a text of some length\n" * 30),
            DatabaseUnavailable,
            "not a database",
        ),
        (Path.unlink, DatabaseUnavailable, "no such file"),
    ],
    ids=["newer", "foreign", "damaged", "a text", "missing"],
)
def test_what_is_not_a_backup_is_refused_and_nothing_is_changed(
    path: Path, backup: Path, change: Callable[[Path], object], error: type[ConvstoreError], reason: str
) -> None:
    change(backup)
    with pytest.raises(error, match=reason):
        restore_file(path, backup)
    assert [file.name for file in path.parent.iterdir()] == ["chat.db"]
    assert list_ids(path) == {"old", "new"}


def test_a_backup_with_pages_of_another_size_is_restored(path: Path, backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("VACUUM")
    with Store(path) as store:
        store.list()
        restore_file(path, backup)
        assert {found.id for found in store.list()} == {"old"}


# --- every order of stopping, replacing and starting ---


def move_over(path: Path, backup: Path) -> None:
    backup.rename(path)


def remove_and_copy(path: Path, backup: Path) -> None:
    held = path.open("rb")  # as long as somebody has the old file open, no new one gets its number
    path.unlink()
    shutil.copy(backup, path)
    held.close()


def move_away_and_copy(path: Path, backup: Path) -> None:
    path.rename(path.with_name("away.db"))
    shutil.copy(backup, path)


def replace_by_link(path: Path, backup: Path) -> None:
    path.unlink()
    path.symlink_to(backup)


@pytest.mark.parametrize("keeps", ["the log", "no log"])
@pytest.mark.parametrize("replace", [move_over, remove_and_copy, move_away_and_copy, replace_by_link])
@pytest.mark.parametrize("state", ["is running", "was killed", "was closed"])
def test_in_any_order_a_replaced_file_is_refused_or_read_as_it_is(
    zygote: Zygote, path: Path, backup: Path, state: str, replace: Callable[[Path, Path], None], keeps: str
) -> None:
    child = zygote.start(write_and_wait, path=str(path))
    child.receive("written")
    if state == "was killed":
        child.kill()
    elif state == "was closed":
        child.send("end")
        assert child.wait() == 0
    data = backup.read_bytes()
    replace(path, backup)
    if keeps == "no log":
        for suffix in ("-wal", "-shm", "-convstore"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    # A link leads to a folder where no log is.
    is_refused = keeps == "the log" and state != "was closed" and replace is not replace_by_link
    for _ in range(2):  # the second start finds what the first one left
        if is_refused:
            with pytest.raises(DatabaseUnavailable, match="its file was replaced"):
                list_ids(path)
            assert path.read_bytes() == data
        else:
            assert list_ids(path) == {"old"}
    if state == "is running":
        child.kill()


def test_a_file_that_is_replaced_while_it_is_opened_does_not_get_the_log_of_the_one_before(
    path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(path) as first:
        first.append("new", "in the log")  # so that there is a log with pages
        prepare = sqlite_engine._prepare_sqlite

        def replace_first(*arguments: Any) -> None:
            prepare(*arguments)
            if backup.exists():
                backup.rename(path)

        monkeypatch.setattr(sqlite_engine, "_prepare_sqlite", replace_first)
        data = backup.read_bytes()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="its file was replaced"):
                list_ids(path)
        assert path.read_bytes() == data


def test_a_log_that_disappears_while_it_is_looked_at_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(path) as store:
        store.new(id="new")
        read = sqlite_log_mark._read

        def read_late(files: Any) -> Any:
            files.log.unlink(missing_ok=True)  # as another program does when it closes the file
            return read(files)

        monkeypatch.setattr(sqlite_log_mark, "_read", read_late)
        sqlite_log_mark.check_log(path)
        sqlite_log_mark.write_mark(path, (1, 2))
