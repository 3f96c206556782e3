"""Share compiled statements between all engines of one kind in a process.

SQLAlchemy keeps them for each engine, and most tests make one or two engines. Compiling all statements again took a
sixth of the time of the contract's tests on SQLite.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event


class _Compiled(dict[Any, Any]):
    """Compiled statements by statement and kind of database, instead of by dialect object."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(self._shared(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(self._shared(key), value)

    def _shared(self, key: Any) -> Any:
        dialect, *rest = key
        return type(dialect), dialect.server_version_info, *rest


_compiled = _Compiled()


def _use(connection: Connection) -> None:
    connection.execution_options(compiled_cache=_compiled)


def share() -> None:
    """Share compiled statements from now on, in this process and in its forked children."""
    event.listen(Engine, "engine_connect", _use)
