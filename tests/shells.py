"""Find the shells that the tests of completion use: bash, zsh and fish."""

import shutil
from functools import cache

SHELLS = ("bash", "zsh", "fish")


@cache
def choose_shells() -> tuple[dict[str, str], list[str]]:
    """Return the programs of the shells of this machine by name, and the names of those that it lacks."""
    found = {name: path for name in SHELLS if (path := shutil.which(name)) is not None}
    return found, [name for name in SHELLS if name not in found]
