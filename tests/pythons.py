"""Find other Pythons for the tests of the wheel: the newest of this machine, and those that pyproject.toml names."""

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from platform import python_version

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


@cache
def newest_python() -> tuple[Path, str] | None:
    """Return the newest working Python of this machine (PATH or pyenv) and its version.

    Return None if it is the running one.
    """
    newer = (minor for minor in sorted(_find_named(), reverse=True) if minor > sys.version_info.minor)
    return next((python for minor in newer if (python := find_python(minor)) is not None), None)


@cache
def find_python(minor: int) -> tuple[Path, str] | None:
    """Find a working Python 3.`minor` and its version, the running one first."""
    if minor == sys.version_info.minor:
        return Path(sys.executable), python_version()
    for python in _find_named().get(minor, ()):
        version = _version(python)
        if version is not None:
            return python, version
    return None


@cache
def choose_pythons() -> tuple[dict[str, Path], list[str]]:
    """Choose the oldest Python that the project names and the newest here.

    Return them by version, and what this machine lacks: the oldest, or one as new as the newest that the project names.
    """
    named = _read_named_minors()
    oldest, newest = find_python(named[0]), newest_python() or (Path(sys.executable), python_version())
    missing = [] if oldest is not None else [f"Python 3.{named[0]}"]
    if int(newest[1].split(".")[1]) < named[-1]:
        missing.append(f"Python 3.{named[-1]} or newer")
    return {version: python for python, version in filter(None, (oldest, newest))}, missing


def _read_named_minors() -> list[int]:
    """Read the minor versions that pyproject.toml says it works with, sorted."""
    classifiers = tomllib.loads(PYPROJECT.read_text())["project"]["classifiers"]
    named = (re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", classifier) for classifier in classifiers)
    return sorted(int(minor[1]) for minor in named if minor)


@cache
def _find_named() -> dict[int, list[Path]]:
    """Find the Pythons that are named for a minor version; some may not work."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    found: dict[int, list[Path]] = {}
    for folder in [*folders, *pyenv.glob("versions/*/bin")]:
        for python in folder.glob("python3.*"):
            named = re.fullmatch(r"python3\.(\d+)", python.name)
            if named:
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
