"""Find out whether a database is reachable, up to date, private and undamaged."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from convstore.config.settings_report import shorten_home
from convstore.db.engine import Database, open_database
from convstore.db.health_rows import (
    check_sqlite_file,
    find_server_version,
    list_latest_keys,
    list_running_turns,
    measure_clock_difference,
)
from convstore.db.schema_upgrade import SchemaState, refusal
from convstore.db.schema_upgrade import state as read_schema_state
from convstore.db.sqlite_read_only import find_obstacle
from convstore.db.verification import verify
from convstore.errors import ConvstoreError, InvalidInput
from convstore.leases.lock_folders import UntrustedFolder, find_folders, find_problem_beside, open_folder
from convstore.leases.process_locks import is_alive
from convstore.values.health import Finding, HealthTopic, report_ok, report_problem, report_unchecked

_MIN_FREE_BYTES = 256 * 1024**2
_MAX_CLOCK_SECONDS = 5.0
_MAX_QUICK_BYTES = 512 * 1024**2  # SQLite reads about so much in a second
_MAX_VERIFY_SECONDS = 2.0
_MAX_VERIFIED = 50
_MAX_LISTED_TURNS = 100
_LAPSED = timedelta(minutes=2)  # long after a lease of the default span has ended, whatever the clocks say

_TOPIC = HealthTopic.DATABASE


def examine_database(url: str, schema: str | None, owner: str) -> Iterator[Finding]:
    """Yield what is found about a database.

    Args:
        url: the database, as `open_database` takes it.
        schema: the PostgreSQL schema that has the tables.
        owner: the owner with the conversations that are verified.
    """
    try:
        database = open_database(url, schema)
    except ConvstoreError as error:
        # No database can have this name: a setting is wrong.
        topic = HealthTopic.SETTINGS if isinstance(error, InvalidInput) else _TOPIC
        yield report_problem(topic, "database", str(error), "name another: --db, CONVSTORE_DB or `convstore config`")
        return
    try:
        yield from _examine(database, owner)
    finally:
        database.close()


def _examine(database: Database, owner: str) -> Iterator[Finding]:
    label = shorten_home(database.label)
    if database.path is not None and not os.path.exists(database.path):  # noqa: PTH110 (also in a folder that is closed)
        if not database.path.parent.is_dir():
            yield report_problem(_TOPIC, "database", f"{label}: its folder does not exist", "make the folder")
            return
        yield report_ok(_TOPIC, "database", f"{label} does not exist yet; the first command makes it")
        yield from _examine_disk(database.path.parent)
        return
    try:
        with database.read() as connection:
            version = find_server_version(connection)
        found = read_schema_state(database)
    except ConvstoreError as error:
        yield report_problem(_TOPIC, "database", str(error), _advise_unreachable(database))
        return
    yield report_ok(_TOPIC, "database", f"{label}, {version}")
    yield from _examine_schema(database, found)
    if database.path is not None:
        yield from _examine_modes(database.path)
        yield from _examine_disk(database.path.parent)
    if found.usable:
        for check in (_examine_rows, _examine_turns, _examine_clock):
            yield from _guard(database, owner, check)
    yield _examine_lock_folder(database.path)


def _guard(database: Database, owner: str, check: Callable[[Database, str], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check(database, owner)
    except ConvstoreError as error:
        yield report_problem(_TOPIC, "rows", str(error), "`convstore db verify` lists what is damaged")


def _advise_unreachable(database: Database) -> str:
    if database.path is not None:
        return "name another file with --db or CONVSTORE_DB, or restore a backup"
    return "start the server, or correct the URL: --db, CONVSTORE_DB or `convstore config`"


def _examine_schema(database: Database, found: SchemaState) -> Iterator[Finding]:
    if found.usable:
        text = f"{found.current}, as this release has it" if found.up_to_date else f"{found.current}, newer and usable"
        yield report_ok(_TOPIC, "schema", text)
    elif database.is_sqlite and found.current is None:
        yield report_ok(_TOPIC, "schema", "no tables yet; the next command makes them")
    elif database.is_sqlite and (found.current or "") < found.head and not found.is_unfinished_copy:
        yield report_ok(_TOPIC, "schema", f"{found.current}; the next command upgrades it to {found.head}")
    else:
        text, _, remedy = str(refusal(found, database)).rpartition(": ")
        yield report_problem(_TOPIC, "schema", text, remedy)


def _examine_modes(path: Path) -> Iterator[Finding]:
    try:
        found = path.stat()
    except OSError as error:
        yield report_problem(_TOPIC, "permissions", f"{shorten_home(str(path))}: {error.strerror}", "see its folder")
        return
    obstacle = find_obstacle(path)
    mode = stat.S_IMODE(found.st_mode)
    if obstacle is not None:
        yield report_problem(_TOPIC, "permissions", shorten_home(obstacle), "give yourself the right to write it")
    elif mode & 0o077:
        text = f"other users may open the file (mode {mode:04o})"
        yield report_problem(_TOPIC, "permissions", text, f"`chmod 600 {shorten_home(str(path))}`")
    elif found.st_uid != os.geteuid():
        yield report_ok(_TOPIC, "permissions", f"the file belongs to the user {found.st_uid}, mode {mode:04o}")
    else:
        yield report_ok(_TOPIC, "permissions", f"the file is yours alone (mode {mode:04o})")


def _examine_disk(folder: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield report_unchecked(_TOPIC, "disk space", f"{shorten_home(str(folder))}: {error.strerror}")
        return
    text = f"{free / 1024**2:,.0f} MB are free in {shorten_home(str(folder))}"
    if free < _MIN_FREE_BYTES:
        yield report_problem(_TOPIC, "disk space", text, "make room: a full disk stops every write")
    else:
        yield report_ok(_TOPIC, "disk space", text)


def _examine_rows(database: Database, owner: str) -> Iterator[Finding]:
    if database.path is not None:
        size = database.path.stat().st_size
        if size > _MAX_QUICK_BYTES:
            text = f"the file has {size / 1024**2:,.0f} MB; `convstore db verify` reads all of it"
            yield report_unchecked(_TOPIC, "file", text)
        else:
            problem = check_sqlite_file(database)
            if problem is not None:
                text = "SQLite's quick check finds damage"
                yield report_problem(_TOPIC, "file", text, "`convstore db restore` takes a backup")
                return
            yield report_ok(_TOPIC, "file", "SQLite's quick check finds no damage")
    yield _verify_latest(database, owner)


def _verify_latest(database: Database, owner: str) -> Finding:
    """Verify conversations, those with the latest activity first, for some time."""
    with database.read() as connection:
        keys = list_latest_keys(connection, owner, _MAX_VERIFIED)
    end = time.monotonic() + _MAX_VERIFY_SECONDS
    checked = damages = 0
    is_indexed = True
    for key in keys:
        found = verify(database, key)
        checked += 1
        damages += len(found.damages)
        is_indexed = is_indexed and found.search_index.is_complete
        if time.monotonic() > end:
            break
    text = f"the {checked} latest conversations" if checked > 1 else "the latest conversation"
    if damages:
        return report_problem(
            _TOPIC, "rows", f"{text}: {damages} damaged rows", "`convstore db verify` lists them; restore a backup"
        )
    if not is_indexed:
        return report_problem(_TOPIC, "rows", f"{text}: not all in the search index", "`convstore db reindex --all`")
    return report_ok(_TOPIC, "rows", f"{text}: no damage" if checked else "no conversations yet")


def _examine_turns(database: Database, _: str) -> Iterator[Finding]:
    with database.read() as connection:
        running = list_running_turns(connection, _MAX_LISTED_TURNS)
    now = datetime.now(UTC)
    stale = []
    for turn in running:
        lives = is_alive(turn.token, database.path)
        has_lapsed = turn.expires_at is not None and turn.expires_at < now - _LAPSED
        if lives is False or (lives is None and has_lapsed):
            stale.append(turn)
    if not stale:
        text = f"{len(running)} running, none stale" if running else "none is running, none stale"
        yield report_ok(_TOPIC, "turns", text)
        return
    ids = ", ".join(repr(turn.key.id) for turn in stale[:3]) + (", …" if len(stale) > 3 else "")
    yield report_problem(
        _TOPIC,
        "turns",
        f"{len(stale)} never ended, because their processes did: {ids}",
        "`convstore stop ID` ends one and keeps the partial reply; so does the next `convstore say -c ID`",
    )


def _examine_clock(database: Database, owner: str) -> Iterator[Finding]:
    with database.read() as connection:
        seconds = measure_clock_difference(connection, owner)
    clock = "the newest conversation" if database.is_sqlite else "the database's clock"
    if abs(seconds) > _MAX_CLOCK_SECONDS:
        text = f"{clock} is {abs(seconds):,.0f} seconds {'ahead of' if seconds > 0 else 'behind'} this host's clock"
        yield report_problem(_TOPIC, "clock", text, "set the clock of this host, or of the server (NTP)")
    else:
        yield report_ok(_TOPIC, "clock", f"{clock} agrees with this host's clock")


def _examine_lock_folder(path: Path | None) -> Finding:
    """Say whether the folder that shows which processes live can be used."""
    beside = find_problem_beside(path) if path is not None else None
    if beside is not None:
        remedy = "stop all programs that use the database, then remove the folder"
        return report_problem(_TOPIC, "liveness folder", shorten_home(beside), remedy)
    for folder in find_folders(path):
        try:
            with open_folder(folder):
                return report_ok(_TOPIC, "liveness folder", f"{shorten_home(str(folder))} is yours alone")
        except UntrustedFolder:
            text = f"{folder} is open to other users, or is not yours"
            return report_problem(_TOPIC, "liveness folder", text, "remove it")
        except OSError:
            continue  # the next turn makes it
    return report_ok(_TOPIC, "liveness folder", "the next turn makes it")
