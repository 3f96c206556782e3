"""Find the database, the price file and the model if no argument names them."""

from __future__ import annotations

import os
from pathlib import Path

from convstore.errors import DatabaseUnavailable


def find_database_url(given: str | None = None) -> str:
    """Return the database to use, as a URL or a path.

    It is `given`, else the value of `CONVSTORE_DB`, else a file in the user's data directory. This function creates the
    directory if it does not exist.

    Raises:
        DatabaseUnavailable: the user's data directory cannot be made.
    """
    if given is not None:
        return given
    if chosen := os.environ.get("CONVSTORE_DB"):
        return chosen
    folder = _find_user_folder("user_data_dir")
    if folder is None:
        raise DatabaseUnavailable(
            "your home directory is unknown (HOME is not set); name a database, or set CONVSTORE_DB"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"the data directory {str(folder)!r} cannot be made: {error.strerror}; "
            f"name another database, or set CONVSTORE_DB"
        ) from error
    return str((folder / "convstore.db").absolute())


def find_price_file() -> Path | None:
    """Return the path of the price file, or None if the user has none.

    It is the value of `CONVSTORE_PRICES`, else `prices.toml` in the user's configuration directory, if it exists.
    """
    if chosen := os.environ.get("CONVSTORE_PRICES"):
        return Path(chosen)
    folder = _find_user_folder("user_config_dir")
    if folder is None:
        return None
    path = folder / "prices.toml"
    return path if os.path.exists(path) else None  # noqa: PTH110 (also where the folder may not be looked into)


def _find_user_folder(kind: str) -> Path | None:
    """Return a user's folder for convstore, or None if the home directory is unknown."""
    import platformdirs

    try:
        folder = Path(getattr(platformdirs, kind)("convstore", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # `~` is not replaced if the home directory is unknown


def find_default_model(given: str | None) -> str | None:
    """Return the default model: `given`, else `CONVSTORE_MODEL`, else None."""
    return given or os.environ.get("CONVSTORE_MODEL") or None
