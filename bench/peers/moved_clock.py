"""Show processes another time than the machine's."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

_LIBRARY = "libfaketime/vendor/libfaketime/src/libfaketime.so.1"


class MovedClock:
    """A clock for some processes, which can be moved while they run.

    libfaketime stands between a process and the system's clock, so SQLite and PostgreSQL see the same time as Python.
    Clocks that only measure durations stay as they are.

    Args:
        folder: for the library, and the file that tells it how far to move.
    """

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)  # started by root, PostgreSQL runs as another user
        self._file, self._library = folder / "clock", folder / "libfaketime.so"
        library = Path(str(distribution("libfaketime").locate_file(_LIBRARY)))
        if library.is_file():  # else the clock does not move, and the trial says so
            shutil.copy(library, self._library)
        self.move(0)

    def move(self, hours: int) -> None:
        """Show a time so many hours after the real one, from now on."""
        self._file.write_text(f"{hours:+d}h\n")

    def make_environment(self) -> dict[str, str]:
        """Return what the environment of a process needs to see this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
