"""Test SQLite files: durability, file modes, locks and names."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import URL, event

from convstore import Store
from convstore.config.settings import find_database_url
from convstore.db import schema_upgrade, sqlite_read_only
from convstore.db.engine import Database
from convstore.errors import DatabaseUnavailable
from tests.schema.support import fill, first_uses, opened, run


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


# --- connections ---


def test_every_connection_of_every_thread_is_durable_and_enforces_foreign_keys(sqlite_url: str) -> None:
    schema_upgrade.upgrade(sqlite_url)
    with opened(sqlite_url) as database:
        all_open = threading.Barrier(8)

        def look(_: int) -> tuple[int, tuple[object, ...]]:
            with database.read() as connection:
                all_open.wait(30)  # so that each thread has its own connection
                driver = connection.plain.connection.driver_connection
                assert driver is not None

                pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                return id(driver), tuple(driver.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas)

        with ThreadPoolExecutor(8) as threads:
            for _ in range(2):  # new connections, and reused ones of the pool
                found = list(threads.map(look, range(8)))
                assert len({identity for identity, _ in found}) == 8
                assert {rest for _, rest in found} == {("wal", 2, 1, 30_000)}


def test_a_writing_transaction_takes_the_lock_at_once_and_a_reading_one_does_not(sqlite_url: str) -> None:
    """It looks at the statements that SQLite receives from the driver."""
    schema_upgrade.upgrade(sqlite_url)
    told: list[str] = []
    with opened(sqlite_url) as database:

        @event.listens_for(database.engine, "connect")
        def trace(connection: sqlite3.Connection, _: object) -> None:
            connection.set_trace_callback(told.append)

        with database.read() as connection:
            connection.plain.exec_driver_sql("SELECT count(*) FROM convstore_turns")
        assert told == ["BEGIN", "SELECT count(*) FROM convstore_turns", "COMMIT"]
        told.clear()
        with database.write() as connection:
            connection.plain.exec_driver_sql("UPDATE convstore_turns SET model = 'x'")
        assert told == ["BEGIN IMMEDIATE", "UPDATE convstore_turns SET model = 'x'", "COMMIT"]
        told.clear()
        with pytest.raises(RuntimeError), database.write():
            raise RuntimeError
        assert told == ["BEGIN IMMEDIATE", "ROLLBACK"]


def test_every_write_of_a_turn_begins_by_taking_the_lock(sqlite_url: str) -> None:
    told: list[str] = []
    with Store(sqlite_url) as store:
        made = store.new("Before")
        database: Database = store._engine.transactions.database

        @event.listens_for(database.engine, "before_cursor_execute")
        def note(*arguments: object) -> None:
            told.append(str(arguments[2]).split("\n")[0])

        store.append(made.id, "Hello")
        store.set(made.id, title="After")
        assert told.count("BEGIN IMMEDIATE") == 2
        assert "BEGIN" not in told
        told.clear()
        store.history(made.id)
        store.list()
        assert told.count("BEGIN") == 2
        assert "BEGIN IMMEDIATE" not in told


# --- file modes ---


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_only_the_user_can_read_the_files_with_any_umask(tmp_path: Path, mask: int) -> None:
    with _umask(mask), Store(tmp_path / "chat.db") as store:
        store.new("Private")
        found = {path.name: _mode(path) for path in tmp_path.glob("chat.db*")}
    assert found == {"chat.db": 0o600, "chat.db-wal": 0o600, "chat.db-shm": 0o600, "chat.db-convstore": 0o600}


def test_a_file_created_through_a_symlink_is_private_too(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "target.db")
    with _umask(0), Store(tmp_path / "link.db") as store:
        store.new("Private")
        assert {path.name: _mode(path) for path in tmp_path.glob("target.db*")} == {
            "target.db": 0o600,
            "target.db-wal": 0o600,
            "target.db-shm": 0o600,
            "target.db-convstore": 0o600,
        }
    assert (tmp_path / "link.db").is_symlink()


def test_the_mode_of_an_existing_file_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.touch()
    path.chmod(0o640)
    with Store(path) as store:
        store.new("Shared with a group")
        assert {_mode(found) for found in tmp_path.glob("chat.db*")} == {0o640}


def test_only_the_user_can_enter_the_folder_of_the_default_file() -> None:
    with _umask(0), Store() as store:
        store.new("Private")
        path = Path(find_database_url())
        assert path.is_relative_to(os.environ["HOME"])
        assert (_mode(path), _mode(path.parent)) == (0o600, 0o700)


def test_the_data_directory_may_have_any_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "my data?#%41 数据"))
    with Store() as store:
        store.new("Here")
    assert [path.name for path in tmp_path.rglob("*.db")] == ["convstore.db"]
    assert (tmp_path / "my data?#%41 数据" / "convstore" / "convstore.db").exists()


def test_the_error_names_a_data_directory_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(DatabaseUnavailable, match="file/convstore"):
        Store()


# --- names ---

ODD_NAMES = [
    "with space.db",
    "100%.db",
    "%41%2F.db",
    "what?.db",
    "what?a=b&c.db",
    "#1.db",
    "数据 🗄.db",
    "a:b@c.db",
    "'\".db",
]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("form", ["path", "text", "URL", "file: URI"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / name
    forms: dict[str, str | Path] = {
        "path": path,
        "text": str(path),
        "URL": URL.create("sqlite", database=str(path)).render_as_string(),
        "file: URI": URL.create(
            "sqlite", database=f"file:{quote(str(path))}", query={"uri": "true"}
        ).render_as_string(),
    }
    with Store(forms[form]) as store:
        made = store.new("Odd")
        assert store.get(made.id).title == "Odd"
        assert {found.name for found in tmp_path.iterdir()} == {
            name,
            *(f"{name}{suffix}" for suffix in ("-wal", "-shm", "-convstore")),
        }
    with Store(path) as store:
        assert [found.title for found in store.list()] == ["Odd"]


@pytest.mark.parametrize("form", ["chat.db", "sqlite:///chat.db"])
def test_a_relative_path_starts_at_the_working_folder_of_the_stores_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    with Store(form) as store:
        monkeypatch.chdir(tmp_path / "there")
        made = store.new("Here")
        store.close()
        assert store.history(made.id) == []
    assert [path.name for path in tmp_path.glob("*.db")] == ["chat.db"]
    assert list((tmp_path / "there").iterdir()) == []


def test_one_file_under_two_names_is_one_database(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    with Store(tmp_path / "real" / "chat.db") as one, Store(tmp_path / "alias" / "chat.db") as other:
        made = one.new("Once")
        other.append(made.id, "Hello")
        assert one.get(made.id).length == 1


# --- failures ---


@contextlib.contextmanager
def _unprivileged() -> Iterator[None]:
    """Run as a user for whom file modes matter; they do not for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """Return a folder that another user may enter; pytest's folders are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_the_error_names_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "chat.db"
    with Store(path) as store, pytest.raises(DatabaseUnavailable) as raised:
        store.new("No")
    assert str(path) in str(raised.value)
    assert "its folder does not exist" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_error_names_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with Store(tmp_path / "file" / "chat.db") as store, pytest.raises(DatabaseUnavailable, match=r"file/chat\.db"):
        store.new("No")


def test_the_error_names_a_folder_in_place_of_a_database(tmp_path: Path) -> None:
    (tmp_path / "chat.db").mkdir()
    with Store(tmp_path / "chat.db") as store, pytest.raises(DatabaseUnavailable, match=r"chat\.db: it is a folder"):
        store.new("No")
    assert list((tmp_path / "chat.db").iterdir()) == []


@pytest.mark.parametrize("content", [b"This is my diary.\n" * 100, b"\0" * 5000, b"SQLite format 3\0" + b"x" * 4080])
def test_the_error_names_a_file_that_is_not_a_database_and_it_is_not_changed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    for _ in range(2):
        with Store(path) as store, pytest.raises(DatabaseUnavailable, match=r"diary\.txt: is not a SQLite database"):
            store.new("No")
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["diary.txt"]


def test_a_name_too_long_for_the_file_system_is_a_database_error(tmp_path: Path) -> None:
    with Store(tmp_path / ("x" * 300)) as store, pytest.raises(DatabaseUnavailable, match="too long"):
        store.new("No")


def test_the_error_names_a_read_only_folder(public_folder: Path) -> None:
    public_folder.chmod(0o555)
    path = public_folder / "chat.db"
    with _unprivileged(), Store(path) as store, pytest.raises(DatabaseUnavailable, match="unable to open") as raised:
        store.new("No")
    assert str(path) in str(raised.value)


def test_the_error_names_a_folder_that_may_not_be_entered(public_folder: Path) -> None:
    (public_folder / "locked").mkdir(mode=0o700)
    (public_folder / "locked").chmod(0o000)
    path = public_folder / "locked" / "chat.db"
    with _unprivileged(), Store(path) as store, pytest.raises(DatabaseUnavailable, match="Permission denied") as raised:
        store.new("No")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_read_only_file_can_be_read_and_a_write_says_that_it_is_read_only(public_folder: Path, journal: str) -> None:
    path = public_folder / "chat.db"
    fill(str(path), conversations=2)
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute(f"PRAGMA journal_mode = {journal}")
    path.chmod(0o444)
    public_folder.chmod(0o777 if journal == "wal" else 0o555)  # in WAL mode, a reader needs the -shm file
    with _unprivileged(), Store(path) as store:
        assert len(store.list()) == 1
        with pytest.raises(DatabaseUnavailable, match="readonly") as raised:
            store.new("No")
    assert str(path) in str(raised.value)


def test_opening_a_file_again_keeps_the_locks_of_its_other_connections(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with Store(path) as store, Store(path) as again:
        store.new("First")
        log = Path(f"{path}-wal")
        before = log.stat().st_ino
        for other in (again, store):
            other.list()  # a further connection of this process
        # Another process that closes the file would remove the log if nobody else had it locked.
        code = f"from convstore import Store\nwith Store({str(path)!r}) as store: store.new('Second')"
        assert run("-c", code, cwd=tmp_path).returncode == 0
        assert log.stat().st_ino == before
        store.new("Third")
    with Store(path) as store:
        assert len(store.list()) == 3


def test_reading_a_read_only_file_leaves_a_log_that_can_be_written_later(public_folder: Path) -> None:
    path = public_folder / "chat.db"
    public_folder.chmod(0o777)
    with _unprivileged():
        fill(str(path), conversations=2)
        path.chmod(0o400)
        for _ in range(2):  # SQLite gives an empty log the mode of the database each time
            with Store(path) as reader, Store(path) as other:
                assert len(reader.list()) == len(other.list()) == 1
            for name in ("chat.db-wal", "chat.db-shm"):
                assert _mode(public_folder / name) == 0o600
        path.chmod(0o600)
        with Store(path) as writer:
            writer.new("Written")
            assert len(writer.list()) == 2
        assert [each.name for each in public_folder.iterdir()] == ["chat.db"]


def test_closing_a_reader_does_not_remove_the_log_that_another_program_writes(public_folder: Path) -> None:
    path = public_folder / "chat.db"
    public_folder.chmod(0o777)
    with _unprivileged():
        fill(str(path), conversations=2)
        path.chmod(0o400)
        reader = Store(path)
        reader.list()
    with Store(path) as root:  # may write any file
        root.list()
        with _unprivileged():
            reader.close()
        if os.geteuid() == 0:
            root.new("Written after the reader has gone")
            with Store(path) as later:
                assert len(later.list()) == 2


def test_a_database_that_only_its_owner_may_write_gets_no_log_of_another_user(public_folder: Path) -> None:
    path = public_folder / "chat.db"
    fill(str(path), conversations=2)
    path.chmod(0o644)
    public_folder.chmod(0o777)
    with _unprivileged(), Store(path) as store, pytest.raises(DatabaseUnavailable, match="the owner could not write"):
        store.list()
    assert [each.name for each in public_folder.iterdir()] == ["chat.db"]
    with Store(path) as owner, _unprivileged(), Store(path) as reader:
        with contextlib.suppress(DatabaseUnavailable):
            reader.list()
        os.seteuid(os.getuid())
        owner.new("Written")


@pytest.mark.parametrize("left", ["nothing", "log", "index"])
def test_a_file_in_a_read_only_folder_is_read_through_its_log_or_refused_by_name(
    public_folder: Path, left: str
) -> None:
    path = public_folder / "chat.db"
    fill(str(path), conversations=2)
    path.chmod(0o644)
    with contextlib.ExitStack() as stack:
        if left != "nothing":
            writer = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
            writer.execute("UPDATE convstore_conversations SET title = 'in the log'")
            writer.commit()
            for name in ("chat.db-wal", "chat.db-shm"):
                (public_folder / name).chmod(0o644)
            if left == "log":
                (public_folder / "chat.db-shm").unlink()
        public_folder.chmod(0o555)
        before = sorted(each.name for each in public_folder.iterdir())
        with _unprivileged(), Store(path) as store:
            if left == "index":
                assert [each.title for each in store.list()] == ["in the log"]
            else:
                named = "chat.db-wal, and" if left == "log" else "cannot create"
                with pytest.raises(DatabaseUnavailable, match=named) as raised:
                    store.list()
                assert f"{path}-shm" in str(raised.value)
                assert "folder is read-only" in str(raised.value)
        assert sorted(each.name for each in public_folder.iterdir()) == before
        public_folder.chmod(0o755)


def test_a_file_on_a_read_only_mount_is_read_without_a_log(
    public_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = public_folder / "chat ?#.db"
    fill(str(path), conversations=2)
    path.chmod(0o644)
    public_folder.chmod(0o555)
    monkeypatch.setattr(sqlite_read_only, "_is_mount_read_only", lambda _: True)
    with _unprivileged(), Store(path) as store:
        assert len(store.list()) == 1
        with pytest.raises(DatabaseUnavailable, match="readonly") as raised:
            store.new("No")
    assert str(public_folder) in str(raised.value)
    assert [each.name for each in public_folder.iterdir()] == [path.name]


def test_what_others_write_behind_a_read_only_mount_is_seen(
    public_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = public_folder / "chat.db"
    fill(str(path), conversations=2)
    path.chmod(0o644)
    public_folder.chmod(0o555)
    monkeypatch.setattr(sqlite_read_only, "_is_mount_read_only", lambda _: True)
    with Store(path) as reader:
        with _unprivileged():
            assert len(reader.list()) == 1
        with Store(path) as writer:
            writer.new("By the host")
        with _unprivileged():
            assert len(reader.list()) == 2
            with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as plain:
                assert plain.execute("SELECT count(*) FROM convstore_conversations").fetchone() == (3,)
        path.chmod(0o600)
        public_folder.chmod(0o755)
        reader.new("Now it may write")  # the connection is not immutable for ever


def test_a_write_behind_a_read_only_mount_in_the_middle_of_a_read_is_an_error(
    public_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = public_folder / "chat.db"
    fill(str(path), conversations=2)
    path.chmod(0o644)
    public_folder.chmod(0o555)
    monkeypatch.setattr(sqlite_read_only, "_is_mount_read_only", lambda _: True)
    with Store(path) as reader, _unprivileged():
        reader.list()

        @event.listens_for(reader._engine.transactions.database.engine, "after_cursor_execute", once=True)
        def write(*_: object) -> None:
            user = os.geteuid()
            os.seteuid(os.getuid())
            os.utime(path, ns=(1, 1))
            os.seteuid(user)

        with pytest.raises(DatabaseUnavailable, match="written while it was read"):
            reader.list()
        assert len(reader.list()) == 1


@pytest.mark.parametrize("suffix", ["-wal", "-shm", ""])
def test_the_error_names_the_file_that_may_not_be_written(public_folder: Path, suffix: str) -> None:
    path = public_folder / "chat.db"
    public_folder.chmod(0o777)
    with _unprivileged():
        fill(str(path), conversations=2)
        left = {name: public_folder / f"chat.db{name}" for name in ("-wal", "-shm")}
        with contextlib.closing(sqlite3.connect(path)) as writer:
            writer.execute("UPDATE convstore_conversations SET title = 'in the log'")
            writer.commit()
            kept = {name: file.read_bytes() for name, file in left.items()}
        for name, file in left.items():  # as after a crash
            file.write_bytes(kept[name])
        blocked = Path(f"{path}{suffix}")
        blocked.chmod(0o400)
        with Store(path) as store, pytest.raises(DatabaseUnavailable) as raised:
            store.new("No")
        assert f"{blocked} may not be written" in str(raised.value)


def test_a_file_that_another_program_reads_without_wal_is_used_without_wal(sqlite_url: str, tmp_path: Path) -> None:
    fill(sqlite_url, conversations=2)
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM convstore_turns").fetchone()
        with Store(sqlite_url) as store:
            assert len(store.list()) == 1
        other.execute("COMMIT")
    with Store(sqlite_url) as store:
        store.new("Written again")
        with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as later:
            assert later.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_connection_that_cannot_be_prepared_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "diary.txt"
    path.write_text("This is my diary.\n" * 100)
    descriptors = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")
    with Store(path) as store:
        before = len(list(descriptors.iterdir()))
        kept = []  # the errors hold frames, and the frames hold connections
        for _ in range(20):
            with pytest.raises(DatabaseUnavailable) as raised:
                store.list()
            kept.append(raised.value)
        assert len(list(descriptors.iterdir())) == before


# --- in memory ---


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", ":memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_a_database_in_memory_is_one_database_for_all_threads(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start = threading.Barrier(16)
    with Store(url) as store:

        def use(number: int) -> str:
            start.wait(30)
            made = store.new(f"Number {number}")
            for text in ("one", "two", "three"):
                store.append(made.id, text)
            return made.id

        with ThreadPoolExecutor(16) as threads:
            made = set(threads.map(use, range(16)))
        assert {found.id for found in store.list(limit=None)} == made
        assert {found.length for found in store.list(limit=None)} == {3}
    assert list(tmp_path.iterdir()) == []


def test_two_stores_in_memory_are_two_databases() -> None:
    with Store("sqlite://") as one, Store("sqlite://") as other:
        one.new("Here")
        assert other.list() == []


# --- processes ---


def test_a_forked_child_has_its_own_connections(database_url: str, tmp_path: Path) -> None:
    """A server does so that loads the application, then forks its workers."""
    schema_upgrade.upgrade(database_url)
    program = """
