"""Find another Python for the test of the wheel: the newest of this machine, if it is newer than the running one."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def newest_python() -> tuple[Path, str] | None:
    """Return the newest working Python of this machine (PATH or pyenv) and its version.

    Return None if it is the running one.
    """
    for _, pythons in sorted(_newer().items(), reverse=True):
        for python in pythons:
            version = _version(python)
            if version is not None:
                return python, version
    return None


def _newer() -> dict[int, list[Path]]:
    """Return the newer Pythons by minor version; some may not work."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    found: dict[int, list[Path]] = {}
    for folder in [*folders, *pyenv.glob("versions/*/bin")]:
        for python in folder.glob("python3.*"):
            named = re.fullmatch(r"python3\.(\d+)", python.name)
            if named and int(named[1]) > sys.version_info.minor:
                found.setdefault(int(named[1]), []).append(python)
    return found


def _version(python: Path) -> str | None:
    """Return the version that a Python reports; None if it fails, as pyenv's shims may."""
    code = "import ensurepip, ssl, sqlite3, venv, platform; print(platform.python_version())"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = done.stdout.strip()
    return version if done.returncode == 0 and version.startswith(python.name.removeprefix("python")) else None
