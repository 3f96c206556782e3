"""What statements compile to is the same for all engines of a kind, and is shared by them in a process.

SQLAlchemy keeps it for each engine, and most tests have one or two of their own: to compile all anew took a sixth
of the time of the contract's tests on SQLite.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event


class _Compiled(dict[Any, Any]):
    """By statement, and by the kind of database instead of the engine's own dialect."""

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
    """From now on, for every engine of this process and of those that are forked from it."""
    event.listen(Engine, "engine_connect", _use)