import os
from convstore import Store

store = Store()
made = store.new("Before the fork")
inherited = store._engine.transactions.database.engine.pool
for child in range(4):
    if (pid := os.fork()) == 0:
        status = 1
        try:
            assert store._engine.transactions.database.engine.pool is not inherited
            for number in range(5):
                store.append(made.id, f"child {child}: {number}")
            store.close()
            status = 0
        finally:
            os._exit(status)
    store.append(made.id, f"parent: {child}")
assert [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)] == [0] * 4
store.append(made.id, "the end")
print(len(store.history(made.id)))
"""
    done = run("-c", program, cwd=tmp_path, CONVSTORE_DB=database_url)
    assert (done.returncode, done.stdout) == (0, "25\n"), done.stderr


def test_a_child_forked_during_an_upgrade_does_not_keep_the_lock(sqlite_url: str, tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from convstore.db.sqlite_engine import file_lock

path = Path(sys.argv[1])
ready, go = os.pipe()
with file_lock(path):
    if (pid := os.fork()) == 0:
        os.close(go)
        os.read(ready, 1)
        os._exit(0)
with file_lock(path):
    print("free again")
os.close(go)
os.waitpid(pid, 0)
"""
    done = run("-c", program, str(tmp_path / "chat.db"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "free again\n"), done.stderr


def test_later_processes_find_the_file_ready(sqlite_url: str) -> None:
    schema_upgrade.upgrade(sqlite_url)
    assert len(first_uses(sqlite_url, 4)) == 4
