"""Where the database is, when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from convstore.errors import DatabaseUnavailable


def database_url(given: str | None = None) -> str:
    """Return the database to use, as a URL or a path: `given`, else `CONVSTORE_DB`, else the user's own file.

    Raises:
        DatabaseUnavailable: the user's data directory cannot be made.
    """
    if given is not None:
        return given
    if chosen := os.environ.get("CONVSTORE_DB"):
        return chosen
    import platformdirs

    folder = Path(platformdirs.user_data_dir("convstore", appauthor=False))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(f"the data directory {folder} cannot be made: {error.strerror}") from error
    return str((folder / "convstore.db").absolute())


def prices_file() -> Path | None:
    """Return the file of prices: the one that `CONVSTORE_PRICES` names, else the user's own; None: there is none."""
    if chosen := os.environ.get("CONVSTORE_PRICES"):
        return Path(chosen)
    import platformdirs

    path = Path(platformdirs.user_config_dir("convstore", appauthor=False), "prices.toml")
    return path if os.path.exists(path) else None  # noqa: PTH110 (also where the folder may not be looked into)


def find_default_model(given: str | None) -> str | None:
    """Return the model to ask if nothing else names one: `given`, else `CONVSTORE_MODEL`, else None."""
    return given or os.environ.get("CONVSTORE_MODEL") or None
