"""Run the statements of a unit of work.

A turn runs eight statements that never change, and SQLAlchemy's execution around them took a fifth of its time. So
`Connection` lets SQLAlchemy compile each of them once, and then gives the text and the parameters to the driver. This
is only done on connections that convstore made, while nobody listens to the engine. SQLAlchemy's own execution runs the
statements of a caller's engine or connection, and of an engine with listeners (`echo`, tracing). The tests run the same
calls both ways.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import Any
from weakref import WeakValueDictionary

import sqlalchemy
from sqlalchemy import Dialect, Engine, Executable

Values = Mapping[str, Any]
_Convert = Callable[[Any], Any]
_Choose = Callable[[list[Any]], list[Any]]

_DRIVERS = frozenset({"pysqlite", "psycopg"})
_ENGINE_EVENTS = ("before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute")
_DIALECT_EVENTS = ("do_execute", "do_executemany", "do_execute_no_params")
_NO_VALUES: Values = {}
_SAVEPOINT = "convstore_savepoint"
_MAX_COMPILED = 1000  # there are about 200; more are statements that were made for one call


class Rows(list[Any]):
    """The rows that a statement returned. Each is a tuple with an attribute for each column."""

    __slots__ = ("rowcount",)

    rowcount: int
    """Number of rows that the statement returned or changed."""

    def all(self) -> Rows:
        return self

    def first(self) -> Any:
        return self[0] if self else None

    def one(self) -> Any:
        (row,) = self
        return row

    def one_or_none(self) -> Any:
        return self.one() if self else None


class _Compiled:
    """A statement as the driver takes it.

    Args:
        places: the parameters in the order of their places; None: the driver takes them by name.
        fixed: the parameters that are the same in each call.
        writers: the functions that convert a parameter for the driver, by its name.
        columns: the columns of the rows that it returns.
    """

    def __init__(
        self,
        sql: str,
        places: Sequence[str] | None,
        fixed: Values,
        writers: Mapping[str, _Convert],
        columns: Sequence[Any],
        dialect: Dialect,
    ) -> None:
        self.sql = sql
        self._take = dict if places is None else _make_taker(places)
        self._fixed = fixed
        # By name, or by place.
        self._writers = [
            (place, writers[name])
            for place, name in (enumerate(places) if places is not None else zip(writers, writers, strict=True))
            if name in writers
        ]
        self._columns = columns
        self._dialect = dialect
        self._make_row: _Convert | None = None

    def bind(self, values: Values) -> Any:
        """Return the parameters in the driver's form."""
        bound: Any = self._take({**self._fixed, **values} if self._fixed else values)
        if self._writers:
            bound = list(bound) if isinstance(bound, tuple) else bound
            for place, write in self._writers:
                bound[place] = write(bound[place])
        return bound

    def read(self, cursor: Any, choose: _Choose | None = None) -> Rows:
        """Return the rows of a cursor, or those of them that `choose` returns."""
        if self._make_row is None:  # once, because psycopg makes a description anew each time
            description = cursor.description
            if description is not None:
                self._make_row = _make_row_maker(self._columns, description, self._dialect)
        rows = Rows()
        if self._make_row is not None:
            found = cursor.fetchall()
            rows.extend(map(self._make_row, found if choose is None else choose(found)))
        rows.rowcount = cursor.rowcount
        return rows

    def read_as_stored(self, cursor: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a cursor as the driver returns them."""
        found: list[tuple[Any, ...]] = cursor.fetchall()
        return found


def _make_taker(places: Sequence[str]) -> Callable[[Values], tuple[Any, ...]]:
    """Return the function that takes parameters in the order of their places."""
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[name] for name in places)


def _make_row_maker(columns: Sequence[Any], description: Sequence[Sequence[Any]], dialect: Dialect) -> _Convert:
    """Return the function that makes a row of what the driver returns.

    Args:
        description: the cursor's description of the columns.
    """
    columns = columns or [sqlalchemy.column(described[0]) for described in description]  # of a text, nothing is known
    readers = []
    for place, (column, described) in enumerate(zip(columns, description, strict=True)):
        read = column.type.dialect_impl(dialect).result_processor(dialect, described[1])
        if read is not None:
            readers.append((place, read))
    names = [getattr(column, "name", described[0]) for column, described in zip(columns, description, strict=True)]
    fields = {name: property(itemgetter(place)) for place, name in enumerate(names)}
    row: Any = type("Row", (tuple,), {"__slots__": (), **fields})

    def make_row(found: Sequence[Any]) -> Any:
        values = list(found)
        for place, read in readers:
            values[place] = read(values[place])
        return row(values)

    return make_row if readers else row


class Statements:
    """The compiled statements for one kind of database and one schema."""

    def __init__(self, dialect: Dialect, schema: str | None) -> None:
        self._dialect = dialect
        self._schema = schema
        self._compiled: dict[tuple[Executable, tuple[str, ...]], _Compiled | None] = {}

    def find(self, statement: Executable, names: tuple[str, ...]) -> _Compiled | None:
        """Return the compiled form of a statement with these parameters; None if it differs from call to call."""
        key = statement, names
        try:
            return self._compiled[key]
        except KeyError:
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            compiled = self._compiled[key] = self._compile(statement, names)
            return compiled

    def _compile(self, statement: Any, names: tuple[str, ...]) -> _Compiled | None:
        place: dict[str, Any] = {}
        if self._schema is not None:
            place = {"schema_translate_map": {None: self._schema}, "render_schema_translate": True}
        compiled = statement.compile(dialect=self._dialect, column_keys=list(names), **place)
        if compiled.post_compile_params or compiled.literal_execute_params:
            return None  # `IN (…)` has as many places as there are values
        if any(compiled.binds[name].required and name not in names for name in compiled.params):
            return None  # SQLAlchemy's execution names the value that is missing
        writers = {}
        for name in compiled.params:
            write = compiled.binds[name].type.dialect_impl(self._dialect).bind_processor(self._dialect)
            if write is not None:
                writers[name] = write
        return _Compiled(
            compiled.string,
            compiled.positiontup,
            {name: value for name, value in compiled.params.items() if name not in names},
            writers,
            list(getattr(statement, "exported_columns", ())),
            self._dialect,
        )


def _read_nothing(_: object) -> None:
    pass


class Connection:
    """A connection to a database, in a transaction.

    Args:
        plain: SQLAlchemy's connection.
        statements: the compiled statements of the database; None: SQLAlchemy runs all statements.
    """

    __slots__ = ("_driver", "_statements", "dialect", "plain")

    def __init__(self, plain: sqlalchemy.Connection, statements: Statements | None = None) -> None:
        self.plain = plain
        self.dialect = plain.dialect
        self._statements = statements
        self._driver: Any = plain.connection.driver_connection if statements is not None else None

    def execute(self, statement: Executable, values: Values = _NO_VALUES) -> Any:
        """Run a statement, and return its rows.

        Args:
            statement: one that is used often; `plain` is faster for one that was made for this call.
            values: its parameters by name.
        """
        compiled = self._find(statement, values)
        if compiled is None:
            return self.plain.execute(statement, values)
        return self._perform(compiled.sql, compiled.bind(values), compiled.read)

    def execute_and_choose(self, statement: Executable, values: Values, choose: _Choose) -> list[Any]:
        """Run a statement, and return those of its rows that `choose` returns; only they are converted.

        Args:
            choose: takes rows as the driver returns them, and returns some of them.
        """
        compiled = self._find(statement, values)
        if compiled is None:
            return choose(list(self.plain.execute(statement, values)))
        found: list[Any] = self._perform(compiled.sql, compiled.bind(values), lambda rows: compiled.read(rows, choose))
        return found

    def fetch(self, statement: Executable, values: Values) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows as plain tuples, which take half the time to make.

        Args:
            statement: its columns are texts, whole numbers and bytes, which no type of SQLAlchemy converts.
            values: its parameters by name.
        """
        compiled = self._find(statement, values)
        if compiled is None:
            return [tuple(row) for row in self.plain.execute(statement, values)]
        found: list[tuple[Any, ...]] = self._perform(compiled.sql, compiled.bind(values), compiled.read_as_stored)
        return found

    def execute_many(self, statement: Executable, rows: Sequence[Values]) -> None:
        """Run a statement that returns nothing, once for each of some parameters; all have the same names."""
        compiled = self._find(statement, rows[0])
        if compiled is None:
            self.plain.execute(statement, rows)
        elif len(rows) == 1:
            self._perform(compiled.sql, compiled.bind(rows[0]))
        else:
            self._perform(compiled.sql, [compiled.bind(values) for values in rows], is_many=True)

    def send_copy(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Send rows by PostgreSQL's `COPY … FROM STDIN`, which takes a fifth of the time that inserts take.

        Args:
            sql: the COPY.
            rows: values in the order of its columns, as psycopg takes them.
        """
        cursor = None
        try:
            cursor = self.plain.connection.driver_connection.cursor()  # type: ignore[union-attr]
            with cursor, cursor.copy(sql) as copy:
                for row in rows:
                    copy.write_row(row)
        except BaseException as error:
            self._translate(error, sql, cursor)
            raise

    def _find(self, statement: Executable, values: Values) -> _Compiled | None:
        return self._statements.find(statement, tuple(values)) if self._statements is not None else None

    def scalar(self, statement: Executable, values: Values = _NO_VALUES) -> Any:
        """Run a statement, and return the first value of its first row; None if it returns no row."""
        row = next(iter(self.execute(statement, values)), None)
        return row[0] if row is not None else None

    def run(self, sql: str) -> None:
        """Run a statement without parameters and rows, such as BEGIN."""
        if self._statements is None:
            self.plain.exec_driver_sql(sql)
        else:
            self._perform(sql, ())

    def _perform(
        self, sql: str, bound: Any, read: Callable[[Any], Any] = _read_nothing, *, is_many: bool = False
    ) -> Any:
        cursor = None
        try:
            cursor = self._driver.cursor()
            if is_many:
                cursor.executemany(sql, bound)
            else:
                cursor.execute(sql, bound)
            result = read(cursor)
            cursor.close()
        except BaseException as error:
            self._translate(error, sql, cursor)
            if cursor is not None:
                with suppress(Exception):  # the error is the one to raise
                    cursor.close()
            raise
        return result

    def _translate(self, error: BaseException, sql: str, cursor: Any) -> None:
        """Raise a driver's error as SQLAlchemy's, and give the connection up if it is broken or Ctrl-C came."""
        is_drivers = isinstance(error, self.dialect.loaded_dbapi.Error)
        if is_drivers or not isinstance(error, Exception):
            # There is no public name for it. The parameters are left out, because an error may be logged.
            self.plain._handle_dbapi_exception(error, sql if is_drivers else None, None, cursor, None)


@contextmanager
def hold_savepoint(connection: Connection, *, keeps: bool = True) -> Iterator[None]:
    """Undo what the block writes if it raises; also at its end, unless `keeps`.

    The transaction goes on, also on PostgreSQL, where an error would otherwise end it.
    """
    connection.run(f"SAVEPOINT {_SAVEPOINT}")
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the error is the one to raise
            _undo_to_savepoint(connection)
        raise
    if keeps:
        connection.run(f"RELEASE SAVEPOINT {_SAVEPOINT}")
    else:
        _undo_to_savepoint(connection)


def _undo_to_savepoint(connection: Connection) -> None:
    connection.run(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
    connection.run(f"RELEASE SAVEPOINT {_SAVEPOINT}")


def find_statements(engine: Engine, schema: str | None) -> Statements | None:
    """Return the compiled statements for an engine that convstore made and that has connected.

    Return None if SQLAlchemy shall run the statements: somebody listens to the engine, or the driver is another one.

    Args:
        schema: the PostgreSQL schema of the tables.
    """
    dialect = engine.dialect
    if dialect.driver not in _DRIVERS or engine.logger.isEnabledFor(logging.INFO):  # `echo` is a level of the logger
        return None
    if _has_listeners(engine.dispatch, _ENGINE_EVENTS) or _has_listeners(dialect.dispatch, _DIALECT_EVENTS):
        return None
    # Engines of one kind share them: what is compiled depends on the driver, the server's version and the schema.
    key = (type(dialect), dialect.server_version_info, schema)
    found = _statements.get(key)
    if found is None:
        found = _statements[key] = Statements(dialect, schema)
        _latest.append(found)
    return found


def _has_listeners(dispatch: Any, events: Iterable[str]) -> bool:
    return any(getattr(dispatch, name) for name in events)


# A database keeps its own, so that those of a schema are forgotten with its last database; the latest ones stay longer,
# for a program that opens a store for each request.
_statements: WeakValueDictionary[Hashable, Statements] = WeakValueDictionary()
_latest: deque[Statements] = deque(maxlen=16)
